"""Paths in a table of images: where they lead, and that the images are there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from calib.core.problems import note
from calib.core.text import few
from calib.data.images import IMAGE_SUFFIXES, looks_like_image, why_no_file
from calib.data.readers.table_rows import Row
from calib.data.task import SPLITS

ANY_PATH = "data.options.allow_outside=true; calib segment evaluate: --allow-outside"


def tables_of(rows: Sequence[Row]) -> list[str]:
    """Return the tables that rows come from."""
    return list(dict.fromkeys(row.where.rpartition(", ")[0] for row in rows))


def native(row: Row, root: Path) -> Row:
    """Return a row whose path, where it was written on Windows, has slashes; names stay as written."""
    relative = not PureWindowsPath(row.file).anchor
    if relative and "\\" in row.file and not is_file(root / row.file):
        return replace(row, file=PureWindowsPath(row.file).as_posix())
    return row


def within(row: Row, root: Path, *, how: str | None = ANY_PATH) -> Row:
    """Return a row whose path starts from `root`, also where the table has it absolute.

    Args:
        row: The row.
        root: Where its path has to start.
        how: What lets any path be read, for the message. None: nothing does.

    Raises:
        ValueError: The path leads out of `root`, or may do so.
    """
    native = Path(row.file)
    paths = (PurePosixPath(row.file), PureWindowsPath(row.file))  # the table may come from another system
    if any(".." in path.parts for path in paths):
        reason = "has '..' in it"
    elif native.is_absolute():
        for path, base in ((native, root.absolute()), (native.resolve(), root.resolve())):
            if path.is_relative_to(base):
                inside = path.relative_to(base).as_posix()
                return replace(row, file=inside, name=inside if row.name == row.file else row.name)
        reason = f"is absolute and leads out of '{root}'"
    elif any(path.anchor for path in paths):
        reason = "is an absolute path of another system"
    else:
        return row
    raise ValueError(
        f"{row.where}: the path '{row.file}' {reason}. Write it relative to '{root}', without '..'"
        f"{f', or let any path be read ({how})' if how else ''}."
    )


def check_files(rows: Sequence[Row], root: Path, what: str = "images") -> list[Row]:
    """Return the rows whose files are there; others, and what is listed twice in a split, are refused.

    Args:
        rows: The rows.
        root: Where their paths start.
        what: What they are, for the messages.

    Raises:
        ValueError: A file is no image, is missing or listed twice (inside `calib.core.problems.together` at
            its end).
    """
    kept: list[Row] = []
    missing: list[str] = []
    refused: list[ValueError] = []
    for row in rows:
        path = root / row.file
        if not looks_like_image(path):
            said = f"does not end like an image ({', '.join(IMAGE_SUFFIXES)})"
        elif is_file(path):
            kept.append(row)
            continue
        elif os.path.exists(path):
            said = f"is {why_no_file(path)}"
        else:
            missing.append(row.file)
            continue
        refused.append(ValueError(f"{row.where}: '{row.file}' {said}."))
        note(refused[-1], like=said)
    if missing:
        said = (
            f"{len(missing)} of the {len(rows)} {what} in the table {few(tables_of(rows))} do not exist in "
            f"{root}, where its paths start: {few(missing)}."
        )
        refused.append(ValueError(said))
        note(refused[-1])
    if {row.split for row in rows} - {row.split for row in kept}:
        raise refused[0]  # nothing is left of a split to find a problem in
    for split in SPLITS:
        files = [(os.path.normpath(row.file), row.name) for row in rows if row.split == split]
        counts = Counter(file for file, _ in files)
        twice = {file: name for file, name in files if counts[file] > 1}
        if twice:
            said = (
                f"{few(tables_of(rows))}: {len(twice)} {what} are listed more than once in '{split}': "
                f"{few(list(twice.values()))}."
            )
            note(ValueError(said))
    return kept


def check_links(rows: Sequence[Row], root: Path, *, how: str | None = ANY_PATH) -> None:
    """Refuse paths that a link in the folder leads out of it; `how` as in `within`."""
    base = root.resolve()
    inside: dict[Path, bool] = {}  # by folder: there are few, and resolving takes time
    for row in rows:
        path = root / row.file
        if path.parent not in inside:
            inside[path.parent] = path.parent.resolve().is_relative_to(base)
        if not inside[path.parent] or (path.is_symlink() and not path.resolve().is_relative_to(base)):
            raise ValueError(
                f"{row.where}: a link leads from '{row.file}' out of {root}, to {path.resolve()}. Copy the "
                f"images{f', or let any path be read ({how})' if how else ''}."
            )


def is_file(path: Path) -> bool:
    """Return whether there is such a file, whatever the path."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for any file, or one with a null byte
        return False
