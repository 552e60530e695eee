"""Which open_clip configurations have a model here, and that model, with memory for its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from calib.backbones.towers.clip import Clip, VisionTransformer
from calib.backbones.towers.efficientnet import EfficientNetLite0

# What open_clip takes where a configuration says nothing, of the settings that are known here. Those whose
# value is a tuple must have one of these values, or the model is another one.
TEXT: dict[str, Any] = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
    "pool_type": ("argmax",),
}
NOT_OF_THE_MODEL = ("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode", "pad_id", "eos_id")
VISION: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "width": 768,
    "layers": 12,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "timm_model_pretrained": (False,),
}
EFFICIENTNET: dict[str, Any] = {
    "timm_model_name": ("tf_efficientnet_lite0",),
    "timm_model_pretrained": (False, True),  # which weights they would be is no part of the model
    "timm_pool": ("avg",),
    "timm_proj": ("linear",),
    "timm_proj_bias": False,
    "image_size": 224,
}
TOP = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}


def own_model(config: Mapping[str, Any]) -> nn.Module | None:
    """Return the model of a configuration, whose weights are yet to be loaded; None: it has none here.

    A CLIP with a vision transformer or with EfficientNet-Lite0, plain in everything. Names and numbers are
    those of open_clip's model, which takes seconds to import.

    Args:
        config: `model_cfg` of an open_clip configuration.
    """
    if set(config) - TOP or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        return None
    given = {key: value for key, value in config["text_cfg"].items() if key not in NOT_OF_THE_MODEL}
    text = _known(given, TEXT)
    timm = "timm_model_name" in config["vision_cfg"]
    vision = _known(config["vision_cfg"], EFFICIENTNET if timm else VISION)
    if text is None or vision is None or not _divides(text["heads"], text["width"]):
        return None
    dim, quick_gelu = config["embed_dim"], bool(config.get("quick_gelu", False))
    if not timm and not _divides(vision["head_width"], vision["width"]):
        return None
    with torch.device("meta"):  # nothing is drawn that would be replaced
        if timm:
            visual: nn.Module = EfficientNetLite0(
                dim, image_size=vision["image_size"], bias=vision["timm_proj_bias"]
            )
        else:
            heads = vision["width"] // vision.pop("head_width")
            visual = VisionTransformer(dim, **vision, heads=heads, quick_gelu=quick_gelu)
        model = Clip(visual, dim, **text, quick_gelu=quick_gelu)
    for part in model.modules():  # `Module.to_empty` would import sympy
        for name, weight in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(torch.empty(weight.shape)))
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return model


def _divides(part: int, whole: int) -> bool:
    return part > 0 and whole % part == 0


def _known(given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the numbers of a tower; None where it is not one of those that are built here."""
    if set(given) - set(settings):
        return None
    for key, allowed in settings.items():
        if isinstance(allowed, tuple) and given.get(key, allowed[0]) not in allowed:
            return None
    known = {key: given.get(key, usual) for key, usual in settings.items() if not isinstance(usual, tuple)}
    plain = all(isinstance(value, type(settings[key]) | int) for key, value in known.items())
    return known if plain else None
