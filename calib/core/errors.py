"""Error messages that say what came, what is allowed and what was probably meant."""

from __future__ import annotations

import contextlib
import difflib
import errno
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from calib.core.text import few

RUNS = "runs"  # where run folders are made, so that a name alone may be one there
FINISHED = "metrics.json"  # what makes a folder that of a finished run; named here, where runs are proposed
MOST_BESIDE = 5000  # entries of a folder that are looked at
_NO_ROOM = "Make room there, or choose another folder."
_NOT_ALLOWED = "Choose a folder that you may write to."
_A_FILE = "A file stands where a folder would have to be: choose another folder."
_ADVICE = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or choose another folder.",
    errno.EROFS: _NOT_ALLOWED,
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.ENOTDIR: _A_FILE,
    errno.EEXIST: _A_FILE,
}


class WriteError(OSError):
    """A file could not be written; the message says which, why, and what to do.

    Args:
        path: The file.
        cause: What the system said.

    Example:
        >>> print(WriteError("run/a.json", OSError(errno.ENOSPC, "No space left on device")))
        run/a.json could not be written: No space left on device. Make room there, or choose another folder.
    """

    def __init__(self, path: str | Path, cause: OSError) -> None:
        why = cause.strerror or str(cause)
        super().__init__(cause.errno, why, str(path))
        advice = _ADVICE.get(cause.errno or 0, "Look after the storage, or choose another folder.")
        kept = " The file that was there is untouched." if os.path.exists(path) else ""
        self._message = f"{path} could not be written: {why}. {advice}{kept}"

    def __str__(self) -> str:
        return self._message

    def __reduce__(self) -> tuple[Any, ...]:
        # To other processes of a job; OSError would be made anew of its number, text and file name.
        return type(self), (self.filename, OSError(self.errno, self.strerror))


class UsageError(ValueError):
    """A command was called in a way that there is not: an unknown option or subcommand."""


def unknown_name(
    kind: str,
    name: object,
    allowed: Iterable[str],
    *,
    prefix: str = "",
    meant: Sequence[str] | None = None,
) -> ValueError:
    """Return the error for a name that is not among the known ones, with the nearest known name.

    Args:
        kind: What the name stands for, e.g. "loss" or "data set".
        name: What was given.
        allowed: The names that exist.
        prefix: What stands before the name and the known ones when they are shown, e.g. "data.options.".
        meant: What was probably meant, in full, if the caller knows better than spelling does. None: the
            nearest of `allowed`.

    Example:
        >>> str(unknown_name("loss", "smack", ["ce", "smac"]))
        "Unknown loss 'smack'. Did you mean 'smac'? Known: ce, smac."
        >>> str(unknown_name("key", "sed", ["seed"], prefix="run."))
        "Unknown key 'run.sed'. Did you mean 'run.seed'? Known: run.seed."
    """
    known = sorted(allowed)
    if meant is None:
        lower = {each.lower(): each for each in reversed(known)}
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        near = near or [lower[each] for each in difflib.get_close_matches(str(name).lower(), lower, n=1)]
        meant = [prefix + each for each in near]
    hint = f" Did you mean {' or '.join(repr(each) for each in meant)}?" if meant else ""
    given = f"{prefix}{name}" if prefix else name
    shown = ", ".join(prefix + each for each in known)
    return ValueError(f"Unknown {kind} {given!r}.{hint} Known: {shown}.")


def meant_path(path: str | Path) -> str:
    """Return the question whether another path was meant, which exists; empty: none is like it.

    Every part of the path that does not exist is compared with what lies beside it; a name alone is looked
    for in the folder runs as well.

    Args:
        path: It does not exist.

    Example:
        >>> meant_path("/usr/bni") in (" Did you mean '/usr/bin'?", "")
        True
    """
    wanted = Path(path)
    places = [wanted, Path(RUNS) / wanted] if len(wanted.parts) == 1 else [wanted]
    with contextlib.suppress(OSError):  # such as of a name that is too long to exist
        for place in places if wanted.parts else []:
            found = place if place != wanted and place.exists() else _nearest_path(place)
            if found is not None:
                return f" Did you mean '{found}'?"
    return ""


def meant_run(path: str | Path) -> str:
    """Return the question whether another run was meant, or where none is like it, which runs there are.

    Args:
        path: No run is there.

    Returns:
        The newest finished runs of the folder that was named, else of the one it would lie in, else of runs;
        empty: there are none.
    """
    wanted = Path(path)
    if not wanted.exists() and (meant := meant_path(wanted)):
        return meant
    with contextlib.suppress(OSError):
        for folder in (wanted, *wanted.parents[:1], Path(RUNS)):
            if folder.is_dir():
                results = [each for each in folder.glob(f"*/{FINISHED}") if each.is_file()]
                newest = sorted(results, key=lambda each: -each.stat().st_mtime)
                if newest:
                    return f" Runs there are: {few([str(each.parent) for each in newest])}."
    return ""


def _nearest_path(wanted: Path) -> Path | None:
    """Return the path that is most like one that does not exist, part by part."""
    found = Path(wanted.anchor)
    for part in wanted.parts[bool(wanted.anchor) :]:
        if os.path.lexists(found / part) or part == os.pardir:
            found /= part
            continue
        with os.scandir(found) as entries:
            beside = [entry.name for entry in itertools.islice(entries, MOST_BESIDE)]
        lower = {name.lower(): name for name in sorted(beside, reverse=True) if not name.startswith(".")}
        near = difflib.get_close_matches(part.lower(), lower, n=1, cutoff=0.6)
        if not near:
            return None
        found /= lower[near[0]]
    return found if found != wanted and found.exists() else None


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's message, or its type where it has none.

    Example:
        >>> first_line(KeyError()), first_line(ValueError("cut off\nat byte 7"))
        ('KeyError', 'cut off')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
