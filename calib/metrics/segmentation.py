"""Metrics of segmentation: Dice and calibration of every image and class, and of a data set, pixel by pixel.

An image leaves a few sums per class and bin (`ImageSums`), from which every metric here follows: a data set
never has to be in memory, and parts of it can be measured apart and joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from calib.core.binning import BinStatistics, bin_statistics
from calib.core.checks import as_float64, check_tensor
from calib.core.errors import unknown_name
from calib.metrics.unit_bins import Pooling, bin_error, pooled_bins

SegmentationMetric = Literal["dice", "ace", "ece", "mce"]
Absent = Literal["keep", "leave_out"]
WATCHED: tuple[SegmentationMetric, ...] = ("dice", "ace", "ece")  # during training


@dataclass(frozen=True)
class ImageSums:
    """What N images leave behind, in their order.

    Attributes:
        counts: (N, C, M) float64, pixels of the image whose probability of the class lies in the bin.
        prob_sums: (N, C, M), the sum of these probabilities.
        label_sums: (N, C, M), how many of these pixels are of the class.
        hits: (N, C) int64, pixels predicted as the class that are of it.
        predicted: (N, C), pixels predicted as the class.
        true: (N, C), pixels of the class.
    """

    counts: Tensor
    prob_sums: Tensor
    label_sums: Tensor
    hits: Tensor
    predicted: Tensor
    true: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def bins(self) -> BinStatistics:
        """The sums per bin, (N, C, M), as `calib.metrics.unit_bins` takes them."""
        return BinStatistics(self.counts, self.prob_sums, self.label_sums)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for a file."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def rows(self, chosen: Tensor | Sequence[int]) -> ImageSums:
        """Return those of some images."""
        index = chosen if isinstance(chosen, Tensor) else torch.tensor(chosen, dtype=torch.int64)
        return ImageSums(**{name: tensor[index] for name, tensor in self.tensors.items()})

    @classmethod
    def joined(cls, parts: Sequence[ImageSums]) -> ImageSums:
        """Return those of all images of the parts, one after the other.

        Raises:
            ValueError: There is no part, or their classes or bins differ.
        """
        if not parts:
            raise ValueError("There are no images to measure.")
        if len({part.counts.shape[1:] for part in parts}) > 1:
            raise ValueError("The parts have other numbers of classes or bins.")
        return cls(
            **{each.name: torch.cat([getattr(part, each.name) for part in parts]) for each in fields(cls)}
        )


def image_sums(
    probs: Tensor, labels: Tensor, *, n_bins: int = 20, closed: Literal["left", "right"] = "right"
) -> ImageSums:
    """Return what a batch of images leaves behind for every metric.

    Args:
        probs: (B, C, *S) in [0, 1], C at least 2; they sum to 1 over the classes, unless classes overlap.
        labels: (B, *S) integers in [0, C).
        n_bins: Bins on [0, 1].
        closed: Which side of a bin belongs to it.

    Raises:
        ValueError: The inputs are not as above; an image without pixels, or NaN.

    Example:
        >>> probs = torch.tensor([[[[0.8, 0.4]], [[0.2, 0.6]]]])  # an image of 1 x 2 pixels
        >>> sums = image_sums(probs, torch.tensor([[[0, 0]]]), n_bins=2)
        >>> sums.counts.tolist(), sums.label_sums.tolist(), sums.hits.tolist()
        ([[[1.0, 1.0], [1.0, 1.0]]], [[[1.0, 1.0], [0.0, 0.0]]], [[1, 0]])
    """
    check_tensor(probs, "probs")
    check_tensor(labels, "labels")
    if probs.ndim < 3 or probs.shape[1] < 2 or not probs.is_floating_point() or probs.numel() == 0:
        raise ValueError(
            "probs must be (B, C, *S) floats of at least 2 classes and one pixel, got "
            f"{tuple(probs.shape)} {probs.dtype}. Of one channel p, the two are 1 - p and p."
        )
    n_classes = probs.shape[1]
    if labels.shape != (probs.shape[0], *probs.shape[2:]) or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers of shape {(probs.shape[0], *probs.shape[2:])} for probs of shape "
            f"{tuple(probs.shape)}, got {tuple(labels.shape)} {labels.dtype}."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= n_classes:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise ValueError(f"labels must lie in 0..{n_classes - 1}, got {wrong}.")
    probs, labels = as_float64(probs.detach()).flatten(2), labels.to(torch.int64).flatten(1)
    labels = labels.to(probs.device)
    truth = torch.zeros(probs.shape, dtype=torch.bool, device=probs.device).scatter_(1, labels[:, None], True)
    chosen = torch.zeros_like(truth).scatter_(1, probs.argmax(1, keepdim=True), True)
    stats = bin_statistics(probs, truth, n_bins, closed=closed)
    counted = ((truth & chosen).sum(-1), chosen.sum(-1), truth.sum(-1))
    return ImageSums(*(each.cpu() for each in (*stats, *counted)))


class SegmentationSums:
    """Collects what images leave behind, batch by batch.

    Args:
        n_bins: Bins on [0, 1].
        closed: Which side of a bin belongs to it.

    Example:
        >>> metric = SegmentationSums(n_bins=2)
        >>> for probability in (0.8, 0.4):
        ...     probs = torch.tensor([1 - probability, probability]).view(1, 2, 1, 1)
        ...     metric.update(probs, torch.ones(1, 1, 1, dtype=torch.int64))
        >>> per_class(metric.sums, "ace"), per_class(metric.sums, "dice", average="micro")
        (tensor([0.4000, 0.4000], dtype=torch.float64), tensor([0.0000, 0.6667], dtype=torch.float64))
    """

    def __init__(self, *, n_bins: int = 20, closed: Literal["left", "right"] = "right") -> None:
        self.n_bins, self.closed = n_bins, closed
        self._parts: list[ImageSums] = []

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Return nothing; add a batch of probs (B, C, *S) with labels (B, *S)."""
        self._parts.append(image_sums(probs, labels, n_bins=self.n_bins, closed=self.closed))

    @property
    def sums(self) -> ImageSums:
        """Those of all images so far.

        Raises:
            ValueError: There was none.
        """
        return ImageSums.joined(self._parts)


def per_image(sums: ImageSums, metric: SegmentationMetric, *, absent: Absent = "keep") -> Tensor:
    """Return a metric of every image and class, (N, C) float64; NaN where it is not defined.

    Dice, `2 hits / (predicted + true)`, is not defined where a class is neither there nor predicted: no
    number is made up for it. Errors of bins compare the probabilities of a class with its share of the pixels
    also where it is absent, unless such classes are left out.

    Args:
        sums: Of the images.
        metric: "dice", or "ace", "ece", "mce", see `calib.metrics.unit_bins.bin_error`.
        absent: What errors are where a class is not in an image's mask: "keep" them, or "leave_out", NaN.

    Raises:
        ValueError: The metric or the way is unknown.

    Example:
        >>> probs = torch.tensor([[0.9, 0.9, 0.1], [0.1, 0.1, 0.9], [0.0, 0.0, 0.0]]).view(1, 3, 1, 3)
        >>> sums = image_sums(probs, torch.tensor([[[0, 1, 1]]]))
        >>> per_image(sums, "dice")
        tensor([[0.6667, 0.6667,    nan]], dtype=torch.float64)
        >>> per_image(sums, "ace", absent="leave_out")
        tensor([[0.2500, 0.2500,    nan]], dtype=torch.float64)
    """
    _check(metric, absent)
    if metric == "dice":
        return 2 * sums.hits.double() / (sums.predicted + sums.true)
    errors = bin_error(sums.bins, metric)
    return errors if absent == "keep" else errors.masked_fill(sums.true == 0, torch.nan)


def per_class(
    sums: ImageSums,
    metric: SegmentationMetric,
    *,
    average: Literal["macro", "micro"] = "macro",
    absent: Absent = "keep",
    pooling: Pooling = "counts",
) -> Tensor:
    """Return a metric of every class over the images, (C,); NaN where no image defines it.

    "macro" is the mean over the images that define it: every image counts alike. "micro" measures all pixels
    as if of one image, in which structures of large images dominate and errors of images cancel.

    Args:
        sums: Of the images.
        metric: As in `per_image`.
        average: Over images, or of all pixels.
        absent: As in `per_image`; with "micro", a class that is in no mask is NaN under "leave_out".
        pooling: How bins are pooled for "micro", see `calib.metrics.unit_bins.pooled_bins`.

    Raises:
        ValueError: A word is unknown.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).view(1, 2, 1, 2).repeat(2, 1, 1, 1)
        >>> sums = image_sums(probs, torch.tensor([[[0, 0]], [[1, 1]]]), n_bins=2)  # each image half wrong
        >>> per_class(sums, "ace"), per_class(sums, "ace", average="micro")
        (tensor([0.5000, 0.5000], dtype=torch.float64), tensor([0.3000, 0.3000], dtype=torch.float64))
    """
    _check(metric, absent)
    if average == "macro":
        return per_image(sums, metric, absent=absent).nanmean(0)
    if average != "micro":
        raise unknown_name("average", average, ("macro", "micro"))
    if metric == "dice":
        return 2 * sums.hits.sum(0).double() / (sums.predicted + sums.true).sum(0)
    errors = bin_error(pooled_bins(sums.bins, pooling), metric)
    return errors if absent == "keep" else errors.masked_fill(sums.true.sum(0) == 0, torch.nan)


def summarize_segmentation(
    sums: ImageSums,
    class_names: Sequence[str],
    *,
    include_background: bool = False,
    absent: Absent = "keep",
) -> dict[str, Any]:
    """Return every metric as plain numbers, None where not defined: of all, and by class.

    Args:
        sums: Of the images.
        class_names: C names, the background first.
        include_background: Whether the means over classes hold class 0; the authors leave it out.
        absent: As in `per_image`.

    Returns:
        {"n": images, "dice": mean over images and classes, ..., "micro_dice": ..., "classes": {name: {...}}}.

    Raises:
        ValueError: There are not C names.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).view(1, 2, 1, 2)
        >>> result = summarize_segmentation(image_sums(probs, torch.tensor([[[0, 1]]])), ["rest", "nucleus"])
        >>> result["dice"], round(result["ace"], 3), result["classes"]["nucleus"]["dice"]
        (1.0, 0.2, 1.0)
    """
    if len(class_names) != sums.counts.shape[1]:
        raise ValueError(f"Expected names of {sums.counts.shape[1]} classes, got {len(class_names)}.")
    by_class: dict[str, dict[str, float | None]] = {name: {} for name in class_names}
    found: dict[str, Any] = {"n": len(sums)}
    first = 0 if include_background else 1
    for average, prefix in (("macro", ""), ("micro", "micro_")):
        for metric in get_args(SegmentationMetric):
            values = per_class(sums, metric, average=average, absent=absent)  # type: ignore[arg-type]
            found[prefix + metric] = _number(values[first:].nanmean())
            for name, value in zip(class_names, values, strict=True):
                by_class[name][prefix + metric] = _number(value)
    return {**found, "classes": by_class}


def _number(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)


def _check(metric: str, absent: str) -> None:
    if metric not in get_args(SegmentationMetric):
        raise unknown_name("metric of segmentation", metric, get_args(SegmentationMetric))
    if absent not in get_args(Absent):
        raise ValueError(f"absent must be one of {', '.join(get_args(Absent))}, got {absent!r}.")
