"""Files that `calib vqa` is to write: refused before the work, also where they would replace what is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from calib.io.files import blocking_file

TABLES = (".parquet", ".jsonl")


def check_out(
    out: str | None, read: Iterable[str | None], suffixes: tuple[str, ...] = TABLES, name: str = "out"
) -> None:
    """Refuse a file that could not be written after the work, or would replace one that is read.

    Args:
        out: The file. None: none is written.
        read: What is read, or written beside it; None: nothing.
        suffixes: How it may end.
        name: The setting it is of.

    Raises:
        ValueError: It is so.

    Example:
        >>> check_out("items.csv", [])
        Traceback (most recent call last):
        ValueError: out=items.csv: expected a file that ends in .parquet or .jsonl.
    """
    if out is None:
        return
    path = Path(out)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{name}={out}: expected a file that ends in {' or '.join(suffixes)}.")
    if path.is_dir() or blocking_file(path.parent) is not None:
        raise ValueError(f"{name}={out} cannot be written: name a file in a folder.")
    if path.resolve() in {Path(each).resolve() for each in read if each is not None}:
        raise ValueError(f"{name}={out} would replace another file of this command: name one of its own.")
