"""Losses of failure predictors: weighted cross-entropy, and regression of the true class's probability.

The weights follow from how many predictions of a batch are right. Where a process sees only its share of the
batch, `counts` says how many are right and wrong in all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from calib.core.errors import unknown_name

WEIGHTINGS = ("static", "adaptive", "balanced")


def outcome_counts(failure: Tensor) -> Tensor:
    """Return how many predictions are right and how many are wrong, (2,) int64.

    Args:
        failure: (B,) bool.

    Example:
        >>> outcome_counts(torch.tensor([False, False, True]))
        tensor([2, 1])
    """
    return torch.stack([(~failure).sum(), failure.sum()])


def failure_weights(
    failure: Tensor,
    counts: Tensor | None = None,
    *,
    weighting: str = "adaptive",
    weight: float = 1.0,
    max_weight: float = 100.0,
) -> Tensor:
    """Return the weight of every image in the loss: 1 where the prediction is right, w where it is wrong.

    - static: `w = weight`;
    - adaptive: `w = -log(1 - accuracy)`. It is 1 at an accuracy of 63 % and *below* 1 under it, the usual
      case of zero-shot medical models; a batch without a right prediction has weight 0 and teaches nothing;
    - balanced: `w = n_right / n_wrong`, so that both kinds weigh the same in sum.

    Args:
        failure: (B,) bool, B at least 1.
        counts: (2,) right and wrong predictions of the batch of all processes. None: of these B.
        weighting: One of the three.
        weight: The static weight, at least 0.
        max_weight: Bounds of the balanced weight, `[1 / max_weight, max_weight]`; at least 1.

    Returns:
        (B,) in the default float type.

    Raises:
        ValueError: `failure` is empty or not bool, a weight is out of range, or the weighting is unknown.

    Example:
        >>> failure = torch.tensor([False, False, False, True])
        >>> [round(failure_weights(failure, weighting=w)[3].item(), 4) for w in ("adaptive", "balanced")]
        [1.3863, 3.0]

    Source: ViLU (ICCV 2025), vilu/losses/bce.py, commit e4bf572; `balanced` is ours.
    """
    if failure.dtype != torch.bool or failure.dim() != 1 or failure.numel() == 0:
        raise ValueError(f"failure must be (B,) bool, not {tuple(failure.shape)} {failure.dtype}.")
    if not weight >= 0 or not math.isfinite(weight):
        raise ValueError(f"weight must be a finite number of at least 0, got {weight}.")
    if not max_weight >= 1:
        raise ValueError(f"max_weight must be at least 1, got {max_weight}.")
    if weighting not in WEIGHTINGS:
        raise unknown_name("weighting", weighting, WEIGHTINGS)
    right = torch.ones(failure.shape, device=failure.device)  # (B,)
    n_right, n_wrong = outcome_counts(failure) if counts is None else counts
    if weighting == "static":
        wrong = right * weight
    elif weighting == "adaptive":
        wrong = -torch.log1p(-n_right / (n_right + n_wrong))  # infinite without a failure: nothing uses it
    else:
        wrong = (n_right / n_wrong).clamp(1 / max_weight, max_weight)
    return torch.where(failure, wrong, right)


def failure_bce(
    failure_logits: Tensor,
    failure: Tensor,
    counts: Tensor | None = None,
    *,
    weighting: str = "adaptive",
    weight: float = 1.0,
    max_weight: float = 100.0,
) -> Tensor:
    """Return the weighted binary cross-entropy, `mean_b w_b BCE(sigmoid(z_b), failure_b)`.

    The mean divides by B, not by the sum of the weights.

    Args:
        failure_logits: (B,); above 0 means "the prediction is wrong".
        failure: (B,) bool.
        counts: See `failure_weights`.
        weighting: See `failure_weights`.
        weight: See `failure_weights`.
        max_weight: See `failure_weights`.

    Returns:
        (), at least 0.

    Raises:
        ValueError: Shapes do not fit, or a setting is wrong.

    Example:
        >>> failure = torch.tensor([False, False, False, True])
        >>> round(failure_bce(torch.zeros(4), failure, weighting="balanced").item(), 4)  # (3 + 3) / 4 log 2
        1.0397

    Source: ViLU (ICCV 2025), vilu/losses/bce.py, commit e4bf572, whose logits have the opposite sign
        (1 = right): give `-logits`.
    """
    _check_rows(failure_logits, failure)
    weights = failure_weights(failure, counts, weighting=weighting, weight=weight, max_weight=max_weight)
    signs = torch.where(failure, -1.0, 1.0).to(failure_logits)
    return (weights.to(failure_logits) * softplus(signs * failure_logits)).mean()


def tcp_regression(
    failure_logits: Tensor,
    logits: Tensor,
    labels: Tensor,
    failure: Tensor,
    counts: Tensor | None = None,
    *,
    weighting: str = "static",
    weight: float = 1.0,
    max_weight: float = 100.0,
    entropy: float = 0.0,
) -> Tensor:
    """Return the weighted squared error of the true class probability (TCP).

    `mean_b w_b (sigmoid(-z_b) - p[b, y_b] - entropy * H(p_b))^2` with `H(p) = -sum_c p_c log p_c`.

    Args:
        failure_logits: (B,); above 0 means "the prediction is wrong".
        logits: (B, C) of the model that is judged; no gradient reaches them.
        labels: (B,) in [0, C).
        failure: (B,) bool.
        counts: See `failure_weights`.
        weighting: See `failure_weights`.
        weight: See `failure_weights`.
        max_weight: See `failure_weights`.
        entropy: Weight of the entropy in the target, at least 0; ViLU's variant uses 0.1.

    Returns:
        (), at least 0.

    Raises:
        ValueError: Shapes do not fit, or a setting is wrong.

    Example:
        >>> values = torch.zeros(1), torch.zeros(1, 4), torch.tensor([0]), torch.tensor([False])
        >>> tcp_regression(*values).item()  # (1/2 - 1/4)^2
        0.0625

    Source: Corbiere et al., NeurIPS 2019 (ConfidNet); ViLU, vilu/losses/mse.py, commit e4bf572.
    Differs: the entropy is exact, the release's has log(p + 1e-6); 2e-6 apart.
    """
    _check_rows(failure_logits, failure)
    if logits.dim() != 2 or logits.shape[0] != failure.numel() or labels.shape != failure.shape:
        raise ValueError(
            f"logits (B, C) and labels (B,) must have the {failure.numel()} rows of failure, "
            f"not {tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    target = tcp_target(logits.detach().softmax(1), labels, entropy=entropy)
    weights = failure_weights(failure, counts, weighting=weighting, weight=weight, max_weight=max_weight)
    return (weights.to(failure_logits) * ((-failure_logits).sigmoid() - target) ** 2).mean()


def tcp_target(probs: Tensor, labels: Tensor, *, entropy: float = 0.0) -> Tensor:
    """Return what `tcp_regression` regresses, `p[b, y_b] + entropy * H(p_b)`.

    Args:
        probs: (B, C), rows sum to 1.
        labels: (B,) in [0, C).
        entropy: Weight of the entropy (natural logarithm), at least 0.

    Returns:
        (B,).

    Raises:
        ValueError: `entropy` is negative.

    Example:
        >>> tcp_target(torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([1]))
        tensor([0.2000])
    """
    if not entropy >= 0:
        raise ValueError(f"entropy must be at least 0, got {entropy}.")
    of_label = probs.gather(1, labels[:, None]).squeeze(1)
    return of_label - entropy * torch.special.xlogy(probs, probs).sum(1) if entropy > 0 else of_label


def _check_rows(failure_logits: Tensor, failure: Tensor) -> None:
    if failure_logits.dim() != 1 or failure_logits.shape != failure.shape:
        raise ValueError(
            f"failure_logits and failure must both be (B,), not {tuple(failure_logits.shape)} and "
            f"{tuple(failure.shape)}."
        )


FAILURE_LOSSES: dict[str, Callable[..., Tensor]] = {"bce": failure_bce, "tcp": tcp_regression}
