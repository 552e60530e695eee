"""Which predictions may pass and which must be reviewed: a threshold on a doubt, with what it guarantees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.posthoc.not_drawn import others_of
from calib.posthoc.review_counts import Counts, CurvePoint, check_doubt, count, point
from calib.posthoc.review_fitted import FittedReview, last_passed, passed
from calib.posthoc.review_record import read_review, write_review
from calib.posthoc.review_words import guarantee_of, summary_of
from calib.stats.bounds import fewest_cases, most_wrong

CURVE = 50  # points of the curve, at equal steps of the accepted cases
MARGIN = 1.0  # standard deviations by which the first threshold may accept fewer than are needed


class ReviewThreshold(FittedReview):
    """Which predictions are accepted, and which a person must look at: `accepted = doubt < threshold`.

    "threshold": the loosest threshold of a fixed sequence at which the error among the accepted is shown to
    be at most `max_error`:

        1. thresholds at equal steps of the accepted share, chosen without any label, strict to loose; the
           first accepts n0 = ceil(ln delta / ln(1 - max_error)) cases, of which none may be wrong, or the
           fewest of which one or two may be (1.7 n0 and 2.3 n0), where that is at most half of them
        2. at each, m accepted and k wrong among them: p = BinomCDF(k; m, max_error)
        3. go on while p <= delta; stop at the first that is not; take the last that was

    P(error among accepted > max_error) <= delta over the draw of the labelled cases. With `unlabelled` doubts
    of other cases, from which the thresholds are then taken (the first somewhat looser, as how many labelled
    cases it accepts is left to chance), all that is needed is that cases (or patients) are drawn
    independently from where the threshold is used. Without, they are quantiles of the labelled
    cases' own doubts; this is valid where the error among the accepted does not fall as the threshold is
    loosened, beyond the point where it first exceeds `max_error`. (Let v be that point. Given that N cases
    have a doubt of at most v, these are independent draws with an error rate of at least max_error, and so is
    every case beyond; the first threshold beyond v is decided by N and by the doubts beyond v alone, so that
    the number of errors it is tested on is at least binomial.)

    "workload": the strictest threshold that sends at most the share `workload` to review. No error is
    promised; the exact bound at this threshold, which no label has chosen, is.

    "batch": in expectation over labelled cases and a batch of m new ones, at most the share `max_error` of
    the accepted ones of the batch is wrong. Accepted are doubts of at most t, the largest t with

        (1 + #{labelled: doubt <= t, wrong}) / max(1, #{batch: doubt <= t}) * m / (n + 1) <= max_error

    It needs all doubts of the batch at once, and one case of each patient.

    Patients, where groups are given, are what is counted, since cases of one patient are not independent.
    patients="any": a patient is accepted where one of its cases is, and wrong where one of these is wrong, so
    that the bound is on the share of patients with a wrong accepted case among those with an accepted one.
    patients="one": one case of each patient is drawn, and the bound is on the error of such a case.

    Args:
        max_error: r, what the error among the accepted may be, in (0, 1).
        delta: How often the guarantee may fail, in (0, 1).
        rule: "threshold", "workload" or "batch".
        workload: The largest share that is reviewed, in [0, 1): for rule="workload".
        patients: "any" or "one", see above.
        points: Thresholds in the sequence.
        seed: Of the draw of cases with patients="one".

    Attributes:
        cases: N labelled cases. 0: not fitted.
        units: Patients among them; where no groups are known, N.
        chosen: Strategies by which the cases were chosen, if not at random.

    Raises:
        ValueError: A setting is not as above.

    Example:
        >>> doubt, wrong = torch.arange(100, dtype=torch.float64) / 100, torch.arange(100) >= 80
        >>> fitted = ReviewThreshold(max_error=0.1, delta=0.1).fit(doubt, wrong)
        >>> fitted.threshold, int(fitted(doubt).sum())
        (0.83, 83)

    Source: fixed-sequence testing of Angelopoulos et al. 2021 (Learn then Test) with the exact binomial test;
        the batch rule is that of conformal selection, Jin and Candes 2023, as StratCP uses it.
    """

    def fit(
        self,
        doubt: Tensor,
        failure: Tensor,
        *,
        groups: Sequence[object] | None = None,
        unlabelled: Tensor | None = None,
        chosen: Mapping[str, int] | Sequence[str] = (),
    ) -> ReviewThreshold:
        """Return self, fitted.

        Args:
            doubt: (N,) floats, higher = more likely wrong, of labelled cases on which neither the model nor
                the doubt was fitted; inf: never accepted.
            failure: (N,) bool: whether the prediction is wrong.
            groups: N patients, slides, ... None: every case is by itself.
            unlabelled: (M,) doubts of further cases, from which the thresholds are taken. None: of the
                labelled cases' own doubts.
            chosen: By which strategies (`calib select`): unless at random, nothing is guaranteed.

        Raises:
            ValueError: An input is not as above.
        """
        # Exchangeability with a batch needs one case of each patient.
        patients = "one" if self.rule == "batch" else self.patients
        counts = count(doubt, failure, groups, patients=patients, seed=self.seed)
        others = None if unlabelled is None else np.sort(check_doubt(unlabelled, "unlabelled"))
        self.chosen = others_of(chosen)
        self.cases, self.units, self.grouped = len(counts.doubt), counts.units, groups is not None
        self.unlabelled = 0 if others is None else len(others)
        own = np.linspace(1 / CURVE, 1, CURVE)
        self._curve = counts.curve(_thresholds(counts.doubt, own), self.delta)
        self._tested, self._wrong, self.tied = [], np.empty(0), False
        if self.rule == "threshold":
            self._tested = self._test(counts, self._sequence(counts, others))
            self._threshold = last_passed(self._tested, self.max_error, self.delta)
        elif self.rule == "workload":
            self._fit_workload(counts, counts.doubt if others is None else others)
        else:
            self._threshold, self._wrong = None, counts.first_wrong
        return self

    def __call__(self, doubt: Tensor) -> Tensor:
        """Return which cases are accepted, (N,) bool; the others are to be reviewed.

        Args:
            doubt: (N,) floats of the same doubt; by the batch rule, those of the whole batch.

        Raises:
            ValueError: Not fitted, or the doubts are not as above.
        """
        self._require_fitted()
        values = check_doubt(doubt)
        at = self._batch_threshold(values) if self.rule == "batch" else self._threshold
        accepted = np.zeros(len(values), dtype=bool) if at is None else values < at
        return torch.from_numpy(accepted).to(doubt.device)

    @property
    def guarantee(self) -> str:
        """What is promised and what is not, in plain sentences."""
        self._require_fitted()
        return guarantee_of(self)

    @property
    def summary(self) -> str:
        """What was found, in a sentence or two."""
        self._require_fitted()
        return summary_of(self)

    def to_record(self) -> dict[str, Any]:
        """Return the fitted threshold as plain values for JSON; `from_record` reads them.

        Raises:
            ValueError: Not fitted.
        """
        self._require_fitted()
        return write_review(self)

    @classmethod
    def from_record(cls, record: Any) -> ReviewThreshold:
        """Return what `to_record` has written, checked: its tests are done anew.

        Args:
            record: What was read from a file.

        Raises:
            ValueError: It is not as above, or its numbers contradict each other.
        """
        return read_review(cls, record)

    def _sequence(self, counts: Counts, others: np.ndarray | None) -> np.ndarray:
        """Return the thresholds to test, strict to loose, (T,): no label has a part in them."""
        least = fewest_cases(self.max_error, self.delta)
        if counts.units < least:
            return np.empty(0)
        first = _first(least, counts.units, self.max_error, self.delta)
        if others is not None:  # how many labelled units the first accepts varies, and it is not looked at
            spread = least * (1 - least / counts.units) * (1 + counts.units / len(others))
            first = max(first, math.ceil(least + MARGIN * math.sqrt(spread)))
        counted = np.linspace(first, counts.units, self.points).astype(np.int64)
        found = _thresholds(counts.first if others is None else others, np.unique(counted) / counts.units)
        if others is None:
            return found[counts.at(found)[1] >= least]  # fewer cannot pass, even with none wrong
        expected = np.searchsorted(others, found, side="left") * counts.units / len(others)
        return found[expected >= first - counts.units / len(others)]

    def _test(self, counts: Counts, thresholds: np.ndarray) -> list[CurvePoint]:
        """Return what was seen at each threshold up to the first that does not pass."""
        points = counts.curve(thresholds, self.delta)
        return points[: passed(points, self.max_error, self.delta) + 1]

    def _fit_workload(self, counts: Counts, doubts: np.ndarray) -> None:
        assert self.workload is not None
        kept = math.ceil((1 - self.workload) * len(doubts) - 1e-9)  # accepted at least
        last = doubts[max(kept, 1) - 1]
        above = doubts[doubts > last]
        at = float(above[0]) if len(above) else math.inf
        self.tied = bool((doubts <= last).sum() > kept)
        cases, units, wrong = (int(each[0]) for each in counts.at(np.array([at])))
        self._tested = [point(at, cases / len(counts.doubt), wrong, units, self.delta)]
        self._threshold = at

    def _batch_threshold(self, values: np.ndarray) -> float | None:
        """Return the threshold of a batch (m,): just above the largest doubt that is accepted."""
        finite = np.sort(values[np.isfinite(values)])
        if not len(finite):
            return None
        wrong = np.searchsorted(self._wrong, finite, side="right")
        accepted = np.searchsorted(finite, finite, side="right")
        estimate = (1 + wrong) / accepted * len(values) / (self.units + 1)
        passing = np.flatnonzero(estimate <= self.max_error)
        return float(np.nextafter(finite[passing[-1]], np.inf)) if len(passing) else None


def _first(least: int, units: int, max_error: float, delta: float) -> int:
    """Return how many units the first threshold accepts: the fewest of which 0, 1 or 2 may be wrong."""
    sizes = np.arange(least, max(least, units // 2) + 1)
    allowed = most_wrong(sizes, max_error, delta)
    return int(sizes[np.argmax(allowed == min(2, allowed[-1]))])


def _thresholds(doubts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the thresholds that accept about these shares of sorted doubts, different ones, ascending.

    That of a share s is the doubt after the first ceil(s N), so that these are below it; inf: of all.
    """
    after = np.append(doubts, np.inf)
    return np.unique(after[np.ceil(shares * len(doubts) - 1e-9).astype(np.int64)])
