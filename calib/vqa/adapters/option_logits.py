"""Stored logits of option letters (VLM-Uncertainty-Bench, MMBench-type): items and outputs of many models.

The folder holds `items.jsonl` (item, base, rotation, option_id, gold, n_listed, options, ...), and for each
model a `<model>.jsonl` with item and option_logits, the raw logits of the letters. Behind the listed options
stand always "I don't know" and "None of the above", which are never right.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib.vqa.adapters.rows import column, rows_of
from calib.vqa.schema import NOTA
from calib.vqa.tables import Items, Outputs

UNKNOWN = "idk"  # the option id of "I don't know"
STANDING = ((UNKNOWN, "I don't know"), (NOTA, "None of the above"))
LETTERS = 6
log = logging.getLogger(__name__)


def read_option_logits(
    folder: str | Path, models: Sequence[str] | None = None, *, all_rows: bool = False
) -> tuple[Items, Outputs]:
    """Return items and outputs of a folder of stored logits.

    Option ids are o0, o1, ... in the order of the question's first rotation, so that answers can be compared
    across rotations; an option that was only there to fill the list has an id of its rotation, e.g. pad0-2.
    Rotations of a question are conditions of it: original, rotation1, ...

    Args:
        folder: With items.jsonl and one .jsonl for each model.
        models: Which models. None: all.
        all_rows: Keep items with fewer than four listed options, whose last letters were not on the list, and
            items that list an option twice: only to repeat published numbers, which count all six letters of
            every row. Left out, they are counted in the log.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A row is not as described.
    """
    folder = Path(folder)
    rows, kept, out = [], {}, 0
    for where, row in rows_of(folder / "items.jsonl"):
        made = _item(row, where)
        names = made["option_ids"]
        if not all_rows and (len(names) < LETTERS or len(set(names)) < len(names)):
            out += 1
            continue
        if all_rows:
            again = [f"{name}-again" if name in names[:k] else name for k, name in enumerate(names)]
            unlisted = [f"unlisted{k}" for k in range(len(names), LETTERS)]
            made |= {"option_ids": [*again, *unlisted]} | (
                {"options": None} if again != names or unlisted else {}
            )
        rows.append(made)
        kept[column(row, where, "item")] = made
    if out:
        log.warning("%s: %d items are left out, which list an option twice or too few of them.", folder, out)
    items = Items.of_rows(rows, source=str(folder / "items.jsonl"))
    paths = [folder / f"{name}.jsonl" for name in models] if models else sorted(folder.glob("*.jsonl"))
    outputs: list[dict[str, Any]] = []
    for path in paths:
        if path.name == "items.jsonl":
            continue
        for where, row in rows_of(path):
            item = kept.get(row.get("item"))
            if item is not None:
                logits = _list(row, where, "option_logits")
                outputs.append(
                    {
                        "model_id": path.stem,
                        "item_id": item["item_id"],
                        "option_logit": logits[: len(item["option_ids"])],
                    }
                )
    return items, Outputs.of_rows(outputs, items, source=str(folder))


def _item(row: dict[str, Any], where: str) -> dict[str, Any]:
    count, rotation = _whole(row, where, "n_listed"), _whole(row, where, "rotation", 0)
    own, base = _list(row, where, "option_id"), column(row, where, "base")
    ids = [f"o{each}" if each is not None else f"pad{rotation}-{k}" for k, each in enumerate(own[:count])]
    texts = column(row, where, "options")
    condition = "original" if rotation == 0 else f"rotation{rotation}"
    return {
        "item_id": f"{base}#{condition}",
        "base_id": base,
        "condition": condition,
        "dataset": column(row, where, "dataset"),
        "group_id": base,
        "question": column(row, where, "question"),
        "question_type": column(row, where, "category", needed=False),
        "options": None if texts is None else [*texts[:count], *(text for _, text in STANDING)],
        "option_ids": [*ids, *(id_ for id_, _ in STANDING)],
        "correct_index": _whole(row, where, "gold"),
        "n_real_options": _whole(row, where, "n_real_options"),
        "situation": column(row, where, "situation", needed=False),
    }


def _whole(row: dict[str, Any], where: str, name: str, default: int | None = None) -> int:
    value = column(row, where, name, needed=default is None)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where}: {name} must be a whole number, not {value!r}.")
    return value


def _list(row: dict[str, Any], where: str, name: str) -> list[Any]:
    value = column(row, where, name)
    if not isinstance(value, list):
        raise ValueError(f"{where}: {name} must be a list, not {value!r}.")
    return value
