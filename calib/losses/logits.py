"""Losses that bound how large logits, or the distances between them, become."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from calib.losses.task import cross_entropy


def mbls(logits: Tensor, labels: Tensor, *, margin: float = 10.0, alpha: float = 0.1) -> Tensor:
    """Return cross-entropy plus a penalty on logits further than a margin below the largest one.

    `CE + alpha * mean_{b, c} relu(max_c z[b, c] - z[b, c] - margin)`. It contains the cross-entropy: do not
    add `ce`.

    Args:
        logits: (B, C).
        labels: (B,) in [0, C).
        margin: Distance that costs nothing, in logits, at least 0.
        alpha: Weight of the penalty, at least 0; 0 is cross-entropy.

    Returns:
        (), at least 0.

    Raises:
        ValueError: `margin` or `alpha` is negative.

    Example:
        >>> logits, labels = torch.tensor([[12.0, 0.0]]), torch.tensor([0])  # distances 0 and 12
        >>> round(mbls(logits, labels, margin=10.0, alpha=0.1).item(), 4)
        0.1

    Source: Liu et al., CVPR 2022 (MbLS); CalibPrompt, losses.py, MBLS, commit c6ec13e (its configuration
        never reaches the loss, so that 10 and 0.1 are what was used).
    """
    if not margin >= 0 or not alpha >= 0:
        raise ValueError(f"margin and alpha of MbLS must be at least 0, got {margin} and {alpha}.")
    distances = logits.max(1, keepdim=True).values - logits  # (B, C)
    return cross_entropy(logits, labels) + alpha * (distances - margin).relu().mean()


def logitnorm(logits: Tensor, labels: Tensor, *, temperature: float = 1.0, min_norm: float = 1e-2) -> Tensor:
    """Return the cross-entropy of logits brought to length 1.

    `CE(z / max(|z| + 1e-7, min_norm) / temperature)`, lengths over the classes of each image.

    Only training uses normalised logits; at test time the raw ones are. It contains the cross-entropy: do not
    add `ce`.

    Args:
        logits: (B, C).
        labels: (B,) in [0, C).
        temperature: Above 0. The paper uses 0.04; the released CalibPrompt always 1.
        min_norm: Shorter rows are divided by this instead of their length, which bounds the gradient of a row
            by `sqrt(2) / (min_norm * temperature * B)`. 0 is the release, with gradients of 1e6 at zero
            logits.

    Returns:
        (), at least 0.

    Raises:
        ValueError: `temperature` is not above 0, or `min_norm` is negative.

    Example:
        >>> logits, labels = torch.tensor([[3.0, 4.0]]), torch.tensor([1])  # normalised: 0.6, 0.8
        >>> round(logitnorm(logits, labels).item(), 4)  # log(1 + exp(-0.2))
        0.5981

    Source: Wei et al., ICML 2022 (LogitNorm); CalibPrompt, losses.py, LOGITNORM, commit c6ec13e.
    Differs: from the release only for rows shorter than `min_norm`.
    """
    if not temperature > 0 or not min_norm >= 0:
        raise ValueError(
            f"LogitNorm needs temperature above 0 and min_norm at least 0, got {temperature} and {min_norm}."
        )
    norms = torch.linalg.vector_norm(logits, dim=1, keepdim=True) + 1e-7  # (B, 1)
    return cross_entropy(logits / norms.clamp_min(min_norm) / temperature, labels)


def margin_mean_var(
    logits: Tensor, labels: Tensor, *, mean_weight: float = 0.1, variance_weight: float = 0.01
) -> Tensor:
    """Return a term that wants margins to be large and alike, to be added to a cross-entropy.

    `-mean_weight * mean_b m_b + variance_weight * var_b m_b` with the margin
    `m_b = z[b, y_b] - max_{c != y_b} z[b, c]` and the variance over the batch divided by B.

    Args:
        logits: (B, C), C at least 2.
        labels: (B,) in [0, C).
        mean_weight: Weight of the mean margin, at least 0.
        variance_weight: Weight of the variance of the margins, at least 0.

    Returns:
        (), any sign.

    Raises:
        ValueError: A weight is negative, or there is one class only.

    Example:
        >>> logits, labels = torch.tensor([[3.0, 1.0], [0.0, 4.0]]), torch.tensor([0, 1])  # margins 2 and 4
        >>> round(margin_mean_var(logits, labels).item(), 4)  # -0.1 * 3 + 0.01 * 1
        -0.29

    Source: TCPT (arXiv 2602.19024); CalibPrompt, losses.py, MARGIN_MEAN_VAR, commit c6ec13e.
    """
    if not mean_weight >= 0 or not variance_weight >= 0:
        raise ValueError(
            f"mean_weight and variance_weight must be at least 0, got {mean_weight} and {variance_weight}."
        )
    if logits.shape[1] < 2:
        raise ValueError("A margin needs at least 2 classes, the logits have 1.")
    at_label = one_hot(labels, logits.shape[1]).bool()  # (B, C)
    others = logits.masked_fill(at_label, -torch.inf).max(1).values  # (B,)
    margins = logits.gather(1, labels[:, None]).squeeze(1) - others  # (B,)
    return -mean_weight * margins.mean() + variance_weight * margins.var(correction=0)
