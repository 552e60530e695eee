"""What any model said of N cases, labelled or new: probabilities or logits from a table, arrays or our files.

A table (CSV, TSV, Parquet) has a column p(CLASS) or logit(CLASS) for every class, or columns called as the
classes. An `.npz` or `.safetensors` file has the arrays

| name | shape | |
|:--|:--|:--|
| probs or logits | (N, C) floats | one of them; --kind says which where there are both |
| labels | N integers or class names | to fit |
| class_names | C strings | left out: "class 0", "class 1", ... |
| groups, ids | N strings or integers | patients, slides, ...; left out: every row by itself |

(in safetensors, lists of strings are JSON in the metadata). `predictions.safetensors` of a run is read too.
What numbers are is said by names, never guessed from values.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64
from calib.core.errors import meant_path, meant_run
from calib.core.hashing import json_digest
from calib.core.text import few
from calib.data.arrays import ARRAYS, read_arrays, strings_in
from calib.data.output_tables import (
    GROUPS,
    PREFIXES,
    TABLES,
    OutputTable,
    check_names,
    class_columns,
    label_indices,
    matched,
    read_output_table,
)
from calib.data.predictions import KIND, Predictions
from calib.io.tensors import is_kind

STRINGS = ("class_names", "groups", "ids", "labels")
SUM_TOLERANCE = 1e-3  # by how much a row of probabilities may miss 1: it was printed with few digits

TELLING = 20  # probabilities between 0 and 1 show how many digits were written
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model said of N cases.

    Attributes:
        path: The file.
        logits: (N, C) float64; of probabilities their logarithms.
        class_names: C names.
        kind: "probs" or "logits": what the file holds.
        labels: (N,) int64. None: not known.
        groups: N names of patients, slides, ... None: not known.
        ids: N names. None: not known, or the table has them.
        table: The table it was read from. None: from arrays.
        columns: Class to column of that table.
    """

    path: Path
    logits: Tensor = field(repr=False)
    class_names: list[str]
    kind: str
    labels: Tensor | None = field(default=None, repr=False)
    groups: list[str] | None = field(default=None, repr=False)
    ids: list[str] | None = field(default=None, repr=False)
    table: OutputTable | None = field(default=None, repr=False)
    columns: Mapping[str, str] = field(default_factory=dict, repr=False)

    def digest(self) -> str:
        """Return the SHA-256 of classes, numbers and labels: what a calibrator is fitted to."""
        found = hashlib.sha256(json_digest(self.class_names).encode())
        found.update(self.logits.contiguous().numpy().tobytes())
        if self.labels is not None:
            found.update(self.labels.contiguous().numpy().tobytes())
        return found.hexdigest()


def read_outputs(
    path: str | Path,
    *,
    kind: str | None = None,
    class_names: Sequence[str] | None = None,
    label: str = "label",
    group: str | None = None,
    labelled: bool = True,
) -> Outputs:
    """Return the outputs in a file, checked; see the head of this module.

    Args:
        path: A .csv, .tsv, .parquet, .npz or .safetensors file.
        kind: "probs" or "logits". None: what the names of columns or arrays say.
        class_names: The classes in the order wanted; those of the file are brought to it by name. None: as
            they are in the file.
        label: A table's column of labels.
        group: A table's column of groups. None: group, patient or patient_id, where there is one of them.
        labelled: Whether labels are needed; without, they are not even looked at.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or of another kind, classes or labels do not fit, a number is not
            finite, or rows of probabilities are none.
    """
    path = Path(path)
    if not path.is_file():
        if not path.suffix:
            raise FileNotFoundError(f"There is no run and no file '{path}'.{meant_run(path)}")
        raise FileNotFoundError(f"There is no file {path}.{meant_path(path)}")
    if path.suffix.lower() in TABLES:
        return _of_table(read_output_table(path), kind, class_names, label, group, labelled)
    if path.suffix.lower() not in ARRAYS:
        raise ValueError(f"{path}: outputs are read from {', '.join([*TABLES, *ARRAYS])} files.")
    arrays = arrays_of_others(path)
    if arrays is None:
        found = of_predictions(Predictions.load(path), path)
    else:
        found = _of_arrays(arrays, path, kind, labelled)
    return found if class_names is None else in_order(found, class_names)


def of_predictions(predictions: Predictions, path: str | Path) -> Outputs:
    """Return predictions of a prompt as outputs.

    Args:
        predictions: Logits with labels.
        path: Where they come from, for messages.
    """
    logits = as_float64(predictions.logits)
    _check_finite(logits, [f"{path}, image {i}" for i in range(len(logits))])
    return Outputs(
        Path(path),
        logits,
        list(predictions.class_names),
        "logits",
        predictions.labels,
        predictions.groups,
        list(predictions.ids),
    )


def in_order(outputs: Outputs, class_names: Sequence[str]) -> Outputs:
    """Return outputs with their classes in another order, by name.

    Args:
        outputs: Of arrays or predictions.
        class_names: The same C names in the order wanted.

    Raises:
        ValueError: They are not the same classes.
    """
    places = {name: str(i) for i, name in enumerate(outputs.class_names)}
    order = [int(place) for place in matched(places, class_names, outputs.path).values()]
    labels = outputs.labels
    if labels is not None:
        labels = torch.tensor([order.index(i) for i in range(len(order))])[labels]
    return replace(outputs, logits=outputs.logits[:, order], class_names=list(class_names), labels=labels)


def logits_of(values: Tensor, kind: str, where: Sequence[str]) -> Tensor:
    """Return logits (N, C) float64 of what a file holds.

    Args:
        values: (N, C).
        kind: "probs" or "logits".
        where: Where each row stands, for messages.

    Raises:
        ValueError: A number is not finite, or rows of probabilities are none.

    Example:
        >>> logits_of(torch.tensor([[0.5, 0.25]]), "probs", ["a.csv, line 2"])
        Traceback (most recent call last):
        ValueError: a.csv, line 2: these are no probabilities: they sum to 0.75, not to 1 (within 0.001). If \
they are logits, say --kind logits.
    """
    values = as_float64(values)
    _check_finite(values, where)
    if kind == "logits":
        return values
    sums = values.sum(dim=1)
    for wrong, problem in (
        ((values < 0).any(dim=1), "one is below 0"),
        ((sums - 1).abs() > SUM_TOLERANCE + 1e-9, "they sum to {:g}, not to 1 (within 0.001)"),
    ):
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"{where[row]}: these are no probabilities: {problem.format(float(sums[row]))}. If they are "
                "logits, say --kind logits."
            )
    zeros = values == 0
    if bool(zeros.any()):
        floor = _below_rounding(values)
        log.warning(
            "%s: %d of %d probabilities are 0, as rounded ones are, and an impossible class cannot be "
            "calibrated: they are read as %g. Write more digits, or logits.",
            where[int(zeros.any(dim=1).nonzero()[0])],
            int(zeros.sum()),
            values.numel(),
            floor,
        )
        values = torch.where(zeros, floor, values)
        sums = values.sum(dim=1)
    return (values / sums[:, None]).log()


def _below_rounding(values: Tensor) -> float:
    """Return half a unit of the last digit that probabilities were rounded to, where enough of them show it.

    Else half of the sixth digit, which `calib predict` writes, or half of the least number.
    """
    broken = values[(values > 0) & (values < 1)]
    for digits in range(2, 7) if len(broken) >= TELLING else ():
        scaled = broken * 10**digits
        if bool(((scaled - scaled.round()).abs() < 1e-6).all()):
            return float(0.5 * 10**-digits)
    return min(float(values[values > 0].min()) / 2, 5e-7)


def _check_finite(values: Tensor, where: Sequence[str]) -> None:
    broken = (~values.isfinite()).any(dim=1)
    if bool(broken.any()):
        raise ValueError(
            f"{where[int(broken.nonzero()[0])]}: NaN or infinite numbers ({int(broken.sum())} such rows)."
        )


def _of_table(
    table: OutputTable,
    kind: str | None,
    class_names: Sequence[str] | None,
    label: str,
    group: str | None,
    labelled: bool,
) -> Outputs:
    kind, columns = class_columns(table, kind, class_names)
    for name, needed in ((label, labelled), (group, group is not None)):
        if needed and name not in table.header:
            raise ValueError(
                f"{table.path} has no column '{name}'; it has {few(table.header, 20)}. Labels are in the "
                "column label, or --label COLUMN; groups (patients) in --group COLUMN."
            )
    usual = [name for name in GROUPS if name in table.header]
    if group is None and len(usual) > 1:
        raise ValueError(
            f"{table.path}: the columns {' and '.join(usual)} may each say what belongs together. Say which: "
            f"--group {usual[0]}."
        )
    grouped = group or next(iter(usual), None)
    return Outputs(
        table.path,
        logits_of(table.numbers(list(columns.values())), kind, table.where),
        list(columns),
        kind,
        label_indices(table.column(label), table.where, list(columns)) if labelled else None,
        None if grouped is None else table.groups(grouped, None if labelled else [False] * len(table.where)),
        None,
        table,
        columns,
    )


def _of_arrays(arrays: Mapping[str, Any], path: Path, kind: str | None, labelled: bool) -> Outputs:
    given = [name for name in PREFIXES if name in arrays and kind in (None, name)]
    if len(given) != 1:
        have = f"it has {few(sorted(arrays), 10) or 'nothing'}"
        need = (
            "both probs and logits: say --kind probs or --kind logits"
            if given
            else (f"no array {kind or 'probs or logits'}; {have}")
        )
        raise ValueError(f"{path} has {need}.")
    values = arrays[given[0]]
    if values.ndim != 2 or values.dtype.kind not in "f" or 0 in values.shape:
        raise ValueError(
            f"{path}: {given[0]} must be (N, C) floats, not {tuple(values.shape)} {values.dtype}."
        )
    where = [f"{path}, row {i}" for i in range(len(values))]
    logits = logits_of(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)), given[0], where)
    names = strings_in(arrays, "class_names", values.shape[1], path)
    names = [f"class {c}" for c in range(values.shape[1])] if names is None else names
    check_names(names, path)
    labels = None
    if labelled:
        if "labels" not in arrays:
            raise ValueError(f"{path} has no array labels; it has {few(sorted(arrays), 10)}.")
        given_labels = strings_in(arrays, "labels", len(values), path) or []
        labels = label_indices(given_labels, where, names)
    groups, ids = (strings_in(arrays, name, len(values), path) for name in ("groups", "ids"))
    return Outputs(path, logits, names, given[0], labels, groups, ids)


def arrays_of_others(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of an npz or safetensors file of others. None: it is our own predictions.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged.
    """
    ours = path.suffix.lower() == ".safetensors" and is_kind(path, KIND)
    return None if ours else read_arrays(path, STRINGS)
