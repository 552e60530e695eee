"""Rows of a CSV, TSV or Parquet table, checked: each names an image, its label, split and group."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.core.errors import meant_path
from calib.core.problems import note, noted
from calib.core.text import few
from calib.data.images import has_image_suffix, odd_kind
from calib.data.labels import label_text
from calib.data.task import MEANT, SPLITS, UNSPLIT

# What a column may be called when `columns` does not say, and in `columns` itself.
COLUMNS = {
    "file": ("file", "path", "image"),
    "label": ("label", "class"),
    "split": ("split",),
    "group": ("group", "patient", "patient_id"),
    "id": ("id",),
}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SPELT_DELIMITERS = {"tab": "\t", "\\t": "\t"}  # how a tab can be written on a command line
MAX_ROWS = 10_000_000  # of a Parquet table, whose rows can be repeated without end in few bytes
MAX_BYTES = 4 << 30  # of its columns, unpacked


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


def read_rows(
    path: Path,
    columns: Mapping[str, str | None],
    delimiter: str | None,
    split: str | None,
    skip_splits: Sequence[str],
    *,
    labelled: bool = True,
) -> tuple[list[Row], list[str], str | None]:
    """Return the images of one table, the columns that were not used, and what its lack of splits means.

    Without a split column, and without another that looks like one, all rows are of the split `UNSPLIT`;
    where no labels are wanted (`labelled`), of training.
    """
    if path.exists() and (odd := odd_kind(path)) is not None:
        raise ValueError(f"{path} is {odd}, not a table: a CSV, TSV or Parquet file (data.options.table).")
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no table {path}.{meant_path(path)} Images of your own in class folders are read by "
            "data.name=folder."
        )
    header, records = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path, delimiter)
    try:
        names = _column_names(header, columns, path, records, ("file", "label") if labelled else ("file",))
    except ValueError as error:
        note(error)
        if split is None and "split" not in {*columns, *header}:
            _check_no_split(header, records, path)
        raise
    unsplit = None
    if split is None and names["split"] is None:
        if "split" not in columns:
            _check_no_split(header, records, path)
        split, unsplit = UNSPLIT if labelled else SPLITS[0], no_split_column(path, header)
    rows = []
    for where, record in records:
        with noted(where):
            part = split or _cell(record, names["split"], where)
            if part not in skip_splits:
                rows.append(_row(record, names, part, where, labelled=labelled))
    if names["id"] is not None:
        _check_ids(rows, names["id"], path)
    return rows, [name for name in header if name not in names.values()], unsplit


def _row(
    record: Mapping[str, Any], names: Mapping[str, str | None], split: str, where: str, *, labelled: bool
) -> Row:
    """Return what a row says; `names` are those of its columns."""
    if split not in SPLITS:
        meant = MEANT.get(split.lower(), split.lower())
        instead = f" Write '{meant}' instead." if meant in SPLITS else ""
        cure = f'Others can be left out: "data.options.skip_splits=[{split}]".'
        if not labelled:
            cure = "Images are chosen among those of train, or of a table without splits."
        said = f": the split is '{split}'; allowed: {', '.join(SPLITS)}.{instead} {cure}"
        note(ValueError(f"{where}{said}"), like=said)
        split = meant
    file = _cell(record, names["file"], where)
    group = None if names["group"] is None else _cell(record, names["group"], where)
    name = file if names["id"] is None else _cell(record, names["id"], where)
    label = _label(record, names["label"], where) if labelled else ""
    return Row(file, label, split, group, name, where)


def no_split_column(path: Path, header: Sequence[str], likely: str = "NAME") -> str:
    """Return the message for a table that does not say which images are for training."""
    return (
        f"{path} has no split column (columns: {few(header, 20)}). Add one with the values train and, where "
        f"there are such images, test and val, or say which it is: data.options.columns.split={likely}, or "
        "give one table per split: data.options.table.train=train.csv data.options.table.test=test.csv."
    )


def _check_no_split(header: Sequence[str], records: Sequence[tuple[str, dict[str, Any]]], path: Path) -> None:
    """Refuse a table with a split column under another name: its training images are not for testing."""
    for name in header:
        cells = [record[name] for _, record in records]
        values = {str(cell).strip().lower() for cell in cells if isinstance(cell, str)}
        if values and values <= {*SPLITS, *MEANT}:
            raise ValueError(no_split_column(path, header, name))


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
    if not any(header):
        raise ValueError(f"{path} is empty: its first line names no columns.")
    other = next((mark for mark in ";,\t|" if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        said = (
            f"{path} has a single column, {header[0]!r}. Its values seem to be separated otherwise: "
            f'"data.options.delimiter={"tab" if other == chr(9) else other}".'
        )
        note(ValueError(said))
        return _text(path, other)
    whole = []
    for where, record in records:
        if None in record or None in record.values():
            said = f": expected {len(header)} values with {separator!r} between."
            note(ValueError(f"{where}{said}"), like=said)
        elif any(value.strip() for value in record.values()):
            whole.append((where, record))
    return header, whole


def _parquet(path: Path) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    try:
        read = read_parquet(path)
        rows = enumerate(read.to_pylist(), start=1)
    except Exception as error:  # pyarrow raises errors of many types on damaged files
        raise ValueError(f"{path} cannot be read as Parquet ({error}).") from error
    return list(read.column_names), [(f"{path}, row {number}", record) for number, record in rows]


def read_parquet(path: Path) -> Any:
    """Return the table of a Parquet file whose size, checksums and names of columns are in order.

    Args:
        path: The file.

    Raises:
        Exception: Of many types, as pyarrow's are on damaged files.
    """
    import pyarrow  # heavy, and needed for this kind of table only
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
        _check_parquet_size(file.metadata)
        # `datasets` writes no row group where there are no rows, which not every pyarrow can read
        read = file.read() if file.metadata.num_row_groups else file.schema_arrow.empty_table()
        _check_parquet_names(file.metadata)
    return read


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
    header: Sequence[str],
    columns: Mapping[str, str | None],
    path: Path,
    records: Sequence[tuple[str, dict[str, Any]]],
    needed: Sequence[str],
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
    absent = []
    for key in needed:
        if names[key] is None:
            usual = COLUMNS[key]
            hot = _one_hot(header, records) if key == "label" else []
            if hot:
                raise ValueError(
                    f"{path} has no column for the label but a column of 0 and 1 per class: {few(hot, 10)}. "
                    "Make one column of them, which names the class of each image, e.g. with pandas: "
                    f"table['label'] = table[{hot[:10]}{' + [...]' * (len(hot) > 10)}].idxmax(1)."
                )
            likely = next((name for name in header if name.lower() in usual), None)
            if likely is None and key == "file":
                likely = next((name for name in header if _names_images(records, name)), None)
            absent.append(
                f"{path} has no column for the {key} (one of: {', '.join(usual)}). It has: "
                f"{few(header, 20)}. Say which it is: data.options.columns.{key}={likely or 'NAME'}."
            )
    for said in absent[:-1]:
        note(ValueError(said))
    if absent:
        raise ValueError(absent[-1])
    return names


def _names_images(records: Sequence[tuple[str, dict[str, Any]]], name: str) -> bool:
    """Return whether every cell of a column ends like an image."""
    cells = [record[name] for _, record in records]
    return bool(cells) and all(
        isinstance(cell, str) and has_image_suffix(Path(cell.strip())) for cell in cells
    )


def _label(record: Mapping[str, Any], column: str | None, where: str) -> str:
    value = record[column or ""]
    if isinstance(value, bool | float):
        try:
            value = label_text(value) or ""
        except ValueError as error:
            raise ValueError(f"{where}: column '{column}' {error}.") from error
    return _cell({**record, column or "": value}, column, where)


def _one_hot(header: Sequence[str], records: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return the columns that together hold a single 1 in each row, and else 0. Empty: there are none."""
    values = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
    cells = {name: [values.get(str(record[name]).strip()) for _, record in records] for name in header}
    hot = [name for name, column in cells.items() if records and None not in column]
    once = all(sum(row) == 1 for row in zip(*(cells[name] for name in hot), strict=True))
    return hot if len(hot) > 1 and once else []


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
