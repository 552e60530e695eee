"""What stays in float32 when training runs in bf16-mixed or 16-mixed."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return a context without autocast on a tensor's device: logits and losses are computed in float32."""
    return torch.autocast(tensor.device.type, enabled=False)
