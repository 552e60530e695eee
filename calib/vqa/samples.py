"""Samples in the table of outputs: option ids that the item has, also where they were written as places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calib.core.text import few
from calib.vqa.arrays import ItemArrays, OutputArrays
from calib.vqa.columns import ABSENT, code_rows, codes, flat, lengths, places_in
from calib.vqa.origin import Origin, refuse
from calib.vqa.schema import SAMPLE


def check_samples(outputs: OutputArrays, name: str) -> None:
    """Refuse samples that name what is no option of their item.

    Args:
        outputs: OutputArrays.
        name: "samples" or "noisy_samples".

    Raises:
        ValueError: One does; row and sample are named.
    """
    items = outputs.items
    values, rows, numbers = flat(outputs.column(name))
    ids = pc.struct_field(values, "pred_id")
    at = items.option_codes[outputs.item_rows]
    places = places_in(codes(ids, items.vocabulary), rows, at)

    def which(sample: int) -> str:
        return f"{outputs.where(int(rows[sample]))}: column '{name}', sample {numbers[sample] + 1},"

    def listed(sample: int) -> str:
        return few(items.cell("option_ids", int(outputs.item_rows[rows[sample]])), 12)

    wrong = np.flatnonzero(places == -1)
    if len(wrong):
        sample = int(wrong[0])
        raise ValueError(
            f"{which(sample)} names the option '{ids[sample]}'; the item's option ids are {listed(sample)}. "
            "Letters mean another option in every order: write ids, and none for an answer that is no option."
        )
    orders = pc.struct_field(values, "option_order")
    if orders.null_count == len(orders):
        return
    ordered = code_rows(orders, items.vocabulary)
    count = lengths(orders)
    wide = max(ordered.shape[1], at.shape[1])
    both = [np.full((len(orders), wide), ABSENT, dtype=np.int64) for _ in range(2)]
    both[0][:, : ordered.shape[1]] = ordered
    both[1][:, : at.shape[1]] = at[rows]
    same = (np.sort(both[0], axis=1) == np.sort(both[1], axis=1)).all(axis=1)
    wrong = np.flatnonzero((count >= 0) & ~same)
    if len(wrong):
        sample = int(wrong[0])
        raise ValueError(
            f"{which(sample)} has the option_order {few(orders[sample].as_py(), 12)}; it must name each of "
            f"the item's option ids once: {listed(sample)}."
        )


def samples_of_places(table: Any, origin: Origin, items: ItemArrays) -> Any:
    """Return outputs whose samples were places among the options as samples of option ids."""
    given, column = table.column("samples"), table.column("sample_pred_index").combine_chunks()
    refuse(
        origin,
        (given.is_valid().to_numpy()) & (column.is_valid().to_numpy(zero_copy_only=False)),
        lambda row: "both columns 'samples' and 'sample_pred_index' are given; say one of them.",
    )
    item_rows = codes(table.column("item_id"), items.column("item_id"))
    values, rows, _ = flat(column)
    places = pc.fill_null(values, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    counts = items.n_options[np.maximum(item_rows, 0)]
    refuse(
        origin,
        np.isin(np.arange(len(table)), rows[(places < -1) | (places >= counts[rows])]),
        lambda row: (
            f"column 'sample_pred_index' has {column[row].as_py()}; allowed are 0 to {counts[row] - 1} for "
            "the place of an option, and -1 for none of them."
        ),
    )
    code = items.option_codes[np.maximum(item_rows[rows], 0), np.maximum(places, 0)]
    ids = items.vocabulary.take(pa.array(np.maximum(code, 0), mask=places < 0))
    made = pa.StructArray.from_arrays(
        [ids if part.name == "pred_id" else pa.nulls(len(ids), part.type) for part in SAMPLE],
        fields=list(SAMPLE),
    )
    long = lengths(column)
    starts = np.concatenate([[0], np.cumsum(np.maximum(long, 0))]).astype(np.int32)
    absent = pa.array(np.append(long < 0, False))
    lists = pa.ListArray.from_arrays(pa.array(starts, mask=absent.to_numpy(zero_copy_only=False)), made)
    samples = pc.coalesce(given.combine_chunks(), lists) if given.null_count < len(table) else lists
    table = table.drop_columns(["sample_pred_index"])
    return table.set_column(table.column_names.index("samples"), "samples", samples)
