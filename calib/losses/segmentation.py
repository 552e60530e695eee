"""Losses of segmentation: soft Dice, and mL1-ACE, the average calibration error of every image and class.

Images of any number of spatial axes: logits (B, C, *S) with labels (B, *S). Without spatial axes, logits
(B, C) and labels (B,), the batch is one image and its members the pixels: `ml1_ace` is then binned `smac`
without smoothing, and with one bin `mdca`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from calib.losses.binned import binned_gaps

ACTIVATIONS = ("softmax", "sigmoid")
ABSENT = ("keep", "zero", "leave_out")


def ml1_ace(
    logits: Tensor,
    labels: Tensor,
    *,
    n_bins: int = 20,
    soft: bool = False,
    activation: str = "softmax",
    include_background: bool = True,
    absent: str = "keep",
    class_weights: Sequence[float] | None = None,
    closed: str = "right",
) -> Tensor:
    """Return mL1-ACE: the mean over images and classes of the average calibration error of the pixels.

    For image b and class c, over the non-empty of `n_bins` bins of the class's probability p:
    `f_bc = mean_m |mean_{i in m} p_i - mean_{i in m} y_i|`, and the loss is `mean_bc f_bc`. Every non-empty
    bin counts alike, so the few pixels at the edges of structures count as much as the many that are certain.
    Hard bins calibrate at hardly any cost of Dice; soft bins, through which the gradient flows, calibrate
    more and cost some (figures of the authors). Use it beside a loss that teaches the task.

    A bin with a single pixel asks for certainty: of small images, or of a batch of samples (no spatial axes),
    take few bins.

    Args:
        logits: (B, C, *S), two- or three-dimensional images, or (B, C).
        labels: (B, *S) int64 in [0, C). With the sigmoid: (B, C, *S) of 0 and 1, or (B, *S) of classes; with
            one class (B, *S) of 0 and 1.
        n_bins: Bins on [0, 1].
        soft: Soft bins: linear weights between neighbouring centres.
        activation: "softmax", or "sigmoid" for classes that may overlap.
        include_background: Whether class 0 counts.
        absent: What a class counts that is not in an image's mask. "keep": as any other (the first release,
            ACE-DLIRIS). "zero": 0, and still in the mean (the default of the second release and of MONAI's
            pull request). "leave_out": nothing, the mean is over those that are there.
        class_weights: Factor per class that counts. None: 1.
        closed: Which side of a hard bin belongs to it, "right" or "left".

    Returns:
        (), in [0, 1] (without weights). With `absent="leave_out"` and no class in any image, 0.

    Raises:
        ValueError: A setting or a shape is not as above.

    Example:
        >>> logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
        >>> labels[0, 0] = 1  # p = 1/2 everywhere, a quarter of the pixels are 1
        >>> ml1_ace(logits, labels).item()
        0.25

    Source: Barfoot et al., MICCAI 2024 (cai4cai/ACE-DLIRIS, 83d163c) and arXiv 2506.03942
        (cai4cai/Average-Calibration-Losses, 5ad8418), written from the formulas. `absent="keep"` gives the
        values of the first, `absent="zero"` those of the second.
    """
    each = ml1_ace_per_class(
        logits,
        labels,
        n_bins=n_bins,
        soft=soft,
        activation=activation,
        include_background=include_background,
        absent=absent,
        class_weights=class_weights,
        closed=closed,
    )
    if absent != "leave_out":
        return each.mean()
    there = ~each.isnan() | logits.isnan().any()  # NaN of the logits has to come out
    return torch.where(there, each, torch.zeros_like(each)).sum() / there.sum().clamp_min(1)


def ml1_ace_per_class(
    logits: Tensor,
    labels: Tensor,
    *,
    n_bins: int = 20,
    soft: bool = False,
    activation: str = "softmax",
    include_background: bool = True,
    absent: str = "keep",
    class_weights: Sequence[float] | None = None,
    closed: str = "right",
) -> Tensor:
    """Return the average calibration error of every image and class, (B, C); without background (B, C - 1).

    Args:
        logits: As in `ml1_ace`; without spatial axes B is 1, the batch.
        labels: As there.
        n_bins: As there.
        soft: As there.
        activation: As there.
        include_background: As there.
        absent: As there; "leave_out" gives NaN.
        class_weights: As there.
        closed: As there.

    Raises:
        ValueError: A setting or a shape is not as in `ml1_ace`.

    Example:
        >>> logits, labels = torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 0], [0, 1]]])
        >>> ml1_ace_per_class(logits, labels, absent="zero").mul(12).round().tolist()  # |1/3 - f| * 12
        [[5.0, 1.0, 0.0]]
    """
    if absent not in ABSENT:
        raise ValueError(f"absent must be one of {', '.join(ABSENT)}, got {absent!r}.")
    probs, truth = _probs_and_truth(logits, labels, activation, include_background)
    side: Literal["left", "right"] = closed  # type: ignore[assignment]  # checked by the next line
    each = binned_gaps(probs, truth, n_bins=n_bins, soft=soft, closed=side)  # (B, C)
    if absent != "keep":
        fill = 0.0 if absent == "zero" else math.nan
        each = each.masked_fill(~truth.any(-1), fill)
    if class_weights is None:
        return each
    weights = torch.as_tensor(class_weights, dtype=each.dtype, device=each.device)
    if weights.shape != each.shape[1:] or not bool((weights >= 0).all() & weights.isfinite().all()):
        raise ValueError(
            f"class_weights must be {each.shape[1]} finite numbers of at least 0, one for each class that "
            f"counts, got {class_weights!r}."
        )
    return each * weights


def dice(
    logits: Tensor,
    labels: Tensor,
    *,
    activation: str = "softmax",
    include_background: bool = True,
    squared: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Tensor:
    """Return the soft Dice loss, the mean over images and classes of one minus the overlap.

    `1 - (2 sum_i p_i y_i + smooth_nr) / (sum_i p_i + sum_i y_i + smooth_dr)`. It needs no MONAI; the values
    are those of MONAI's `DiceLoss`.

    Args:
        logits: (B, C, *S), or (B, C): the batch is one image.
        labels: As in `ml1_ace`.
        activation: "softmax" or "sigmoid".
        include_background: Whether class 0 counts.
        squared: Squares in the denominator.
        smooth_nr: Added above: with it an absent class that is not predicted costs nothing.
        smooth_dr: Added below, above 0.

    Returns:
        (), in [0, 1].

    Raises:
        ValueError: A setting or a shape is not as above.

    Example:
        >>> logits, labels = torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 0], [1, 1]]])
        >>> round(dice(logits, labels).item(), 4)  # 1 - 2 * 1 / (2 + 2) for both classes
        0.5

    Source: Milletari et al., 3DV 2016; defaults of MONAI.
    """
    if not smooth_dr > 0 or not smooth_nr >= 0:
        raise ValueError(
            f"smooth_dr of the Dice loss must be above 0 and smooth_nr at least 0, got {smooth_dr} and "
            f"{smooth_nr}."
        )
    probs, truth = _probs_and_truth(logits, labels, activation, include_background)
    hits = (probs * truth).sum(-1)  # (B, C)
    mass = (probs.square() if squared else probs).sum(-1) + truth.sum(-1)
    return (1 - (2 * hits + smooth_nr) / (mass + smooth_dr)).mean()


def _probs_and_truth(
    logits: Tensor, labels: Tensor, activation: str, include_background: bool
) -> tuple[Tensor, Tensor]:
    """Return probabilities and whether each pixel is of each class, (B, C, N) float and bool."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be softmax or sigmoid, got {activation!r}.")
    if logits.ndim < 2:
        raise ValueError(f"logits must be (B, C, *S), got shape {tuple(logits.shape)}.")
    n_classes = logits.shape[1]
    if activation == "softmax" and n_classes < 2:
        raise ValueError(
            "The softmax of one channel is always 1. Give one channel per class, the background among them, "
            "or activation='sigmoid'."
        )
    if not include_background and n_classes < 2:
        raise ValueError("include_background=False leaves no class: the logits have one channel.")
    truth = _truth(logits, labels, activation)  # (B, C, *S)
    probs = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
    if logits.ndim == 2:  # the batch is one image
        probs, truth = probs.T.unsqueeze(0), truth.T.unsqueeze(0)
    first = 0 if include_background else 1
    return probs[:, first:].flatten(2), truth[:, first:].flatten(2)


def _truth(logits: Tensor, labels: Tensor, activation: str) -> Tensor:
    """Return whether each pixel is of each class, (B, C, *S) bool; raises where a label is none."""
    per_class = activation == "sigmoid" and labels.shape == logits.shape and logits.ndim > 2
    single = activation == "sigmoid" and logits.shape[1] == 1 and not per_class
    expected = logits.shape if per_class else (logits.shape[0], *logits.shape[2:])
    if labels.shape != expected:
        raise ValueError(
            f"labels must have shape {tuple(expected)} for logits of shape {tuple(logits.shape)}, got "
            f"{tuple(labels.shape)}."
        )
    if per_class or single:
        if labels.device.type == "cpu" and not bool(((labels == 0) | (labels == 1)).all()):
            wrong = labels[(labels != 0) & (labels != 1)][0].item()
            raise ValueError(f"labels of overlapping classes must be 0 or 1, got {wrong}.")
        return labels.bool().reshape(logits.shape)
    truth = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    return truth.scatter_(1, labels.unsqueeze(1), True)  # raises on labels outside [0, C)
