"""Losses that teach the task: cross-entropy, label smoothing, focal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy, `-mean_b log p[b, y_b]`.

    Args:
        logits: (B, C).
        labels: (B,) in [0, C). No index is ignored: -100 is an error here, not a skipped row.

    Returns:
        (), at least 0.

    Raises:
        RuntimeError, IndexError: A label lies outside [0, C) (raised by torch; on a GPU as a device
            assertion).

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])).item()  # log 2
        0.6931471824645996
    """
    return -_label_log_probs(logits, labels).mean()


def label_smoothing(logits: Tensor, labels: Tensor, *, alpha: float = 0.05) -> Tensor:
    """Return the mean cross-entropy against smoothed labels, `-mean_b sum_c q[b, c] log p[b, c]`.

    `q` is `1 - alpha` at the label and `alpha / (C - 1)` elsewhere. torch's `label_smoothing=eps` spreads
    over all classes, the label included, and is the same loss for `alpha = eps (C - 1) / C`.

    Args:
        logits: (B, C), C at least 2.
        labels: (B,) in [0, C).
        alpha: Mass taken from the label, in [0, 1); 0 is cross-entropy.

    Returns:
        (), at least the entropy of `q`.

    Raises:
        ValueError: `alpha` is outside [0, 1), or there is one class only.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
        >>> round(label_smoothing(logits, labels, alpha=0.1).item(), 4)  # cross-entropy 0.2395 + 0.1 * 2
        0.4395

    Source: CalibPrompt (arXiv 2509.15226), trainers/classification/losses.py, LS, commit c6ec13e.
    """
    targets = smoothed_targets(logits, labels, alpha)  # (B, C)
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def focal(logits: Tensor, labels: Tensor, *, gamma: float = 3.0) -> Tensor:
    """Return the mean focal loss, `-mean_b (1 - p[b, y_b])^gamma log p[b, y_b]`.

    Args:
        logits: (B, C).
        labels: (B,) in [0, C).
        gamma: How strongly easy images are faded out, at least 0; 0 is cross-entropy.

    Returns:
        (), at least 0.

    Raises:
        ValueError: `gamma` is negative.

    Example:
        >>> round(focal(torch.zeros(1, 2), torch.tensor([0]), gamma=3.0).item(), 4)  # 0.5^3 log 2
        0.0866

    Source: Lin et al., ICCV 2017, eq. 4; gamma 3 as in CalibPrompt, losses.py, FL, commit c6ec13e.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma of the focal loss must be at least 0, got {gamma}.")
    log_probs = _label_log_probs(logits, labels)  # (B,)
    # 1 - p without cancellation. An exact 0 is lifted, as 0^gamma has an infinite slope for gamma below 1.
    rest = (-torch.expm1(log_probs)).clamp_min(torch.finfo(log_probs.dtype).tiny)
    return -(rest**gamma * log_probs).mean()


def smoothed_targets(logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Return the smoothed labels: `1 - alpha` at the label, `alpha / (C - 1)` elsewhere.

    Args:
        logits: (B, C); only its number of columns and dtype are used.
        labels: (B,) in [0, C).
        alpha: Mass taken from the label, in [0, 1).

    Returns:
        (B, C), rows sum to 1.

    Raises:
        ValueError: `alpha` is outside [0, 1), or there is one class only.

    Example:
        >>> smoothed_targets(torch.zeros(1, 3), torch.tensor([2]), 0.5)
        tensor([[0.2500, 0.2500, 0.5000]])
    """
    n_classes = logits.shape[1]
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha (label smoothing) must be in [0, 1), got {alpha}.")
    if n_classes < 2:
        raise ValueError("Smoothed labels need at least 2 classes, the logits have 1.")
    at_label = one_hot(labels, n_classes).to(logits.dtype)  # (B, C)
    return at_label * (1 - alpha) + (1 - at_label) * (alpha / (n_classes - 1))


def _label_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Return `log p[b, y_b]`, (B,). By gather: torch's own cross-entropy would skip rows labelled -100."""
    return logits.log_softmax(1).gather(1, labels[:, None]).squeeze(1)
