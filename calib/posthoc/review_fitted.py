"""A review threshold as it was fitted: settings, what was tested, and what follows from both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from calib.core.checks import check_whole
from calib.core.errors import unknown_name
from calib.posthoc.review_counts import PATIENTS, CurvePoint
from calib.stats.bounds import check_share, enough_accepted, p_value

RULES = ("threshold", "workload", "batch")
SCARCE = 10  # accepted cases below which an observed error says nothing about how many would be needed


class FittedReview:
    """What a review threshold holds: sentences and records are made of it; see `ReviewThreshold`.

    Args:
        max_error: What the error among the accepted may be, in (0, 1).
        delta: How often the guarantee may fail, in (0, 1).
        rule: "threshold", "workload" or "batch".
        workload: The largest share that is reviewed, in [0, 1): for rule="workload".
        patients: "any" or "one".
        points: Thresholds in the sequence.
        seed: Of the draw of cases with patients="one".

    Attributes:
        cases: N labelled cases. 0: not fitted.
        units: Patients among them; where no groups are known, N.
        unlabelled: M further cases, from whose doubts the thresholds were taken.
        grouped: Whether groups were given.
        tied: Whether several cases have the doubt that a workload falls on.
        chosen: Strategies by which the cases were chosen, if not at random.

    Raises:
        ValueError: A setting is not as above.
    """

    def __init__(
        self,
        max_error: float = 0.05,
        delta: float = 0.1,
        *,
        rule: str = "threshold",
        workload: float | None = None,
        patients: str = "any",
        points: int = 20,
        seed: int = 0,
    ) -> None:
        if rule not in RULES:
            raise unknown_name("review rule", rule, RULES)
        if patients not in PATIENTS:
            raise unknown_name("way to count patients", patients, PATIENTS)
        if (workload is not None) != (rule == "workload"):
            raise ValueError("workload is the share reviewed at most: give it with rule='workload' alone.")
        number = isinstance(workload, int | float) and not isinstance(workload, bool)
        if workload is not None and not (number and 0 <= workload < 1):
            raise ValueError(f"workload must be the share reviewed, from 0 to below 1, not {workload!r}.")
        check_whole(2, points=points)
        check_whole(0, seed=seed)
        self.max_error = check_share("max_error", max_error)
        self.delta = check_share("delta", delta)
        self.rule, self.workload, self.patients = rule, workload, patients
        self.points, self.seed = points, seed
        self.cases = self.units = self.unlabelled = 0
        self.grouped = self.tied = False
        self.chosen: tuple[str, ...] = ()
        self._threshold: float | None = None
        self._tested: list[CurvePoint] = []
        self._curve: list[CurvePoint] = []
        self._wrong = np.empty(0)  # doubts of wrong units, for the batch rule

    @property
    def threshold(self) -> float | None:
        """Accepted is a doubt below it; inf: every one. None: nothing is, or the batch decides."""
        self._require_fitted()
        return self._threshold

    @property
    def achievable(self) -> bool:
        """Whether anything can be accepted; by the batch rule, whether a batch may be large enough for it."""
        self._require_fitted()
        if self.rule == "batch":
            return (1 + 0) / (self.units + 1) <= self.max_error
        return self._threshold is not None

    @property
    def at(self) -> CurvePoint | None:
        """What happens at the threshold among the labelled cases. None: nothing is accepted, or by batch."""
        self._require_fitted()
        return None if self._threshold is None else self._tested[self._passed() - 1]

    @property
    def tested(self) -> list[CurvePoint]:
        """The thresholds that were tested, strict to loose; all but perhaps the last have passed."""
        return list(self._tested)

    def curve(self) -> list[CurvePoint]:
        """Return what happens among the labelled cases at thresholds that accept 2 %, 4 %, ... 100 % of them.

        Each bound holds for its own threshold, not for the best of all.
        """
        self._require_fitted()
        return list(self._curve)

    @property
    def needed(self) -> int | None:
        """About how many labelled cases (patients) would do. None: no threshold looks good enough.

        At each point of the curve with at least 10 accepted, the error is taken to be (wrong + 1/2) /
        (n + 1), and the accepted cases counted that would show with a chance of 80 % that it is at most
        `max_error`; divided by the accepted share, the smallest of these numbers.
        """
        found = self._foreseen()
        return None if found is None else found[0]

    @property
    def foreseen(self) -> CurvePoint | None:
        """The point of the curve at which so many as `needed` would do. None: no number would."""
        found = self._foreseen()
        return None if found is None else found[1]

    def _foreseen(self) -> tuple[int, CurvePoint] | None:
        """Return the smallest number that would do, and the point of the curve it is of."""
        self._require_fitted()
        found = []
        for each in self._curve:
            if each.n >= min(SCARCE, self.units):
                m = enough_accepted((each.wrong + 0.5) / (each.n + 1), self.max_error, self.delta)
                if m is not None:
                    found.append((math.ceil(m * self.units / each.n), each))
        return min(found, key=lambda pair: pair[0], default=None)

    def _passed(self) -> int:
        """Return how many of the tested thresholds were passed."""
        whole = self.rule != "threshold"
        return len(self._tested) if whole else passed(self._tested, self.max_error, self.delta)

    def _require_fitted(self) -> None:
        if not self.cases:
            raise ValueError("The review threshold is not fitted: call its fit first.")


def passed(tested: Sequence[CurvePoint], max_error: float, delta: float) -> int:
    """Return how many tested thresholds pass before the first that does not."""
    counts = np.array([(each.wrong, each.n) for each in tested], dtype=np.int64).reshape(-1, 2)
    failed = np.flatnonzero(p_value(counts[:, 0], counts[:, 1], max_error) > delta)
    return int(failed[0]) if len(failed) else len(tested)


def last_passed(tested: Sequence[CurvePoint], max_error: float, delta: float) -> float | None:
    """Return the loosest threshold that passed. None: not even the strictest did."""
    number = passed(tested, max_error, delta)
    return tested[number - 1].threshold if number else None
