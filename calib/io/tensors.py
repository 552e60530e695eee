"""safetensors files with one JSON record beside the tensors and a checksum of both."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from calib.core.errors import meant_path
from calib.io.files import CHECKSUM, MARK, atomic_path, changed, finite, is_strings, refuse_damaged_seal
from calib.io.strictjson import parse_json

RECORD = "calib"  # the one metadata key of our safetensors files: two would be written in random order


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any], *, run: str | None = None
) -> None:
    """Write tensors, one JSON record and a checksum of both into a safetensors file, atomically.

    Args:
        path: The file.
        tensors: Name to tensor, on any device.
        record: JSON-able facts about the tensors; kept under the metadata key `calib`.
        run: The mark of the run whose file it is. None: it is nobody's.
    """
    record = record if run is None else {**record, MARK: run}
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(finite(record), ensure_ascii=False, allow_nan=False)
    data = serialize(ready, {RECORD: text.removesuffix("}") + _seal(_checksum(text, ready))})
    with atomic_path(path) as part:
        part.write_bytes(data)


def load_tensors(path: str | Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON record of a file written by `save_tensors`.

    Args:
        path: The file, or a folder with one that is called by its kind, as a run's folder has
            prompt.safetensors.
        kind: What the record's `kind` must say, e.g. "prompt"; the wrong kind is refused.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut off, is not safetensors, was changed since it was written, or is of
            another kind.
    """
    path = Path(path)
    if path.is_dir():
        path = path / f"{kind}.safetensors"
    tensors, metadata = read_safetensors(path)
    text = metadata.get(RECORD, "null")
    record = parse_json(text, source=f"The metadata of {path}")
    if isinstance(record, dict) and CHECKSUM in record:
        seal = _seal(record.pop(CHECKSUM))
        if not text.endswith(seal) or seal != _seal(_checksum(text.removesuffix(seal) + "}", tensors)):
            raise ValueError(changed(path))
    refuse_damaged_seal(record, path)
    if not isinstance(record, dict) or record.get("kind") != kind:
        found = record.get("kind") if isinstance(record, dict) else None
        raise ValueError(f"{path} is not a calib {kind} file (its kind is {found!r}).")
    return tensors, record


def read_safetensors(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of any safetensors file.

    Args:
        path: The file.
        tensors: Whether the tensors are read; else there are none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut off, or is not safetensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.{meant_path(path)}")
    try:
        with safe_open(str(path), framework="pt") as file:
            names = file.keys() if tensors else ()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}). Was it cut off? Fetch or make it anew."
        ) from error


def kind_of(path: str | Path) -> str:
    """Return which kind of calib file this is, as `save_tensors` wrote it, e.g. "prompt".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not safetensors, or not one of ours.
    """
    kind = _record_of(Path(path)).get("kind")
    if not isinstance(kind, str):
        raise ValueError(f"{path} is a safetensors file that calib has not written: it says no kind.")
    return kind


def is_kind(path: str | Path, kind: str) -> bool:
    """Return whether a safetensors file says that it is of that kind of calib's; only its header is read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not safetensors.
    """
    return _record_of(Path(path)).get("kind") == kind


def mark_of(path: str | Path) -> str | None:
    """Return the mark of the run that a calib file belongs to. None: it has none; see `save_tensors`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not safetensors.
    """
    mark = _record_of(Path(path)).get(MARK)
    return mark if isinstance(mark, str) else None


def _record_of(path: Path) -> dict[str, Any]:
    """Return the record of a file, not compared with its checksum: the tensors are not read."""
    _, metadata = read_safetensors(path, tensors=False)
    record = parse_json(metadata.get(RECORD, "null"), source=f"The metadata of {path}")
    return record if isinstance(record, dict) else {}


def require_keys(record: Mapping[str, Any], keys: Iterable[str], *, path: str | Path) -> None:
    """Refuse a record without all of these keys.

    Args:
        record: The record of a loaded file.
        keys: What it must hold.
        path: The file, for the message.

    Raises:
        ValueError: Keys are missing; the message lists them.
    """
    missing = set(keys) - record.keys()
    if missing:
        raise ValueError(f"The record of {path} lacks {', '.join(sorted(missing))}.")


def require_version(
    record: Mapping[str, Any],
    version: int,
    *,
    path: str | Path,
    key: str = "version",
    older: Sequence[int] = (),
) -> None:
    """Refuse a file of another version of its format.

    Args:
        record: The record of a loaded file.
        version: The version that is written.
        path: The file, for the message.
        key: Where the record says it.
        older: Earlier versions that can be read as well.

    Raises:
        ValueError: It says another version, or none.
    """
    if record.get(key) not in (*older, version):
        read = " and ".join(map(str, (*older, version)))
        raise ValueError(
            f"{path} has {key} {record.get(key)!r}; this version reads {read}. Make it anew, or use the "
            "calib that wrote it."
        )


def require_strings(record: Mapping[str, Any], key: str, *, path: str | Path) -> list[str]:
    """Return the list of strings that a record holds under a key.

    Args:
        record: The record of a loaded file.
        key: One of its keys.
        path: The file, for the message.

    Raises:
        ValueError: It is something else.
    """
    if not is_strings(record.get(key)):
        raise ValueError(f"{path}: {key} must be a list of strings.")
    return list(record[key])


def require_tensor(
    tensors: Mapping[str, Tensor],
    name: str,
    shape: tuple[int | None, ...],
    *,
    path: str | Path,
    floating: bool = True,
) -> Tensor:
    """Return one tensor of a loaded file after checking that it is there, of the right shape and finite.

    Args:
        tensors: The file's tensors.
        name: The tensor wanted.
        shape: The shape expected; None means any size along that axis.
        path: The file, for the message.
        floating: Whether it must hold floating-point numbers (else integers).

    Raises:
        ValueError: It is missing, of another shape or type, or holds NaN or infinite values.
    """
    if name not in tensors:
        raise ValueError(f"{path} has no tensor '{name}' (it has: {', '.join(sorted(tensors)) or 'none'}).")
    tensor = tensors[name]
    fits = tensor.dim() == len(shape) and all(
        w is None or w == s for w, s in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise ValueError(f"{path}: tensor '{name}' must have shape {wanted}, not {tuple(tensor.shape)}.")
    if tensor.is_floating_point() != floating:
        raise ValueError(
            f"{path}: tensor '{name}' has type {tensor.dtype}, expected "
            f"{'floats' if floating else 'integers'}."
        )
    if floating and not torch.isfinite(tensor).all():
        raise ValueError(f"{path}: tensor '{name}' holds NaN or infinite values.")
    return tensor


def _seal(checksum: object) -> str:
    """Return what stands at the end of a record that has a checksum."""
    return f', "{CHECKSUM}": {json.dumps(checksum)}}}'


def _checksum(record: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of a record and of the names, types, shapes and bytes of tensors, as 8 hex digits.

    A flipped bit or a damaged stretch of up to 4 bytes always changes it, other damage all but once in four
    billion times; it costs a fifth of what reading the file does.
    """
    value = zlib.crc32(record.encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
