"""The tables of visual question answering, checked: items (what is asked) and outputs (what models said).

Their columns are those of `calib.vqa.schema`. A row that cannot be right is refused with its file, its number
and its column; nothing is dropped silently: an answer that is none of the options is wrong, and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calib.vqa.arrays import ItemArrays, OutputArrays
from calib.vqa.checks import check_items, check_outputs, check_pairs
from calib.vqa.columns import codes
from calib.vqa.files import of_rows, read_table, write_table
from calib.vqa.origin import Origin, joined, refuse
from calib.vqa.samples import samples_of_places
from calib.vqa.schema import (
    ITEMS,
    ITEMS_NEED,
    ORIGINAL,
    OUTPUTS,
    OUTPUTS_NEED,
    SAMPLE_PLACES,
)


@dataclass(frozen=True, eq=False, repr=False)
class Items(ItemArrays):
    """Questions with their options; see `calib.vqa.schema.ITEMS`.

    Attributes:
        table: The Arrow table.
        origin: Where its rows stand, for messages.
    """

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]], source: str = "items") -> Items:
        """Return items from dictionaries, checked.

        Args:
            rows: One for each item.
            source: What messages call them.

        Raises:
            ValueError: See `read_items`.

        Example:
            >>> row = {"item_id": "a#original", "option_ids": ["o0", "o1", "o2"], "correct_index": 1}
            >>> items = Items.of_rows([row])
            >>> items.conditions.tolist(), items.bases.tolist(), items.n_options.tolist()
            (['original'], ['a'], [3])
        """
        return _items(*of_rows(rows, source, ITEMS, ITEMS_NEED, {}))

    def take(self, rows: Any) -> Items:
        """Return some of the items.

        Args:
            rows: (n,) places, or (N,) bool.
        """
        return Items(*self._of(rows))

    def write(self, path: str | Path) -> None:
        """Write a .parquet or .jsonl file, whole or not at all."""
        write_table(self.table, path)


@dataclass(frozen=True, eq=False, repr=False)
class Outputs(OutputArrays):
    """What models said of items; see `calib.vqa.schema.OUTPUTS`.

    Attributes:
        table: The Arrow table.
        origin: Where its rows stand, for messages.
        items: What was asked.
    """

    items: Items

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]], items: Items, source: str = "outputs") -> Outputs:
        """Return outputs from dictionaries, checked against their items.

        Args:
            rows: One for each model, prompt, run and item.
            items: What was asked.
            source: What messages call them.

        Raises:
            ValueError: See `read_outputs`.

        Example:
            >>> row = {"item_id": "a", "option_ids": ["o0", "o1"], "correct_index": 1}
            >>> items = Items.of_rows([row])
            >>> Outputs.of_rows([{"model_id": "m", "item_id": "a", "option_logit": [2.0, 3.5]}], items).right
            array([ True])
        """
        return _outputs(*of_rows(rows, source, OUTPUTS, OUTPUTS_NEED, SAMPLE_PLACES), items)

    def take(self, rows: Any) -> Outputs:
        """Return some of the outputs.

        Args:
            rows: (n,) places, or (N,) bool.
        """
        return Outputs(*self._of(rows), self.items)

    def write(self, path: str | Path) -> None:
        """Write a .parquet or .jsonl file, whole or not at all."""
        write_table(self.table, path)


def read_items(*paths: str | Path) -> Items:
    """Return the items of one file or of several, checked.

    Args:
        paths: .parquet or .jsonl files.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is damaged, empty or of a newer version; an id stands twice; options and their ids
            differ in number; the right option is not among them, or its text stands twice.
    """
    return _items(*joined([read_table(path, ITEMS, ITEMS_NEED, {}) for path in paths]))


def join_items(parts: Sequence[Items]) -> Items:
    """Return items of several tables as one, checked again: an id may stand once only."""
    return _items(*joined([(part.table, part.origin) for part in parts]))


def read_outputs(*paths: str | Path, items: Items) -> Outputs:
    """Return the outputs of one file or of several, checked against their items.

    Args:
        paths: .parquet or .jsonl files.
        items: What was asked.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is damaged, empty or of a newer version; an item is unknown; a row stands twice; a
            list has not as many numbers as there are options; numbers are not what their column says.
    """
    return _outputs(
        *joined([read_table(path, OUTPUTS, OUTPUTS_NEED, SAMPLE_PLACES) for path in paths]), items
    )


def join_outputs(parts: Sequence[Outputs], items: Items | None = None) -> Outputs:
    """Return outputs of several tables as one, checked again.

    Args:
        parts: Outputs.
        items: All items. None: those of the first part.
    """
    return _outputs(*joined([(part.table, part.origin) for part in parts]), items or parts[0].items)


def originals(items: Items) -> np.ndarray:
    """Return the row of the original of every item, (N,) int64; of an original its own.

    Raises:
        ValueError: There is no original, there are two, or an item of None of the above (conditions nota,
            nota_control, nota_added) does not differ from it as it should.
    """
    at = np.flatnonzero(items.conditions == ORIGINAL)
    known = pa.array(items.bases[at], pa.string())
    if len(pc.unique(known)) < len(at):
        first = codes(known, known)
        row = int(at[np.flatnonzero(first != np.arange(len(at)))[0]])
        raise ValueError(
            f"{items.where(row)}: the question '{items.bases[row]}' has two items of condition {ORIGINAL}."
        )
    found = codes(items.column("base_id"), known)
    refuse(
        items.origin,
        found < 0,
        lambda row: (
            f"the item '{items.ids[row]}' (condition {items.conditions[row]}) has no original: no item "
            f"of the question '{items.bases[row]}' has the condition {ORIGINAL}. Give both tables."
        ),
    )
    rows: np.ndarray = at[found]
    check_pairs(items, rows)
    return rows


def _items(table: Any, origin: Origin) -> Items:
    bases = pc.list_element(pc.split_pattern(table.column("item_id"), "#", max_splits=1), 0)
    table = _filled(table, "base_id", bases)
    table = _filled(table, "condition", ORIGINAL)
    items = Items(table, origin)
    check_items(items)
    return items


def _outputs(table: Any, origin: Origin, items: Items) -> Outputs:
    if "sample_pred_index" in table.column_names:
        table = samples_of_places(table, origin, items)
    for name in ("prompt_id", "run_id"):
        table = _filled(table, name, "0" if name == "run_id" else "default")
    outputs = Outputs(table, origin, items)
    check_outputs(outputs)
    return outputs


def _filled(table: Any, name: str, value: Any) -> Any:
    column = table.column(name)
    if not column.null_count:
        return table
    return table.set_column(table.column_names.index(name), name, pc.coalesce(column, value))
