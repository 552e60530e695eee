"""The small models the official code was run on, with weights by rule (see `meta` of the golden files)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch

from calib.backbones.openclip import create_open_clip
from calib.backbones.options import BackboneOptions

GOLDEN = Path(__file__).parent / "golden"
CLIP = json.loads((GOLDEN / "models_clip.json").read_text())


def by_rule(parameters: dict[str, torch.Tensor]) -> None:
    """Fill parameters in place: number k of the sorted names is RandomState(k).randn * std + mean."""
    for k, name in enumerate(sorted(parameters)):
        std, mean = 0.05, 0.0
        if ("ln_" in name or "LayerNorm" in name) and name.endswith("weight"):
            std, mean = 0.1, 1.0
        elif name.endswith("bias") or "embedding" in name:
            std = 0.02
        values = np.random.RandomState(k).randn(*parameters[name].shape) * std + mean
        with torch.no_grad():
            value = math.log(20) if name == "logit_scale" else np.asarray(values, dtype=np.float32)
            parameters[name].copy_(torch.as_tensor(value))


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randn(*shape).astype(np.float32))


def golden_clip():
    """Return the official small CLIP."""
    arch = CLIP["arch"]
    config = {
        "embed_dim": arch["embed_dim"],
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": arch["image_resolution"],
            "layers": arch["vision_layers"],
            "width": arch["vision_width"],
            "patch_size": arch["patch"],
        },
        "text_cfg": {
            "context_length": arch["context_length"],
            "vocab_size": arch["vocab"],
            "width": arch["text_width"],
            "heads": arch["text_heads"],
            "layers": arch["text_layers"],
        },
    }
    backbone = create_open_clip(config, BackboneOptions("random"), name="clip", published="")
    assert sorted(backbone.model.state_dict()) == CLIP["state_dict_keys"]
    by_rule(dict(backbone.model.named_parameters()))
    return backbone
