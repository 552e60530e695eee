"""Files that are whole or absent: atomic writes, and safetensors with one JSON record beside the tensors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from calib.errors import WriteError
from calib.strictjson import parse_json

RECORD = "calib"  # the one metadata key of our safetensors files: two would be written in random order
# The last key of a record and of our JSON files: tells whether a file was damaged or changed since. Files
# of versions before it, such as the packaged features, have none. No protection from those who mean harm.
CHECKSUM = "calib_crc32"
LARGEST_JSON = 256 << 20  # bytes; the records of a million images take less
PART = ".part"  # how the names of files end that are being written
PASSING = {errno.ESTALE, errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.EIO, errno.ETIMEDOUT}
PAUSES = (0.1, 0.5, 1.5)  # seconds before a file is renamed again after one of these errors


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path` and move it there when the block ends without an error.

    Readers see the old file or the new one, never a half-written one, whatever is killed and whenever; the
    content is on the disk before the name is, so a power cut cannot leave an empty file either. On an error
    the temporary file is removed. A killed process leaves it; see `remove_unfinished`.

    Args:
        path: Where the finished file belongs. Missing folders are made.

    Raises:
        WriteError: The disk is full, the folder is read-only, the storage failed; the old file is intact.
    """
    path = Path(path)
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        os.close(handle)
        part = Path(name)
        yield part
        umask = os.umask(0)
        os.umask(umask)
        with contextlib.suppress(OSError):  # some network file systems have no permissions to set
            part.chmod(0o666 & ~umask)  # mkstemp makes files private; ours are ordinary ones
        _flush(part)
        _move(part, path)
        with contextlib.suppress(OSError):  # some file systems cannot flush a folder; the file is there
            _flush(path.parent)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):  # never hides the error before it
                part.unlink(missing_ok=True)


def remove_unfinished(folder: str | Path, pattern: str = "*", *, deep: bool = False) -> None:
    """Remove the temporary files that killed processes left in a folder.

    To be called where no other process can be writing such files: while holding the folder's lock.

    Args:
        folder: The folder; nothing happens where there is none.
        pattern: Which files the temporary ones stand for, e.g. "abc*" for abc.json.
        deep: Also in the folders within.
    """
    for part in Path(folder).glob(f"{'**/' if deep else ''}.{pattern}{PART}"):
        with contextlib.suppress(OSError):
            part.unlink()


def _flush(path: Path) -> None:
    """Have the system write a file, or a folder's list of files, to the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move(part: Path, path: Path) -> None:
    """Rename a file, again after an error that passes; network file systems have such."""
    inode = part.stat().st_ino
    for pause in PAUSES:
        if _moved(part, path, inode):
            return
        time.sleep(pause)
    os.replace(part, path)


def _moved(part: Path, path: Path, inode: int) -> bool:
    try:
        os.replace(part, path)
    except OSError as error:
        # A server may have renamed it although its answer was lost: asked again, it finds no such file.
        if path.exists() and path.stat().st_ino == inode:
            return True
        if error.errno not in PASSING:
            raise
        return False
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON atomically; an undefined number (NaN or infinite) becomes `null`.

    A mapping gets a last key `calib_crc32`, by which `read_json` sees that the file is as it was written.

    Args:
        path: The file.
        value: Dicts, lists, strings, numbers, booleans, None.
    """
    value = _finite(value)
    if isinstance(value, dict):
        value[CHECKSUM] = _json_checksum(value)
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the value in a JSON file, without the checksum that `write_json` added.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not strict JSON (see `calib.strictjson`), far too large, or was changed since
            it was written; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(
            f"{path} is larger than any JSON file that is read ({LARGEST_JSON:,} bytes). Make it anew."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Was it cut off? Make it anew.") from error
    value = parse_json(text, source=path)
    if isinstance(value, dict) and CHECKSUM in value and value.pop(CHECKSUM) != _json_checksum(value):
        raise ValueError(changed(path))
    _refuse_a_damaged_seal(value, path)
    return value


def changed(path: str | Path) -> str:
    """Return the message for a file whose content is not what its checksum says."""
    return f"{path} was damaged or changed after it was written: its checksum is another. Make it anew."


def sealed_text(text: str) -> str:
    """Return text lines with a last one, a comment, that holds their checksum."""
    return f"{text}# {CHECKSUM}: {zlib.crc32(text.encode()):08x}\n"


def check_sealed_text(path: str | Path) -> None:
    """Refuse a file written with `sealed_text` that was changed since; one without that line passes.

    Raises:
        ValueError: The lines have another checksum.
    """
    text = Path(path).read_bytes().decode("utf-8", errors="replace")
    lines, mark, _ = text.rpartition(f"# {CHECKSUM}: ")
    if mark and text != sealed_text(lines):
        raise ValueError(changed(path))


def blocking_file(path: str | Path) -> Path | None:
    """Return the file that stands where a folder, or one of the folders above it, would have to be.

    Args:
        path: The folder that is to be made. None is returned where it exists or can be made.
    """
    return next((p for p in (Path(path), *Path(path).parents) if p.exists() and not p.is_dir()), None)


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors, one JSON record and a checksum of both into a safetensors file, atomically.

    Args:
        path: The file.
        tensors: Name to tensor, on any device.
        record: JSON-able facts about the tensors; kept under the metadata key `calib`.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False)
    data = serialize(ready, {RECORD: text.removesuffix("}") + _seal(_checksum(text, ready))})
    with atomic_path(path) as part:
        part.write_bytes(data)


def load_tensors(path: str | Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON record of a file written by `save_tensors`.

    Args:
        path: The file.
        kind: What the record's `kind` must say, e.g. "prompt"; the wrong kind is refused.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut off, is not safetensors, was changed since it was written, or is of
            another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}). Was it cut off? Fetch or make it anew."
        ) from error
    text = metadata.get(RECORD, "null")
    record = parse_json(text, source=f"The metadata of {path}")
    if isinstance(record, dict) and CHECKSUM in record:
        seal = _seal(record.pop(CHECKSUM))
        if not text.endswith(seal) or seal != _seal(_checksum(text.removesuffix(seal) + "}", tensors)):
            raise ValueError(changed(path))
    _refuse_a_damaged_seal(record, path)
    if not isinstance(record, dict) or record.get("kind") != kind:
        found = record.get("kind") if isinstance(record, dict) else None
        raise ValueError(f"{path} is not a calib {kind} file (its kind is {found!r}).")
    return tensors, record


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
    record: Mapping[str, Any], version: int, *, path: str | Path, key: str = "version"
) -> None:
    """Refuse a file of another version of its format.

    Args:
        record: The record of a loaded file.
        version: The one version that can be read.
        path: The file, for the message.
        key: Where the record says it.

    Raises:
        ValueError: It says another version, or none.
    """
    if record.get(key) != version:
        raise ValueError(
            f"{path} has {key} {record.get(key)!r}; this version reads {version}. Make it anew, or use the "
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


def is_strings(value: object) -> bool:
    """Return whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


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


def _json_checksum(value: Any) -> str:
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def _refuse_a_damaged_seal(record: Any, path: str | Path) -> None:
    """Refuse a record whose last key was the checksum's before its letters were damaged."""
    last = next(reversed(record), "") if isinstance(record, dict) else ""
    same = sum(ours == theirs for ours, theirs in zip(CHECKSUM, last, strict=False))
    if last != CHECKSUM and len(last) == len(CHECKSUM) and same > len(CHECKSUM) // 2:
        raise ValueError(changed(path))


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


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
