"""Locks between processes, also where a file system has none; a killed process lets go of them."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from calib.core.errors import WriteError
from calib.io.files import PART

# What systems say where a file system has no locks, e.g. Lustre without -o flock, NFS without its service.
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
SOFT = ".held"  # the ending of lock files that hold by being there
logger = logging.getLogger(__name__)


class BusyError(Exception):
    """Another process holds a lock.

    Attributes:
        hint: What to do if none does, where the system could not say so by itself; else empty.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"Another process holds {path}.")
        self.path = path
        self.hint = f" If there is none any more, delete {path}." if path.suffix == SOFT else ""

    def __reduce__(self) -> tuple[type[BusyError], tuple[Path]]:
        return BusyError, (self.path,)


@contextlib.contextmanager
def locked(path: str | Path, *, patience: float = 0, waiting: str | None = None) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: The lock's file; it stays. Missing folders are made.
        patience: Seconds to wait, without a word, for a process that holds the lock.
        waiting: Then wait for it without an end, after saying this. None: raise.

    Raises:
        BusyError: Another process still holds the lock, and `waiting` is None.
        WriteError: The file cannot be made.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquired(path, patience, waiting)
    except OSError as error:
        raise WriteError(path, error) from error
    try:
        yield
    finally:
        lock.release()


def is_held(path: str | Path) -> bool:
    """Return whether another process holds a lock at this moment. Makes no file."""
    path = Path(path)
    if not path.exists() and not _soft(path).exists():
        return False
    try:
        with locked(path):
            return False
    except BusyError:
        return True


def _acquired(path: Path, patience: float, waiting: str | None) -> BaseFileLock:
    try:
        lock: BaseFileLock = FileLock(path)
        _acquire(lock, path, patience, waiting)
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    else:
        return lock
    path = _soft(path)
    _say_soft(path.parent)
    lock = SoftFileLock(path)
    _acquire(lock, path, patience, waiting)
    return lock


@lru_cache(maxsize=1000)  # once for each folder: a search takes its locks again and again
def _say_soft(folder: Path) -> None:
    logger.warning(
        "%s has no file locks; while a process works in it, a file that ends in %s lies there.", folder, SOFT
    )


def _soft(path: Path) -> Path:
    return path.with_name(path.name + SOFT)


def _acquire(lock: BaseFileLock, path: Path, patience: float, waiting: str | None) -> None:
    try:
        lock.acquire(timeout=patience)
    except Timeout as error:
        if waiting is None:
            raise BusyError(path) from error
        logger.info(waiting)
        lock.acquire()


def holds_nothing(folder: Path, *, but: Path) -> bool:
    """Return whether a folder is missing or holds only what comes and goes with a process at work.

    That is its lock, and files being written: all that is there when one is killed in its first moments.

    Args:
        folder: The folder.
        but: Its lock.
    """
    if not folder.exists():
        return True
    return all(
        path.name.startswith(but.name) or (path.name.startswith(".") and path.suffix == PART)
        for path in folder.iterdir()
    )
