"""A prompt and images of which it takes some for the next class: what a failure head learns in a moment."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import normalize

from calib.data.features import FeatureTable
from calib.prompts.export import Prompt

N, C, D = 90, 3, 8
SMALL: dict[str, Any] = {"epochs": 3, "hidden": (6,)}


def prompt(**changes: Any) -> Prompt:
    given = {"logit_scale": math.log(20.0), "backbone": {"name": "toy", "weights": {"digest": "a" * 64}}}
    return Prompt(**{"text_features": torch.eye(C, D), "class_names": ["a", "b", "c"], **given, **changes})


def table(seed: int = 0, views: int = 0) -> FeatureTable:
    """Return images of which those whose last feature is large are taken for the next class."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % C
    misled = torch.rand(N, generator=draw) < 0.4
    seen = torch.eye(C, D)[torch.where(misled, (labels + 1) % C, labels)]
    seen[:, -1] = misled.float()
    images = normalize(seen + 0.15 * torch.randn(1 + views, N, D, generator=draw), dim=2)
    names = [str(row) for row in range(N)]
    augmented = images[1:].transpose(0, 1).contiguous() if views else None
    return FeatureTable(images[0], labels, ids=names, names=names, augmented_features=augmented)
