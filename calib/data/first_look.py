"""A first look at every image before anything is encoded: all bad ones are named at once, or left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from calib.core.problems import note
from calib.core.text import few
from calib.data.records import ImageTable
from calib.data.task import Splits

logger = logging.getLogger(__name__)

NAMED = 20  # bad images named in a message; of the others it says how many there are


def looked_at(splits: Splits, *, skip_unreadable: bool = False) -> Splits:
    """Return splits whose images could be opened.

    A look reads each file once, hashes it, and compares what its header says (and a PNG's checksums) with
    what can be read. With `skip_unreadable` the pixels are decoded as well, so that nothing stops the run
    later.

    Args:
        splits: From a reader. Features are not looked at.
        skip_unreadable: Leave out images that cannot be read, and say so in the log and the notes.

    Raises:
        ValueError: Images cannot be read; the message names each, with the reason.
    """
    images = {split: table for split, table in splits.tables.items() if isinstance(table, ImageTable)}
    bad = {split: table.unreadable(wholly=skip_unreadable) for split, table in images.items()}
    reasons = [reason for found in bad.values() for reason in found.values()]
    if not reasons:
        return splits
    kept = {**splits.tables, **{split: _without(images[split], found) for split, found in bad.items()}}
    if not skip_unreadable:
        note(ValueError(_message(reasons, sum(map(len, images.values())))))
        return replace(splits, tables=kept)
    for reason in reasons[:NAMED]:
        logger.warning("left out: %s", reason)
    names = [images[split].names[row] for split, found in bad.items() for row in found]
    counts = ", ".join(f"{len(found)} of {split}" for split, found in bad.items() if found)
    left_out = f"Images that cannot be read were left out ({counts}): {few(names, NAMED)}."
    return replace(splits, tables=kept, notes=(*splits.notes, left_out))


def _without(table: ImageTable, rows: Mapping[int, str]) -> ImageTable:
    return table.subset(row for row in range(len(table)) if row not in rows) if rows else table


def _message(reasons: list[str], total: int) -> str:
    advice = "To train without what cannot be read: data.options.skip_unreadable=true."
    if len(reasons) == 1:
        return f"{reasons[0]} {advice}"
    lines = reasons[:NAMED] + ([f"and {len(reasons) - NAMED} more."] if len(reasons) > NAMED else [])
    return "\n- ".join([f"{len(reasons)} of {total} images cannot be read:", *lines]) + f"\n{advice}"
