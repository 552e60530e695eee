"""What names a frozen classifier: digests of its texts."""

from __future__ import annotations

import hashlib
import json

from torch import Tensor

from calib.prompts.export import Prompt


def text_digest(text_features: Tensor) -> str:
    """Return the sha256 of text features as float32, over shape and bytes.

    Args:
        text_features: (C, D).

    Example:
        >>> import torch
        >>> text_digest(torch.eye(2, 3))[:8]
        'e4c27db2'
    """
    rows = text_features.detach().cpu().float().contiguous()
    digest = hashlib.sha256(f"{tuple(rows.shape)}\n".encode())
    digest.update(rows.numpy().tobytes())
    return digest.hexdigest()


def prompt_digest(prompt: Prompt) -> str:
    """Return the sha256 of what a prompt predicts with: class names in order and text features.

    The temperature is no part of it, as it changes no prediction.

    Args:
        prompt: Learned or zero-shot.
    """
    names = json.dumps(prompt.class_names, ensure_ascii=False)
    return hashlib.sha256(f"{names}\n{text_digest(prompt.text_features)}".encode()).hexdigest()
