"""Losses that compare a batch's probabilities with how often the classes occur or the predictions are right.

All four are statistics of a batch, not means over images: with several processes give them the whole
(gathered) batch, and do not expect the value of a batch to be the mean of its halves.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from calib.losses.binned import binned_gaps
from calib.losses.task import smoothed_targets


def smac(
    logits: Tensor, labels: Tensor, *, alpha: float = 0.05, n_bins: int = 1, soft: bool = False
) -> Tensor:
    """Return how far mean probabilities lie from smoothed class frequencies (CalibPrompt's calibration term).

    `mean_c |mean_b p[b, c] - mean_b q[b, c]|` with `q` the labels smoothed by alpha, that is
    `mean_b q[b, c] = f_c (1 - alpha) + (1 - f_c) alpha / (C - 1)` for the class frequency `f_c` of the batch.

    Where every class is equally frequent in the batch the smoothing has no effect at all, and this is `mdca`,
    value and gradient, for every alpha. Few-shot tasks whose batch is the whole balanced training set (two
    classes, 8 shots, batch 16) are always in that case.

    With several bins the two means are taken inside bins of the class's probability, and the loss is
    `mean_c mean_m |mean_{b in m} p[b, c] - mean_{b in m} q[b, c]|` over the non-empty bins m: between this
    term of CalibPrompt (one bin) and mL1-ACE of the batch (alpha 0; `ml1_ace`). The bins of a small batch
    hold single images, for which it asks for certainty: for less than some 100 images take 5 bins at most,
    or soft ones.

    Args:
        logits: (B, C), C at least 2.
        labels: (B,) in [0, C).
        alpha: Smoothing of the class frequencies, in [0, 1); 0 is `mdca`.
        n_bins: Bins of each class's probability on [0, 1]; 1 is the term of CalibPrompt.
        soft: Soft bins, as in `ml1_ace`.

    Returns:
        (), in [0, 2 / C] with one bin, else in [0, 1].

    Raises:
        ValueError: `alpha` is outside [0, 1), `n_bins` is below 1, or there is one class only.

    Example:
        >>> logits, labels = torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])  # p = 1/2, f = (3/4, 1/4)
        >>> round(smac(logits, labels, alpha=0.1).item(), 4)  # target (0.7, 0.3)
        0.2

    Source: CalibPrompt (arXiv 2509.15226), trainers/classification/losses.py, SMAC, commit c6ec13e; the bins
        are those of Barfoot et al., MICCAI 2024.
    Differs: the bins are ours. Published results are with one.
    """
    targets = smoothed_targets(logits, labels, alpha)  # (B, C)
    if n_bins != 1:
        return binned_gaps(logits.softmax(1).T, targets.T, n_bins=n_bins, soft=soft).mean()
    return (logits.softmax(1).mean(0) - targets.mean(0)).abs().mean()


def mdca(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how far mean probabilities lie from class frequencies, `mean_c |mean_b p[b, c] - f_c|`.

    Args:
        logits: (B, C), C at least 2.
        labels: (B,) in [0, C).

    Returns:
        (), in [0, 2 / C].

    Raises:
        ValueError: There is one class only.

    Example:
        >>> mdca(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])).item()  # p = 1/2, f = (3/4, 1/4)
        0.25

    Source: Hebbalaguppe et al., CVPR 2022 (MDCA); CalibPrompt, losses.py, MDCA, commit c6ec13e.
    """
    return smac(logits, labels, alpha=0.0)


def dca(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gap between a batch's mean confidence and its accuracy, `|mean_b max_c p[b, c] - accuracy|`.

    The accuracy is a count, so the gradient flows through the confidence only.

    Args:
        logits: (B, C).
        labels: (B,) in [0, C).

    Returns:
        (), in [0, 1].

    Example:
        >>> dca(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])).item()  # confidence 1/2, accuracy 3/4
        0.25

    Source: Liang et al., BMVC 2020 (DCA); CalibPrompt, losses.py, DCA, commit c6ec13e.
    """
    confidence, correct = _confidence(logits, labels)
    return (confidence.mean() - correct.to(confidence.dtype).mean()).abs()


def mmce(logits: Tensor, labels: Tensor, *, kernel_width: float = 0.4, official: bool = False) -> Tensor:
    """Return the weighted maximum mean calibration error: a kernel distance from confidence to correctness.

    With confidence `r`, `e = correct - r`, kernel `k_ij = exp(-|r_i - r_j| / kernel_width)` and `n_i` the
    number of images that are right (for a right image i) or wrong (for a wrong one):
    `sqrt(sum_ij e_i e_j k_ij / (n_i n_j))`. Written out: the right pairs over m^2, plus the wrong pairs over
    n^2, minus twice the mixed pairs over m n. In a batch that is all right (or all wrong) that group's term
    is what remains; a single image gives `1 - r` if right and `r` if wrong. At the minimum, 0, the gradient
    is 0 (a subgradient).

    Args:
        logits: (B, C).
        labels: (B,) in [0, C).
        kernel_width: Difference of confidence over which the kernel falls to 1/e, above 0.
        official: Reproduce CalibPrompt's release: every sum is divided by its number of pairs twice, and a
            batch without right or without wrong predictions gives 0 and no gradient. The release fails on a
            batch of 1 and gives NaN on 2 images that are both right or both wrong; here these give 0 as well.

    Returns:
        (), at least 0.

    Raises:
        ValueError: `kernel_width` is not above 0.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # confidence 0.7311, one right, one wrong
        >>> round(mmce(logits, torch.tensor([0, 1])).item(), 4)  # |0.2689 - 0.7311| as all kernels are 1
        0.4621

    Source: Kumar et al., ICML 2018, weighted MMCE; CalibPrompt, losses.py, MMCE, commit c6ec13e.
    Differs: the release takes means over pairs and divides them by the number of pairs again, so that its
        value shrinks with the batch, and it ignores batches that are all right or all wrong. `official=True`
        gives it back.
    """
    if not kernel_width > 0:
        raise ValueError(f"kernel_width of MMCE must be above 0, got {kernel_width}.")
    confidence, correct = _confidence(logits, labels)
    hit = correct.to(confidence.dtype)
    error, right = hit - confidence, hit.sum()
    group_size = torch.where(correct, right, len(labels) - right)  # (B,), at least 1: the image itself
    pairs = group_size[:, None] * group_size  # (B, B)
    kernel = torch.exp(-(confidence[:, None] - confidence).abs() / kernel_width)
    terms = error[:, None] * error * kernel / pairs
    if official:
        both = (right > 0) & (right < len(labels))
        value = ((terms / (pairs + 1e-5)).sum() + 1e-10).sqrt()
        return torch.where(both, value, torch.zeros_like(value))
    squared = terms.sum()
    # The slope of the root is infinite at 0, so 0 is taken out before the root. NaN is not <= 0 and stays.
    vanishes = squared <= 0
    return squared.masked_fill(vanishes, 1.0).sqrt().masked_fill(vanishes, 0.0)


def _confidence(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the predicted class's probability and whether it is right, (B,) each; a tie: the first class."""
    probs = logits.softmax(1)
    predictions = probs.argmax(1, keepdim=True)  # (B, 1)
    correct = one_hot(labels, logits.shape[1]).gather(1, predictions)  # raises on labels outside [0, C)
    return probs.gather(1, predictions).squeeze(1), correct.squeeze(1).bool()
