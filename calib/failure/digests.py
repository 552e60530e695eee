"""What names a frozen classifier: digests of its texts, and whether two are the same but for rounding."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from calib.prompts.export import Prompt

# Another processor, number of threads or library rounds text features otherwise, by some 1e-7; another prompt
# or template moves them by 1e-2 and more.
TEXT_TOLERANCE = 1e-5


def same_text(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether text features of unit norm are the same but for rounding; digests see that.

    Args:
        ours: (C, D).
        theirs: (C, D).

    Example:
        >>> import torch
        >>> same_text(torch.eye(2, 3), torch.eye(2, 3) + 2e-8), same_text(torch.eye(2), torch.eye(2).flip(0))
        (True, False)
    """
    if ours.shape != theirs.shape:
        return False
    return bool((ours.detach().cpu().double() - theirs.detach().cpu().double()).abs().max() <= TEXT_TOLERANCE)


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
    """Return the sha256 of what a prompt predicts with: class names in order, text features, decisive maps.

    A temperature, and a calibration that changes confidences only, are no part of it.

    Args:
        prompt: Learned or zero-shot.
    """
    names = json.dumps(prompt.class_names, ensure_ascii=False)
    parts = [names, text_digest(prompt.text_features)]
    decisive = _decisive_map(prompt)
    if decisive is not None:
        parts.append(text_digest(decisive))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def same_prompt(ours: Prompt, theirs: Prompt) -> bool:
    """Return whether two prompts predict the same but for rounding: classes, text features, decisive maps."""
    if ours.class_names != theirs.class_names or not same_text(ours.text_features, theirs.text_features):
        return False
    mine, other = _decisive_map(ours), _decisive_map(theirs)
    if mine is None or other is None:
        return mine is other
    size = float(mine.abs().max())
    return same_text(mine / size, other / size)


def _decisive_map(prompt: Prompt) -> Tensor | None:
    """Return the map (C, D + 1) of a calibration that may change predictions. None: there is none."""
    if prompt.calibration is None or prompt.calibration.keeps_predictions:
        return None
    return torch.cat([prompt.calibration.weight, prompt.calibration.bias[:, None]], dim=1)
