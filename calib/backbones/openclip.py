"""A backbone from an open_clip configuration: built offline, loaded strictly."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from calib.backbones.architectures import TEXT_TOWERS
from calib.backbones.base import Backbone
from calib.backbones.fast.bert import HfTextTower
from calib.backbones.fast.causal import CausalTower
from calib.backbones.options import BackboneOptions, isolated_rng
from calib.backbones.preprocessing import CLIP, Preprocessing
from calib.backbones.tokenization import warn_if_vocabulary_differs
from calib.backbones.towers.choice import own_model
from calib.backbones.vocabularies import tokenizer_source, tower_numbers, tower_tokenizer
from calib.backbones.weights.convert import is_openai_file, load_strictly
from calib.backbones.weights.reading import WeightFile, read_weights
from calib.io.files import read_mapping

CONFIG_NAME = "open_clip_config.json"


class OpenClipBackbone(Backbone):
    """A frozen model in open_clip's layout, with a causal CLIP text tower or a Hugging Face one.

    `parity={"official_double_embedding": True}` (Hugging Face text towers only) gives `encode_prompts` the
    fixed tokens after BERT's whole embedding layer, so positions, token types and LayerNorm are applied to
    them twice and to the context once, as github.com/iabh1shekbasu/CalibPrompt c6ec13e does for BiomedCLIP.
    Whole texts are not affected.
    """

    quirks = ("official_double_embedding",)

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        if self.parity["official_double_embedding"] and not self.has_bert:
            raise ValueError(
                f"official_double_embedding applies to BERT text towers; that of {self.name} is none. "
                "Leave out parity.double_embedding."
            )
        self._fast_tower = (
            HfTextTower(self._text, self.prompt_embeddings) if self.has_bert else CausalTower(self._text)
        )
        mask = getattr(self._text, "attn_mask", None)
        self.supports_positions = ("end",) if self.has_bert or mask is None else ("end", "middle", "front")

    @property
    def image_tower(self) -> nn.Module:
        """Return the image tower."""
        tower = self.model.visual
        assert isinstance(tower, nn.Module)
        return tower

    @property
    def _text(self) -> Any:
        return getattr(self.model, "text", self.model)  # open_clip's CLIP keeps its text tower at the top

    @property
    def has_bert(self) -> bool:
        """Return whether the text tower is a Hugging Face model."""
        return hasattr(self._text.transformer, "get_input_embeddings")

    @property
    def token_embedding(self) -> nn.Embedding:
        """Return the text tower's table of token embeddings."""
        return self._text.transformer.get_input_embeddings() if self.has_bert else self._text.token_embedding

    def prompt_embeddings(self, tokens: Tensor) -> Tensor:
        """Return what `encode_prompts` puts the context into; see the class for the parity switch."""
        if self.parity["official_double_embedding"]:
            return self._text.transformer.embeddings(input_ids=tokens)
        return super().prompt_embeddings(tokens)

    def _image_features(self, images: Tensor) -> Tensor:
        return self.model.encode_image(images)  # type: ignore[operator]

    def _text_features(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)  # type: ignore[operator]


def build_model(config: Mapping[str, Any], text_tower: Mapping[str, Any] | None = None) -> nn.Module:
    """Return open_clip's randomly initialised model of a configuration, without any network call.

    Args:
        config: `model_cfg` of an open_clip configuration.
        text_tower: Numbers of the Hugging Face text tower. None takes them from `TEXT_TOWERS`.

    Raises:
        ValueError: The model is a CoCa, or the numbers of its text tower are not known.
    """
    from open_clip.model import CLIP as OpenClip  # noqa: N811  our CLIP is a preprocessing
    from open_clip.model import CustomTextCLIP

    if "multimodal_cfg" in config:
        raise ValueError("CoCa models are not supported: their text tower appends a token of its own.")
    built: dict[str, Any] = copy.deepcopy(dict(config))
    built["vision_cfg"]["timm_model_pretrained"] = False
    text = built["text_cfg"]
    if not built.pop("custom_text", False) and "hf_model_name" not in text:
        return OpenClip(**built)
    text["hf_model_pretrained"] = False
    text_tower = text_tower or TEXT_TOWERS.get(text.get("hf_model_name", ""))
    if text_tower is None and "hf_model_name" in text:
        raise ValueError(f"The numbers of the text tower {text['hf_model_name']} are not known.")
    if text_tower is None:
        return CustomTextCLIP(**built)
    # open_clip reads the text tower's numbers from a folder; given a config object it would add a pooler.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(dict(text_tower)), encoding="utf-8")
        text["hf_model_name"] = folder
        return CustomTextCLIP(**built)


def create_open_clip(
    config: Mapping[str, Any],
    options: BackboneOptions,
    *,
    name: str,
    published: str,
    preprocess_config: Mapping[str, Any] | None = None,
    text_tower: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> OpenClipBackbone:
    """Return a backbone for an open_clip configuration: built offline, loaded strictly.

    Args:
        config: `model_cfg`: embed_dim, vision_cfg, text_cfg, quick_gelu.
        options: What the user said.
        name: The backbone's name.
        published: Where its weights are, for messages.
        preprocess_config: `preprocess_cfg` of an open_clip configuration. None is CLIP's.
        text_tower: Numbers of a Hugging Face text tower. None: known, or in a `config.json` of the user.
        folder: The folder of the model, where it is one.

    Raises:
        ValueError: Options or weights do not fit.
        FileNotFoundError: Weights or vocabulary are not there.
    """
    config = {**config, "quick_gelu": _activation(config, options, name)}
    found = options.find_weights(name, published)
    text = config["text_cfg"]
    source = tokenizer_source(text, options, found, name, folder)
    if text_tower is None:
        places = [
            folder,
            found and found.folder,
            source and (source if os.path.isdir(source) else source.parent),
        ]
        text_tower = tower_numbers(text, [place for place in places if place], name)
    tokenizer = tower_tokenizer(text, source, options, name)
    model = own_model(config) if found else None  # random weights are drawn as open_clip draws them
    if model is None:
        with isolated_rng(options.seed):
            model = build_model(config, text_tower)
    if found:
        state = read_weights(found.path)
        if options.quick_gelu is None:
            _warn_if_activation_differs(found, state, config["quick_gelu"], name)
        load_strictly(model, state, name=name, source=found.source)
    backbone = OpenClipBackbone(
        model,
        name=name,
        tokenizer=tokenizer,
        preprocess=options.choose_preprocessing(_own_preprocessing(model, preprocess_config or {})),
        architecture=_facts(config, model),
        weights=options.weights_source(found),
        parity=options.parity,
        encode_precision=options.encode_precision,
    )
    if backbone.has_bert and found:
        warn_if_vocabulary_differs(name, tokenizer.vocab_size, backbone.token_embedding.num_embeddings)
    return backbone


def _activation(config: Mapping[str, Any], options: BackboneOptions, name: str) -> bool:
    if options.quick_gelu is None:
        return bool(config.get("quick_gelu", False))
    if "timm_model_name" in config["vision_cfg"] and "hf_model_name" in config["text_cfg"]:
        raise ValueError(
            f"backbone.quick_gelu does not apply to {name}: timm and BERT have activations of their own."
        )
    return options.quick_gelu


def _warn_if_activation_differs(
    found: WeightFile, state: Mapping[str, Tensor], used: bool, name: str
) -> None:
    """Warn where the weights, or else a configuration beside them, were made for the other activation."""
    said: dict[Path, bool | None] = {found.path: True} if is_openai_file(state) else {}
    said = said or {path: _quick_gelu_said(read_mapping(path)) for path in _configurations(found.folder)}
    for path, wanted in said.items():
        if wanted is not None and wanted != used:
            why = " (a file of OpenAI)" if path == found.path else ""
            warnings.warn(
                f"{path}{why} says {'QuickGELU' if wanted else 'GELU'}, but {name} is used with "
                f"{'QuickGELU' if used else 'GELU'}; features differ. Follow the file with "
                f"backbone.quick_gelu={str(wanted).lower()}, or confirm with "
                f"backbone.quick_gelu={str(used).lower()}.",
                stacklevel=4,
            )


def _configurations(folder: Path) -> list[Path]:
    return [path for name in (CONFIG_NAME, "config.json") if os.path.isfile(path := folder / name)]


def _quick_gelu_said(config: Mapping[str, Any]) -> bool | None:
    """Return what a configuration of open_clip or Hugging Face says about QuickGELU, None for nothing."""
    if "model_cfg" in config:
        return bool(config["model_cfg"].get("quick_gelu", False))
    towers = [config.get(key) or {} for key in ("text_config", "vision_config")]
    usual = "quick_gelu" if config.get("model_type") == "clip" else None  # what it leaves out when saved
    said = {tower.get("hidden_act", usual) for tower in towers} - {None}
    return said == {"quick_gelu"} if len(said) == 1 else None


def _own_preprocessing(model: nn.Module, config: Mapping[str, Any]) -> Preprocessing:
    size = getattr(model.visual, "image_size", config.get("size", 224))
    sides = set(size) if isinstance(size, (tuple, list)) else {size}
    if len(sides) != 1:
        raise ValueError(f"Only square images are supported, the image tower wants {size}.")
    return Preprocessing(
        image_size=int(sides.pop()),
        mean=config.get("mean", CLIP.mean),
        std=config.get("std", CLIP.std),
        interpolation=config.get("interpolation", CLIP.interpolation),
        resize=config.get("resize_mode", CLIP.resize),
    )


def _facts(config: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    text = getattr(model, "text", model)
    pooler = getattr(text, "pooler", None)
    pooling = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    return {
        "library": "open_clip",
        "embed_dim": config["embed_dim"],
        "activation": "quick_gelu" if config["quick_gelu"] else "gelu",
        "pooling": type(pooler).__name__ if pooler else pooling,
        "config": copy.deepcopy(dict(config)),
    }
