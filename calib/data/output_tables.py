"""Tables of model outputs, CSV, TSV or Parquet: read cell by cell, written again with calibrated numbers."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.core.errors import unknown_name
from calib.core.names import name_key
from calib.core.text import few, safe_text
from calib.data.labels import indices_of, label_text
from calib.data.readers.table_rows import COLUMNS, DELIMITERS, read_parquet
from calib.io.files import atomic_path, write_text

TABLES = {**DELIMITERS, ".parquet": ""}
PREFIXES = {"probs": "p", "logits": "logit"}
CLASS_COLUMN = re.compile(r"(p|logit)\((.+)\)", re.DOTALL)
GROUPS = COLUMNS["group"]  # columns that say what belongs together, where none is named


@dataclass(frozen=True, eq=False)
class OutputTable:
    """A table as it was read.

    Attributes:
        path: The file.
        header: Names of the columns, all different.
        records: Cells of every row, as text (CSV, TSV) or as values (Parquet).
        where: Where each row stands, for messages.
    """

    path: Path
    header: list[str]
    records: list[list[Any]]
    where: list[str]

    def column(self, name: str) -> list[Any]:
        """Return the cells of a column."""
        index = self.header.index(name)
        return [record[index] for record in self.records]

    def groups(self, name: str, needed: Sequence[bool] | None = None) -> list[str]:
        """Return a column that says what belongs together, as text; "" where it says nothing.

        Args:
            name: The column.
            needed: Which rows must be of a group. None: all.

        Raises:
            ValueError: One of these is of none: all such rows would be one patient.
        """
        found = ["" if is_missing(cell) else str(cell) for cell in self.column(name)]
        wanted = [True] * len(found) if needed is None else needed
        for text, where, must in zip(found, self.where, wanted, strict=True):
            if must and text == "":
                raise ValueError(f"{where} has no {name}. Fill it in, or leave such rows or the column out.")
        return found

    def numbers(self, columns: Sequence[str]) -> Tensor:
        """Return the numbers of some columns, (N, len(columns)) float64.

        Raises:
            ValueError: A cell is no finite number; row and column are said.
        """
        rows = []
        for where, cells in zip(self.where, zip(*map(self.column, columns), strict=True), strict=True):
            rows.append(
                [
                    _number(cell, f"{where}, column '{name}'")
                    for cell, name in zip(cells, columns, strict=True)
                ]
            )
        return torch.tensor(rows, dtype=torch.float64)


def read_output_table(path: Path) -> OutputTable:
    """Return a table with at least one row.

    Raises:
        ValueError: It cannot be read, is empty, has a column twice, or a row has too few or too many cells.
    """
    suffix = path.suffix.lower()
    header, records, where = _parquet(path) if suffix == ".parquet" else _text(path, TABLES[suffix])
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice or "" in header:
        raise ValueError(
            f"{path} has {'a column without a name' if '' in header else f'two columns {twice[0]!r}'}."
        )
    if not records:
        raise ValueError(f"{path} has no rows.")
    return OutputTable(path, header, records, where)


def class_columns(
    table: OutputTable, kind: str | None, class_names: Sequence[str] | None
) -> tuple[str, dict[str, str]]:
    """Return what a table's numbers are, "probs" or "logits", and the column of every class.

    Columns p(CLASS) hold probabilities, logit(CLASS) logits. Columns that are called as the classes hold what
    `kind` says, and which they are say the class names.

    Args:
        table: The table.
        kind: "probs" or "logits". None: what the names of the columns say.
        class_names: The classes. None: those of the columns p(CLASS) or logit(CLASS), in their order.

    Returns:
        The columns under the names that were asked for, in their order.

    Raises:
        ValueError: The columns do not say it, or are not of these classes.

    Example:
        >>> table = OutputTable(Path("a.csv"), ["id", "p(benign)", "p(malignant)"], [], [])
        >>> class_columns(table, None, ["malignant", "benign"])
        ('probs', {'malignant': 'p(malignant)', 'benign': 'p(benign)'})
    """
    found: dict[str, dict[str, str]] = {"p": {}, "logit": {}}
    for column in table.header:
        fits = CLASS_COLUMN.fullmatch(column)
        if fits:
            found[fits[1]][fits[2]] = column
    kinds = [name for name, prefix in PREFIXES.items() if found[prefix] and kind in (None, name)]
    if len(kinds) == 2:
        raise ValueError(
            f"{table.path} has columns p(CLASS) and logit(CLASS): say --kind probs or --kind logits."
        )
    if kinds:
        named = found[PREFIXES[kinds[0]]]
        check_names(list(named), table.path)
        return kinds[0], named if class_names is None else matched(named, class_names, table.path)
    if kind is None or class_names is None:
        raise ValueError(
            f"{table.path} has no columns p(CLASS) with probabilities and none logit(CLASS) with logits; it "
            f"has {few(table.header, 20)}. If its columns are called as the classes, name these and say what "
            "they hold: --classes NAME,NAME,... with --kind probs or --kind logits."
        )
    check_names(class_names, table.path)
    keys = {name_key(column): column for column in table.header}
    absent = [name for name in class_names if name_key(name) not in keys]
    if absent:
        raise ValueError(f"{table.path}: {unknown_name('column', absent[0], table.header)}")
    return kind, {name: keys[name_key(name)] for name in class_names}


def matched(named: Mapping[str, str], class_names: Sequence[str], path: Path) -> dict[str, str]:
    """Return the columns of classes in the order of the class names wanted; refuse other classes.

    Raises:
        ValueError: They are not the same classes.

    Example:
        >>> matched({"a_b": "p(a_b)", "c": "p(c)"}, ["c", "a b"], Path("a.csv"))
        {'c': 'p(c)', 'a b': 'p(a_b)'}
    """
    keys = {name_key(name): column for name, column in named.items()}
    if sorted(keys) != sorted(map(name_key, class_names)):
        raise ValueError(
            f"{path} has the classes {few(list(named), 20)}, and asked for are "
            f"{few(list(class_names), 20)}. They must be the same, in any order."
        )
    return {name: keys[name_key(name)] for name in class_names}


def check_names(class_names: Sequence[str], path: Path) -> None:
    """Refuse class names that a reader could not tell apart, and fewer than two.

    Raises:
        ValueError: They are so.
    """
    keys = Counter(map(name_key, class_names))
    if len(class_names) < 2:
        raise ValueError(
            f"{path} has numbers for {len(class_names)} class; there must be one column for each of at least "
            "2. Of two classes with one probability p, the columns are 1 - p and p."
        )
    if "" in keys or max(keys.values()) > 1:
        raise ValueError(
            f"{path}: the class names must differ and say something; they are {few(class_names, 20)}."
        )


def label_indices(labels: Sequence[Any], where: Sequence[str], class_names: Sequence[str]) -> Tensor:
    """Return the class index of every label, (N,) int64: by name, or the index that it is.

    Whole numbers, and true and false, are indices where they are no names, as in every other data.

    Args:
        labels: N names or whole numbers.
        where: Where each stands, for messages.
        class_names: C names.

    Raises:
        ValueError: A label is empty, unknown, or no index.

    Example:
        >>> label_indices(["stroma", "tumour"], ["row 1", "row 2"], ["tumour", "stroma"]).tolist()
        [1, 0]
        >>> label_indices(["1", "0"], ["row 1", "row 2"], ["tumour", "stroma"]).tolist()
        [1, 0]
    """
    texts = []
    for label, place in zip(labels, where, strict=True):
        try:
            text = label_text(label)
        except ValueError as error:
            raise ValueError(f"{place}: the label {error}.") from error
        if text is None:
            raise ValueError(f"{place} has no label. Fill it in, or leave such rows out.")
        texts.append(text)
    index = {name_key(name): number for number, name in enumerate(class_names)}
    found = [index.get(name_key(text), -1) for text in texts]
    if -1 in found and (numbers := indices_of(texts)):
        found = [numbers[text] for text in texts]
    for number, text, place in zip(found, texts, where, strict=True):
        if not 0 <= number < len(class_names):
            raise ValueError(f"{place}: {unknown_name('class', text, class_names)}")
    return torch.tensor(found, dtype=torch.int64)


def write_calibrated(
    table: OutputTable, columns: Mapping[str, str], probs: Tensor, predictions: Tensor, out: Path
) -> None:
    """Write a table again with calibrated probabilities in the place of its outputs.

    The order of rows and columns is as it was; a column of logits becomes p(CLASS). Columns `prediction` and
    `confidence`, as `calib predict` writes them, say what is true of the new numbers. In CSV and TSV nothing
    can be run as a formula.

    Args:
        table: As it was read.
        columns: Class to column, C of them.
        probs: (N, C) in the order of `columns`.
        predictions: (N,) int64.
        out: The file, of the table's own format.

    Raises:
        ValueError: The new names of the columns would be those of others.
        WriteError: It cannot be written.
    """
    classes = list(columns)
    new: dict[str, list[Any]] = {column: probs[:, c].tolist() for c, column in enumerate(columns.values())}
    if "prediction" in table.header and "prediction" not in new:
        new["prediction"] = [classes[c] for c in predictions.tolist()]
    if "confidence" in table.header and "confidence" not in new:
        new["confidence"] = probs.gather(1, predictions[:, None])[:, 0].tolist()
    renamed = {column: f"p({name})" for name, column in columns.items() if column.startswith("logit(")}
    header = [renamed.get(column, column) for column in table.header]
    if len(set(header)) < len(header):
        raise ValueError(f"{table.path} has columns p(CLASS) and logit(CLASS): take one kind away.")
    _write(header, [new.get(column) or table.column(column) for column in table.header], out)


def write_with(table: OutputTable, more: Mapping[str, Sequence[str]], out: Path) -> None:
    """Write a table again with further columns at its end; columns of the same names are replaced.

    The order of rows and columns is as it was. In CSV and TSV nothing can be run as a formula.

    Args:
        table: As it was read.
        more: Column to N texts.
        out: The file, of the table's own format.

    Raises:
        WriteError: It cannot be written.
    """
    kept = [name for name in table.header if name not in more]
    _write([*kept, *more], [*map(table.column, kept), *map(list, more.values())], out)


def _write(header: Sequence[str], cells: Sequence[list[Any]], out: Path) -> None:
    if out.suffix.lower() == ".parquet":
        import pyarrow
        import pyarrow.parquet

        made = pyarrow.table(dict(zip(header, cells, strict=True)))
        with atomic_path(out) as part:
            pyarrow.parquet.write_table(made, part)
        return
    text = io.StringIO()
    writer = csv.writer(text, delimiter=TABLES[out.suffix.lower()], lineterminator="\n")
    writer.writerow(map(safe_text, header))
    for row in zip(*cells, strict=True):
        writer.writerow([f"{cell:.9g}" if isinstance(cell, float) else safe_text(str(cell)) for cell in row])
    write_text(out, text.getvalue())


def _text(path: Path, delimiter: str) -> tuple[list[str], list[list[Any]], list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(f"{path}, line {reader.line_num}", row) for row in reader if any(map(str.strip, row))]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a UTF-8 table ({error}).") from error
    other = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        raise ValueError(
            f"{path} has a single column, '{header[0]}': save it with '{delimiter}' between the values "
            "(and points in decimal numbers)."
        )
    for where, row in rows:
        if len(row) != len(header):
            raise ValueError(f"{where} has {len(row)} values, and the first line {len(header)}.")
    return header, [row for _, row in rows], [where for where, _ in rows]


def _parquet(path: Path) -> tuple[list[str], list[list[Any]], list[str]]:
    try:
        read = read_parquet(path)
        columns = [read.column(i).to_pylist() for i in range(read.num_columns)]
    except Exception as error:  # pyarrow raises errors of many types on damaged files
        raise ValueError(f"{path} cannot be read as Parquet ({error}).") from error
    records = [list(row) for row in zip(*columns, strict=True)]
    return list(read.column_names), records, [f"{path}, row {i}" for i in range(1, len(records) + 1)]


def is_missing(cell: Any) -> bool:
    """Return whether a cell says nothing: "nan" is what some programs make of an empty one.

    Example:
        >>> [is_missing(cell) for cell in (None, " ", float("nan"), "NaN", 0)]
        [True, True, True, True, False]
    """
    return cell is None or bool(cell != cell) or str(cell).strip().lower() in ("", "nan")


def _number(cell: Any, where: str) -> float:
    try:
        number = (
            float(cell) if isinstance(cell, str | int | float) and not isinstance(cell, bool) else math.nan
        )
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: expected a finite number, got {cell!r}.")
    return number
