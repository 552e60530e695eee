"""The metrics as statistics of numpy arrays logits (N, C) and labels (N,) for the bootstrap of `calib.stats`.

Most metrics are functions of sample means: the ECE, for instance, of the mean over samples of "confidence if
in bin b" and "correct if in bin b". Then thousands of resamples are one matrix product. The formulas are
those of the metrics.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from calib.core.binning import bin_indices
from calib.core.errors import unknown_name
from calib.metrics.calibration import Norm, adaptive_calibration_error, error_from_sums
from calib.metrics.kde import kde_calibration_error
from calib.metrics.modules import CLASS_SCORES, SAMPLE_SCORES
from calib.metrics.outcomes import Outcomes
from calib.metrics.registry import METRICS
from calib.stats import MeanStatistic, Statistic

_NORMS: dict[str, Norm] = {"ece": "l1", "mce": "max", "overconfidence": "over", "underconfidence": "under"}


def interval_statistic(name: str, *, n_bins: int = 10) -> Statistic:
    """Return the metric of that name as a statistic of (logits, labels) for `calib.stats`.

    ECE and its kin take absolute values of noise: they are biased upwards in small samples, most of all for a
    well-calibrated system, and a resample has the noise a second time. A percentile interval of them lies too
    high, and that of a difference too near to 0. In a simulation with 545 samples and 10 bins, 95 %
    percentile intervals held the true ECE of an overconfident system in 94 % of 400 trials, that of a
    perfectly calibrated one in none, and the difference of the two in 18 %; with kind="basic" it was 94 %,
    75 % and 86 %. Where a decision hangs on it, look at Brier score and NLL, which are plain means.

    "ace" and "kde_ece" rank or smooth the resample itself and take the slow path; a resample repeats samples,
    so the leave-one-out of "kde_ece" still sees copies of the sample it leaves out.

    Args:
        name: A key of METRICS.
        n_bins: Number of bins of the binned metrics.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> from calib.stats import bootstrap_interval
        >>> logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [3.0, 0.0]])
        >>> labels = np.array([0, 1, 1, 0])
        >>> interval = bootstrap_interval(interval_statistic("accuracy"), logits, labels)
        >>> interval.estimate, interval.low, interval.high
        (0.75, 0.25, 1.0)
    """
    if name in SAMPLE_SCORES:
        score = SAMPLE_SCORES[name]
        return _mean_statistic(lambda p: score(p)[:, None], lambda means: means[..., 0])
    if name in _NORMS:
        norm = _NORMS[name]
        return _mean_statistic(
            lambda p: _by_bin(p.confidence, p.correct, n_bins),
            lambda means: error_from_sums(means.chunk(3, dim=-1), norm),
        )
    if name in CLASS_SCORES:
        finish = CLASS_SCORES[name]
        return _mean_statistic(_by_class, lambda means: finish(*means.chunk(3, dim=-1)))
    if name == "classwise_ece":
        return _mean_statistic(
            lambda p: _classes_by_bin(p, n_bins),
            lambda means: error_from_sums(means.unflatten(-1, (-1, 3, n_bins)).unbind(-2)).mean(dim=-1),
        )
    if name == "ace":
        return _whole(lambda p: adaptive_calibration_error(p.confidence, p.correct, n_bins=n_bins))
    if name == "kde_ece":
        return _whole(lambda p: kde_calibration_error(p.confidence, p.correct))
    raise unknown_name("metric", name, METRICS)


def _outcomes(logits: np.ndarray, labels: np.ndarray) -> Outcomes:
    return Outcomes.from_logits(torch.tensor(np.asarray(logits)), torch.tensor(np.asarray(labels)))


def _mean_statistic(
    columns: Callable[[Outcomes], Tensor], finish: Callable[[Tensor], Tensor]
) -> MeanStatistic:
    return MeanStatistic(
        lambda logits, labels: columns(_outcomes(logits, labels)).numpy(),
        lambda means: finish(torch.from_numpy(means)).numpy(),
    )


def _whole(metric: Callable[[Outcomes], Tensor]) -> Statistic:
    return lambda logits, labels: float(metric(_outcomes(logits, labels)))


def _by_bin(confidence: Tensor, correct: Tensor, n_bins: int) -> Tensor:
    member = _one_hot(bin_indices(confidence, n_bins), n_bins)
    columns = (member, member * confidence[:, None], member * correct[:, None])
    return torch.cat(columns, dim=1)  # (N, 3 n_bins)


def _by_class(p: Outcomes) -> Tensor:
    size = p.probs.shape[1]
    true = _one_hot(p.labels, size)
    return torch.cat([true * p.correct[:, None], true, _one_hot(p.predictions, size)], dim=1)  # (N, 3 C)


def _classes_by_bin(p: Outcomes, n_bins: int) -> Tensor:
    classes = range(p.probs.shape[1])
    return torch.cat(
        [_by_bin(p.probs[:, c], p.labels == c, n_bins) for c in classes], dim=1
    )  # (N, C 3 n_bins)


def _one_hot(indices: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(indices, size).double()
