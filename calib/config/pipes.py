"""Settings from a pipe, such as <(...) of a shell: read once, and handed on to other processes as a file."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from calib.config.untrusted import MAX_YAML


@contextlib.contextmanager
def handed_on(argv: Sequence[str]) -> Iterator[list[str]]:
    """Yield arguments for other processes, too: what a pipe held lies in a file while the block runs.

    A pipe, such as <(...) of a shell, can be read once, and by the process that it was given to.

    Args:
        argv: Arguments that `load_config` has read in this process.
    """
    with contextlib.ExitStack() as stack:
        given = list(argv)
        for place, each in enumerate(argv):
            if "=" not in each and is_pipe(each):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="calib-settings-")))
                given[place] = str(folder / "settings.yaml")
                Path(given[place]).write_text(read_pipe(each, Path(each).stat().st_ino), encoding="utf-8")
        yield given


def is_pipe(argument: str) -> bool:
    """Return whether an argument leads to a pipe; it may be longer than any path.

    Example:
        >>> is_pipe("data.shots=16"), is_pipe("x" * 5000)
        (False, False)
    """
    try:
        return stat.S_ISFIFO(os.stat(argument).st_mode)
    except (OSError, ValueError):
        return False


@functools.lru_cache(maxsize=8)
def read_pipe(file: str, number: int) -> str:
    """Return what a pipe holds, which can be read once and is asked for twice.

    Args:
        file: The pipe.
        number: Its inode number, which tells it from a later one of its name.
    """
    with open(file, encoding="utf-8") as pipe:
        return pipe.read(MAX_YAML + 1)
