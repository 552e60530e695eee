"""Files that are whole or absent: atomic writes, and JSON and text that say whether they were changed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from calib.core.errors import WriteError, meant_path
from calib.io.strictjson import parse_json

# The last key of a record and of our JSON files: tells whether a file was damaged or changed since. Files
# of versions before it, such as the packaged features, have none. No protection from those who mean harm.
CHECKSUM = "calib_crc32"
# The key of a record or JSON file that says which run it belongs to, see `calib.runs.marks.run_mark`.
MARK = "run"
LARGEST_JSON = 256 << 20  # bytes; the records of a million images take less
PART = ".part"  # how the names of files end that are being written
PASSING = {errno.ESTALE, errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.EIO, errno.ETIMEDOUT}
PAUSES = (0.1, 0.5, 1.5)  # seconds before a file is renamed again after one of these errors
_READING_UMASK = threading.Lock()
# The folders that this process works in, each with a handle of it and its sign; see `kept`.
_KEPT: ContextVar[tuple[tuple[str, int, _Sign | None], ...]] = ContextVar("kept", default=())


class MovedError(OSError):
    """A folder was renamed, removed or emptied while it was worked in; the message says what to do."""


@contextlib.contextmanager
def kept(folder: str | Path, sign: str | Path | None = None) -> Iterator[None]:
    """Have nothing written in a folder, while the block runs, once it is renamed, removed or emptied.

    `atomic_path` would make it anew: half a folder, beside the one that was meant.

    Args:
        folder: The folder, which is there.
        sign: A file in it that stays there once it is written: without it the folder was emptied. None: there
            is none.
    """
    try:
        # While it is open, its number stays, also on network file systems.
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # systems without handles of folders
        yield
        return
    before = _KEPT.set(
        (*_KEPT.get(), (os.path.abspath(folder), handle, None if sign is None else _Sign(sign)))
    )
    try:
        yield
    finally:
        _KEPT.reset(before)
        os.close(handle)


class _Sign:
    """A file that stays where it is once it was seen."""

    def __init__(self, path: str | Path) -> None:
        self.path, self._seen = os.path.abspath(path), False

    def is_gone(self) -> bool:
        """Return whether the file was there and is no more."""
        there = os.path.exists(self.path)
        self._seen = self._seen or there
        return self._seen and not there


def _refuse_moved(path: Path) -> None:
    target = os.path.abspath(path)
    for folder, handle, sign in _KEPT.get():
        if not Path(target).is_relative_to(folder):
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                if sign is not None and sign.is_gone() and target != sign.path:
                    raise MovedError(
                        f"The folder '{folder}' was emptied while this process worked in it; nothing more is "
                        "written. Remove what is left of it, and begin anew with the same command."
                    )
                continue
        raise MovedError(
            f"The folder '{folder}' was renamed or removed while this process worked in it; nothing more is "
            "written. Go on in its new place (out=FOLDER), or begin anew with the same command."
        )


@contextlib.contextmanager
def atomic_path(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path` and move it there when the block ends without an error.

    Readers see the old file or the new one, never a half-written one, whatever is killed and whenever; the
    content is on the disk before the name is, so a power cut cannot leave an empty file either. On an error
    the temporary file is removed. A killed process leaves it; see `remove_unfinished`.

    Args:
        path: Where the finished file belongs. Missing folders are made.
        durable: False leaves it to the system when the content reaches the disk; a power cut may then leave
            an empty file. For what is soon written again.

    Raises:
        WriteError: The disk is full, the folder is read-only, the storage failed; the old file is intact.
        MovedError: The folder of a run was renamed or removed meanwhile, see `kept`.
    """
    path = Path(path)
    _refuse_moved(path)
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        os.close(handle)
        part = Path(name)
        yield part
        with contextlib.suppress(OSError):  # some network file systems have no permissions to set
            part.chmod(0o666 & ~_umask())  # mkstemp makes files private; ours are ordinary ones
        if durable:
            _flush(part)
        _move(part, path)
        if durable:
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


def _umask() -> int:
    """Return what this process takes away from the permissions of new files.

    It can be read by setting it only: of two threads at once, one would set for good what the other has set
    for a moment, and every later file could be written by everybody.
    """
    with _READING_UMASK:
        umask = os.umask(0)
        os.umask(umask)
    return umask


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


def write_text(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Write a text file atomically, in UTF-8; `durable` as in `atomic_path`."""
    with atomic_path(path, durable=durable) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON atomically; an undefined number (NaN or infinite) becomes `null`.

    A mapping gets a last key `calib_crc32`, by which `read_json` sees that the file is as it was written.

    Args:
        path: The file.
        value: Dicts, lists, strings, numbers, booleans, None.
    """
    value = finite(value)
    if isinstance(value, dict):
        value[CHECKSUM] = _json_checksum(value)
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the value in a JSON file, without the checksum that `write_json` added.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not strict JSON (see `calib.io.strictjson`), far too large, or was changed
            since it was written; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.{meant_path(path)}")
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
    refuse_damaged_seal(value, path)
    return value


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Return the keys and values in a JSON file that holds some, such as a configuration of others.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As `read_json`, or it holds something else; the message names it.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold keys and values ({{...}}), not a {type(value).__name__}.")
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


def is_strings(value: object) -> bool:
    """Return whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _json_checksum(value: Any) -> str:
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def refuse_damaged_seal(record: Any, path: str | Path) -> None:
    """Refuse a record whose last key was the checksum's before its letters were damaged."""
    last = next(reversed(record), "") if isinstance(record, dict) else ""
    same = sum(ours == theirs for ours, theirs in zip(CHECKSUM, last, strict=False))
    if last != CHECKSUM and len(last) == len(CHECKSUM) and same > len(CHECKSUM) // 2:
        raise ValueError(changed(path))


def finite(value: Any) -> Any:
    """Return a value for JSON in which numbers that are NaN or infinite are None, and tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
