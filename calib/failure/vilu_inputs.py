"""What the ViLU head sees of a batch: parts, attention, prediction, confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """What the head sees of a batch.

    Args:
        image: v, (B, D).
        candidates: (C, D), the text features the prediction is picked from.
        attention: (B, C), rows sum to 1. None: the head has no attention.
        keys: (C, D), what the attention averages. None likewise.
        predictions: (B,) int64. None: the head does not use them.
        confidence: (B,), `a * logit(MCP) + b` of the residual form. None: another form.
    """

    image: Tensor
    candidates: Tensor | None
    attention: Tensor | None
    keys: Tensor | None
    predictions: Tensor | None
    confidence: Tensor | None

    def parts(self) -> dict[str, Tensor]:
        """Return the vectors (B, D) that reach the MLP: image, alternatives, predicted, as far as used."""
        parts = {"image": self.image}
        if self.attention is not None and self.keys is not None:
            parts["alternatives"] = self.attention.to(self.keys) @ self.keys
        if self.predictions is not None and self.candidates is not None:
            parts["predicted"] = self.candidates[self.predictions]
        return parts


def mcp_log_odds(logits: Tensor, predictions: Tensor | None = None) -> Tensor:
    """Return the log-odds of the predicted class, `log(p / (1 - p)) = z[b, k] - logsumexp_{c != k} z[b, c]`.

    A growing function of the maximum class probability (MCP) that never saturates: where MCP rounds to 1 for
    many images, this still tells them apart.

    Args:
        logits: (B, C), C at least 2.
        predictions: (B,) int64 in [0, C). None: the argmax.

    Returns:
        (B,).

    Raises:
        ValueError: There is one class only, whose probability is always 1.

    Example:
        >>> round(mcp_log_odds(torch.tensor([[math.log(3.0), 0.0]])).item(), 4)  # p = 3/4, odds 3
        1.0986
    """
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"Log-odds of a prediction need logits (B, C) with C >= 2, not {tuple(logits.shape)}."
        )
    picked = (logits.argmax(1) if predictions is None else predictions)[:, None]  # (B, 1)
    others = logits.scatter(1, picked, -math.inf)
    return logits.gather(1, picked).squeeze(1) - others.logsumexp(1)


def check_sizes(dim: int, hidden: Sequence[int], n_iter_freeze_proj: int) -> None:
    """Refuse sizes that no head can have."""
    if dim < 1 or not hidden or min(hidden) < 1:
        raise ValueError(f"dim and at least one hidden width must be positive, got {dim} and {list(hidden)}.")
    if n_iter_freeze_proj < 0:
        raise ValueError(f"n_iter_freeze_proj must be at least 0, got {n_iter_freeze_proj}.")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 if it was in half precision, else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
