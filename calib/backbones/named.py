"""The open_clip backbones by name: published ones, open_clip's own, those in a folder or on the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from calib.backbones.architectures import BIOMEDCLIP, CLIP_VIT_B32
from calib.backbones.openclip import CONFIG_NAME, OpenClipBackbone, create_open_clip
from calib.backbones.options import BackboneOptions
from calib.backbones.weights.reading import HUB, download, hub_source, on_hub
from calib.core.errors import unknown_name
from calib.io.files import read_mapping

PUBLISHED = {
    "clip": "openai/clip-vit-base-patch32 on the Hugging Face hub, or OpenAI's own ViT-B-32.pt",
    "plip": "vinid/plip on the Hugging Face hub, or plip_vit_b32.pt of BAPLe",
    "quiltnet": "wisdomik/QuiltNet-B-32 on the Hugging Face hub, or quiltnet_b32.pt of BAPLe",
    "biomedclip": "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224 on the Hugging Face hub",
}


def clip(options: BackboneOptions) -> OpenClipBackbone:
    """Return OpenAI's CLIP ViT-B/32."""
    return create_open_clip(CLIP_VIT_B32, options, name="clip", published=PUBLISHED["clip"])


def plip(options: BackboneOptions) -> OpenClipBackbone:
    """Return PLIP, a CLIP ViT-B/32 for histopathology."""
    return create_open_clip(CLIP_VIT_B32, options, name="plip", published=PUBLISHED["plip"])


def quiltnet(options: BackboneOptions) -> OpenClipBackbone:
    """Return QuiltNet-B-32, a CLIP ViT-B/32 for histopathology; QuickGELU as in CalibPrompt."""
    return create_open_clip(CLIP_VIT_B32, options, name="quiltnet", published=PUBLISHED["quiltnet"])


def biomedclip(options: BackboneOptions) -> OpenClipBackbone:
    """Return BiomedCLIP: ViT-B/16 and PubMedBERT."""
    return create_open_clip(BIOMEDCLIP, options, name="biomedclip", published=PUBLISHED["biomedclip"])


def open_clip_model(model: str, options: BackboneOptions) -> OpenClipBackbone:
    """Return one of open_clip's own models by its name there.

    Args:
        model: E.g. "ViT-B-16-quickgelu".
        options: What the user said; weights are required.

    Raises:
        ValueError: open_clip has no such model, or its published weights disagree about the preprocessing.
    """
    import open_clip

    # open_clip would look up a name with a scheme, such as hf-hub:org/name, and reach for the network.
    config = None if ":" in model or "/" in model else open_clip.get_model_config(model)
    if config is None:
        raise unknown_name("open_clip model", model, open_clip.list_models())
    published = f"the tags {', '.join(open_clip.list_pretrained_tags_by_model(model))} of open_clip"
    preprocess = _published_preprocessing(model) if options.preprocessing == "own" else {}
    return create_open_clip(
        config,
        options,
        name=f"open_clip:{model}",
        published=published,
        preprocess_config=preprocess,
    )


def local_dir(folder: str | Path, options: BackboneOptions, *, name: str | None = None) -> OpenClipBackbone:
    """Return the model of a folder with an `open_clip_config.json` and weights.

    Args:
        folder: The folder.
        options: What the user said. Weights None are those in the folder.
        name: The backbone's name. None is "local-dir:" and the folder.

    Raises:
        FileNotFoundError: The configuration or the weights are missing.
        ValueError: The configuration has no `model_cfg`.
    """
    folder = Path(folder).expanduser()
    path = folder / CONFIG_NAME
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{folder} is not an open_clip model: it has no {CONFIG_NAME}.{_what_it_is(folder)}"
        )
    content = read_mapping(path)
    if "model_cfg" not in content:
        raise ValueError(f"{path} has no model_cfg; its keys are {', '.join(content)}.")
    _check_parts(content, path)
    if options.weights is None:
        options = replace(options, weights=folder)
    return create_open_clip(
        content["model_cfg"],
        options,
        name=name or f"local-dir:{folder}",
        published=str(folder),
        preprocess_config=content.get("preprocess_cfg", {}),
        folder=folder,
    )


def hf_hub(hub_id: str, options: BackboneOptions) -> OpenClipBackbone:
    """Return an open_clip model of the Hugging Face hub.

    Args:
        hub_id: "org/name".
        options: What the user said; `revision` picks the version.
    """
    folder = download(hub_id, options.revision)
    elsewhere = options.weights is None or not on_hub(options.weights)  # where there are no revisions
    inside = replace(options, revision=None) if elsewhere else options
    backbone = local_dir(folder, inside, name=f"hf-hub:{hub_id}")
    if options.weights is None:
        backbone.weights = hub_source(hub_id, folder, options.revision)
    return backbone


def embedded(options: BackboneOptions) -> OpenClipBackbone:
    """Return the small model that comes with this package, for trying things out without any download."""
    folder = Path(str(files("calib"))) / "assets" / "embedded"
    if not os.path.isfile(folder / CONFIG_NAME):
        raise FileNotFoundError(
            f"This installation lacks the embedded model: there is no {folder / CONFIG_NAME}."
        )
    if options.weights is not None and str(options.weights).startswith(HUB):
        raise ValueError(
            f"backbone.weights={options.weights} is of another model than backbone.name=embedded: name it "
            "as well, e.g. backbone.name=plip."
        )
    backbone = local_dir(folder, options, name="embedded")
    if options.weights is None:
        backbone.weights = "embedded"
    return backbone


def _check_parts(content: Mapping[str, Any], path: Path) -> None:
    """Refuse a configuration without the parts of which a model is made."""
    model = content["model_cfg"]
    parts = {"model_cfg": model, "preprocess_cfg": content.get("preprocess_cfg", {})}
    if isinstance(model, Mapping):
        parts |= {f"model_cfg.{tower}": model.get(tower) for tower in ("vision_cfg", "text_cfg")}
    wrong = [name for name, part in parts.items() if not isinstance(part, Mapping)]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)} must hold keys and values ({{...}}).")
    if not isinstance(model.get("embed_dim"), int):
        raise ValueError(
            f"{path}: model_cfg.embed_dim must be a whole number, not {model.get('embed_dim')!r}."
        )


def _what_it_is(folder: Path) -> str:
    """Return what a folder that is no open_clip model holds instead, where its files say so."""
    path = folder / "config.json"
    kind = read_mapping(path).get("model_type") if os.path.isfile(path) else None
    if kind == "clip":
        return (
            " It holds a CLIP in Hugging Face form: give it as backbone.weights of the backbone with its "
            "architecture, e.g. backbone.name=clip, plip or open_clip:ViT-B-16-quickgelu."
        )
    if kind is None:
        return ""
    instead = "; open_clip's form of SigLIP is" if str(kind).startswith("siglip") else ""
    return f" It holds a '{kind}' model in Hugging Face form, which is not supported{instead}."


def _published_preprocessing(model: str) -> dict[str, Any]:
    """Return the preprocessing that all published weights of an open_clip model share."""
    import open_clip

    keys = ("mean", "std", "interpolation", "resize_mode")
    found: list[dict[str, Any]] = []
    for tag in open_clip.list_pretrained_tags_by_model(model):
        config = open_clip.get_pretrained_cfg(model, tag)
        chosen = {key: config[key] for key in keys if config.get(key)}
        if chosen not in found:
            found.append(chosen)
    if len(found) > 1:
        raise ValueError(
            f"The published weights of {model} want different preprocessings; choose one with "
            f"backbone.preprocessing. They are: {found}."
        )
    return found[0] if found else {}
