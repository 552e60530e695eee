"""The tables of visual question answering, checked: items (what is asked) and outputs (what models said).

Their columns are those of `calib.vqa.schema`. A row that cannot be right is refused with its file, its number
and its column; nothing is dropped silently: an answer that is none of the options is wrong, and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calib.vqa.base import Table
from calib.vqa.checks import check_items, check_outputs, check_pairs
from calib.vqa.columns import ABSENT, code_rows, codes, flat, lengths, places_in
from calib.vqa.files import of_rows, read_table, write_table
from calib.vqa.origin import Origin, joined, refuse
from calib.vqa.samples import samples_of_places
from calib.vqa.schema import (
    CHOOSING,
    ITEMS,
    ITEMS_NEED,
    NOTA,
    ORIGINAL,
    OUTPUTS,
    OUTPUTS_NEED,
    SAMPLE_PLACES,
    STATUSES,
)


@dataclass(frozen=True, eq=False, repr=False)
class Items(Table):
    """Questions with their options; see `calib.vqa.schema.ITEMS`.

    Attributes:
        table: The Arrow table.
        origin: Where its rows stand, for messages.
    """

    table: Any
    origin: Origin

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

    @cached_property
    def ids(self) -> np.ndarray:
        """(N,) item ids."""
        return self.texts("item_id")

    @cached_property
    def bases(self) -> np.ndarray:
        """(N,) ids of the questions; conditions of one question share it."""
        return self.texts("base_id")

    @cached_property
    def conditions(self) -> np.ndarray:
        """(N,) names of the conditions."""
        return self.texts("condition")

    @cached_property
    def groups(self) -> np.ndarray:
        """(N,) what belongs together: group_id, where there is none base_id."""
        return np.where(self.table.column("group_id").is_valid(), self.texts("group_id"), self.bases)

    @cached_property
    def n_options(self) -> np.ndarray:
        """(N,) numbers of options, int64."""
        return lengths(self.column("option_ids"))

    @cached_property
    def correct(self) -> np.ndarray:
        """(N,) places of the right options, int64; -1: none is right."""
        return self.numbers("correct_index").astype(np.int64)

    @cached_property
    def vocabulary(self) -> Any:
        """Every option id that occurs, an Arrow array; codes are places in it."""
        return pc.unique(flat(self.column("option_ids"))[0])

    @cached_property
    def option_codes(self) -> np.ndarray:
        """(N, most options) codes of the option ids, `ABSENT` behind the last."""
        return code_rows(self.column("option_ids"), self.vocabulary)

    def places(self, option_id: str = NOTA) -> np.ndarray:
        """Return where an option stands in every item, (N,) int64; -1: nowhere."""
        code = codes(pa.array([option_id]), self.vocabulary)
        rows = np.arange(len(self))
        return places_in(np.repeat(code, len(self)), rows, self.option_codes)

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
class Outputs(Table):
    """What models said of items; see `calib.vqa.schema.OUTPUTS`.

    Attributes:
        table: The Arrow table.
        origin: Where its rows stand, for messages.
        items: What was asked.
    """

    table: Any
    origin: Origin
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

    @cached_property
    def models(self) -> np.ndarray:
        """(N,) names of the models."""
        return self.texts("model_id")

    @cached_property
    def item_rows(self) -> np.ndarray:
        """(N,) the row of every output's item among the items, int64."""
        return codes(self.column("item_id"), self.items.column("item_id"))

    @cached_property
    def choices(self) -> np.ndarray:
        """(N,) places of the answers among the options, int64; -1: no option was chosen.

        `pred_index`; where it is not said, the arg-max of the first scores there are; without any, or with
        a status other than option, -1.
        """
        status = codes(self.column("answer_status"), pa.array(STATUSES))
        found = np.where(status > STATUSES.index("option"), -1.0, self.numbers("pred_index"))
        for name in CHOOSING:
            open_rows = np.isnan(found)
            if open_rows.any() and self.has(name):
                scores = self.padded(name)
                scored = open_rows & ~np.isnan(scores).all(axis=1)
                found[scored] = np.nanargmax(scores[scored], axis=1)
        return np.where(np.isnan(found), -1, found).astype(np.int64)

    @cached_property
    def right(self) -> np.ndarray:
        """(N,) bool: whether the right option was chosen; where none is right, never."""
        correct = self.items.correct[self.item_rows]
        return (self.choices == correct) & (correct >= 0)

    def sample_choices(self, name: str = "samples") -> tuple[np.ndarray, np.ndarray]:
        """Return the places of drawn answers among the item's options, and the output of each.

        Args:
            name: "samples" or "noisy_samples".

        Returns:
            (M,) places, -1: no option; and (M,) rows. Both int64, in the order of the table.
        """
        values, rows, _ = flat(self.column(name))
        wanted = codes(pc.struct_field(values, "pred_id"), self.items.vocabulary)
        places = places_in(wanted, self.item_rows[rows], self.items.option_codes)
        return np.where(places == ABSENT, -1, places), rows

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
