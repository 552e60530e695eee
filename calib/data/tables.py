"""Images listed in a CSV, TSV or Parquet table: one row per image with its path, label, split and group."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from calib.data.helpers import few, warn_of_unused_groups
from calib.data.images import IMAGE_SUFFIXES, has_image_suffix
from calib.data.records import FileSource, ImageTable
from calib.data.task import SPLITS, ClassNames, Splits, number_classes
from calib.errors import unknown_name

# What a column may be called when `columns` does not say, and in `columns` itself.
COLUMNS = {
    "file": ("file", "path", "image"),
    "label": ("label", "class"),
    "split": ("split",),
    "group": ("group", "patient", "patient_id"),
    "id": ("id",),
}
KEY_OF = {name: key for key, usual in COLUMNS.items() for name in usual}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLE_SUFFIXES = (*DELIMITERS, ".parquet")


@dataclass(frozen=True)
class Row:
    """One image as the table describes it.

    Attributes:
        file: Path within the folder of the images; as written in the table where it leads elsewhere.
        label: Label as text.
        split: train, val or test.
        group: Patient, slide, ...; None without such a column.
        name: The id column's value, else the path.
        where: Table and line, for messages.
    """

    file: str
    label: str
    split: str
    group: str | None
    name: str
    where: str


def load_table(
    root: str | Path,
    *,
    class_names: ClassNames | None = None,
    table: str | Mapping[str, str] | None = None,
    columns: Mapping[str, str | None] | None = None,
    delimiter: str | None = None,
    skip_splits: Sequence[str] = (),
    allow_outside: bool = False,
) -> Splits:
    """Return the splits of images listed in a table.

    Args:
        root: The folder that the paths in the table start from, or the table itself (then its folder).
        class_names: Label to name, or names in label order (needed when labels are integers);
            see `calib.data.task.number_classes`.
        table: The table's name within `root`, or one per split, {"train": "train.csv", "test": "test.csv"}.
            None: the only table there.
        columns: What the columns file, label, split, group and id are called, where not as in `COLUMNS`; None
            for a column that is not to be used. The other names in `COLUMNS` serve as well, e.g. patient for
            group. `id` becomes the image's name in outputs.
        delimiter: Of a text table. None: comma for .csv, tab for .tsv.
        skip_splits: Values of the split column whose rows are left out.
        allow_outside: Whether absolute paths that lead out of the folder and paths with ".." are read. Leave
            it off for tables from elsewhere.

    Raises:
        FileNotFoundError: The folder or the table does not exist.
        ValueError: A column, label, split or path is not as described, or an image is missing; the message
            says where.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"There is no folder or table {root} (data.root).")
    if root.is_file():
        if table is not None:
            raise ValueError(
                f"{root} is a table itself; leave out data.options.table={table}, or give the folder as "
                "data.root."
            )
        root, table = root.parent, root.name
    rows = _all_rows(root, table, _by_key(columns or {}), delimiter, skip_splits)
    rows = rows if allow_outside else [_within(row, root) for row in rows]
    _check_files(rows, root)
    labels, names = _number(rows, class_names)
    tables = {split: _table([row for row in rows if row.split == split], labels, root) for split in SPLITS}
    for split in ("train", "test"):
        if not len(tables[split]):
            raise ValueError(f"No row of the table in {root} belongs to the split '{split}'.")
    return Splits(names, {split: found for split, found in tables.items() if len(found)})


def _by_key(columns: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the columns by file, label, split, group and id, whichever of their names was used."""
    by_key: dict[str, str | None] = {}
    for name, column in columns.items():
        if name not in KEY_OF:
            raise unknown_name("key of data.options.columns", name, KEY_OF)
        if KEY_OF[name] in by_key:
            raise ValueError(f"data.options.columns says twice which column is the {KEY_OF[name]}.")
        by_key[KEY_OF[name]] = column
    return by_key


def _all_rows(
    root: Path,
    table: str | Mapping[str, str] | None,
    columns: Mapping[str, str | None],
    delimiter: str | None,
    skip_splits: Sequence[str],
) -> list[Row]:
    if isinstance(table, Mapping):
        strangers = [split for split in table if split not in SPLITS]
        if strangers:
            raise unknown_name("key of data.options.table", strangers[0], SPLITS)
        parts = [_read(root / name, columns, delimiter, split, ()) for split, name in table.items()]
    else:
        parts = [_read(root / (table or _only_table(root)), columns, delimiter, None, skip_splits)]
    if "group" not in columns and all(row.group is None for rows, _ in parts for row in rows):
        warn_of_unused_groups([name for _, header in parts for name in header])
    return [row for rows, _ in parts for row in rows]


def _only_table(root: Path) -> str:
    found = sorted(path.name for path in root.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)
    if len(found) != 1:
        raise ValueError(
            f"{root} has {few(found) or 'no table'} ({', '.join(TABLE_SUFFIXES)}); say which with "
            "data.options.table=NAME."
        )
    return found[0]


def _read(
    path: Path,
    columns: Mapping[str, str | None],
    delimiter: str | None,
    split: str | None,
    skip_splits: Sequence[str],
) -> tuple[list[Row], list[str]]:
    """Return the images of one table and the columns that were not used."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}.")
    header, records = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path, delimiter)
    names = _column_names(header, columns, path)
    if split is None and names["split"] is None:
        raise ValueError(
            f"{path} has no split column (columns: {few(header, 20)}). Add one with the values train, test "
            "and perhaps val, or give one table per split: data.options.table.train=train.csv "
            "data.options.table.test=test.csv."
        )
    rows = []
    for number, record in enumerate(records, start=2):
        where = f"{path}, line {number}"
        part = split or _cell(record, names["split"], where)
        if part in skip_splits:
            continue
        if part not in SPLITS:
            raise ValueError(
                f"{where}: the split is '{part}'; allowed: {', '.join(SPLITS)}. "
                f"Others can be left out: data.options.skip_splits=[{part}]."
            )
        file = _cell(record, names["file"], where)
        group = None if names["group"] is None else _cell(record, names["group"], where)
        name = file if names["id"] is None else _cell(record, names["id"], where)
        rows.append(Row(file, _cell(record, names["label"], where), part, group, name, where))
    return rows, [name for name in header if name not in names.values()]


def _text(path: Path, delimiter: str | None) -> tuple[list[str], list[dict[str, Any]]]:
    separator = delimiter or DELIMITERS.get(path.suffix.lower(), ",")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=separator, strict=True)
            records = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a UTF-8 table ({error}).") from error
    header = [name or "" for name in reader.fieldnames or []]
    for number, record in enumerate(records, start=2):
        if None in record or None in record.values():
            raise ValueError(
                f"{path}, line {number}: expected {len(header)} values with {separator!r} between."
            )
    return header, records


def _parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    import pyarrow  # heavy, and needed for this kind of table only
    import pyarrow.parquet

    try:
        read = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}).") from error
    return list(read.column_names), read.to_pylist()


def _column_names(
    header: Sequence[str], columns: Mapping[str, str | None], path: Path
) -> dict[str, str | None]:
    for key, name in columns.items():
        if name is not None and name not in header:
            raise ValueError(
                f"{path} has no column '{name}' (data.options.columns.{key}={name}). "
                f"It has: {few(header, 20)}."
            )
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise ValueError(f"{path} has more than one column '{twice[0]}'.")
    names: dict[str, str | None] = {}
    for key, usual in COLUMNS.items():
        found = [name for name in usual if name in header]
        if key not in columns and len(found) > 1:
            raise ValueError(
                f"{path}: the columns {' and '.join(found)} may each be the {key}. "
                f"Say which: data.options.columns.{key}={found[0]}."
            )
        names[key] = columns[key] if key in columns else next(iter(found), None)
    for key in ("file", "label"):
        if names[key] is None:
            usual_names = ", ".join(COLUMNS[key])
            raise ValueError(
                f"{path} has no column for the {key} (one of: {usual_names}). It has: {few(header, 20)}. "
                f"Say which it is: data.options.columns.{key}=NAME."
            )
    return names


def _cell(record: Mapping[str, Any], column: str | None, where: str) -> str:
    value = record[column or ""]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{where}: column '{column}' must hold text or integers, not {value!r}.")
    text = str(value).strip()
    if not text:
        raise ValueError(f"{where}: column '{column}' is empty.")
    return text


def _within(row: Row, root: Path) -> Row:
    """Return a row whose path starts from `root`, also where the table has it absolute.

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
        reason = f"is absolute and leads out of {root}"
    elif any(path.anchor for path in paths):
        reason = "is an absolute path of another system"
    else:
        return row
    raise ValueError(
        f"{row.where}: the path '{row.file}' {reason}. Write it relative to {root}, without '..' "
        "(data.options.allow_outside=true reads any path)."
    )


def _check_files(rows: Sequence[Row], root: Path) -> None:
    for row in rows:
        if not has_image_suffix(Path(row.file)):
            raise ValueError(
                f"{row.where}: '{row.file}' does not end like an image ({', '.join(IMAGE_SUFFIXES)})."
            )
    missing = [row.file for row in rows if not (root / row.file).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(rows)} images in the table do not exist in {root}: {few(missing)}."
        )
    for split in SPLITS:
        counts = Counter(row.file for row in rows if row.split == split)
        twice = [file for file, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"{len(twice)} images are listed more than once in '{split}': {few(twice)}.")


def _number(rows: Sequence[Row], class_names: ClassNames | None) -> tuple[dict[str, int], list[str]]:
    found = sorted({row.label for row in rows})
    numbers = all(label.lstrip("-").isdecimal() for label in found)
    if (
        not numbers
        or isinstance(class_names, Mapping)
        or (class_names is not None and set(found) <= set(class_names))
    ):
        return number_classes(found, class_names, what="label")
    if class_names is None:
        raise ValueError(
            f"The labels are integers ({few(found)}): give their names in label order, "
            "data.class_names=[...]."
        )
    for row in rows:
        if not 0 <= int(row.label) < len(class_names):
            raise ValueError(
                f"{row.where}: label {row.label} has no name; data.class_names goes up to "
                f"{len(class_names) - 1}."
            )
    return {label: int(label) for label in found}, [str(name) for name in class_names]


def _table(rows: Sequence[Row], labels: Mapping[str, int], root: Path) -> ImageTable:
    known = bool(rows) and rows[0].group is not None
    return ImageTable(
        [FileSource(root / row.file) for row in rows],
        [labels[row.label] for row in rows],
        [row.name for row in rows],
        groups=[row.group or "" for row in rows] if known else None,
    )
