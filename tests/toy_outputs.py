"""Labelled outputs of a model whose miscalibration is known, for the tests of calibrators."""

from __future__ import annotations

import torch
from torch import Tensor

C, N = 3, 240


def outputs(n: int = N, seed: int = 0, sharpness: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return overconfident logits (n, C) float32 with an offset of their own in each row, and labels."""
    generator = torch.Generator().manual_seed(seed)
    honest = torch.randn(n, C, generator=generator)
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    return sharpness * honest + 20 + torch.randn(n, 1, generator=generator), labels
