"""The metrics as torchmetrics classes, fed batch by batch and pooled over processes.

The result is that of the function on all the data at once. Every `update` takes `update(probs, labels)` or
`update(logits=logits, labels=labels)`; the softmax of logits is taken in float64. States are float64 and stay
so under `.half()` and `.to(dtype)`; on MPS, which has no float64, they are float32.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import fields
from typing import Any, get_args

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from calib.core.binning import bin_edges
from calib.core.errors import unknown_name
from calib.metrics.calibration import Norm, error_from_sums
from calib.metrics.kinds import BinSums, ClassCounts, Kind, MeanOverSamples, WholeSet
from calib.metrics.outcomes import Outcomes
from calib.metrics.pooled import NO_SAMPLE, Pooled
from calib.metrics.registry import METRICS
from calib.metrics.segmentation import ImageSums, image_sums, summarize_segmentation

SUMS = tuple(each.name for each in fields(ImageSums))


class OfKind(Pooled):
    """Any metric, by its kind: states are what the kind keeps of a batch, added up or put side by side.

    Args:
        kind: The kind, with the metric's function.
        num_classes: C. None: any, where nothing is kept per class.
        n_bins: Number of equally wide bins on [0, 1], where the metric has bins.
        higher_is_better: As in METRICS.
        **settings: Handed to torchmetrics.Metric.

    Raises:
        ValueError: If n_bins is not positive.

    Example:
        >>> metric = OfKind(WholeSet(lambda confidence: confidence.median()))
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        >>> float(metric.compute())
        0.75
    """

    def __init__(
        self,
        kind: Kind,
        num_classes: int | None = None,
        n_bins: int = 10,
        higher_is_better: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.kind, self.num_classes, self.n_bins = kind, num_classes, len(bin_edges(n_bins)) - 1
        self._higher_is_better = higher_is_better
        self._names = kind.states(num_classes or 0, self.n_bins)
        for name, shape in self._names.items():
            empty: Any = torch.zeros(shape, dtype=torch.float64) if kind.pooled == "sum" else []
            self.add_state(name, default=empty, dist_reduce_fx=kind.pooled)

    @property
    def higher_is_better(self) -> bool | None:
        """Whether more is better; None: neither."""
        return self._higher_is_better

    def update(
        self, probs: Tensor | None = None, labels: Tensor | None = None, *, logits: Tensor | None = None
    ) -> None:
        """Return nothing; add a batch of probs (B, C) or logits (B, C) with labels (B,)."""
        p = _read(probs, labels, logits, self.num_classes)
        for name, value in zip(self._names, self.kind.kept(p, self.n_bins), strict=True):
            state = getattr(self, name)
            if self.kind.pooled == "sum":
                setattr(self, name, state + value.to(state))
            else:
                state.append(self._as_state(value))

    def compute(self) -> Tensor:
        """Return the metric of everything so far, ()."""
        summed = self.kind.pooled == "sum"
        if not any(
            bool(getattr(self, name).any()) if summed else self._samples(name) for name in self._names
        ):
            raise ValueError(NO_SAMPLE)
        return self.kind.finish([dim_zero_cat(getattr(self, name)) for name in self._names], self.n_bins)

    def nothing(self) -> dict[str, Tensor]:
        """Return no rows of what is put side by side; sums have none."""
        if self.kind.pooled == "sum":
            return {}
        size = self.num_classes or 2
        one = Outcomes.from_probs(torch.full((1, size), 1 / size), torch.zeros(1, dtype=torch.int64))
        kept = self.kind.kept(one, self.n_bins)
        return {name: value[:0] for name, value in zip(self._names, kept, strict=True)}


class CalibrationError(OfKind):
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

    def __init__(self, n_bins: int = 10, norm: Norm = "l1", **settings: Any) -> None:
        if norm not in get_args(Norm):
            raise unknown_name("norm", norm, get_args(Norm))
        kind = BinSums(functools.partial(error_from_sums, norm=norm))
        super().__init__(kind, n_bins=n_bins, higher_is_better=False, **settings)


class ClasswiseCalibrationError(OfKind):
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

    def __init__(self, num_classes: int, n_bins: int = 10, **settings: Any) -> None:
        kind = BinSums(error_from_sums, per_class=True)
        super().__init__(kind, num_classes, n_bins, higher_is_better=False, **settings)


class SampleMean(OfKind):
    """The mean over samples of a score each sample has for itself; states are two scalar sums.

    Args:
        score: A metric that is such a mean: "accuracy", "brier", "nll", "confidence", "confidence_gap".
        **settings: Handed to torchmetrics.Metric.

    Raises:
        ValueError: If the score is unknown.

    Example:
        >>> metric = SampleMean("brier")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> float(metric.compute())
        0.3125
    """

    def __init__(self, score: str, **settings: Any) -> None:
        super().__init__(**_row("sample score", score, MeanOverSamples), **settings)


class ClassScore(OfKind):
    """A metric of class counts; states are three (num_classes,) counts.

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

    def __init__(self, num_classes: int, score: str, **settings: Any) -> None:
        super().__init__(num_classes=num_classes, **_row("class score", score, ClassCounts), **settings)


class SetCalibrationError(OfKind):
    """Adaptive, KDE- or smooth ECE, which need all samples at once; states are lists of (B,) tensors.

    Args:
        score: "ace", "kde_ece", "smooth_ece" or "null_ece".
        n_bins: Number of bins of "ace" and "null_ece"; the others have none.
        **settings: Handed to torchmetrics.Metric.

    Raises:
        ValueError: If the score is unknown.

    Example:
        >>> metric = SetCalibrationError("ace", n_bins=2)
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> float(metric.compute())
        0.375
    """

    def __init__(self, score: str, n_bins: int = 10, **settings: Any) -> None:
        super().__init__(n_bins=n_bins, **_row("set score", score, WholeSet), **settings)


class SegmentationCalibration(Pooled):
    """Dice, ACE, ECE and MCE of images with a class per pixel, as `calib.metrics.summarize_segmentation`.

    States are a few sums per image, put side by side over batches and processes.

    Args:
        class_names: C names, the background first.
        n_bins: Bins on [0, 1].
        include_background: Whether the means over classes hold class 0.
        **settings: Handed to torchmetrics.Metric.

    Example:
        >>> metric = SegmentationCalibration(["rest", "nucleus"])
        >>> probs = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).view(1, 2, 1, 2)
        >>> metric.update(probs, torch.tensor([[[0, 1]]]))
        >>> values = metric.compute()
        >>> values["dice"], round(values["micro_ace"], 3)
        (1.0, 0.2)
    """

    def __init__(
        self,
        class_names: Sequence[str],
        n_bins: int = 20,
        include_background: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.class_names, self.n_bins, self.include_background = [*class_names], n_bins, include_background
        for name in SUMS:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Return nothing; add a batch of probs (B, C, *S) with labels (B, *S)."""
        for name, tensor in image_sums(probs, labels, n_bins=self.n_bins).tensors.items():
            getattr(self, name).append(self._as_state(tensor))

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name, see `calib.metrics.summarize_segmentation`."""
        if not self._samples(SUMS[0]):
            raise ValueError(NO_SAMPLE)
        sums = ImageSums(**{name: dim_zero_cat(getattr(self, name)).cpu() for name in SUMS})
        return summarize_segmentation(sums, self.class_names, include_background=self.include_background)

    def nothing(self) -> dict[str, Tensor]:
        """Return the sums of no image."""
        size = len(self.class_names)
        labels = torch.zeros((1, 1), dtype=torch.int64)
        one = image_sums(torch.full((1, size, 1), 1 / size), labels, n_bins=self.n_bins)
        return {name: tensor[:0] for name, tensor in one.tensors.items()}


def metric_collection(
    num_classes: int, n_bins: int = 10, prefix: str | None = None, **settings: Any
) -> torchmetrics.MetricCollection:
    """Return the metrics of `calib.metrics.summarize` as a torchmetrics.MetricCollection, by the same names.

    Args:
        num_classes: C.
        n_bins: Number of bins of every binned metric.
        prefix: Put before each name, e.g. "val/"; None for nothing.
        **settings: Handed to every torchmetrics.Metric, e.g. sync_on_compute=False where every process has
            seen all samples.

    Example:
        >>> metrics = metric_collection(num_classes=2, prefix="val/")
        >>> metrics.update(logits=torch.tensor([[0.0, 0.0], [1.0, 0.0]]), labels=torch.tensor([0, 1]))
        >>> values = metrics.compute()
        >>> round(float(values["val/accuracy"]), 4), round(float(values["val/nll"]), 4)
        (0.5, 1.0032)
    """
    # Metrics with equal states share them. Named here because torchmetrics would find out by comparing the
    # states of the first batch, where two different metrics can agree by chance.
    groups: dict[Hashable, list[str]] = {}
    for name, metric in METRICS.items():
        alone = isinstance(metric.kind, MeanOverSamples)  # its sums have the names of others'
        states = metric.kind.states(num_classes, n_bins)
        groups.setdefault(name if alone else (type(metric.kind), *states), []).append(name)
    return torchmetrics.MetricCollection(
        {
            name: OfKind(metric.kind, num_classes, n_bins, metric.higher_is_better, **settings)
            for name, metric in METRICS.items()
        },
        prefix=prefix,
        compute_groups=list(groups.values()),
    )


def _row(what: str, name: str, kind: type[Kind]) -> dict[str, Any]:
    """Return kind and direction of a metric of that kind."""
    known = {key: metric for key, metric in METRICS.items() if isinstance(metric.kind, kind)}
    if name not in known:
        raise unknown_name(what, name, known)
    return {"kind": known[name].kind, "higher_is_better": known[name].higher_is_better}


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
