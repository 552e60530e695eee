"""What accepting up to some doubt comes to: the steps of the curve, the table and the slider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.report.sections.overview import percent
from calib.stats import clopper_pearson, effective_size

MOST_STEPS = 400  # positions of the slider


@dataclass(frozen=True)
class Steps:
    """What accepting up to some doubt comes to, from the least doubt to the most.

    Attributes:
        threshold: (T,) accepted is a doubt of at most this.
        accepted: (T,) how many images.
        errors: (T,) how many of them are wrong.
        low: (T,) lower end of the share of errors among them.
        high: (T,) upper end.
    """

    threshold: np.ndarray
    accepted: np.ndarray
    errors: np.ndarray
    low: np.ndarray
    high: np.ndarray


def steps_of(
    doubt: np.ndarray, wrong: np.ndarray, groups: np.ndarray | None, *, level: float = 0.95
) -> Steps:
    """Return what accepting up to each doubt comes to; images of equal doubt are accepted together.

    Of more than `MOST_STEPS` different doubts those are taken that divide the images evenly.

    Args:
        doubt: (N,) higher = more likely wrong.
        wrong: (N,) bool.
        groups: (N,) groups for the intervals. None: the images are independent.
        level: Coverage of the intervals.

    Example:
        >>> steps = steps_of(np.array([0.1, 0.3, 0.3, 0.6]), np.array([False, True, False, True]), None)
        >>> steps.threshold.tolist(), steps.accepted.tolist(), steps.errors.tolist()
        ([0.1, 0.3, 0.6], [1, 3, 4], [0, 1, 2])
    """
    order = np.argsort(doubt, kind="stable")
    values, failed = doubt[order], wrong[order]
    ends = np.flatnonzero(np.append(values[1:] > values[:-1], True))  # the last of each block of ties
    if len(ends) > MOST_STEPS:
        places = np.linspace(0, len(values) - 1, MOST_STEPS)
        ends = np.unique(ends[np.searchsorted(ends, places)])
    accepted, errors = ends + 1, np.cumsum(failed)[ends]
    if groups is None:
        sizes = accepted.astype(np.float64)
    else:
        codes = np.unique(groups, return_inverse=True)[1][order]
        sizes = np.array([effective_size(failed[:k], codes[:k], level=level) for k in accepted])
    low, high = clopper_pearson(errors / accepted * sizes, sizes, level=level)
    return Steps(values[ends], accepted, errors, low, high)


def reviewed(slider: Mapping[str, Any], step: Any) -> str:
    """Return the workload at a position of the slider, as the script of the page writes it.

    Example:
        >>> reviewed({"n": 40, "errors": 4}, [0.25, 30, 1, 0.0, 0.2])
        '10 of 40 (25.0 %)'
    """
    n = slider["n"]
    return f"{n - step[1]:,} of {n:,} ({percent((n - step[1]) / n)})"


def erring(slider: Mapping[str, Any], step: Any) -> str:
    """Return the errors among the accepted at a position of the slider, likewise.

    Example:
        >>> erring({"n": 40, "errors": 4}, [0.25, 30, 3, 0.021, 0.265])
        '3 of 30 (10.0 %) [2.1, 26.5]'
    """
    _, accepted, errors, low, high = step
    ends = f"[{100 * low:.1f}, {100 * high:.1f}]"
    return f"{errors:,} of {accepted:,} ({percent(errors / accepted)}) {ends}"


def caught(slider: Mapping[str, Any], step: Any) -> str:
    """Return how many of all mistakes are reviewed at a position of the slider, likewise.

    Example:
        >>> caught({"n": 40, "errors": 4}, [0.25, 30, 1, 0.0, 0.2])
        '3 of 4 (75.0 %)'
    """
    total = slider["errors"]
    seen = total - step[2]
    return f"{seen:,} of {total:,} ({percent(seen / total)})" if total else "there are none"
