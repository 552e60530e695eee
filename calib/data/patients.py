"""Whose an image is, as `calib predict` writes it: from a table, or from the paths of the images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from calib.core.errors import meant_path
from calib.core.text import few
from calib.data.output_tables import GROUPS, TABLES, OutputTable, read_output_table
from calib.data.readers.table_rows import COLUMNS

COLUMN = "patient"  # which calib review, sets and calibrate read without being told
PLACE = "{patient}"
NONE, FOLDER = "none", "folder"
KNOWN = f"a table (CSV, TSV, Parquet), a pattern of paths with {PLACE}, {FOLDER}, or {NONE}"


def patients_of(files: Sequence[Path], how: str, *, column: str | None = None) -> list[str] | None:
    """Return whose each image is, so that patients are counted and not images. None: nobody is to know.

    Args:
        files: N images.
        how: A table (a column of files, as in tables of images, and one of patients), a pattern whose
            {patient} stands for the patient ("{patient}/*", "{patient}_*.png"; ** for folders in any depth),
            "folder" (each folder is a patient), or "none".
        column: The table's column of patients. None: group, patient or patient_id.

    Raises:
        FileNotFoundError: There is no such table.
        ValueError: `how` is none of these, or does not say whose an image is.

    Example:
        >>> patients_of([Path("a/p1_1.png"), Path("a/p1_2.png"), Path("a/p2_1.png")], "{patient}_*")
        ['p1', 'p1', 'p2']
    """
    if how == NONE:
        return None
    if how == FOLDER:
        return [Path(os.path.abspath(file)).parent.name for file in files]
    if PLACE in how:
        return _by_pattern(files, how)
    return _by_table(files, Path(how), column)


def check_patients(how: str | None, column: str | None) -> None:
    """Refuse what says of no image whose it is, before any work.

    Args:
        how: As for `patients_of`.
        column: Likewise.

    Raises:
        FileNotFoundError: There is no such table.
        ValueError: It is none of what is known.
    """
    table = how is not None and how not in (NONE, FOLDER) and PLACE not in how
    if column is not None and not table:
        raise ValueError("--group names a column of the table that --patients gives; here is none.")
    if how is None or how in (NONE, FOLDER):
        return
    if not table:
        _expression(how)
        return
    path = Path(how)
    if path.suffix.lower() not in TABLES:
        raise ValueError(f"--patients must be {KNOWN}, not '{how}'.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no table '{how}' (--patients).{meant_path(how)}")


def _expression(pattern: str) -> re.Pattern[str]:
    """Return what fits the end of a path, with the patient as its only group."""
    if pattern.count(PLACE) != 1:
        raise ValueError(f"--patients '{pattern}': {PLACE} stands in a pattern once.")
    wild: dict[str, Callable[[], str]] = {
        "**/": lambda: "(?:.*/)?",
        "*": lambda: "[^/]*",
        "?": lambda: "[^/]",
        PLACE: lambda: "([^/]+?)",
    }
    parts = re.split(r"(\*\*/|\*|\?|\{patient\})", pattern.replace(os.sep, "/").removeprefix("./"))
    made = "".join(wild[part]() if part in wild else re.escape(part) for part in parts)
    return re.compile(f"(?:^|/){made}$")


def _by_pattern(files: Sequence[Path], pattern: str) -> list[str]:
    expression = _expression(pattern)
    names = [Path(os.path.abspath(file)) for file in files]
    found = [
        expression.search(name.as_posix()) or expression.search(name.with_suffix("").as_posix())
        for name in names
    ]
    strangers = [str(file) for file, fits in zip(files, found, strict=True) if fits is None]
    if strangers:
        raise ValueError(
            f"--patients '{pattern}' fits {len(files) - len(strangers)} of {len(files)} images, and not: "
            f"{few(strangers, 3)}. Write it as the ends of their paths are, e.g. '{PLACE}/*'."
        )
    return [fits.group(1) for fits in found if fits is not None]


def _by_table(files: Sequence[Path], path: Path, column: str | None) -> list[str]:
    table = read_output_table(path)
    file_column, patient_column = _column(table, COLUMNS["file"], None), _column(table, GROUPS, column)
    patients = table.groups(patient_column)
    by_end: dict[tuple[str, ...], tuple[int, ...]] = {}  # rows, by ends of paths or the whole of one
    for row, cell in enumerate(table.column(file_column)):
        listed = Path(str(cell).replace("\\", "/"))
        for place in {listed.parts, (path.parent / listed).resolve().parts}:
            by_end[place] = (*by_end.get(place, ()), row)
    found: list[str] = []
    missing: list[str] = []
    taken: dict[tuple[int, ...], set[Path]] = {}
    for file in files:
        whole = file.resolve()
        parts = whole.parts
        rows = next((by_end[parts[n:]] for n in range(len(parts)) if parts[n:] in by_end), ())
        said = {patients[row] for row in rows}
        if len(said) > 1:
            raise ValueError(
                f"{path} says of {file.name} that it is of {few(sorted(said))}: write its whole path there."
            )
        missing += [] if rows else [str(file)]
        found += said
        taken.setdefault(rows, set()).add(whole)
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of {len(files)} images: {few(missing, 3)}.")
    several = next((sorted(map(str, each)) for rows, each in taken.items() if len(each) > len(rows)), None)
    if several is not None:
        raise ValueError(
            f"{path} lists {Path(several[0]).name} for fewer images than are called so: {few(several, 3)}. "
            "Write their whole paths there."
        )
    return found


def _column(table: OutputTable, usual: Sequence[str], asked: str | None) -> str:
    there = [name for name in ([asked] if asked is not None else usual) if name in table.header]
    if len(there) == 1 or (there and asked is None and usual is COLUMNS["file"]):
        return there[0]
    wanted = asked if asked is not None else " or ".join(usual)
    has = f"{table.path} has {'several columns' if there else 'no column'} {wanted}; it has "
    raise ValueError(f"{has}{few(table.header, 20)}. Say which says whose an image is: --group COLUMN.")
