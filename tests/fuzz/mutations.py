"""Seeded ways to spoil a file: bits, bytes, safetensors headers, JSON values, lines of text, other files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]
ODD_BYTES = (b"\0", b"\xff\xfe", b"\x1b[2J", b"\n\n", b"../", b"9" * 400, b"\xf0\x9f\xa6\xa0")
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**63, 10**400, 1e308, -0.5, "", "x", "../../x", "\0", "nan", [], [[]], ["x"], {},
    {"x": 1}, [None],
)  # fmt: skip
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X")


def flip_bit(data: bytes, draw: random.Random) -> bytes:
    """Flip one bit anywhere."""
    return _flipped(data, draw.randrange(len(data)), draw)


def flip_early_bit(data: bytes, draw: random.Random) -> bytes:
    """Flip one bit near the beginning, where headers are."""
    return _flipped(data, draw.randrange(min(len(data), 600)), draw)


def flip_late_bit(data: bytes, draw: random.Random) -> bytes:
    """Flip one bit near the end, where directories and footers are."""
    return _flipped(data, len(data) - 1 - draw.randrange(min(len(data), 600)), draw)


def flip_bits(data: bytes, draw: random.Random) -> bytes:
    """Flip bits in a handful of places."""
    for _ in range(draw.randint(2, 12)):
        data = flip_bit(data, draw)
    return data


def cut(data: bytes, draw: random.Random) -> bytes:
    """Cut the end off."""
    return data[: draw.randrange(len(data))]


def empty(data: bytes, draw: random.Random) -> bytes:
    """Leave nothing."""
    return b""


def insert(data: bytes, draw: random.Random) -> bytes:
    """Insert bytes anywhere, at the end as well."""
    place = draw.choice([draw.randrange(len(data) + 1), draw.randrange(min(len(data), 400)), len(data)])
    return data[:place] + draw.choice(ODD_BYTES) + data[place:]


def remove(data: bytes, draw: random.Random) -> bytes:
    """Take some bytes out of the middle."""
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randint(1, 64) :]


def overwrite(data: bytes, draw: random.Random) -> bytes:
    """Overwrite a stretch with zeros, with ones, or with another stretch of the file."""
    size = draw.randint(1, min(256, len(data)))
    start, source = draw.randrange(len(data)), draw.randrange(len(data))
    block = draw.choice([b"\0" * size, b"\xff" * size, data[source : source + size]])
    return data[:start] + block + data[start + len(block) :]


def repeat(data: bytes, draw: random.Random) -> bytes:
    """Write the file, or a stretch of it, twice."""
    start = draw.choice([0, draw.randrange(len(data))])
    return data[:start] + data[start:] + data[start:]


BYTES: tuple[Mutation, ...] = (
    flip_bit, flip_bit, flip_early_bit, flip_late_bit, flip_bits, cut, empty, insert, remove, overwrite,
    repeat,
)  # fmt: skip


def _flipped(data: bytes, place: int, draw: random.Random) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


def edit_header(data: bytes, draw: random.Random) -> bytes:
    """Change an entry of a safetensors header: type, shape, place or name of a tensor, or the metadata."""
    header, body = _split(data)
    names = [name for name in header if name != "__metadata__"]
    name = draw.choice(names)
    entry = header[name]
    what = draw.choice(["dtype", "shape", "offsets", "rename", "remove", "exchange", "copy", "metadata"])
    if what == "dtype":
        entry["dtype"] = draw.choice(DTYPES)
    elif what == "shape":
        entry["shape"] = draw.choice(
            [entry["shape"][::-1], [*entry["shape"], 1], [2**40], [-1], [], [0], [2**32, 2**32]]
        )
    elif what == "offsets":
        start, end = entry["data_offsets"]
        entry["data_offsets"] = draw.choice(
            [[end, start], [start, 2**60], [0, end], [start + 4, end + 4], [-4, end], [start]]
        )
    elif what == "rename":
        header[name + draw.choice(["x", " ", "\0", "é"])] = header.pop(name)
    elif what == "remove":
        del header[name]
    elif what == "exchange":
        other = draw.choice(names)
        header[name], header[other] = header[other], header[name]
    elif what == "copy":
        header["another"] = dict(entry)
    else:
        header["__metadata__"] = draw.choice([None, {}, {"calib": 1}, {"calib": "{"}, [], "x"])
    return _joined(header, body)


def edit_record(data: bytes, draw: random.Random) -> bytes:
    """Change a value in the JSON record of a safetensors file; its checksum stays the old one."""
    header, body = _split(data)
    record = json.loads(header["__metadata__"]["calib"])
    header["__metadata__"]["calib"] = json.dumps(spoilt(record, draw), ensure_ascii=False)
    return _joined(header, body)


def edit_unsealed_record(data: bytes, draw: random.Random) -> bytes:
    """Change a value in the JSON record and take the checksum out, as in a file that somebody wrote so."""
    header, body = _split(data)
    record = json.loads(header["__metadata__"]["calib"])
    record.pop("calib_crc32", None)
    return _joined({**header, "__metadata__": {"calib": json.dumps(spoilt(record, draw))}}, body)


SAFETENSORS: tuple[Mutation, ...] = (*BYTES, edit_header, edit_header, edit_header, edit_record, edit_record)


def edit_json(data: bytes, draw: random.Random) -> bytes:
    """Change a value of a JSON file."""
    return json.dumps(spoilt(json.loads(data), draw)).encode()


def spoilt(value: Any, draw: random.Random) -> Any:
    """Return a JSON value with one item exchanged, removed, repeated or turned round."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    parent, key = draw.choice(places)
    what = draw.choice(["exchange", "exchange", "remove", "repeat", "shuffle", "number"])
    held = parent[key]
    if what == "remove":
        del parent[key]
    elif what == "repeat" and isinstance(parent, list):
        parent.append(held)
    elif what == "shuffle" and isinstance(held, list):
        parent[key] = held[::-1]
    elif what == "number" and isinstance(held, int | float):
        parent[key] = draw.choice([held + 1, -held, held * 1e6, str(held)])
    else:
        parent[key] = draw.choice(ODD_VALUES)
    return value


def _places(value: Any) -> Any:
    keys: Sequence[Any] = (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _joined(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def edit_lines(data: bytes, draw: random.Random) -> bytes:
    """Repeat, remove, exchange or halve a line of a text."""
    lines = data.splitlines(keepends=True)
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    what = draw.choice(["repeat", "remove", "exchange", "halve", "join"])
    if what == "repeat":
        lines.insert(other, lines[at])
    elif what == "remove":
        del lines[at]
    elif what == "exchange":
        lines[at], lines[other] = lines[other], lines[at]
    elif what == "halve":
        lines[at] = lines[at][: len(lines[at]) // 2]
    else:
        lines[at] = lines[at].rstrip(b"\r\n")
    return b"".join(lines)


TEXT: tuple[Mutation, ...] = (*BYTES, edit_lines, edit_lines, edit_lines)
JSON: tuple[Mutation, ...] = (*BYTES, edit_json, edit_json, edit_json, edit_json, edit_lines)
