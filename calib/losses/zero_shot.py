"""Losses that keep the logits within the range the zero-shot model has on the same images."""

from __future__ import annotations

import torch
from torch import Tensor

from calib.losses.task import cross_entropy


def penalty(logits: Tensor, zero_shot_logits: Tensor) -> Tensor:
    """Return how far logits leave the zero-shot range of their image, to be added to a cross-entropy.

    `mean_{b, c} relu(z[b, c] - max_c z0[b, c]) + mean_{b, c} relu(min_c z0[b, c] - z[b, c])`

    Args:
        logits: (B, C).
        zero_shot_logits: (B, C), of the same images with the hand-written prompts. Not trained.

    Returns:
        (), at least 0; 0 when every logit is within its image's range.

    Example:
        >>> logits, zero_shot = torch.tensor([[5.0, 0.0]]), torch.tensor([[3.0, 1.0]])
        >>> penalty(logits, zero_shot).item()  # (2 + 0) / 2 + (0 + 1) / 2
        1.5

    Source: Murugesan et al., ECCV 2024 (Penalty); CalibPrompt, losses.py, ECCV_PENALTY, commit c6ec13e.
    Differs: without zero-shot logits the release returns 0; an `Objective` raises.
    """
    low, high = zero_shot_logits.aminmax(dim=1, keepdim=True)  # (B, 1) each
    return (logits - high).relu().mean() + (low - logits).relu().mean()


def zs_norm(logits: Tensor, labels: Tensor, zero_shot_logits: Tensor) -> Tensor:
    """Return the cross-entropy of logits stretched to the zero-shot range of their image.

    `CE((z - min z) / (max z - min z) * (max z0 - min z0) + min z0)`, extremes over the classes of each image,
    both ranges at least 1e-6. It contains the cross-entropy: do not add `ce`.
    With 2 classes the stretched logits are always the zero-shot extremes, so there is no gradient at all.

    Args:
        logits: (B, C).
        labels: (B,) in [0, C).
        zero_shot_logits: (B, C), of the same images with the hand-written prompts. Not trained.

    Returns:
        (), at least 0.

    Example:
        >>> logits, zero_shot = torch.tensor([[30.0, 10.0, 20.0]]), torch.tensor([[0.0, 2.0, 1.0]])
        >>> round(zs_norm(logits, torch.tensor([0]), zero_shot).item(), 4)  # cross-entropy of (2, 0, 1)
        0.4076

    Source: Murugesan et al., ECCV 2024 (ZS-Norm); CalibPrompt, losses.py, ECCV_ZS, commit c6ec13e.
    Differs: without zero-shot logits the release returns the plain cross-entropy; an `Objective` raises.
    """
    low, high = logits.min(1, keepdim=True).values, logits.max(1, keepdim=True).values  # (B, 1) each
    zero_shot_low, zero_shot_high = zero_shot_logits.aminmax(dim=1, keepdim=True)
    shares = (logits - low) / (high - low).clamp_min(1e-6)  # (B, C), in [0, 1]
    # The extremes are 0 and 1 whatever their logits are: said outright, or ties would get slopes of 1e6.
    shares = torch.where((logits == low) | (logits == high), shares.detach(), shares)
    stretched = shares * (zero_shot_high - zero_shot_low).clamp_min(1e-6) + zero_shot_low
    return cross_entropy(stretched, labels)
