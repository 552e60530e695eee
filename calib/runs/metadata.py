"""What a table says of images (site, scanner, stain), by their names, files or ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from calib.config import DataConfig
from calib.core.errors import meant_path, unknown_name
from calib.core.text import few
from calib.data.labels import label_text
from calib.data.output_tables import TABLES, OutputTable, read_output_table

KEYS = ("name", "file", "path", "image", "id")
EMPTY = "(empty)"
OF_EMBEDDED = "labels.csv"  # the table of the images of an embedded task
ASK = "Give a table with a column name, file or id of the images, and this one: metadata=FILE.csv."


def columns_asked(shift_by: str | None) -> list[str]:
    """Return the columns of the setting shift_by.

    Example:
        >>> columns_asked("site, scanner"), columns_asked(None)
        (['site', 'scanner'], [])
    """
    return [name.strip() for name in (shift_by or "").split(",") if name.strip()]


def metadata_table(data: DataConfig, metadata: str | None) -> OutputTable:
    """Return the table that says something of images: the one that is named, or that of the data.

    Args:
        data: Where the images are, and how they are read.
        metadata: The table. None: that of the data.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: None is named and the data have none, or it cannot be read.
    """
    if metadata is not None:
        path = Path(metadata)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file '{path}' (metadata=FILE.csv).{meant_path(path)}")
        if path.suffix.lower() not in TABLES:
            raise ValueError(f"{path} is no table: metadata must end in {', '.join(TABLES)}.")
        return read_output_table(path)
    root, table = None if data.root is None else Path(data.root), data.options.get("table")
    if root is not None and root.is_file() and root.suffix.lower() in TABLES:
        return read_output_table(root)
    if root is not None and isinstance(table, str):
        return read_output_table(root / table)
    if root is not None and data.name == "table" and table is None:
        found = sorted(path for path in root.iterdir() if path.suffix.lower() in TABLES)
        if len(found) == 1:
            return read_output_table(found[0])
    if root is not None and (root / OF_EMBEDDED).is_file():
        return read_output_table(root / OF_EMBEDDED)
    raise ValueError(f"The data '{data.name}' were not read from one table that could say more. {ASK}")


def read_columns(
    table: OutputTable, columns: Sequence[str], names: Sequence[str], ids: Sequence[str]
) -> dict[str, list[str]]:
    """Return what columns of a table say of images, as text; "(empty)" of an empty cell.

    Args:
        table: With a column of names, files or ids that tells the images.
        columns: Those that are wanted.
        names: N names of images, as predictions name them.
        ids: N content ids.

    Raises:
        ValueError: A column is not there, an image is missing, or its rows say different things.
    """
    keys = [each for each in KEYS if each in table.header]
    free = [each for each in table.header if each not in keys]
    for column in columns:
        if column not in table.header:
            error = unknown_name("column (shift_by)", column, free)
            raise ValueError(f"{table.path}: {error}")
    if not keys:
        raise ValueError(f"{table.path} has no column that names images ({few(KEYS)}): {few(table.header)}.")
    rows, wanted = _rows(table, keys, names, ids)
    found: dict[str, list[str]] = {}
    for column in columns:
        said: dict[str, str] = {}
        for key, cell, where in zip(rows, table.column(column), table.where, strict=True):
            text = _text(cell)
            if said.setdefault(key, text) != text:
                raise ValueError(
                    f"{where}: '{column}' is {text!r}, and an earlier row of the same image says "
                    f"{said[key]!r}."
                )
        found[column] = [said[key] for key in wanted]
    return found


def _rows(
    table: OutputTable, keys: Sequence[str], names: Sequence[str], ids: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return what the rows are called in the column that tells the images, and what the images are."""
    missing: Mapping[str, list[str]] = {}
    for key in keys:
        rows = [str(cell) for cell in table.column(key)]
        for wanted in (list(names), list(ids)):
            lacking = sorted(set(wanted) - set(rows))
            if not lacking:
                return rows, wanted
            if not missing or len(lacking) < len(next(iter(missing.values()))):
                missing = {key: lacking}
    key, lacking = next(iter(missing.items()))
    raise ValueError(
        f"{table.path} lacks {len(lacking)} of {len(names)} images in its column '{key}': {few(lacking)}."
    )


def _text(cell: object) -> str:
    if isinstance(cell, float) and not cell.is_integer():  # an age, or NaN
        cell = None if cell != cell else str(cell)
    return label_text(cell if isinstance(cell, str | int | float | None) else str(cell)) or EMPTY
