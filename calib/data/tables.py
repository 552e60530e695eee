"""Images listed in a CSV, TSV or Parquet table: one row per image with its path, label, split and group."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from calib.core.errors import unknown_name
from calib.core.text import few
from calib.data.images import IMAGE_SUFFIXES, has_image_suffix
from calib.data.notices import warn_of_unused_groups
from calib.data.records import FileSource, ImageTable
from calib.data.task import MEANT, SPLITS, ClassNames, Splits, number_classes

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
SPELT_DELIMITERS = {"tab": "\t", "\\t": "\t"}  # how a tab can be written on a command line
WHOLE_NUMBER = re.compile(r"-?[0-9]+(\.0+)?")  # 1.0 is what some programs make of 1
MAX_ROWS = 10_000_000  # of a Parquet table, whose rows can be repeated without end in few bytes
MAX_BYTES = 4 << 30
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
        delimiter: Of a text table; "tab" for a tab. None: comma for .csv, tab for .tsv.
        skip_splits: Values of the split column whose rows are left out.
        allow_outside: Whether absolute paths that lead out of the folder and paths with ".." are read. Leave
            it off for tables from elsewhere. It also lets links (symlinks) in the folder lead out of it.

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
    rows = _all_rows(root, table, by_key(columns or {}, KEY_OF), delimiter, skip_splits)
    for split in ("train", "test"):
        if all(row.split != split for row in rows):
            listed = few(list(table.values()) if isinstance(table, Mapping) else [table or _only_table(root)])
            raise ValueError(f"No row of the table in {root} ({listed}) belongs to the split '{split}'.")
    rows = [_native(row, root) for row in rows]
    rows = rows if allow_outside else [_within(row, root) for row in rows]
    _check_files(rows, root)
    if not allow_outside:
        _check_links(rows, root)
    labels, names = _number(rows, class_names)
    tables = {split: _table([row for row in rows if row.split == split], labels, root) for split in SPLITS}
    return Splits(names, {split: found for split, found in tables.items() if len(found)})


def _tables(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.where.rpartition(", ")[0] for row in rows))


def by_key(columns: Mapping[str, str | None], key_of: Mapping[str, str]) -> dict[str, str | None]:
    """Return columns by the keys of a reader, whichever of the usual names were used as keys.

    Args:
        columns: Key, or one of its usual names, to the name of a column.
        key_of: Usual name to key.

    Raises:
        ValueError: A name is unknown, or two mean the same key.

    Example:
        >>> by_key({"patient": "who"}, KEY_OF)
        {'group': 'who'}
    """
    found: dict[str, str | None] = {}
    for name, column in columns.items():
        if name not in key_of:
            raise unknown_name("key of data.options.columns", name, key_of)
        if key_of[name] in found:
            raise ValueError(f"data.options.columns says twice which column is the {key_of[name]}.")
        found[key_of[name]] = column
    return found


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
            "and perhaps val, or say which it is: data.options.columns.split=NAME, or give one table per "
            "split: data.options.table.train=train.csv data.options.table.test=test.csv."
        )
    rows = []
    for where, record in records:
        part = split or _cell(record, names["split"], where)
        if part in skip_splits:
            continue
        if part not in SPLITS:
            meant = MEANT.get(part.lower(), part.lower())
            instead = f" Write '{meant}' instead." if meant in SPLITS else ""
            raise ValueError(
                f"{where}: the split is '{part}'; allowed: {', '.join(SPLITS)}.{instead} "
                f'Others can be left out: "data.options.skip_splits=[{part}]".'
            )
        file = _cell(record, names["file"], where)
        group = None if names["group"] is None else _cell(record, names["group"], where)
        name = file if names["id"] is None else _cell(record, names["id"], where)
        rows.append(Row(file, _cell(record, names["label"], where), part, group, name, where))
    if names["id"] is not None:
        _check_ids(rows, names["id"], path)
    return rows, [name for name in header if name not in names.values()]


def _text(path: Path, delimiter: str | None) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    """Return the columns, and of each row where it stands and its cells."""
    given = DELIMITERS.get(path.suffix.lower(), ",") if delimiter is None else delimiter
    separator = SPELT_DELIMITERS.get(given, given)
    if len(separator) != 1:
        raise ValueError(f"data.options.delimiter must be one character (or tab), not '{separator}'.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=separator, strict=True)
            header = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            records = [(f"{path}, line {reader.line_num}", record) for record in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a UTF-8 table ({error}).") from error
    _check_header(header, path)
    for where, record in records:
        if None in record or None in record.values():
            raise ValueError(f"{where}: expected {len(header)} values with {separator!r} between.")
    return header, [(where, record) for where, record in records if any(v.strip() for v in record.values())]


def _check_header(header: Sequence[str], path: Path) -> None:
    """Refuse a table without columns, or with one that is several with another separator."""
    if not any(header):
        raise ValueError(f"{path} is empty: its first line names no columns.")
    other = next((mark for mark in ";,\t|" if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        spelt = "tab" if other == "\t" else other
        raise ValueError(
            f"{path} has a single column, {header[0]!r}. Its values seem to be separated otherwise: "
            f'"data.options.delimiter={spelt}".'
        )


def _parquet(path: Path) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    import pyarrow  # heavy, and needed for this kind of table only
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_parquet_size(file.metadata)
            read = file.read()
            _check_parquet_names(file.metadata)
        rows = enumerate(read.to_pylist(), start=1)
    except Exception as error:  # pyarrow raises errors of many types on damaged files
        raise ValueError(f"{path} cannot be read as Parquet ({error}).") from error
    return list(read.column_names), [(f"{path}, row {number}", record) for number, record in rows]


def _check_parquet_size(metadata: Any) -> None:
    """Refuse what would take far more memory than a table of images does, before it is taken."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    if metadata.num_rows > MAX_ROWS or size > MAX_BYTES:
        raise ValueError(
            f"it says it holds {metadata.num_rows:,} rows in {size:,} bytes; at most {MAX_ROWS:,} rows in "
            f"{MAX_BYTES:,} bytes are read"
        )


def _check_parquet_names(metadata: Any) -> None:
    """Refuse a table that gives a column two names: its directory has no checksum, but says each name twice.

    To be called after reading, which finds other damage that would end the process here.
    """
    names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        stored = [group.column(i).path_in_schema for i in range(group.num_columns)]
        if stored != names:
            raise ValueError(f"it calls its columns {few(names)} and {few(stored)}; it is damaged")


def _column_names(
    header: Sequence[str], columns: Mapping[str, str | None], path: Path
) -> dict[str, str | None]:
    for key, name in columns.items():
        if name is not None and name not in header:
            raise ValueError(
                f"{path} has no column '{name}' (data.options.columns.{key}={name}). "
                f"It has: {few(header, 20)}."
            )
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
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
            usual = COLUMNS[key]
            likely = next((name for name in header if name.lower() in usual), "NAME")
            raise ValueError(
                f"{path} has no column for the {key} (one of: {', '.join(usual)}). It has: "
                f"{few(header, 20)}. Say which it is: data.options.columns.{key}={likely}."
            )
    return names


def _cell(record: Mapping[str, Any], column: str | None, where: str) -> str:
    value = record[column or ""]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{where}: column '{column}' must hold text or integers, not {value!r}.")
    text = str(value).strip()
    if "\0" in text:
        raise ValueError(f"{where}: column '{column}' holds a null byte, which no text has: {text!r}.")
    if text.lower() in ("", "nan"):  # "nan" is what some programs make of an empty cell
        raise ValueError(f"{where}: column '{column}' is empty{' (nan)' if text else ''}.")
    return text


def _check_ids(rows: Sequence[Row], column: str, path: Path) -> None:
    """Refuse an id column that does not tell the images of a split apart; it may be one of patients."""
    counts = Counter((row.split, row.name) for row in rows)
    twice = [name for (_, name), count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"{path}: the column '{column}' must be another one for each image, but {few(twice)} occurs more "
            "than once in a split. Leave it out (data.options.columns.id=null); if it names patients: "
            f"data.options.columns.id=null data.options.columns.group={column}."
        )


def _native(row: Row, root: Path) -> Row:
    """Return a row whose path, where it was written on Windows, has slashes; names stay as written."""
    relative = not PureWindowsPath(row.file).anchor
    if relative and "\\" in row.file and not _is_file(root / row.file):
        return replace(row, file=PureWindowsPath(row.file).as_posix())
    return row


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
    missing = [row.file for row in rows if not _is_file(root / row.file)]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(rows)} images in the table {few(_tables(rows))} do not exist in "
            f"{root}, where its paths start: {few(missing)}."
        )
    for split in SPLITS:
        files = [(os.path.normpath(row.file), row.name) for row in rows if row.split == split]
        counts = Counter(file for file, _ in files)
        twice = {file: name for file, name in files if counts[file] > 1}
        if twice:
            raise ValueError(
                f"{few(_tables(rows))}: {len(twice)} images are listed more than once in '{split}': "
                f"{few(list(twice.values()))}."
            )


def _check_links(rows: Sequence[Row], root: Path) -> None:
    """Refuse paths that a link in the folder leads out of it."""
    base = root.resolve()
    inside: dict[Path, bool] = {}  # by folder: there are few, and resolving takes time
    for row in rows:
        path = root / row.file
        if path.parent not in inside:
            inside[path.parent] = path.parent.resolve().is_relative_to(base)
        if not inside[path.parent] or (path.is_symlink() and not path.resolve().is_relative_to(base)):
            raise ValueError(
                f"{row.where}: a link leads from '{row.file}' out of {root}, to {path.resolve()}. Copy the "
                "images, or let any path be read (data.options.allow_outside=true)."
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for any file, or one with a null byte
        return False


def _number(rows: Sequence[Row], class_names: ClassNames | None) -> tuple[dict[str, int], list[str]]:
    found = sorted({row.label for row in rows})
    numbers = all(WHOLE_NUMBER.fullmatch(label) for label in found)
    if (
        not numbers
        or isinstance(class_names, Mapping)
        or (class_names is not None and set(found) <= set(class_names))
    ):
        return number_classes(found, class_names, what="label")
    if class_names is None:
        raise ValueError(
            f"The labels are integers ({few(found)}): give their names in label order, "
            '"data.class_names=[NAME,NAME,...]".'
        )
    for row in rows:
        if not 0 <= float(row.label) < len(class_names):
            raise ValueError(
                f"{row.where}: label {row.label} has no name; data.class_names goes up to "
                f"{len(class_names) - 1}."
            )
    return {label: int(float(label)) for label in found}, [str(name) for name in class_names]


def _table(rows: Sequence[Row], labels: Mapping[str, int], root: Path) -> ImageTable:
    known = bool(rows) and rows[0].group is not None
    return ImageTable(
        [FileSource(root / row.file) for row in rows],
        [labels[row.label] for row in rows],
        [row.name for row in rows],
        groups=[row.group or "" for row in rows] if known else None,
    )
