"""What a review threshold counts: cases or patients, those accepted, and those accepted wrongly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64, check_tensor
from calib.core.errors import unknown_name
from calib.core.hashing import stable_hash
from calib.stats.bounds import upper_bound
from calib.stats.groups import group_numbers, is_missing

PATIENTS = ("any", "one")


class CurvePoint(NamedTuple):
    """What happens at one threshold, among the labelled cases.

    Attributes:
        threshold: Accepted is what has a doubt below it; inf: everything.
        accepted: The share of the cases (images) that is accepted.
        error: The share that is wrong among the accepted cases, or patients. NaN: none is accepted.
        upper: Its exact upper bound at this threshold alone, which a choice of the best threshold breaks.
        n: Accepted cases, or patients, that it is computed from.
    """

    threshold: float
    accepted: float
    error: float
    upper: float
    n: int

    @property
    def wrong(self) -> int:
        """How many of the n are wrong."""
        return 0 if self.n == 0 else round(self.error * self.n)


@dataclass(frozen=True, eq=False)
class Counts:
    """Labelled cases in the order of their doubts, and the units they are counted in.

    At a threshold a unit is accepted where one of its cases is, and wrong where an accepted one is wrong.

    Attributes:
        doubt: (N,) float64, sorted: of every case. inf: never accepted.
        first: (U,) sorted: of every unit the smallest doubt of its cases.
        first_wrong: (W,) sorted: of every unit with a wrong case the smallest doubt of those.
    """

    doubt: np.ndarray = field(repr=False)
    first: np.ndarray = field(repr=False)
    first_wrong: np.ndarray = field(repr=False)

    @property
    def units(self) -> int:
        """U: patients, or where none are known cases."""
        return len(self.first)

    def at(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return accepted cases, accepted units and wrong ones among these, each (T,), at thresholds (T,)."""
        cases, units, wrong = (
            np.searchsorted(each, thresholds, side="left")  # strictly below
            for each in (self.doubt, self.first, self.first_wrong)
        )
        return cases, units, wrong

    def curve(self, thresholds: np.ndarray, delta: float) -> list[CurvePoint]:
        """Return what happens at each threshold."""
        cases, units, wrong = self.at(thresholds)
        return [
            point(float(at), int(a) / len(self.doubt), int(k), int(m), delta)
            for at, a, m, k in zip(thresholds, cases, units, wrong, strict=True)
        ]


def point(threshold: float, accepted: float, wrong: int, n: int, delta: float) -> CurvePoint:
    """Return a point of the curve from counts."""
    error = wrong / n if n else math.nan
    return CurvePoint(threshold, accepted, error, float(upper_bound(wrong, n, delta)), n)


def count(
    doubt: Tensor, failure: Tensor, groups: Sequence[object] | None, *, patients: str, seed: int
) -> Counts:
    """Return labelled cases ready to be counted at any threshold.

    Args:
        doubt: (N,) floats, higher = more likely wrong; inf is never accepted.
        failure: (N,) bool.
        groups: N patients, slides, ... None: every case is by itself.
        patients: "any": a patient is accepted where one of its cases is, and wrong where one of those is
            wrong. "one": one case of every patient, drawn by its place in the list and the seed alone.
        seed: Of that draw.

    Raises:
        ValueError: An input is not as above.
    """
    values = check_doubt(doubt)
    check_tensor(failure, "failure")
    if failure.dtype != torch.bool or failure.shape != doubt.shape:
        raise ValueError(
            f"failure must be ({len(values)},) bool, one for each doubt (True: the prediction is wrong), not "
            f"{tuple(failure.shape)} {failure.dtype}."
        )
    if patients not in PATIENTS:
        raise unknown_name("way to count patients", patients, PATIENTS)
    wrong = failure.detach().cpu().numpy()
    everything = np.sort(values)
    if groups is None:
        return Counts(everything, everything, np.sort(values[wrong]))
    if len(groups) != len(values):
        raise ValueError(f"There are {len(values)} doubts and {len(groups)} groups.")
    if any(is_missing(group) or str(group) == "" for group in groups):
        raise ValueError(
            "Every case needs a group (patient); some have none. Leave groups out, or fill them."
        )
    names = [str(group) for group in groups]
    if patients == "one":
        drawn: dict[str, tuple[int, int]] = {}
        for row, name in enumerate(names):
            drawn[name] = min(drawn.get(name, (1 << 63, row)), (stable_hash("review", seed, name, row), row))
        rows = np.array(sorted(row for _, row in drawn.values()))
        return Counts(everything, np.sort(values[rows]), np.sort(values[rows][wrong[rows]]))
    unit = group_numbers(names, len(names))
    firsts = np.full((2, int(unit.max()) + 1), np.inf)
    np.minimum.at(firsts[0], unit, values)
    np.minimum.at(firsts[1], unit[wrong], values[wrong])
    has_wrong = np.unique(unit[wrong])
    return Counts(everything, np.sort(firsts[0]), np.sort(firsts[1][has_wrong]))


def check_doubt(doubt: Any, name: str = "doubt") -> np.ndarray:
    """Return doubts (N,) in float64; refuse what is none.

    Args:
        doubt: (N,) floats without NaN or -inf, N at least 1.
        name: What they are called.

    Raises:
        ValueError: It is not as above.
    """
    check_tensor(doubt, name)
    if doubt.dim() != 1 or not doubt.is_floating_point():
        raise ValueError(f"{name} must be (N,) floats, not {tuple(doubt.shape)} {doubt.dtype}.")
    if len(doubt) == 0:
        raise ValueError(f"{name} is empty: there is no case.")
    values: np.ndarray = as_float64(doubt.detach()).cpu().numpy()
    broken = int(np.isnan(values).sum() + np.isneginf(values).sum())
    if broken:
        raise ValueError(
            f"{name} must be numbers (or inf: never accepted); {broken} of {len(values)} are NaN or -inf."
        )
    return values
