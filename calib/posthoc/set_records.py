"""Records of prediction sets: checked strictly when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from calib.posthoc.not_drawn import KEY
from calib.posthoc.set_cells import KEYS

NAME = "prediction_sets"
VERSION = 1
RECORD = ("name", "version", "classes", "settings", *KEYS)
ROUNDING = 1e-6


def check_set_record(record: Any, settings: Sequence[str]) -> None:
    """Refuse what has not the outer form of `PredictionSets.to_record`.

    Args:
        record: What was read from a file.
        settings: Names of the settings of prediction sets.

    Raises:
        ValueError: It has not.
    """
    if not isinstance(record, dict) or {*record} - {KEY} != {*RECORD} or record["name"] != NAME:
        given = ", ".join(map(str, record)) if isinstance(record, dict) else repr(record)[:50]
        raise ValueError(
            f"A record of prediction sets has the name {NAME!r} and the keys {', '.join(RECORD)}; this one "
            f"has {given}."
        )
    version, classes, given = record["version"], record["classes"], record["settings"]
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"The prediction sets have version {version!r}; this version reads {VERSION}. Fit them anew."
        )
    if not isinstance(given, dict) or {*given} != {*settings}:
        raise ValueError(f"settings of prediction sets must be {', '.join(settings)}.")
    if type(classes) is not int or not 2 <= classes < 2**31:
        raise ValueError(f"classes must be a whole number of at least 2, not {classes!r}.")


def check_thresholds(limits: Tensor, *, largest: float, shared: bool, full: list[list[bool]] | None) -> None:
    """Refuse thresholds that no fit could have found.

    Args:
        limits: (G, C), inf where every score is in the set.
        largest: Score that is possible.
        shared: Whether all classes have the same.
        full: Where they must be infinite, as there are too few cases. None: not known.

    Raises:
        ValueError: They are not so.
    """
    if shared and bool((limits != limits[:, :1]).any()):
        raise ValueError("thresholds of sets over all classes must be one number for each stratum.")
    finite = limits[limits.isfinite()]
    if not bool(((finite >= -ROUNDING) & (finite <= largest + ROUNDING)).all()):
        raise ValueError(f"thresholds of this score must lie between 0 and {largest:g}.")
    if full is not None and not torch.equal(torch.tensor(full), limits.isinf()):
        raise ValueError(
            "thresholds and cases do not fit: with too few cases, and only then, every class is in the set."
        )
