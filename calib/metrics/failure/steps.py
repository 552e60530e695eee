"""Failure metrics as functions of counts per step (distinct uncertainty), for many resamples at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Steps:
    """What is accepted at each distinct uncertainty, lowest first, for R resamples of the same samples.

    Attributes:
        size: (R, G) samples, whole numbers; a resample may have none at a step.
        failures: (R, G) failures among them.
        accepted: (R, G) samples up to and including the step.
        accepted_failures: (R, G) failures up to and including the step.
    """

    size: np.ndarray
    failures: np.ndarray
    accepted: np.ndarray = field(init=False)
    accepted_failures: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "accepted", self.size.cumsum(axis=1))
        object.__setattr__(self, "accepted_failures", self.failures.cumsum(axis=1))

    @property
    def n(self) -> np.ndarray:
        """Samples of each resample, (R, 1)."""
        return self.accepted[:, -1:]

    @property
    def n_failures(self) -> np.ndarray:
        """Failures of each resample, (R, 1)."""
        return self.accepted_failures[:, -1:]

    @cached_property
    def mean_risk(self) -> np.ndarray:
        """The mean over coverages of the expected share of failures among what is accepted, (R,)."""
        # With k samples and e failures accepted before a step of m samples and f failures, the expected risk
        # after j of them in random order is (e + j f / m) / (k + j). Summed over j = 1..m that is
        # f + (e - k f / m) (H(k + m) - H(k)), where H are the harmonic numbers.
        before = self.accepted - self.size
        failures_before = self.accepted_failures - self.failures
        share = _ratio(self.failures, self.size)
        top = int(self.n.max(initial=0))
        harmonic = np.concatenate([[0.0], (1 / np.arange(1, top + 1)).cumsum()])
        rise = harmonic[self.accepted.astype(np.int64)] - harmonic[before.astype(np.int64)]
        total = (self.failures + (failures_before - before * share) * rise).sum(axis=1)
        mean: np.ndarray = total / self.n[:, 0]
        return mean


def auroc_of_steps(steps: Steps) -> np.ndarray:
    """Return the AUROC of each resample, (R,)."""
    right = steps.size - steps.failures
    below = steps.accepted - steps.accepted_failures - right  # correct predictions of lower uncertainty
    pairs = steps.n_failures * (steps.n - steps.n_failures)
    return (steps.failures * (below + right / 2)).sum(axis=1) / pairs[:, 0]


def aupr_error_of_steps(steps: Steps) -> np.ndarray:
    """Return the average precision of finding failures, (R,)."""
    flagged = steps.n - steps.accepted + steps.size  # samples of this uncertainty or a higher one
    found = steps.n_failures - steps.accepted_failures + steps.failures
    precision = _ratio(found, flagged)
    return (steps.failures * precision).sum(axis=1) / steps.n_failures[:, 0]


def fpr_of_steps(
    steps: Steps, *, tpr: float = 0.95, method: Literal["interpolated", "nearest"] = "interpolated"
) -> np.ndarray:
    """Return the accepted share of the failures where a share `tpr` of the right ones is accepted, (R,)."""
    accepted_right = np.pad(steps.accepted - steps.accepted_failures, ((0, 0), (1, 0)))
    accepted_wrong = np.pad(steps.accepted_failures, ((0, 0), (1, 0)))
    # (R, 1 + G), the points of the ROC curve from (0, 0)
    right, wrong = (_ratio(count, count[:, -1:]) for count in (accepted_right, accepted_wrong))
    rows = np.arange(len(right))
    if method == "nearest":
        value = wrong[rows, np.abs(right - tpr).argmin(axis=1)]
    else:
        # The last point that is not above tpr, and the one after it. Where the curve has that TPR at several
        # FPRs this is the largest of them, as in np.interp.
        last = (right <= tpr).sum(axis=1) - 1
        after = np.minimum(last + 1, right.shape[1] - 1)
        share = _ratio(tpr - right[rows, last], right[rows, after] - right[rows, last])
        value = wrong[rows, last] + share * (wrong[rows, after] - wrong[rows, last])
    defined = (accepted_right[:, -1] > 0) & (accepted_wrong[:, -1] > 0)
    return np.where(defined, value, np.nan)


def aurc_of_steps(steps: Steps) -> np.ndarray:
    """Return the area under the risk-coverage curve, (R,)."""
    return steps.mean_risk


def eaurc_of_steps(steps: Steps) -> np.ndarray:
    """Return the AURC in excess of the best possible one, (R,)."""
    risk = (steps.n_failures / steps.n)[:, 0]
    right = 1 - risk
    return aurc_of_steps(steps) - (risk + right * np.log(np.where(right > 0, right, 1.0)))


def augrc_of_steps(steps: Steps) -> np.ndarray:
    """Return the area under the generalized risk-coverage curve, (R,)."""
    # Trapezoids: a step of m samples raises the accepted failures from e to e + f in a straight line.
    area = steps.size * (steps.accepted_failures - steps.failures / 2)
    return area.sum(axis=1) / steps.n[:, 0] ** 2


def risk_of_steps(steps: Steps, *, coverage: float) -> np.ndarray:
    """Return the expected share of failures among the ceil(coverage N) least uncertain, (R,)."""
    # The rounding undoes what 0.07 * 100 = 7.000000000000001 does to the ceiling.
    wanted = np.ceil(np.round(coverage * steps.n, 9))  # (R, 1)
    rows, step = np.arange(len(wanted)), (steps.accepted < wanted).sum(axis=1)
    step = np.minimum(step, steps.size.shape[1] - 1)
    size, failures = steps.size[rows, step], steps.failures[rows, step]
    left_out = steps.accepted[rows, step] - wanted[:, 0]
    return (steps.accepted_failures[rows, step] - left_out * _ratio(failures, size)) / wanted[:, 0]


def coverage_of_steps(steps: Steps, *, risk: float) -> np.ndarray:
    """Return the largest coverage whose risk is at most `risk`, (R,)."""
    low = _ratio(steps.accepted_failures, steps.accepted, empty=np.inf) <= risk
    return np.where(low, steps.accepted, 0).max(axis=1) / steps.n[:, 0]


def prr_of_steps(steps: Steps, *, max_rejection: float = 1.0) -> np.ndarray:
    """Return the prediction rejection ratio of each resample, (R,): 0 as good as chance, 1 the best possible.

    (risk of chance - risk) / (risk of chance - best risk), where risk is the mean of the shares of failures
    among the n - r least uncertain, r = 0, ..., floor(max_rejection n) - 1.

    Source: Malinin et al. 2021; Fadeeva et al. 2023 (LM-Polygraph). Differs: ties are averaged, and chance is
        the share of failures instead of a mean over shuffles.
    """
    n, failures = steps.n[:, 0], steps.n_failures[:, 0]
    rejected = np.floor(np.round(max_rejection * n, 9))
    kept = n - rejected  # the least uncertain whose risks are not in the mean
    before = steps.accepted - steps.size
    failures_before = steps.accepted_failures - steps.failures
    share = _ratio(steps.failures, steps.size)
    harmonic = np.concatenate([[0.0], (1 / np.arange(1, int(n.max(initial=0)) + 1)).cumsum()])
    first = np.clip(kept[:, None], before, steps.accepted)  # where the mean begins within a step
    rise = harmonic[steps.accepted.astype(np.int64)] - harmonic[first.astype(np.int64)]
    within = (steps.accepted - first) * share + (failures_before - before * share) * rise
    risk = _ratio(within.sum(axis=1), rejected)
    # The best order has all failures last: of k accepted, k - (n - failures) are wrong, if that is above 0.
    start = np.maximum(kept, n - failures)
    span = harmonic[n.astype(np.int64)] - harmonic[start.astype(np.int64)]
    best = _ratio((n - start) - (n - failures) * span, rejected)
    chance = _ratio(failures, n)
    defined = (rejected > 0) & (chance > best)
    return np.where(defined, _ratio(chance - risk, np.where(defined, chance - best, 1.0)), np.nan)


def capture_of_steps(steps: Steps, *, budget: float) -> np.ndarray:
    """Return the share of the failures among the `budget` N most uncertain, (R,); ties in random order."""
    kept = (1 - budget) * steps.n
    before = steps.accepted - steps.size
    inside = np.clip(kept - before, 0, steps.size)
    missed = (inside * _ratio(steps.failures, steps.size)).sum(axis=1)
    return np.where(steps.n_failures[:, 0] > 0, 1 - _ratio(missed, steps.n_failures[:, 0]), np.nan)


def _ratio(top: np.ndarray, bottom: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """Return top / bottom, and `empty` where a resample has nothing to divide by."""
    out = np.full(np.broadcast_shapes(np.shape(top), np.shape(bottom)), empty)
    return np.divide(top, bottom, out=out, where=bottom > 0)


@dataclass(frozen=True)
class Ranking:
    """The samples from the lowest uncertainty to the highest, in steps of equal uncertainty.

    Attributes:
        order: (N,) indices of the samples.
        failure: (N,) whether the sorted samples are failures, as 0.0 and 1.0.
        starts: (G,) where the steps begin among the sorted samples.
        values: (G,) their uncertainties.
    """

    order: np.ndarray
    failure: np.ndarray
    starts: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, uncertainty: np.ndarray, failure: np.ndarray) -> Ranking:
        """Return the ranking of (N,) uncertainties and (N,) failures."""
        order = uncertainty.argsort(kind="stable")
        ranked = uncertainty[order]
        starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        return cls(order, failure[order].astype(np.float64), starts, ranked[starts])

    def steps(self, counts: np.ndarray) -> Steps:
        """Return the steps of resamples given by how often each sample was drawn, (R, N)."""
        drawn = counts[:, self.order].astype(np.float64)
        wrong = drawn * self.failure
        if len(self.starts) == len(self.order):  # no ties
            return Steps(drawn, wrong)
        return Steps(*(np.add.reduceat(x, self.starts, axis=1) for x in (drawn, wrong)))
