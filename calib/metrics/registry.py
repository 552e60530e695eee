"""The table of metrics: the one place where a metric has its name, its kind and its column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from calib.core.errors import unknown_name
from calib.metrics.calibration import adaptive_calibration_error, error_from_sums
from calib.metrics.chance import null_ece
from calib.metrics.classification import (
    balanced_accuracy_from_counts,
    brier_per_sample,
    macro_f1_from_counts,
    nll_per_sample,
    per_class_table,
)
from calib.metrics.columns import Column
from calib.metrics.details import calibration_details
from calib.metrics.kde import kde_calibration_error
from calib.metrics.kinds import BinSums, ClassCounts, Kind, MeanOverSamples, WholeSet
from calib.metrics.outcomes import Outcomes
from calib.metrics.smooth import smooth_calibration_error
from calib.stats import Statistic


@dataclass(frozen=True)
class Metric:
    """A row of METRICS.

    Attributes:
        kind: How the metric follows from the samples, with its function; see `calib.metrics.kinds`.
        description: What it is in a few words.
        higher_is_better: None: neither; a confidence is no merit, a gap is best at 0.
        column: Its column in tables of results. None: it has none.
        biased_upwards: Whether noise raises it, as it does a mean of absolute values: the percentile interval
            is off by that bias, the basic ("mirrored") one much less; see `interval_statistic`.
    """

    kind: Kind
    description: str
    _: KW_ONLY
    higher_is_better: bool | None
    column: Column | None = None
    biased_upwards: bool = False

    @property
    def interval_kind(self) -> Literal["percentile", "basic"]:
        """The bootstrap interval that suits it, see `calib.stats.bootstrap_interval`."""
        return "basic" if self.biased_upwards else "percentile"

    @property
    def compared(self) -> bool:
        """Whether tables that compare show it; resamples of a whole set, one by one, would take minutes."""
        return self.kind.pooled == "sum"


def _right(correct: Tensor) -> Tensor:
    return correct.double()


def _itself(confidence: Tensor) -> Tensor:
    return confidence


def _gap(confidence: Tensor, correct: Tensor) -> Tensor:
    return confidence - correct.double()


def _calibration_error(kind: Kind, description: str, column: Column | None = None) -> Metric:
    return Metric(kind, description, higher_is_better=False, column=column, biased_upwards=True)


# In the order of metrics.json; the order of columns is their own.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        MeanOverSamples(_right),
        "share of correct predictions",
        higher_is_better=True,
        column=Column("accuracy %", order=1),
    ),
    "balanced_accuracy": Metric(
        ClassCounts(balanced_accuracy_from_counts),
        "mean recall over the classes present",
        higher_is_better=True,
        column=Column("bal. acc. %", order=2),
    ),
    "macro_f1": Metric(
        ClassCounts(macro_f1_from_counts),
        "mean F1 over the classes present or predicted",
        higher_is_better=True,
        column=Column("macro-F1 %", order=3),
    ),
    "ece": _calibration_error(
        BinSums(error_from_sums),
        "mean |confidence - accuracy| over equally wide bins",
        column=Column("ECE %", order=4, beside="null_ece", beside_title="chance"),
    ),
    "null_ece": Metric(
        WholeSet(null_ece),
        "mean ECE of a perfectly calibrated model with these confidences",
        higher_is_better=None,
    ),
    "mce": _calibration_error(
        BinSums(partial(error_from_sums, norm="max")), "largest |confidence - accuracy| of a bin"
    ),
    "ace": _calibration_error(
        WholeSet(adaptive_calibration_error),
        "mean |confidence - accuracy| over equally full bins",
        column=Column("adaptive ECE %", order=5),
    ),
    "classwise_ece": _calibration_error(
        BinSums(error_from_sums, per_class=True), "ECE of each class probability, averaged"
    ),
    "kde_ece": _calibration_error(WholeSet(kde_calibration_error), "mean |confidence - smoothed accuracy|"),
    "smooth_ece": _calibration_error(
        WholeSet(smooth_calibration_error), "ECE smoothed as widely as it is large, without bins"
    ),
    "brier": Metric(
        MeanOverSamples(brier_per_sample),
        "squared error of the probabilities, summed over classes",
        higher_is_better=False,
        column=Column("Brier", decimals=3, order=7),
    ),
    "nll": Metric(
        MeanOverSamples(nll_per_sample),
        "negative log-likelihood in nats",
        higher_is_better=False,
        column=Column("NLL", decimals=3, order=6),
    ),
    "confidence": Metric(MeanOverSamples(_itself), "mean confidence", higher_is_better=None),
    "confidence_gap": Metric(
        MeanOverSamples(_gap),
        "mean confidence - accuracy",
        higher_is_better=None,
        column=Column("conf. - acc. %", signed=True, order=8),
    ),
    "overconfidence": _calibration_error(
        BinSums(partial(error_from_sums, norm="over")), "the part of the ECE from overconfident bins"
    ),
    "underconfidence": _calibration_error(
        BinSums(partial(error_from_sums, norm="under")), "the part of the ECE from underconfident bins"
    ),
}


def summarize(
    logits: Tensor, labels: Tensor, *, class_names: Sequence[str] | None = None, n_bins: int = 10
) -> dict[str, Any]:
    """Return every metric of METRICS by name as a float, and n, n_bins, per_class and calibration.

    Args:
        logits: (N, C), finite; the softmax is taken in float64.
        labels: (N,) class indices.
        class_names: C names for `per_class`; None for "0", "1", ...
        n_bins: Number of bins of every binned metric.

    Returns:
        Floats under the names of METRICS, ints n and n_bins; per_class, the list of `per_class_table`;
        calibration, the dictionary of `summarize_calibration`. What is undefined is nan: kde_ece of a single
        sample, quantities of classes without samples or predictions, and what calibration names.

    Raises:
        ValueError: If the inputs are not as above or the number of names is not C.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 0.0]])
        >>> labels = torch.tensor([0, 1, 2, 1])
        >>> summary = summarize(logits, labels, class_names=["adipose", "stroma", "tumour"])
        >>> {name: round(summary[name], 4) for name in ("accuracy", "ece", "nll")}
        {'accuracy': 0.75, 'ece': 0.114, 'nll': 0.6093}
        >>> [(row["class"], row["recall"]) for row in summary["per_class"]]
        [('adipose', 1.0), ('stroma', 0.5), ('tumour', 1.0)]
    """
    p = Outcomes.from_logits(logits, labels)
    return {
        **{name: float(metric.kind.value(p, n_bins)) for name, metric in METRICS.items()},
        "n": len(p.labels),
        "n_bins": n_bins,
        "per_class": per_class_table(p.probs, p.labels, class_names=class_names, n_bins=n_bins),
        "calibration": calibration_details(p, n_bins=n_bins),
    }


def interval_statistic(name: str, *, n_bins: int = 10) -> Statistic:
    """Return the metric of that name as a statistic of numpy arrays (logits, labels) for `calib.stats`.

    ECE and its kin take absolute values of noise: they are biased upwards in small samples, most of all for a
    well-calibrated system, and a resample has the noise a second time. A percentile interval of them lies too
    high, and that of a difference too near to 0. In a simulation with 545 samples and 10 bins, 95 %
    percentile intervals held the true ECE of an overconfident system in 94 % of 400 trials, that of a
    perfectly calibrated one in none, and the difference of the two in 18 %; with kind="basic" it was 94 %,
    75 % and 86 %. Hence `Metric.interval_kind`. Where a decision hangs on it, look at Brier score and NLL,
    which are plain means.

    "ace", "kde_ece", "smooth_ece" and "null_ece" rank, smooth or count the resample itself and take the slow
    path, one resample at a time; a resample repeats samples, so the leave-one-out of "kde_ece" still sees
    copies of the sample it leaves out.

    Args:
        name: A key of METRICS.
        n_bins: Number of bins of the binned metrics.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> import numpy as np
        >>> from calib.stats import bootstrap_interval
        >>> logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [3.0, 0.0]])
        >>> labels = np.array([0, 1, 1, 0])
        >>> interval = bootstrap_interval(interval_statistic("accuracy"), logits, labels)
        >>> interval.estimate, interval.low, interval.high
        (0.75, 0.25, 1.0)
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name].kind.statistic(n_bins)
