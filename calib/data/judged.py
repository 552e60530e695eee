"""Doubts of N predictions, and which were wrong: from a table, arrays, or the outputs of any model.

A table (CSV, TSV, Parquet) says the doubt in a column doubt, uncertainty or confidence (doubt = 1 -
confidence), or by a column p(CLASS) or logit(CLASS) for every class (doubt = 1 - the largest probability).
What happened is said by a column correct or failure (yes/no, true/false, 1/0), or by label beside prediction
or beside the columns of the classes. Rows in which that is empty are not labelled. An `.npz` or
`.safetensors` file has the arrays doubt, uncertainty or confidence (N,), and correct or failure (N,), perhaps
groups; or what `calib.data.outputs` reads. A row with yes in a column unlike has the doubt inf.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.errors import meant_path
from calib.core.names import name_key
from calib.core.text import few
from calib.data.arrays import ARRAYS, strings_in
from calib.data.labels import WHOLE_NUMBER, label_text
from calib.data.output_tables import (
    CLASS_COLUMN,
    GROUPS,
    TABLES,
    OutputTable,
    class_columns,
    is_missing,
    label_indices,
    read_output_table,
)
from calib.data.outputs import Outputs, arrays_of_others, read_outputs

DOUBTS = ("doubt", "uncertainty", "confidence")  # in the order in which they are taken
OUTCOMES = ("correct", "failure")
CLASSES = "classes"  # the doubt comes from their probabilities
SOURCES = (*DOUBTS, CLASSES)
DIGITS = 6  # of a doubt: those that `calib predict` writes, so that a table and a run decide alike
UNLIKE = "unlike"  # the column of `calib predict`: what is so is never accepted
YES_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, eq=False)
class Judged:
    """Doubts of N predictions, and which of them were wrong, as far as that is known.

    Attributes:
        path: The file.
        doubt: (N,) float64, higher = more likely wrong; inf: never accepted.
        failure: (N,) bool; of a row that is not labelled False.
        labelled: (N,) bool.
        groups: N names of patients, slides, ... None: not known.
        source: Where the doubt comes from: "doubt", "uncertainty", "confidence" or "classes".
        class_names: Of the columns of classes. None: there are none.
        labels: The classes of the labelled rows, where they are known.
        table: The table it was read from. None: from arrays.
    """

    path: Path
    doubt: Tensor = field(repr=False)
    failure: Tensor = field(repr=False)
    labelled: Tensor = field(repr=False)
    groups: list[str] | None = field(repr=False)
    source: str
    class_names: list[str] | None = None
    labels: list[str] = field(default_factory=list, repr=False)
    table: OutputTable | None = field(default=None, repr=False)


def rounded_doubt(doubt: Tensor) -> Tensor:
    """Return doubts with the digits that `calib predict` writes, in float64.

    Example:
        >>> rounded_doubt(torch.tensor([0.123456789], dtype=torch.float64)).tolist()
        [0.123457]
    """
    return doubt.double().round(decimals=DIGITS)


def read_judged(
    path: str | Path,
    *,
    outcomes: bool = True,
    doubt: str | None = None,
    allowed: Sequence[str] = SOURCES,
    kind: str | None = None,
    class_names: Sequence[str] | None = None,
    label: str = "label",
    group: str | None = None,
) -> Judged:
    """Return the doubts in a file, and which predictions were wrong, checked; see the head of this module.

    Args:
        path: A .csv, .tsv, .parquet, .npz or .safetensors file.
        outcomes: Whether it must say what happened, of one row at least; else that is not even looked at.
        doubt: Which of `allowed` is taken. None: the first there is.
        allowed: Some of "doubt", "uncertainty", "confidence", "classes".
        kind: "probs" or "logits" of plain columns, as for `read_outputs`.
        class_names: The classes it must be of. None: those of the file.
        label: A table's column of labels.
        group: A table's column of groups. None: group, patient or patient_id, where there is one of them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, says no doubts or no outcomes, or a cell is not as above.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.{meant_path(path)}")
    if path.suffix.lower() in TABLES:
        named = _Names(kind, class_names, label, group)
        return _of_table(read_output_table(path), outcomes, (doubt, allowed), named)
    if path.suffix.lower() in ARRAYS:
        arrays = arrays_of_others(path)
        if arrays is not None and any(name in arrays for name in (*DOUBTS, *OUTCOMES)):
            return _of_arrays(arrays, path, outcomes, (doubt, allowed))
    _source((doubt, allowed), [CLASSES], f"{path} has no", "; it has outputs for every class")
    return _of_outputs(read_outputs(path, kind=kind, class_names=class_names, labelled=outcomes))


def doubt_of(outputs: Outputs) -> Tensor:
    """Return the doubt of class outputs: 1 - the largest probability, (N,) float64."""
    return rounded_doubt(1 - outputs.logits.softmax(dim=1).max(dim=1).values)


@dataclass(frozen=True)
class _Names:
    """What a table's columns are called; see `read_judged`."""

    kind: str | None
    class_names: Sequence[str] | None
    label: str
    group: str | None


def _of_outputs(outputs: Outputs) -> Judged:
    n = len(outputs.logits)
    wrong = torch.zeros(n, dtype=torch.bool)
    labels: list[str] = []
    if outputs.labels is not None:
        wrong = outputs.logits.argmax(dim=1) != outputs.labels
        labels = [outputs.class_names[each] for each in outputs.labels.tolist()]
    known = torch.full((n,), outputs.labels is not None)
    return Judged(
        outputs.path,
        doubt_of(outputs),
        wrong,
        known,
        outputs.groups,
        CLASSES,
        outputs.class_names,
        labels,
        outputs.table,
    )


def _of_table(
    table: OutputTable, outcomes: bool, asked: tuple[str | None, Sequence[str]], named: _Names
) -> Judged:
    kind, class_names, label, group = named.kind, named.class_names, named.label, named.group
    has_classes = kind is not None or any(CLASS_COLUMN.fullmatch(column) for column in table.header)
    there = [name for name in DOUBTS if name in table.header] + ([CLASSES] if has_classes else [])
    source = _source(asked, there, f"{table.path} has no", f"; it has {few(table.header, 20)}")
    outputs, names = None, None
    if has_classes:
        names = list(class_columns(table, kind, class_names)[1])
    if source == CLASSES or (has_classes and "prediction" not in table.header):
        read: dict[str, Any] = {"kind": kind, "class_names": class_names, "labelled": False}
        outputs = read_outputs(table.path, **read)
    if source == CLASSES:
        assert outputs is not None
        values = doubt_of(outputs)
    else:
        values = _as_doubt(table.numbers([source])[:, 0], source, table.where)
    if UNLIKE in table.header:
        cells = [_yes_no(cell, where) for cell, where in zip(table.column(UNLIKE), table.where, strict=True)]
        values = values.masked_fill(torch.tensor([bool(each) for each in cells]), torch.inf)
    nothing, labels = torch.zeros(len(values), dtype=torch.bool), list[str]()
    known, wrong = nothing, nothing
    if outcomes:
        known, wrong, labels = _outcomes(table, outputs, label, names)
    usual = [name for name in GROUPS if name in table.header]
    if group is None and len(usual) > 1:
        raise ValueError(
            f"{table.path}: the columns {' and '.join(usual)} may each say what belongs together. Say which: "
            f"--group {usual[0]}."
        )
    if group is not None and group not in table.header:
        raise ValueError(f"{table.path} has no column '{group}'; it has {few(table.header, 20)}.")
    grouped = group or next(iter(usual), None)
    groups = None if grouped is None else table.groups(grouped, known.tolist())
    return Judged(table.path, values, wrong, known, groups, source, names, labels, table)


def _outcomes(
    table: OutputTable, outputs: Outputs | None, label: str, class_names: Sequence[str] | None
) -> tuple[Tensor, Tensor, list[str]]:
    """Return which rows are labelled (N,), which predictions are wrong (N,), and the labels of the former."""
    for name in OUTCOMES:
        if name in table.header:
            cells = [
                _yes_no(cell, where) for cell, where in zip(table.column(name), table.where, strict=True)
            ]
            wrong = [None if cell is None else cell == (name == "failure") for cell in cells]
            return *_known(wrong, table.path), []
    texts = _labels(table, label)
    if class_names is not None:
        rows = [row for row, text in enumerate(texts) if text is not None]
        where = [table.where[row] for row in rows]
        own = label_indices([texts[row] for row in rows], where, class_names)
        if outputs is not None:
            said = outputs.logits.argmax(dim=1)[rows]
        else:
            predicted = _predictions(table, texts)
            said = label_indices([predicted[row] for row in rows], where, class_names)
        by_row = dict(zip(rows, (own != said).tolist(), strict=True))
        labels = [class_names[each] for each in own.tolist()]
        return *_known([by_row.get(row) for row in range(len(texts))], table.path), labels
    if "prediction" not in table.header:
        raise ValueError(
            f"{table.path} has labels, and nothing that says what was predicted: a column prediction, or one "
            "p(CLASS) for every class."
        )
    predicted = _predictions(table, texts)
    key = _comparable([text for text in (*texts, *predicted) if text is not None])
    keys, others = ([None if text is None else key(text) for text in each] for each in (texts, predicted))
    if not {own for own in keys if own is not None} & {*others}:
        called = few(sorted({other for other in others if other is not None}))
        raise ValueError(
            f"{table.path}: no label is called as any prediction is ({called}): every "
            "prediction would be wrong. Write both in the same names."
        )
    wrong = [None if own is None else own != other for own, other in zip(keys, others, strict=True)]
    return *_known(wrong, table.path), [text for text in texts if text is not None]


def _predictions(table: OutputTable, labels: Sequence[str | None]) -> list[str | None]:
    """Return what was predicted in each row; a row with a label must say it, or it would count as wrong."""
    cells = table.column("prediction")
    found = [_label(cell, where, "prediction") for cell, where in zip(cells, table.where, strict=True)]
    for own, other, where in zip(labels, found, table.where, strict=True):
        if own is not None and other is None:
            raise ValueError(f"{where} has a label and no prediction. Fill it in, or leave such rows out.")
    return found


def _comparable(texts: Sequence[str]) -> Callable[[str], str]:
    """Return what makes equal names of texts equal; of whole numbers 1.0 is 1, as some programs write it."""
    if all(map(WHOLE_NUMBER.fullmatch, texts)):
        return lambda text: str(int(text.partition(".")[0]))
    return name_key


def _labels(table: OutputTable, label: str) -> list[str | None]:
    if label not in table.header:
        raise ValueError(
            f"{table.path} does not say which predictions were wrong: it needs a column correct or failure, "
            f"or the true classes in a column {label} (--label COLUMN); it has {few(table.header, 20)}."
        )
    return [_label(cell, where) for cell, where in zip(table.column(label), table.where, strict=True)]


def _label(cell: Any, where: str, what: str = "label") -> str | None:
    try:
        return label_text(cell)
    except ValueError as error:
        raise ValueError(f"{where}: the {what} {error}.") from error


def _of_arrays(
    arrays: Mapping[str, Any], path: Path, outcomes: bool, asked: tuple[str | None, Sequence[str]]
) -> Judged:
    has = f"; it has {few(sorted(arrays), 10) or 'nothing'}"
    source = _source(asked, [name for name in DOUBTS if name in arrays], f"{path} has no", has)
    values = arrays[source]
    if values.ndim != 1 or values.dtype.kind != "f" or not len(values):
        raise ValueError(f"{path}: {source} must be (N,) floats, not {tuple(values.shape)} {values.dtype}.")
    n = len(values)
    where = [f"{path}, row {row}" for row in range(n)]
    found = _as_doubt(torch.from_numpy(values.astype(np.float64)), source, where)
    wrong = torch.zeros(n, dtype=torch.bool)
    if outcomes:
        name = next((name for name in OUTCOMES if name in arrays), None)
        if name is None:
            raise ValueError(
                f"{path} does not say which predictions were wrong: it needs the array failure{has}."
            )
        said = arrays[name]
        plain = said.dtype.kind in "biu" and said.shape == (n,) and set(np.unique(said).tolist()) <= {0, 1}
        if not plain:
            raise ValueError(f"{path}: {name} must be ({n},) true or false, not {said.shape} {said.dtype}.")
        wrong = torch.from_numpy(said.astype(bool) == (name == "failure"))
    groups = strings_in(arrays, "groups", n, path)
    return Judged(path, found, wrong, torch.full((n,), outcomes), groups, source)


def _source(asked: tuple[str | None, Sequence[str]], there: Sequence[str], lacks: str, has: str) -> str:
    """Return where the doubt is taken from: what is asked for, or the first of those allowed."""
    wanted, allowed = asked
    if wanted is not None and wanted not in allowed:
        raise ValueError(f"--doubt must be {' or '.join(allowed)} here, not {wanted!r}.")
    found = next((name for name in allowed if name in there and wanted in (None, name)), None)
    if found is None:
        said = {CLASSES: "outputs for every class, p(CLASS)"}
        needed = [said.get(name, name) for name in ([wanted] if wanted is not None else allowed)]
        raise ValueError(f"{lacks} doubts: it needs {' or '.join(needed)}{has}.")
    return found


def _as_doubt(values: Tensor, source: str, where: Sequence[str]) -> Tensor:
    broken = ~values.isfinite()
    if source == "confidence":
        broken = broken | (values < 0) | (values > 1)
    if bool(broken.any()):
        row = int(broken.nonzero()[0])
        allowed = "from 0 to 1" if source == "confidence" else "a finite number"
        raise ValueError(f"{where[row]}: {source} must be {allowed}, not {float(values[row])}.")
    return rounded_doubt(1 - values) if source == "confidence" else values


def _known(wrong: Sequence[bool | None], path: Path) -> tuple[Tensor, Tensor]:
    known = torch.tensor([each is not None for each in wrong])
    if not bool(known.any()):
        raise ValueError(f"{path} has scores without outcomes: no row is labelled.")
    return known, torch.tensor([bool(each) for each in wrong])


def _yes_no(cell: Any, where: str) -> bool | None:
    """Return what a cell says. None: nothing."""
    if is_missing(cell):
        return None
    if isinstance(cell, bool):
        return cell
    text = str(cell).strip().lower().removesuffix(".0")
    if text not in YES_NO:
        raise ValueError(f"{where}: expected yes or no (true, false, 1, 0), got {str(cell)[:50]!r}.")
    return YES_NO[text]
