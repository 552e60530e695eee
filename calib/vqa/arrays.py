"""Items and outputs as arrays: what both tables say, row by row, whether or not they were checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calib.vqa.base import Table
from calib.vqa.columns import ABSENT, code_rows, codes, flat, lengths, places_in
from calib.vqa.origin import Origin
from calib.vqa.schema import CHOOSING, NOTA, STATUSES


@dataclass(frozen=True, eq=False, repr=False)
class ItemArrays(Table):
    """Questions with their options; see `calib.vqa.schema.ITEMS`.

    Attributes:
        table: The Arrow table.
        origin: Where its rows stand, for messages.
    """

    table: Any
    origin: Origin

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


@dataclass(frozen=True, eq=False, repr=False)
class OutputArrays(Table):
    """What models said of items; see `calib.vqa.schema.OUTPUTS`.

    Attributes:
        table: The Arrow table.
        origin: Where its rows stand, for messages.
        items: What was asked.
    """

    table: Any
    origin: Origin
    items: ItemArrays

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
