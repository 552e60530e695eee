"""How well an uncertainty tells wrong predictions from right ones, whatever the uncertainty is.

Every metric takes (uncertainty, failure): any real numbers, higher = more likely wrong, and whether the
prediction is wrong. Only the order of the numbers counts, so an increasing function of the uncertainty gives
the same result; nothing here is taken for a probability. Ties are averaged or taken as one step, as each
metric says, so the order of the rows never matters.

Samples are accepted from the lowest uncertainty to the highest. Coverage is the accepted share of all
samples, selective risk the share of failures among the accepted.

What is undefined is NaN, never an exception, and `undefined_reason` says why: AUROC and FPR at a TPR need a
failure and a correct prediction, AUPR-error needs a failure, everything needs a sample. That includes the
empty set, on which the other metrics of this package raise: here a site without samples is a row of a table.
NaN scores raise.

The work is done by functions of counts per step (distinct uncertainty), which is what makes a bootstrap of
thousands of resamples a few array operations: see `failure_statistic`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from calib.core.byname import bind
from calib.core.checks import as_float64
from calib.core.errors import unknown_name

_BLOCK = 1_000_000  # counts of resamples worked on at once: 8 MB per array

_NO_SAMPLES = "there are no samples"
_NO_FAILURE = "no prediction is wrong"
_NO_SUCCESS = "every prediction is wrong"


@dataclass(frozen=True)
class _Steps:
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


def _auroc(steps: _Steps) -> np.ndarray:
    right = steps.size - steps.failures
    below = steps.accepted - steps.accepted_failures - right  # correct predictions of lower uncertainty
    pairs = steps.n_failures * (steps.n - steps.n_failures)
    return (steps.failures * (below + right / 2)).sum(axis=1) / pairs[:, 0]


def _aupr_error(steps: _Steps) -> np.ndarray:
    flagged = steps.n - steps.accepted + steps.size  # samples of this uncertainty or a higher one
    found = steps.n_failures - steps.accepted_failures + steps.failures
    precision = _ratio(found, flagged)
    return (steps.failures * precision).sum(axis=1) / steps.n_failures[:, 0]


def _fpr_at_tpr(
    steps: _Steps, *, tpr: float = 0.95, method: Literal["interpolated", "nearest"] = "interpolated"
) -> np.ndarray:
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


def _aurc(steps: _Steps) -> np.ndarray:
    # With k samples and e failures accepted before a step of m samples and f failures, the expected risk
    # after j of them in random order is (e + j f / m) / (k + j). Summed over j = 1..m that is
    # f + (e - k f / m) (H(k + m) - H(k)), where H are the harmonic numbers.
    before = steps.accepted - steps.size
    failures_before = steps.accepted_failures - steps.failures
    share = _ratio(steps.failures, steps.size)
    top = int(steps.n.max(initial=0))
    harmonic = np.concatenate([[0.0], (1 / np.arange(1, top + 1)).cumsum()])
    rise = harmonic[steps.accepted.astype(np.int64)] - harmonic[before.astype(np.int64)]
    total = (steps.failures + (failures_before - before * share) * rise).sum(axis=1)
    return total / steps.n[:, 0]


def _eaurc(steps: _Steps) -> np.ndarray:
    risk = (steps.n_failures / steps.n)[:, 0]
    right = 1 - risk
    return _aurc(steps) - (risk + right * np.log(np.where(right > 0, right, 1.0)))


def _augrc(steps: _Steps) -> np.ndarray:
    # Trapezoids: a step of m samples raises the accepted failures from e to e + f in a straight line.
    area = steps.size * (steps.accepted_failures - steps.failures / 2)
    return area.sum(axis=1) / steps.n[:, 0] ** 2


def _risk_at_coverage(steps: _Steps, *, coverage: float) -> np.ndarray:
    # The rounding undoes what 0.07 * 100 = 7.000000000000001 does to the ceiling.
    wanted = np.ceil(np.round(coverage * steps.n, 9))  # (R, 1)
    rows, step = np.arange(len(wanted)), (steps.accepted < wanted).sum(axis=1)
    step = np.minimum(step, steps.size.shape[1] - 1)
    size, failures = steps.size[rows, step], steps.failures[rows, step]
    left_out = steps.accepted[rows, step] - wanted[:, 0]
    return (steps.accepted_failures[rows, step] - left_out * _ratio(failures, size)) / wanted[:, 0]


def _coverage_at_risk(steps: _Steps, *, risk: float) -> np.ndarray:
    low = _ratio(steps.accepted_failures, steps.accepted, empty=np.inf) <= risk
    return np.where(low, steps.accepted, 0).max(axis=1) / steps.n[:, 0]


def _ratio(top: np.ndarray, bottom: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """Return top / bottom, and `empty` where a resample has nothing to divide by."""
    out = np.full(np.broadcast_shapes(np.shape(top), np.shape(bottom)), empty)
    return np.divide(top, bottom, out=out, where=bottom > 0)


@dataclass(frozen=True)
class _Metric:
    of_steps: Callable[..., np.ndarray]
    needs_failure: bool = False
    needs_success: bool = False


_METRICS = {
    "auroc": _Metric(_auroc, needs_failure=True, needs_success=True),
    "aupr_error": _Metric(_aupr_error, needs_failure=True),
    "fpr_at_tpr": _Metric(_fpr_at_tpr, needs_failure=True, needs_success=True),
    "aurc": _Metric(_aurc),
    "eaurc": _Metric(_eaurc),
    "augrc": _Metric(_augrc),
    "risk_at_coverage": _Metric(_risk_at_coverage),
    "coverage_at_risk": _Metric(_coverage_at_risk),
}
# Metrics under their names in a summary, each a row of _METRICS with settings.
_SUMMARY: dict[str, tuple[str, dict[str, Any]]] = {
    "auroc": ("auroc", {}),
    "aupr_error": ("aupr_error", {}),
    "fpr95": ("fpr_at_tpr", {}),
    "fpr95_nearest": ("fpr_at_tpr", {"method": "nearest"}),
    "aurc": ("aurc", {}),
    "eaurc": ("eaurc", {}),
    "augrc": ("augrc", {}),
}
FAILURE_METRICS = tuple(_SUMMARY)


def auroc(uncertainty: Tensor, failure: Tensor) -> Tensor:
    """Return the area under the ROC curve, failure being the positive class, () float64 in [0, 1].

    P(u_failure > u_correct) + P(u_failure = u_correct) / 2, over all pairs of a failure and a correct one

    Args:
        uncertainty: (N,) real numbers, infinities included; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        1 if every failure is more uncertain than every correct prediction, 0.5 if the score says nothing; NaN
        without a failure or without a correct prediction.

    Raises:
        ValueError: A shape or a type is not as above, or an uncertainty is NaN.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True]))
        tensor(0.8750, dtype=torch.float64)
    """
    return _value("auroc", uncertainty, failure)


def aupr_error(uncertainty: Tensor, failure: Tensor) -> Tensor:
    """Return the average precision of finding failures, () float64 in [0, 1].

    sum over distinct uncertainties t of (failures at t / all failures) * (share of failures where u >= t)

    Ties are one step, as in scikit-learn. A score that says nothing gives the share of failures, so the value
    cannot be compared between models of different accuracy.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        NaN without a failure; 1 if every prediction is wrong.

    Example:
        >>> aupr_error(torch.tensor([0.1, 0.4, 0.5, 0.9]), torch.tensor([False, True, False, True]))
        tensor(0.8333, dtype=torch.float64)

    Source: average_precision_score(failure, uncertainty) of scikit-learn, as ViLU calls it ("aupr_err").
    Differs: without a failure scikit-learn and ViLU say 0, here it is NaN: there was nothing to find.
    """
    return _value("aupr_error", uncertainty, failure)


def fpr_at_tpr(
    uncertainty: Tensor,
    failure: Tensor,
    *,
    tpr: float = 0.95,
    method: Literal["interpolated", "nearest"] = "interpolated",
) -> Tensor:
    """Return the share of failures accepted where a share `tpr` of the correct predictions is, () float64.

    The positive class is CORRECT and its score is -uncertainty, as in ViLU and TrustVLM: TPR = accepted share
    of the correct predictions, FPR = accepted share of the failures. (AUROC does not change when the classes
    swap, FPR95 does.) Lower is better.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.
        tpr: In (0, 1); 0.95 makes it the FPR95.
        method: "interpolated": on the straight lines between the points of the ROC curve; where the curve has
            the TPR at several FPRs, the largest of them. "nearest": the FPR of the point whose TPR is
            nearest, of several the one with the lowest TPR and FPR.

    Returns:
        NaN without a failure or without a correct prediction. If all uncertainties are equal, `tpr` when
        interpolated.

    Raises:
        ValueError: A setting or an input is not as above.

    Example:
        >>> uncertainty = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        >>> failure = torch.tensor([False, False, True, False, True, True])
        >>> fpr_at_tpr(uncertainty, failure)
        tensor(0.3333, dtype=torch.float64)

    Source: "interpolated": get_fpr95 of github.com/ykrmm/ViLU e4bf572. "nearest":
        github.com/EPFL-IMOS/TrustVLM 0a0caa6, TrustVLM.py.
    Differs: TrustVLM takes the nearest of the points that scikit-learn keeps by default, which leaves out
        those inside straight parts of the curve, so that the nearest one left can be far away; here all
        points count.
    """
    return _value("fpr_at_tpr", uncertainty, failure, tpr=tpr, method=method)


def aurc(uncertainty: Tensor, failure: Tensor) -> Tensor:
    """Return the area under the risk-coverage curve, () float64 in [0, 1]; lower is better.

    mean over i = 1..N of (failures among the i least uncertain) / i

    Ties: the expected value over random orders of equally uncertain samples. It depends on the share of
    failures, which is its value for a score that says nothing.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        0 without a failure, 1 if every prediction is wrong; NaN without samples.

    Example:
        >>> aurc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([False, False, True, False]))
        tensor(0.1458, dtype=torch.float64)

    Source: Geifman, Uziel, El-Yaniv 2019 (arXiv 1805.08206), section 3.
    Differs: common code, TrustVLM's among it, leaves ties in the order of the rows and prints the value times
        1000.
    """
    return _value("aurc", uncertainty, failure)


def eaurc(uncertainty: Tensor, failure: Tensor) -> Tensor:
    """Return the AURC in excess of the best possible one, () float64; lower is better.

    aurc - (r + (1 - r) log(1 - r)), r = share of failures

    The subtracted term is the AURC of a perfect order for N to infinity, as everyone subtracts it; with N
    samples a perfect order keeps a rest of the size of r / (2 N).

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        0 without a failure or if every prediction is wrong; NaN without samples.

    Example:
        >>> eaurc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([False, False, True, False]))
        tensor(0.1116, dtype=torch.float64)

    Source: Geifman, Uziel, El-Yaniv 2019 (arXiv 1805.08206), section 3 and its approximation of the optimum.
    """
    return _value("eaurc", uncertainty, failure)


def augrc(uncertainty: Tensor, failure: Tensor) -> Tensor:
    """Return the area under the generalized risk-coverage curve, () float64 in [0, 0.5]; lower is better.

    integral over the coverage of (accepted failures / N), by trapezoids
    = (1 - auroc) r (1 - r) + r^2 / 2, r = share of failures

    The average probability that a sample is wrong and accepted. Unlike the AURC it weighs every failure
    alike, however few samples are accepted. Ties: a straight line, which is the expected value over random
    orders of equally uncertain samples.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        0 without a failure, 0.5 if every prediction is wrong; NaN without samples.

    Example:
        >>> augrc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([False, False, True, False]))
        tensor(0.0938, dtype=torch.float64)

    Source: Traub et al. 2024 (arXiv 2407.01032), section 3; values as github.com/IML-DKFZ/fd-shifts c4467ae
        before its factor 1000.
    """
    return _value("augrc", uncertainty, failure)


def risk_at_coverage(uncertainty: Tensor, failure: Tensor, *, coverage: float) -> Tensor:
    """Return the expected share of failures among the ceil(coverage N) least uncertain samples, () float64.

    Ties are broken at random: the expected value over the orders of equally uncertain samples. The mean over
    coverage = 1/N, 2/N, ... 1 is the AURC.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.
        coverage: Share of the samples to accept, in (0, 1].

    Example:
        >>> u, failure = torch.tensor([0.1, 0.2, 0.2, 0.4]), torch.tensor([False, False, True, False])
        >>> risk_at_coverage(u, failure, coverage=0.5)  # the second sample is a failure half of the time
        tensor(0.2500, dtype=torch.float64)
    """
    return _value("risk_at_coverage", uncertainty, failure, coverage=coverage)


def coverage_at_risk(uncertainty: Tensor, failure: Tensor, *, risk: float) -> Tensor:
    """Return the largest coverage at which the selective risk is at most `risk`, () float64 in [0, 1].

    Equally uncertain samples are accepted together or not at all, so that a threshold on the uncertainty
    reaches the coverage: see `risk_coverage_curve`. It is the best threshold in hindsight, which flatters a
    small set: a description, not a promise about new samples.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.
        risk: Share of failures among the accepted that is tolerated, in [0, 1].

    Returns:
        0 if no threshold keeps the risk.

    Example:
        >>> u, failure = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([False, True, False, False])
        >>> coverage_at_risk(u, failure, risk=0.3)  # risks: 0, 1/2, 1/3, 1/4
        tensor(1., dtype=torch.float64)
    """
    return _value("coverage_at_risk", uncertainty, failure, risk=risk)


@dataclass(frozen=True)
class RiskCoverage:
    """The points of a risk-coverage curve, one per distinct uncertainty, lowest first.

    Attributes:
        threshold: (G,) samples of at most this uncertainty are accepted.
        coverage: (G,) accepted share of all samples, rising to 1.
        risk: (G,) share of failures among the accepted.
        failures: (G,) accepted failures as a share of all samples: the generalized risk.
    """

    threshold: Tensor
    coverage: Tensor
    risk: Tensor
    failures: Tensor


def risk_coverage_curve(uncertainty: Tensor, failure: Tensor) -> RiskCoverage:
    """Return selective risk and coverage at every distinct uncertainty; float64.

    Equally uncertain samples are one step: the points are those a threshold on the uncertainty can reach.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        G points, G the number of distinct uncertainties; no points without samples.

    Example:
        >>> curve = risk_coverage_curve(torch.tensor([0.2, 0.1, 0.2, 0.7]), torch.tensor([1, 0, 0, 1]).bool())
        >>> curve.coverage.tolist(), [round(risk, 4) for risk in curve.risk.tolist()]
        ([0.25, 0.75, 1.0], [0.0, 0.3333, 0.5])
    """
    scores, failures = _as_arrays(uncertainty, failure)
    if len(scores) == 0:
        return RiskCoverage(*(torch.zeros(0, dtype=torch.float64) for _ in range(4)))
    ranking = _Ranking.of(scores, failures)
    steps = ranking.steps(np.ones((1, len(scores))))
    accepted, wrong = steps.accepted[0], steps.accepted_failures[0]
    columns = (ranking.values, accepted / len(scores), wrong / accepted, wrong / len(scores))
    return RiskCoverage(*(torch.from_numpy(column).to(_device(uncertainty)) for column in columns))


def undefined_reason(name: str, failure: Tensor | np.ndarray) -> str | None:
    """Return why a metric is NaN on samples with these failures, or None if it is defined.

    Args:
        name: A key of FAILURE_METRICS, or "fpr_at_tpr", "risk_at_coverage", "coverage_at_risk".
        failure: (N,) bool.

    Example:
        >>> undefined_reason("auroc", torch.tensor([False, False]))
        'no prediction is wrong'
        >>> undefined_reason("aurc", torch.tensor([False, False])) is None
        True
    """
    metric, _ = _look_up(name)
    count, wrong = len(failure), int(failure.sum())
    if count == 0:
        return _NO_SAMPLES
    if metric.needs_failure and wrong == 0:
        return _NO_FAILURE
    if metric.needs_success and wrong == count:
        return _NO_SUCCESS
    return None


def summarize_failure(uncertainty: Tensor, failure: Tensor) -> dict[str, Any]:
    """Return every metric of FAILURE_METRICS with n, n_failures and the reasons of what is undefined.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        auroc, aupr_error, fpr95 (interpolated), fpr95_nearest, aurc, eaurc, augrc as floats, NaN where
        undefined; n and n_failures as ints; undefined: {metric: reason}, empty if all are defined.

    Raises:
        ValueError: A shape or a type is not as above, or an uncertainty is NaN.

    Example:
        >>> summary = summarize_failure(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([False, False, False]))
        >>> summary["aurc"], summary["auroc"], summary["undefined"]["auroc"]
        (0.0, nan, 'no prediction is wrong')
    """
    scores, failures = _as_arrays(uncertainty, failure)
    reasons = {name: undefined_reason(name, failures) for name in FAILURE_METRICS}
    values: dict[str, Any] = {name: failure_statistic(name)(scores, failures) for name in FAILURE_METRICS}
    values |= {"n": len(failures), "n_failures": int(failures.sum())}
    values["undefined"] = {name: reason for name, reason in reasons.items() if reason is not None}
    return values


@dataclass(frozen=True)
class FailureStatistic:
    """A failure metric as a statistic of (uncertainty, failure). Made by `failure_statistic`.

    Attributes:
        name: The metric.
        settings: Its settings.
    """

    name: str
    settings: Mapping[str, Any]

    def __call__(self, uncertainty: np.ndarray, failure: np.ndarray) -> float:
        """Return the metric of (N,) uncertainties and (N,) failures; NaN where it is undefined.

        Raises:
            ValueError: The shapes differ, `failure` is not bool or 0 and 1, or an uncertainty is NaN.
        """
        if len(uncertainty) == 0:
            return math.nan
        return float(self.of_counts(uncertainty, failure)(np.ones((1, len(uncertainty))))[0])

    def of_counts(self, uncertainty: np.ndarray, failure: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function from counts (R, N) to the metric of each resample, (R,).

        Counts say how often a resample drew each sample. The samples are sorted once for all resamples.

        Args:
            uncertainty: (N,) real numbers, N at least 1.
            failure: (N,) bool, or 0 and 1.

        Raises:
            ValueError: The shapes differ, `failure` is not bool or 0 and 1, or an uncertainty is NaN.

        Example:
            >>> u, failure = np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, False, True, True])
            >>> failure_statistic("auroc").of_counts(u, failure)(np.array([[1, 1, 1, 1], [2, 0, 1, 1]]))
            array([0.75, 1.  ])
        """
        ranking = _Ranking.of(*_check_arrays(np.asarray(uncertainty), np.asarray(failure)))
        metric, fixed = _look_up(self.name)
        settings = {**fixed, **self.settings}

        def of_counts(counts: np.ndarray) -> np.ndarray:
            rows = max(1, _BLOCK // counts.shape[1])
            blocks = [counts[start : start + rows] for start in range(0, len(counts), rows)]
            with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is the NaN that is wanted
                return np.concatenate([metric.of_steps(ranking.steps(block), **settings) for block in blocks])

        return of_counts


def failure_statistic(name: str, **settings: Any) -> FailureStatistic:
    """Return the metric of that name as a statistic of numpy arrays (uncertainty, failure) for `calib.stats`.

    A resample may hold no failure, where AUROC and others are NaN: pass undefined="drop". Resampling makes
    copies, which are ties; the metrics average them, so there is no bias from the order of the copies.

    Args:
        name: A key of FAILURE_METRICS, or "fpr_at_tpr", "risk_at_coverage", "coverage_at_risk".
        **settings: Keyword-only arguments of the metric, e.g. coverage=0.8.

    Raises:
        ValueError: The name or a setting is unknown, missing, or out of range.

    Example:
        >>> from calib.stats import bootstrap_interval
        >>> rng = np.random.default_rng(0)
        >>> failure = rng.random(300) < 0.3
        >>> uncertainty = rng.normal(size=300) + 1.5 * failure
        >>> interval = bootstrap_interval(failure_statistic("auroc"), uncertainty, failure, undefined="drop")
        >>> [round(value, 2) for value in (interval.low, interval.estimate, interval.high)]
        [0.82, 0.87, 0.91]
    """
    metric, fixed = _look_up(name)
    if settings and name not in _METRICS:
        raise ValueError(f"failure metric {name!r} takes no settings, got {settings}; 'fpr_at_tpr' does.")
    bind(metric.of_steps, {**fixed, **settings}, name=f"failure metric {name!r}")
    _check_settings(settings)
    return FailureStatistic(name, settings)


def _look_up(name: str) -> tuple[_Metric, dict[str, Any]]:
    if name in _SUMMARY:
        metric, fixed = _SUMMARY[name]
        return _METRICS[metric], fixed
    if name in _METRICS:
        return _METRICS[name], {}
    raise unknown_name("failure metric", name, {*_SUMMARY, *_METRICS})


def _check_settings(settings: Mapping[str, Any]) -> None:
    tpr, coverage, risk = (settings.get(name) for name in ("tpr", "coverage", "risk"))
    if tpr is not None and not 0 < tpr < 1:
        raise ValueError(f"tpr must lie between 0 and 1, got {tpr!r}.")
    if coverage is not None and not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie in (0, 1], got {coverage!r}: of no samples there is no risk.")
    if risk is not None and not 0 <= risk <= 1:
        raise ValueError(f"risk must lie in [0, 1], got {risk!r}. Risks are fractions, not percent.")
    if settings.get("method", "nearest") not in ("interpolated", "nearest"):
        raise unknown_name("method", settings["method"], ("interpolated", "nearest"))


@dataclass(frozen=True)
class _Ranking:
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
    def of(cls, uncertainty: np.ndarray, failure: np.ndarray) -> _Ranking:
        order = uncertainty.argsort(kind="stable")
        ranked = uncertainty[order]
        starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        return cls(order, failure[order].astype(np.float64), starts, ranked[starts])

    def steps(self, counts: np.ndarray) -> _Steps:
        """Return the steps of resamples given by how often each sample was drawn, (R, N)."""
        drawn = counts[:, self.order].astype(np.float64)
        wrong = drawn * self.failure
        if len(self.starts) == len(self.order):  # no ties
            return _Steps(drawn, wrong)
        return _Steps(*(np.add.reduceat(x, self.starts, axis=1) for x in (drawn, wrong)))


def _value(name: str, uncertainty: Tensor, failure: Tensor, **settings: Any) -> Tensor:
    statistic = failure_statistic(name, **settings)
    value = statistic(*_as_arrays(uncertainty, failure))
    return torch.tensor(value, dtype=torch.float64, device=_device(uncertainty))


def _device(values: Tensor) -> torch.device:
    return torch.device("cpu") if values.device.type == "mps" else values.device  # MPS has no float64


def _as_arrays(uncertainty: Tensor, failure: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return checked (N,) float64 uncertainties and (N,) bool failures as numpy arrays."""
    if failure.dtype != torch.bool:
        raise ValueError(f"failure must be bool (predictions != labels), got {failure.dtype}.")
    if uncertainty.dtype == torch.bool or uncertainty.is_complex():
        raise ValueError(f"uncertainty must be real numbers, got {uncertainty.dtype}.")
    return _check_arrays(as_float64(uncertainty.detach()).cpu().numpy(), failure.cpu().numpy())


def _check_arrays(uncertainty: np.ndarray, failure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if uncertainty.ndim != 1 or uncertainty.shape != failure.shape:
        raise ValueError(
            f"uncertainty and failure must both be (N,), got {uncertainty.shape} and {failure.shape}."
        )
    if failure.dtype != np.bool_ and not np.isin(failure, (0, 1)).all():
        raise ValueError("failure must be bool, or 0 (right) and 1 (wrong).")
    if np.isnan(uncertainty).any():
        rows = np.flatnonzero(np.isnan(uncertainty))
        raise ValueError(
            f"uncertainty is NaN in {len(rows)} of {len(uncertainty)} rows, the first is row {rows[0]}."
        )
    return uncertainty, failure.astype(bool)
