"""Error messages that say what came, what is allowed and what was probably meant."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
        meant = [prefix + near for near in difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(repr(each) for each in meant)}?" if meant else ""
    given = f"{prefix}{name}" if prefix else name
    shown = ", ".join(prefix + each for each in known)
    return ValueError(f"Unknown {kind} {given!r}.{hint} Known: {shown}.")


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's message, or its type where it has none.

    Example:
        >>> first_line(KeyError()), first_line(ValueError("cut off\nat byte 7"))
        ('KeyError', 'cut off')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
