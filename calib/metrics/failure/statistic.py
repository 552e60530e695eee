"""Failure metrics by name, as statistics of (uncertainty, failure) for the bootstrap and for summaries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.byname import bind
from calib.core.checks import as_float64, check_tensor
from calib.core.errors import unknown_name
from calib.metrics.failure.registry import FAILURE_METRICS, WITH_SETTINGS, FailureMetric
from calib.metrics.failure.steps import Ranking, Steps

_BLOCK = 1_000_000  # counts of resamples worked on at once: 8 MB per array


def undefined_reason(name: str, failure: Tensor | np.ndarray) -> str | None:
    """Return why a metric is NaN on samples with these failures, or None if it is defined.

    Args:
        name: A key of FAILURE_METRICS or WITH_SETTINGS: "fpr_at_tpr", "risk_at_coverage", "coverage_at_risk",
            "prr", "capture".
        failure: (N,) bool.

    Example:
        >>> undefined_reason("auroc", torch.tensor([False, False]))
        'no prediction is wrong'
        >>> undefined_reason("aurc", torch.tensor([False, False])) is None
        True
    """
    metric = _look_up(name)
    count, wrong = len(failure), int(failure.sum())
    if count == 0:
        return "there are no samples"
    if metric.needs_failure and wrong == 0:
        return "no prediction is wrong"
    if metric.needs_success and wrong == count:
        return "every prediction is wrong"
    return None


def summarize_failure(uncertainty: Tensor, failure: Tensor) -> dict[str, Any]:
    """Return every metric of FAILURE_METRICS, with n, n_failures and the reasons of what is undefined.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        Floats under the names of FAILURE_METRICS, NaN where undefined; n and n_failures as ints; undefined:
        {metric: reason}, empty if all are defined.

    Raises:
        ValueError: A shape or a type is not as above, or an uncertainty is NaN.

    Example:
        >>> summary = summarize_failure(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([False, False, False]))
        >>> summary["aurc"], summary["auroc"], summary["undefined"]["auroc"]
        (0.0, nan, 'no prediction is wrong')
    """
    scores, failures = as_arrays(uncertainty, failure)
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
        metric = _look_up(self.name)
        settings = {**metric.settings, **self.settings}
        return _in_blocks(uncertainty, failure, lambda steps: metric.of_steps(steps, **settings))


def failures_of_counts(
    names: Sequence[str], uncertainty: np.ndarray, failure: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from counts (R, N) to several metrics of each resample, (R, K).

    As `FailureStatistic.of_counts` of one after the other; what they share is computed once.

    Args:
        names: K keys of FAILURE_METRICS.
        uncertainty: (N,) real numbers, N at least 1.
        failure: (N,) bool, or 0 and 1.

    Raises:
        ValueError: A name is unknown, or the arrays are not as above.

    Example:
        >>> u, failure = np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, False, True, True])
        >>> failures_of_counts(["auroc", "aurc"], u, failure)(np.array([[1, 1, 1, 1]])).round(4)
        array([[0.75  , 0.3333]])
    """
    metrics = [_look_up(name) for name in names]

    def of_steps(steps: Steps) -> np.ndarray:
        return np.stack([metric.of_steps(steps, **metric.settings) for metric in metrics], axis=1)

    return _in_blocks(uncertainty, failure, of_steps)


def failure_statistic(name: str, **settings: Any) -> FailureStatistic:
    """Return the metric of that name as a statistic of numpy arrays (uncertainty, failure) for `calib.stats`.

    A resample may hold no failure, where AUROC and others are NaN: pass undefined="drop". Resampling makes
    copies, which are ties; the metrics average them, so there is no bias from the order of the copies.

    Args:
        name: A key of FAILURE_METRICS or WITH_SETTINGS: "fpr_at_tpr", "risk_at_coverage", "coverage_at_risk",
            "prr", "capture".
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
    metric = _look_up(name)
    if settings and metric.settings:
        free = ", ".join(WITH_SETTINGS)
        raise ValueError(f"failure metric {name!r} takes no settings, got {settings}; these do: {free}.")
    bind(metric.of_steps, {**metric.settings, **settings}, name=f"failure metric {name!r}")
    _check_settings(settings)
    return FailureStatistic(name, settings)


def _in_blocks(
    uncertainty: np.ndarray, failure: np.ndarray, of_steps: Callable[[Steps], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from counts (R, N) to what a function of steps says of each resample, (R, ...)."""
    ranking = Ranking.of(*_check_arrays(np.asarray(uncertainty), np.asarray(failure)))

    def of_counts(counts: np.ndarray) -> np.ndarray:
        rows = max(1, _BLOCK // counts.shape[1])
        blocks = (counts[start : start + rows] for start in range(0, len(counts), rows))
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is the NaN that is wanted
            return np.concatenate([of_steps(ranking.steps(block)) for block in blocks])

    return of_counts


def _look_up(name: str) -> FailureMetric:
    known = FAILURE_METRICS | WITH_SETTINGS
    if name not in known:
        raise unknown_name("failure metric", name, known)
    return known[name]


def _check_settings(settings: Mapping[str, Any]) -> None:
    tpr, coverage, risk = (settings.get(name) for name in ("tpr", "coverage", "risk"))
    for name in ("max_rejection", "budget"):
        if settings.get(name) is not None and not 0 < settings[name] <= 1:
            raise ValueError(f"{name} must lie in (0, 1], got {settings[name]!r}: a share of the samples.")
    if tpr is not None and not 0 < tpr < 1:
        raise ValueError(f"tpr must lie between 0 and 1, got {tpr!r}.")
    if coverage is not None and not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie in (0, 1], got {coverage!r}: of no samples there is no risk.")
    if risk is not None and not 0 <= risk <= 1:
        raise ValueError(f"risk must lie in [0, 1], got {risk!r}. Risks are fractions, not percent.")
    if settings.get("method", "nearest") not in ("interpolated", "nearest"):
        raise unknown_name("method", settings["method"], ("interpolated", "nearest"))


def result_device(values: Tensor) -> torch.device:
    """Return the device of a result, which is float64: the CPU for values on MPS."""
    return torch.device("cpu") if values.device.type == "mps" else values.device  # MPS has no float64


def as_arrays(uncertainty: Tensor, failure: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return checked (N,) float64 uncertainties and (N,) bool failures as numpy arrays."""
    check_tensor(uncertainty, "uncertainty")
    check_tensor(failure, "failure")
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
