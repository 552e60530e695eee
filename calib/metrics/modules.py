"""The metrics as torchmetrics classes, fed batch by batch and pooled over processes.

The result is that of the function on all the data at once. Every `update` takes `update(probs, labels)` or
`update(logits=logits, labels=labels)`; the softmax of logits is taken in float64. States are float64 and stay
so under `.half()` and `.to(dtype)`; on MPS, which has no float64, they are float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.data import dim_zero_cat

from calib.core.binning import bin_edges, bin_statistics, sum_dtype
from calib.core.errors import unknown_name
from calib.metrics.calibration import (
    Norm,
    adaptive_calibration_error,
    classwise_statistics,
    error_from_sums,
)
from calib.metrics.classification import (
    balanced_accuracy_from_counts,
    brier_per_sample,
    class_counts,
    macro_f1_from_counts,
    nll_per_sample,
)
from calib.metrics.kde import kde_calibration_error
from calib.metrics.outcomes import Outcomes

SAMPLE_SCORES: dict[str, Callable[[Outcomes], Tensor]] = {
    "accuracy": lambda p: p.correct.double(),
    "brier": lambda p: brier_per_sample(p.probs, p.labels),
    "nll": lambda p: nll_per_sample(p.log_probs, p.labels),
    "confidence": lambda p: p.confidence,
    "confidence_gap": lambda p: p.confidence - p.correct.double(),
}
CLASS_SCORES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "balanced_accuracy": balanced_accuracy_from_counts,
    "macro_f1": macro_f1_from_counts,
}
SET_SCORES: dict[str, Callable[..., Tensor]] = {
    "ace": adaptive_calibration_error,
    "kde_ece": kde_calibration_error,
}


def _apply_keeping_float64(
    self: Metric, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ""
) -> Any:
    """Move the states of a metric without rounding them; `.to("mps")` would refuse float64 otherwise."""

    @functools.wraps(fn)  # torchmetrics reads the name of fn
    def move(value: Tensor) -> Tensor:
        if value.dtype != torch.float64:
            return fn(value)
        try:
            device = fn(value).device
        except TypeError:  # a device without float64
            return fn(value.float())
        return value.to(device, sum_dtype(device))

    return Metric._apply(self, move, exclude_state)


class CalibrationError(Metric):
    """ECE, RMSCE, MCE, over- or underconfidence of the top label; states are (n_bins,) sums.

    Args:
        n_bins: Number of equally wide bins on [0, 1].
        norm: "l1" ECE, "l2" RMSCE, "max" MCE, "over" overconfidence, "under" underconfidence.
        **settings: Handed to torchmetrics.Metric.

    Raises:
        ValueError: If n_bins is not positive or the norm is unknown.

    Example:
        >>> metric = CalibrationError(n_bins=10)
        >>> metric.update(torch.tensor([[0.95, 0.05]]), torch.tensor([0]))
        >>> metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
        >>> round(float(metric.compute()), 4)
        0.475
    """

    is_differentiable: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = False
    full_state_update: ClassVar[bool] = False
    _apply = _apply_keeping_float64

    def __init__(self, n_bins: int = 10, norm: Norm = "l1", **settings: Any) -> None:
        super().__init__(**settings)
        if norm not in get_args(Norm):
            raise unknown_name("norm", norm, get_args(Norm))
        self.n_bins, self.norm = len(bin_edges(n_bins)) - 1, norm
        _add_sums(self, ("counts", "confidence_sums", "correct_sums"), n_bins)

    def update(
        self, probs: Tensor | None = None, labels: Tensor | None = None, *, logits: Tensor | None = None
    ) -> None:
        """Return nothing; add a batch of probs (B, C) or logits (B, C) with labels (B,)."""
        p = _read(probs, labels, logits)
        _accumulate(self, bin_statistics(p.confidence, p.correct, self.n_bins))

    def compute(self) -> Tensor:
        """Return the calibration error of everything so far, ()."""
        _refuse_empty(self)
        return error_from_sums(_sums(self), self.norm)


class ClasswiseCalibrationError(Metric):
    """Classwise ECE, the mean over classes; states are (num_classes, n_bins) sums.

    Args:
        num_classes: C.
        n_bins: Number of equally wide bins on [0, 1].
        **settings: Handed to torchmetrics.Metric.

    Example:
        >>> metric = ClasswiseCalibrationError(num_classes=2)
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
        >>> round(float(metric.compute()), 4)
        0.25
    """

    is_differentiable: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = False
    full_state_update: ClassVar[bool] = False
    _apply = _apply_keeping_float64

    def __init__(self, num_classes: int, n_bins: int = 10, **settings: Any) -> None:
        super().__init__(**settings)
        self.num_classes, self.n_bins = num_classes, len(bin_edges(n_bins)) - 1
        _add_sums(self, ("counts", "prob_sums", "label_sums"), num_classes, n_bins)

    def update(
        self, probs: Tensor | None = None, labels: Tensor | None = None, *, logits: Tensor | None = None
    ) -> None:
        """Return nothing; add a batch of probs (B, C) or logits (B, C) with labels (B,)."""
        p = _read(probs, labels, logits, self.num_classes)
        _accumulate(self, classwise_statistics(p.probs, p.labels, self.n_bins))

    def compute(self) -> Tensor:
        """Return the classwise ECE of everything so far, ()."""
        _refuse_empty(self)
        return error_from_sums(_sums(self)).mean()


class SampleMean(Metric):
    """The mean over samples of a score each sample has for itself; states are two scalar sums.

    Args:
        score: "accuracy", "brier", "nll", "confidence" or "confidence_gap".
        **settings: Handed to torchmetrics.Metric.

    Raises:
        ValueError: If the score is unknown.

    Example:
        >>> metric = SampleMean("brier")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> float(metric.compute())
        0.3125
    """

    is_differentiable: ClassVar[bool] = False
    full_state_update: ClassVar[bool] = False
    _apply = _apply_keeping_float64

    def __init__(self, score: str, **settings: Any) -> None:
        super().__init__(**settings)
        if score not in SAMPLE_SCORES:
            raise unknown_name("sample score", score, SAMPLE_SCORES)
        self.score = score
        _add_sums(self, ("count", "total"))

    def update(
        self, probs: Tensor | None = None, labels: Tensor | None = None, *, logits: Tensor | None = None
    ) -> None:
        """Return nothing; add a batch of probs (B, C) or logits (B, C) with labels (B,)."""
        p = _read(probs, labels, logits)
        scores = SAMPLE_SCORES[self.score](p)
        _accumulate(self, (scores.new_tensor(len(scores)), scores.sum()))

    def compute(self) -> Tensor:
        """Return the mean of everything so far, ()."""
        _refuse_empty(self)
        count, total = _sums(self)
        return total / count


class ClassScore(Metric):
    """Balanced accuracy or macro-F1; states are three (num_classes,) counts.

    Args:
        num_classes: C.
        score: "balanced_accuracy" or "macro_f1".
        **settings: Handed to torchmetrics.Metric.

    Raises:
        ValueError: If the score is unknown.

    Example:
        >>> metric = ClassScore(num_classes=2, score="balanced_accuracy")
        >>> probs = torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.75, 0.25], [0.25, 0.75]])
        >>> metric.update(probs, torch.tensor([0, 0, 1, 1]))
        >>> float(metric.compute())
        0.75
    """

    is_differentiable: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True
    full_state_update: ClassVar[bool] = False
    _apply = _apply_keeping_float64

    def __init__(self, num_classes: int, score: str, **settings: Any) -> None:
        super().__init__(**settings)
        if score not in CLASS_SCORES:
            raise unknown_name("class score", score, CLASS_SCORES)
        self.num_classes, self.score = num_classes, score
        _add_sums(self, ("hits", "true", "predicted"), num_classes)

    def update(
        self, probs: Tensor | None = None, labels: Tensor | None = None, *, logits: Tensor | None = None
    ) -> None:
        """Return nothing; add a batch of probs (B, C) or logits (B, C) with labels (B,)."""
        p = _read(probs, labels, logits, self.num_classes)
        _accumulate(self, class_counts(p.predictions, p.labels, self.num_classes))

    def compute(self) -> Tensor:
        """Return the score of everything so far, ()."""
        _refuse_empty(self)
        return CLASS_SCORES[self.score](*_sums(self))


class SetCalibrationError(Metric):
    """Adaptive ECE or KDE-ECE, which need all samples at once; states are lists of (B,) confidences and hits.

    Args:
        score: "ace" or "kde_ece".
        n_bins: Number of equal-mass bins of "ace"; "kde_ece" has none.
        **settings: Handed to torchmetrics.Metric.

    Raises:
        ValueError: If the score is unknown.

    Example:
        >>> metric = SetCalibrationError("ace", n_bins=2)
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> float(metric.compute())
        0.375
    """

    is_differentiable: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = False
    full_state_update: ClassVar[bool] = False
    _apply = _apply_keeping_float64

    def __init__(self, score: str, n_bins: int = 10, **settings: Any) -> None:
        super().__init__(**settings)
        if score not in SET_SCORES:
            raise unknown_name("set score", score, SET_SCORES)
        self.score, self.n_bins = score, len(bin_edges(n_bins)) - 1
        self.add_state("confidence", default=[], dist_reduce_fx="cat")
        self.add_state("correct", default=[], dist_reduce_fx="cat")

    def update(
        self, probs: Tensor | None = None, labels: Tensor | None = None, *, logits: Tensor | None = None
    ) -> None:
        """Return nothing; add a batch of probs (B, C) or logits (B, C) with labels (B,)."""
        p = _read(probs, labels, logits)
        self.confidence.append(p.confidence.to(self.device, sum_dtype(self.device)))
        self.correct.append(p.correct.to(self.device))

    def compute(self) -> Tensor:
        """Return the calibration error of everything so far, ()."""
        if isinstance(self.confidence, list) and not self.confidence:
            raise ValueError(_EMPTY)
        settings = {"n_bins": self.n_bins} if self.score == "ace" else {}
        return SET_SCORES[self.score](dim_zero_cat(self.confidence), dim_zero_cat(self.correct), **settings)


def metric_collection(
    num_classes: int, n_bins: int = 10, prefix: str | None = None, **settings: Any
) -> MetricCollection:
    """Return the metrics of `calib.metrics.summarize` as a torchmetrics.MetricCollection, by the same names.

    Args:
        num_classes: C.
        n_bins: Number of bins of ece, mce, ace, classwise_ece, overconfidence and underconfidence.
        prefix: Put before each name, e.g. "val/"; None for nothing.
        **settings: Handed to every torchmetrics.Metric, e.g. sync_on_compute=False where every process has
            seen all samples.

    Example:
        >>> metrics = metric_collection(num_classes=2, prefix="val/")
        >>> metrics.update(logits=torch.tensor([[0.0, 0.0], [1.0, 0.0]]), labels=torch.tensor([0, 1]))
        >>> values = metrics.compute()
        >>> round(float(values["val/accuracy"]), 4), round(float(values["val/nll"]), 4), len(values)
        (0.5, 1.0032, 14)
    """
    return MetricCollection(
        {
            "accuracy": SampleMean("accuracy", **settings),
            "balanced_accuracy": ClassScore(num_classes, "balanced_accuracy", **settings),
            "macro_f1": ClassScore(num_classes, "macro_f1", **settings),
            "ece": CalibrationError(n_bins, **settings),
            "mce": CalibrationError(n_bins, "max", **settings),
            "ace": SetCalibrationError("ace", n_bins, **settings),
            "classwise_ece": ClasswiseCalibrationError(num_classes, n_bins, **settings),
            "kde_ece": SetCalibrationError("kde_ece", **settings),
            "brier": SampleMean("brier", **settings),
            "nll": SampleMean("nll", **settings),
            "confidence": SampleMean("confidence", **settings),
            "confidence_gap": SampleMean("confidence_gap", **settings),
            "overconfidence": CalibrationError(n_bins, "over", **settings),
            "underconfidence": CalibrationError(n_bins, "under", **settings),
        },
        prefix=prefix,
        # Metrics with equal states share them. Named here because torchmetrics would find out by comparing
        # the states of the first batch, where two different metrics can agree by chance.
        compute_groups=[
            ["ece", "mce", "overconfidence", "underconfidence"],
            ["balanced_accuracy", "macro_f1"],
            ["ace", "kde_ece"],
            *(
                [name]
                for name in ("accuracy", "brier", "nll", "confidence", "confidence_gap", "classwise_ece")
            ),
        ],
    )


_EMPTY = "compute() before any update(): no sample, no metric."


def _read(
    probs: Tensor | None, labels: Tensor | None, logits: Tensor | None, num_classes: int | None = None
) -> Outcomes:
    if labels is not None and probs is not None and logits is None:
        p = Outcomes.from_probs(probs, labels)
    elif labels is not None and logits is not None and probs is None:
        p = Outcomes.from_logits(logits, labels)
    else:
        values = {"probs": probs, "labels": labels, "logits": logits}
        given = [name for name, value in values.items() if value is not None]
        raise ValueError(f"Give update(probs, labels) or update(logits=..., labels=...), got {given}.")
    columns = p.probs.shape[1]
    if num_classes is not None and columns != num_classes:
        raise ValueError(
            f"This metric was made for num_classes={num_classes}, got scores with {columns} columns."
        )
    return p


def _add_sums(metric: Metric, names: Sequence[str], *shape: int) -> None:
    for name in names:
        metric.add_state(name, default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
    metric.sum_names = tuple(names)


def _accumulate(metric: Metric, sums: Sequence[Tensor]) -> None:
    for name, value in zip(metric.sum_names, sums, strict=True):
        state = getattr(metric, name)
        setattr(metric, name, state + value.to(state))


def _sums(metric: Metric) -> list[Tensor]:
    return [getattr(metric, name) for name in metric.sum_names]


def _refuse_empty(metric: Metric) -> None:
    if not any(bool(value.any()) for value in _sums(metric)):
        raise ValueError(_EMPTY)
