"""Images listed in a CSV, TSV or Parquet table: one row per image with its path, label, split and group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from calib.core.errors import meant_path, unknown_name
from calib.core.text import few
from calib.data.images import odd_kind
from calib.data.labels import number_labels
from calib.data.notices import warn_of_unused_groups
from calib.data.readers.table_paths import check_files, check_links, native, within
from calib.data.readers.table_rows import COLUMNS, DELIMITERS, Row, read_rows
from calib.data.records import FileSource, ImageTable
from calib.data.task import SPLITS, ClassNames, Splits

KEY_OF = {name: key for key, usual in COLUMNS.items() for name in usual}
TABLE_SUFFIXES = (*DELIMITERS, ".parquet")


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
        raise FileNotFoundError(f"There is no folder or table {root} (data.root).{meant_path(root)}")
    if not root.is_dir() and (odd := odd_kind(root)) is not None:
        raise ValueError(f"{root} is {odd}, not a table: a CSV, TSV or Parquet file (data.root).")
    if root.is_file():
        if table is not None:
            raise ValueError(
                f"{root} is a table itself; leave out data.options.table={table}, or give the folder as "
                "data.root."
            )
        root, table = root.parent, root.name
    rows, unsplit = _all_rows(root, table, by_key(columns or {}, KEY_OF), delimiter, skip_splits)
    listed = few(list(table.values()) if isinstance(table, Mapping) else [table or _only_table(root)])

    def absent(split: str) -> str:
        return unsplit or f"No row of the table in {root} ({listed}) belongs to the split '{split}'."

    if not rows:
        raise ValueError(f"The table in {root} ({listed}) has no rows of train, val or test.")
    labels, names = number_labels({row.label: row.where for row in reversed(rows)}, class_names)
    rows = [native(row, root) for row in rows]
    rows = rows if allow_outside else [within(row, root) for row in rows]
    rows = check_files(rows, root)
    if not allow_outside:
        check_links(rows, root)
    tables = {split: _table([row for row in rows if row.split == split], labels, root) for split in SPLITS}
    notes = (
        () if unsplit is None else (f"{root} ({listed}) has no split column: all images are for testing.",)
    )
    return Splits(names, {split: found for split, found in tables.items() if len(found)}, notes, absent)


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
) -> tuple[list[Row], str | None]:
    """Return the rows of all tables, and what is to be said of one without a split column."""
    if isinstance(table, Mapping):
        strangers = [split for split in table if split not in SPLITS]
        if strangers:
            raise unknown_name("key of data.options.table", strangers[0], SPLITS)
        parts = [read_rows(root / name, columns, delimiter, split, ()) for split, name in table.items()]
    else:
        parts = [read_rows(root / (table or _only_table(root)), columns, delimiter, None, skip_splits)]
    if "group" not in columns and all(row.group is None for rows, *_ in parts for row in rows):
        warn_of_unused_groups([name for _, header, _ in parts for name in header])
    unsplit = next((said for *_, said in parts if said is not None), None)
    return [row for rows, *_ in parts for row in rows], unsplit


def _only_table(root: Path) -> str:
    found = sorted(path.name for path in root.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)
    if len(found) != 1:
        raise ValueError(
            f"{root} has {few(found) or 'no table'} ({', '.join(TABLE_SUFFIXES)}); say which with "
            "data.options.table=NAME."
        )
    return found[0]


def _table(rows: Sequence[Row], labels: Mapping[str, int], root: Path) -> ImageTable:
    known = bool(rows) and rows[0].group is not None
    return ImageTable(
        [FileSource(root / row.file) for row in rows],
        [labels[row.label] for row in rows],
        [row.name for row in rows],
        groups=[row.group or "" for row in rows] if known else None,
    )
