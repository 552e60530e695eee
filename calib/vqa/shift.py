"""Real shifts: items split by what a column says of them, with the groups that must not be on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calib.core.errors import unknown_name
from calib.core.text import few
from calib.vqa.tables import Items


@dataclass(frozen=True, eq=False)
class Shift:
    """Which items are as usual, and which are not.

    Attributes:
        train: (N,) bool: usual items of the training split.
        iid: (N,) bool: usual items to test on.
        ood: (N,) bool: unusual items to test on.
        constant: Whether the column says the same of all items of a group. If so, unusual items of the
            training split are tested on as well.
        shared: Groups that have both usual and unusual items: not independent of each other.
    """

    train: np.ndarray
    iid: np.ndarray
    ood: np.ndarray
    constant: bool
    shared: list[str]


def split_by(
    items: Items, column: str, values: Sequence[str] | str, *, group: str | None = None, train: str = "train"
) -> Shift:
    """Return which items are usual and which are not, by a column that says it.

    Args:
        items: N items.
        column: The column, e.g. modality, question_type or one of the data set's own.
        values: What it says of unusual items.
        group: The column of what belongs together, e.g. patients. None: group_id, else base_id.
        train: What the column split says of training items.

    Raises:
        ValueError: A column or a value does not occur, or an item says nothing there.

    Example:
        >>> rows = [("a", "CT", "p"), ("b", "MRI", "p"), ("c", "CT", "q")]
        >>> both = {"option_ids": ["o0", "o1"], "correct_index": 0}
        >>> items = Items.of_rows([{"item_id": i, "modality": m, "group_id": g, **both} for i, m, g in rows])
        >>> found = split_by(items, "modality", "MRI")
        >>> found.ood.tolist(), found.constant, found.shared
        ([False, True, False], False, ['p'])

    Source: SURE-VQA (2411.19688), R1: usual are items of another value; unusual are test items of the value,
        and training items of it as well where the value is constant per patient.
    """
    said = items.texts(column)
    wanted = [values] if isinstance(values, str) else list(values)
    silent = np.array([value is None for value in said])
    if silent.any():
        row = int(np.flatnonzero(silent)[0])
        raise ValueError(f"{items.where(row)}: column '{column}' is empty ({int(silent.sum())} such items).")
    there = sorted(set(said.tolist()))
    for value in wanted:
        if value not in there:
            raise unknown_name(f"value of the column '{column}'", value, there)
    unusual = np.isin(said.astype(str), wanted)
    if unusual.all():
        raise ValueError(f"Every item has one of the values {few(wanted)} in column '{column}'.")
    groups = items.groups if group is None else items.texts(group)
    if any(name is None for name in groups):
        raise ValueError(f"Column '{group}' does not say of every item what it belongs to.")
    both = sorted(set(groups[unusual].tolist()) & set(groups[~unusual].tolist()))
    training = items.texts("split") == train
    return Shift(
        train=training & ~unusual,
        iid=~training & ~unusual,
        ood=unusual & (~training | (not both)),
        constant=not both,
        shared=both,
    )
