"""What the ViLU head sees of a batch: parts, attention, prediction, confidence; and what it refuses."""

from __future__ import annotations

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


class Counted:
    """What a counter says, read only where somebody else has changed it: on a GPU reading it is waiting.

    Copies know nothing, and read theirs.
    """

    def __init__(self) -> None:
        self._known: tuple[Tensor, int, int] | None = None  # the counter, its version, what it says

    def read(self, counter: Tensor) -> int:
        """Return the value of a counter () int64."""
        if self._known is not None and not counter.is_inference():
            known, version, value = self._known
            if known is counter and version == counter._version:
                return value
        value = int(counter)
        self._keep(counter, value)
        return value

    def add(self, counter: Tensor, number: int) -> None:
        """Add to a counter, in place."""
        value = self.read(counter) + number
        counter += number
        self._keep(counter, value)

    def _keep(self, counter: Tensor, value: int) -> None:
        self._known = None if counter.is_inference() else (counter, counter._version, value)

    def __reduce__(self) -> tuple[type[Counted], tuple[()]]:
        return Counted, ()


def check_sizes(dim: int, hidden: Sequence[int], n_iter_freeze_proj: int) -> None:
    """Refuse sizes that no head can have."""
    if dim < 1 or not hidden or min(hidden) < 1:
        raise ValueError(f"dim and at least one hidden width must be positive, got {dim} and {list(hidden)}.")
    if n_iter_freeze_proj < 0:
        raise ValueError(f"n_iter_freeze_proj must be at least 0, got {n_iter_freeze_proj}.")


def check_batch(
    dim: int,
    image_features: Tensor,
    text_features: Tensor | None,
    predictions: Tensor | None,
    *,
    needs_text: bool,
) -> None:
    """Refuse a batch that is not as a head's `forward` describes it.

    Args:
        dim: D of the head.
        image_features: (B, D).
        text_features: (C, D). None: not given.
        predictions: (B,) int64 in [0, C). None: not given.
        needs_text: Whether the head cannot do without text features.

    Raises:
        ValueError: A shape or type does not fit, or text features are missing.
    """
    images, texts = image_features, text_features
    if images.dim() != 2 or images.shape[1] != dim or not images.is_floating_point():
        raise ValueError(
            f"image_features must be (B, {dim}) floats for this head, not {tuple(images.shape)} "
            f"{images.dtype}."
        )
    if texts is None:
        if needs_text:
            raise ValueError("This head needs text_features (C, D): only LVU works without.")
        return
    if texts.dim() != 2 or texts.shape[1] != dim or len(texts) == 0 or not texts.is_floating_point():
        raise ValueError(
            f"text_features must be (C, {dim}) floats for this head, not {tuple(texts.shape)} {texts.dtype}."
        )
    if predictions is None:
        return
    if predictions.shape != images.shape[:1] or predictions.dtype != torch.int64:
        raise ValueError(
            f"predictions must be ({len(images)},) int64, one per image, not {tuple(predictions.shape)} "
            f"{predictions.dtype}."
        )
    if predictions.device.type == "cpu" and len(predictions):  # elsewhere this would wait for the device
        low, high = int(predictions.min()), int(predictions.max())
        if low < 0 or high >= len(texts):
            wrong = low if low < 0 else high
            raise ValueError(f"predictions must lie in 0..{len(texts) - 1}, got {wrong}.")
