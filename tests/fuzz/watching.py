"""What reading a file does besides reading: code it runs, the network it asks, paths it writes elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CODE, NETWORK, OUTSIDE = "code run", "network asked", "written outside"
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class")
ASKS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
MAKES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_seen: list[tuple[str, str]] = []
_folders: list[str] = []  # what may be written in; empty: nobody watches
_hooked: list[bool] = []


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[list[tuple[str, str]]]:
    """Yield the kinds and descriptions of what happens in the block that should not.

    Args:
        folder: What may be written in, besides the folder for temporary files.
    """
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _seen.clear()
    _folders[:] = [str(folder.resolve())]
    try:
        yield _seen
    finally:
        _folders.clear()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _folders:
        return
    if event in ASKS and not (event == "socket.connect" and isinstance(arguments[1], str)):
        _seen.append((NETWORK, f"{event} {arguments[1:]}"))
        raise OSError("no network here")
    if event == "pickle.find_class" and str(arguments[0]).startswith(("torch", "collections", "_codecs")):
        return  # what a file of tensors is made of
    if event in RUNS:
        _seen.append((CODE, f"{event} {arguments}"))
    elif event in MAKES or (event == "open" and _to_write(arguments)):
        path = arguments[0]
        folder = arguments[1] if event in ("os.remove", "os.rmdir") else -1
        if isinstance(folder, int) and folder >= 0 and isinstance(path, str):  # relative to an open folder
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        if isinstance(path, str | bytes | os.PathLike) and not _allowed(os.fspath(path)):
            _seen.append((OUTSIDE, f"{event} {arguments}"))


def _to_write(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & WRITES)


def _allowed(path: str | bytes) -> bool:
    full = os.path.realpath(os.fsdecode(path))
    ours = (*_folders, os.devnull)
    return full.startswith(ours) or (full.endswith(".pyc") or "__pycache__" in full) or full in _TEMPORARY


_TEMPORARY = (os.path.realpath(tempfile.gettempdir()),)
