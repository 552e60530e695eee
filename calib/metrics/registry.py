"""All metrics of a set of predictions under the names used everywhere: logs, metrics.json, tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from calib.metrics import calibration, kde
from calib.metrics import classification as scores
from calib.metrics.outcomes import Outcomes


class MetricInfo(NamedTuple):
    """A metric of `summarize`: its function, the better direction, and what it is in a few words."""

    function: Callable[..., Tensor]
    higher_is_better: bool | None  # None: neither; a confidence is no merit, a gap is best at 0
    description: str


METRICS: dict[str, MetricInfo] = {
    "accuracy": MetricInfo(scores.accuracy, True, "share of correct predictions"),
    "balanced_accuracy": MetricInfo(scores.balanced_accuracy, True, "mean recall over the classes present"),
    "macro_f1": MetricInfo(scores.macro_f1, True, "mean F1 over the classes present or predicted"),
    "ece": MetricInfo(
        calibration.expected_calibration_error, False, "mean |confidence - accuracy| over equally wide bins"
    ),
    "mce": MetricInfo(
        calibration.maximum_calibration_error, False, "largest |confidence - accuracy| of a bin"
    ),
    "ace": MetricInfo(
        calibration.adaptive_calibration_error, False, "mean |confidence - accuracy| over equally full bins"
    ),
    "classwise_ece": MetricInfo(
        calibration.classwise_calibration_error, False, "ECE of each class probability, averaged"
    ),
    "kde_ece": MetricInfo(kde.kde_calibration_error, False, "mean |confidence - smoothed accuracy|"),
    "brier": MetricInfo(scores.brier_score, False, "squared error of the probabilities, summed over classes"),
    "nll": MetricInfo(scores.negative_log_likelihood, False, "negative log-likelihood in nats"),
    "confidence": MetricInfo(calibration.mean_confidence, None, "mean confidence"),
    "confidence_gap": MetricInfo(calibration.confidence_gap, None, "mean confidence - accuracy"),
    "overconfidence": MetricInfo(
        calibration.overconfidence, False, "the part of the ECE from overconfident bins"
    ),
    "underconfidence": MetricInfo(
        calibration.underconfidence, False, "the part of the ECE from underconfident bins"
    ),
}


def summarize(
    logits: Tensor, labels: Tensor, *, class_names: Sequence[str] | None = None, n_bins: int = 10
) -> dict[str, Any]:
    """Return every metric of METRICS by name as a float, and n, n_bins and per_class.

    Args:
        logits: (N, C), finite; the softmax is taken in float64.
        labels: (N,) class indices.
        class_names: C names for `per_class`; None for "0", "1", ...
        n_bins: Number of bins of every binned metric.

    Returns:
        Floats under the names of METRICS, ints n and n_bins, and per_class, the list of `per_class_table`.
        What is undefined is nan: kde_ece of a single sample, and quantities of classes without samples or
        predictions.

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
    top = (p.confidence, p.correct)
    values = {
        "accuracy": scores.accuracy(p.predictions, p.labels),
        "balanced_accuracy": scores.balanced_accuracy(p.predictions, p.labels),
        "macro_f1": scores.macro_f1(p.predictions, p.labels),
        "ece": calibration.expected_calibration_error(*top, n_bins=n_bins),
        "mce": calibration.maximum_calibration_error(*top, n_bins=n_bins),
        "ace": calibration.adaptive_calibration_error(*top, n_bins=n_bins),
        "classwise_ece": calibration.classwise_calibration_error(p.probs, p.labels, n_bins=n_bins),
        "kde_ece": kde.kde_calibration_error(*top),
        "brier": scores.brier_score(p.probs, p.labels),
        "nll": scores.negative_log_likelihood(logits, labels),
        "confidence": calibration.mean_confidence(p.confidence),
        "confidence_gap": calibration.confidence_gap(*top),
        "overconfidence": calibration.overconfidence(*top, n_bins=n_bins),
        "underconfidence": calibration.underconfidence(*top, n_bins=n_bins),
    }
    return {
        **{name: float(value) for name, value in values.items()},
        "n": len(p.labels),
        "n_bins": n_bins,
        "per_class": scores.per_class_table(p.probs, p.labels, class_names=class_names, n_bins=n_bins),
    }
