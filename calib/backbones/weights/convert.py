"""From the names in published weight files to the model's, strictly: every tensor finds its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

# Entries of published files that are settings or tables, not weights.
_OPENAI_SETTINGS = ("input_resolution", "context_length", "vocab_size")
_NOT_WEIGHTS = re.compile(rf"(^|\.)(position_ids|relative_position_index)$|^({'|'.join(_OPENAI_SETTINGS)})$")

# HF CLIPModel -> OpenAI layout, applied in order to the part after the tower's name.
_HF_CLIP = (
    (r"^encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"^embeddings\.token_embedding\.weight$", "token_embedding.weight"),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.weight$", "conv1.weight"),
    (r"^pre_layrnorm\.", "ln_pre."),  # the missing e is HF's own
    (r"^post_layernorm\.", "ln_post."),
    (r"^final_layer_norm\.", "ln_final."),
)

# Names of Swin blocks: transformers 4 (and the published MedCLIP file) -> transformers 5.
_SWIN = (
    (r"\.attention\.self\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
    (
        r"\.attention\.self\.relative_position_bias_table$",
        ".attention.relative_position_bias.relative_position_bias_table",
    ),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"(\.blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"(\.blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)

_VIT_NAMES = {(768, 32): "ViT-B/32", (768, 16): "ViT-B/16", (1024, 14): "ViT-L/14", (1280, 14): "ViT-H/14"}


def swin_name(name: str) -> str:
    """Return the transformers-5 name of a weight of a Swin image tower; every other name unchanged.

    Example:
        >>> swin_name("vision_model.model.encoder.layers.0.blocks.1.attention.self.key.bias")
        'vision_model.model.encoder.layers.0.blocks.1.attention.k_proj.bias'
    """
    if ".blocks." not in name:
        return name
    for pattern, replacement in _SWIN:
        name = re.sub(pattern, replacement, name)
    return name


def is_openai_file(state: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors are of a file of OpenAI itself, whose CLIP is always one with QuickGELU."""
    return all(setting in state for setting in _OPENAI_SETTINGS)


def is_hf_siglip(state: Iterable[str]) -> bool:
    """Return whether the names are those of a Hugging Face SiglipModel, whose layers are called as CLIP's."""
    return any(name.startswith(("vision_model.head.", "text_model.head.")) for name in state)


def is_hf_clip(state: Iterable[str]) -> bool:
    """Return whether the names are those of a Hugging Face CLIPModel."""
    return not is_hf_siglip(state) and any(
        re.match(r"(vision|text)_model\.encoder\.layers\.\d+\.self_attn\.", name) for name in state
    )


def convert_hf_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a Hugging Face CLIPModel's weights in OpenAI's layout.

    q, k and v are stacked into one matrix, and the two projections transposed.

    Raises:
        ValueError: An attention layer lacks one of q, k, v.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in ("visual_projection.weight", "text_projection.weight"):
            converted["visual.proj" if name.startswith("visual") else "text_projection"] = tensor.T
        elif re.search(r"\.self_attn\.[kv]_proj\.", name):
            continue  # taken with q
        elif ".self_attn.q_proj." in name:
            parts = [name.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
            lacking = [part for part in parts if part not in state]
            if lacking:
                raise ValueError(f"The weights lack {', '.join(lacking)}.")
            renamed = _hf_clip_name(name).replace("self_attn.q_proj.", "attn.in_proj_")
            converted[renamed] = torch.cat([state[part] for part in parts])
        else:
            converted[_hf_clip_name(name)] = tensor
    return converted


def _hf_clip_name(name: str) -> str:
    tower, _, rest = name.partition(".")
    if tower not in ("vision_model", "text_model"):
        return name
    for pattern, replacement in _HF_CLIP:
        rest = re.sub(pattern, replacement, rest)
    return f"visual.{rest}" if tower == "vision_model" else rest


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], *, name: str, source: str) -> None:
    """Load weights into a model, all of them and nothing else; 16-bit numbers become the model's float32.

    The model keeps the tensors themselves where it can: there is memory for one of each.

    Args:
        model: open_clip's CLIP or CustomTextCLIP, or MedCLIP's two towers.
        state: Weights in any published layout.
        name: The backbone, for messages.
        source: Where the weights come from, for messages.

    Raises:
        ValueError: Names are missing or left over, a shape differs, or a weight is not finite. The message
            says what the weights look like.
    """
    target = {key: value for key, value in model.state_dict().items() if not _NOT_WEIGHTS.search(key)}
    given = _in_layout_of(target, state)
    not_saved = {buffer for buffer, _ in model.named_buffers()} - target.keys()
    given = {key: tensor for key, tensor in given.items() if key not in not_saved}
    problems = _problems(target, given)
    if problems:
        raise ValueError(
            f"The weights of {source} do not fit {name}. They look like {looks_like(state)}; "
            f"{name} is {looks_like(target)}. " + " ".join(problems)
        )
    for key, tensor in given.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"The weights of {source} are damaged: {key} holds NaN or infinity.")
    # Not strict, since tables such as relative_position_index keep their built values; names are checked
    # above.
    model.load_state_dict(_own_tensors(given, target), strict=False, assign=True)


def _own_tensors(given: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as a model can keep them: those given, copied where others have a part in them."""
    own: dict[str, Tensor] = {}
    taken: set[int] = set()
    for key, tensor in given.items():
        fits = tensor.detach().to(target[key].dtype).reshape(target[key].shape).contiguous()
        memory = fits.untyped_storage()
        if memory.nbytes() != fits.nbytes or memory.data_ptr() in taken:
            fits = fits.clone()
        taken.add(fits.untyped_storage().data_ptr())
        own[key] = fits
    return own


def _in_layout_of(target: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given = {name: tensor for name, tensor in state.items() if not _NOT_WEIGHTS.search(name)}
    if is_hf_clip(given) and "visual.class_embedding" in target:
        given = convert_hf_clip(given)
    if "text.token_embedding.weight" in target and "token_embedding.weight" in given:
        given = {_custom_text_name(name): tensor for name, tensor in given.items()}
    elif "token_embedding.weight" in target and "text.token_embedding.weight" in given:
        given = {name.removeprefix("text."): tensor for name, tensor in given.items()}
    canonical = {swin_name(name): name for name in target}
    return {canonical.get(swin_name(name), name): tensor for name, tensor in given.items()}


def _custom_text_name(name: str) -> str:
    return name if name.startswith(("visual.", "logit_")) else f"text.{name}"


def _problems(target: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = sorted(target.keys() - given.keys())
    unexpected = sorted(given.keys() - target.keys())
    shapes = [
        f"{key} is {tuple(given[key].shape)} instead of {tuple(target[key].shape)}"
        for key in sorted(target.keys() & given.keys())
        if given[key].shape != target[key].shape and not given[key].numel() == target[key].numel() == 1
    ]
    return [
        f"{title} ({len(items)} of {len(target)}): {', '.join(items[:4])}{', ...' if len(items) > 4 else ''}."
        for title, items in (("Missing", missing), ("Not expected", unexpected), ("Wrong shape", shapes))
        if items
    ]


def looks_like(state: Mapping[str, Tensor]) -> str:
    """Return in a few words which model weights belong to, judged by names and shapes."""
    if is_hf_siglip(state):
        return "a SigLIP in Hugging Face form, which is not supported; open_clip's form of SigLIP is"
    if is_hf_clip(state):
        return f"a Hugging Face CLIPModel, {_vit(state, 'vision_model.embeddings.patch_embedding.weight')}"
    if "visual.conv1.weight" in state and any(name.startswith("visual.layer1.") for name in state):
        return "a CLIP with a ResNet image tower"
    if "visual.conv1.weight" in state:
        return f"a CLIP in OpenAI's layout, {_vit(state, 'visual.conv1.weight')}"
    if any(name.startswith("visual.trunk.") for name in state):
        bert = any(name.startswith("text.transformer.embeddings.") for name in state)
        return f"an open_clip model with a timm image tower and a {'BERT' if bert else 'CLIP'} text tower"
    if "vision_model.model.conv1.weight" in state:
        return "MedCLIP with a ResNet-50 image tower"
    if any(name.startswith("vision_model.model.") for name in state):
        return "MedCLIP with a Swin image tower"
    if any(re.match(r"(bert\.)?embeddings\.word_embeddings\.", name) for name in state):
        return "a BERT text tower alone"
    return f"an unknown model ({', '.join(sorted(state)[:3])}, ...)"


def _vit(state: Mapping[str, Tensor], patches: str) -> str:
    if patches not in state:
        return "without a ViT image tower"
    width, patch = state[patches].shape[0], state[patches].shape[-1]
    blocks = re.compile(r"vis.*?\.(?:layers|resblocks)\.(\d+)\.")
    layers = {match[1] for name in state if (match := blocks.match(name))}
    known = f"{_VIT_NAMES[width, patch]}: " if (width, patch) in _VIT_NAMES else ""
    return f"{known}image width {width}, patch {patch}, {len(layers)} layers"
