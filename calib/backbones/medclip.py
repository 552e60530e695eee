"""MedCLIP: a Swin image tower and ClinicalBERT, each with a linear projection into the joint space."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from calib.backbones.architectures import MEDCLIP_VIT
from calib.backbones.base import Backbone
from calib.backbones.fast.bert import BertPrompts, BertTower
from calib.backbones.options import BackboneOptions, isolated_rng
from calib.backbones.placing import untouched
from calib.backbones.preprocessing import MEDCLIP
from calib.backbones.tokenization import bert_tokenizer, warn_if_vocabulary_differs
from calib.backbones.weights.convert import load_strictly, swin_name
from calib.backbones.weights.reading import read_weights

PUBLISHED = (
    "pytorch_model.bin in https://storage.googleapis.com/pytrial/medclip-vit-pretrained.zip, "
    "also in BAPLe's model folder"
)
VOCABULARY = "emilyalsentzer/Bio_ClinicalBERT"


class _ImageTower(nn.Module):
    def __init__(self, config: Mapping[str, Any], embed_dim: int) -> None:
        super().__init__()
        from transformers import SwinConfig, SwinModel

        self.model = SwinModel(SwinConfig(**config))
        self.projection_head = nn.Linear(self.model.num_features, embed_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection_head(self.model(pixel_values=images).pooler_output)  # (B, D)


class _TextTower(nn.Module):
    def __init__(
        self, config: Mapping[str, Any], embed_dim: int, hidden_states: Sequence[int], *, with_pooler: bool
    ) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        numbers = {key: value for key, value in config.items() if key != "model_type"}
        self.model = BertModel(BertConfig(**numbers), add_pooling_layer=with_pooler)
        self.projection_head = nn.Linear(config["hidden_size"], embed_dim, bias=False)
        self.hidden_states = tuple(hidden_states)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        states = self.model(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states
        # Over all positions, padding included, as MedCLIP was trained: its length belongs to the model.
        chosen = torch.stack([states[i] for i in self.hidden_states], dim=1)  # (C, 3, L, E)
        return self.projection_head(chosen.mean(2).mean(1))  # (C, D)


class _FastTextTower(BertTower):
    """MedCLIP's text tower: every row is pooled, padding included, so none can be left out."""

    def is_known(self) -> bool:
        return untouched(self.text, _TextTower) and super().is_known()

    def encode(self, contexts: Tensor, prompts: BertPrompts) -> Tensor:
        states = self.states(contexts, prompts)
        n_classes = len(prompts.tokens)
        means = [states[i].unflatten(1, (n_classes, -1)).mean(2) for i in self.text.hidden_states]
        return self.text.projection_head(torch.stack(means).mean(0))  # (S, C, D)


class MedClipTowers(nn.Module):
    """The two towers and the logit scale, under the names of the published weights.

    Args:
        config: `MEDCLIP_VIT` or the same with smaller numbers.
        with_pooler: Whether BERT has its pooling layer: unused, but part of the published file.
    """

    def __init__(self, config: Mapping[str, Any], *, with_pooler: bool = True) -> None:
        super().__init__()
        self.vision_model = _ImageTower(config["image_tower"], config["embed_dim"])
        self.text_model = _TextTower(
            config["text_tower"], config["embed_dim"], config["hidden_states"], with_pooler=with_pooler
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


class MedClipBackbone(Backbone):
    """MedCLIP, frozen, with the logit scale of the checkpoint (MedCLIP itself clamps it to [0, ln 100]).

    Source: github.com/RyanWangZf/MedCLIP; poolings as in github.com/iabh1shekbasu/CalibPrompt c6ec13e.
    Differs: a text that does not fit its 25 tokens raises; the official code cuts it off, as
    `tokenize(texts, truncate=True)` does.
    """

    model: MedClipTowers

    def __init__(self, model: MedClipTowers, **options: Any) -> None:
        super().__init__(model, **options)
        text = model.text_model
        self._fast_tower = _FastTextTower(
            text,
            text.model,
            embed=self.prompt_embeddings,
            pad_id=self.tokenizer.pad_id,
            keep_padding=True,
        )

    @property
    def image_tower(self) -> nn.Module:
        """Return the image tower."""
        return self.model.vision_model

    @property
    def token_embedding(self) -> nn.Embedding:
        """Return the text tower's table of token embeddings."""
        return self.model.text_model.model.get_input_embeddings()

    def _image_features(self, images: Tensor) -> Tensor:
        return self.model.vision_model(images)

    def _text_features(self, tokens: Tensor) -> Tensor:
        return self.model.text_model(tokens, (tokens != self.tokenizer.pad_id).long())

    def _named_weights(self) -> dict[str, Tensor]:
        named = {swin_name(name): tensor for name, tensor in super()._named_weights().items()}
        return {
            name: tensor for name, tensor in named.items() if not name.endswith("relative_position_index")
        }


def create_medclip(
    config: Mapping[str, Any], options: BackboneOptions, *, name: str = "medclip", with_pooler: bool = True
) -> MedClipBackbone:
    """Return MedCLIP for a configuration: built offline, loaded strictly.

    Args:
        config: embed_dim, image_tower (Swin), text_tower (BERT), context_length, hidden_states.
        options: What the user said.
        name: The backbone's name.
        with_pooler: Whether BERT has its unused pooling layer.

    Raises:
        ValueError: Options or weights do not fit.
        FileNotFoundError: Weights or vocabulary are not there.
    """
    if options.quick_gelu is not None:
        raise ValueError(f"backbone.quick_gelu does not apply to {name}: Swin and BERT use GELU.")
    found = options.find_weights(name, PUBLISHED)
    tokenizer = bert_tokenizer(options.find_tokenizer(name, found, VOCABULARY), config["context_length"])
    with isolated_rng(options.seed):
        model = MedClipTowers(config, with_pooler=with_pooler)
    if found:
        load_strictly(model, read_weights(found.path), name=name, source=found.source)
    facts = {
        "library": "transformers",
        "activation": "gelu",
        "pooling": "mean over all positions and three layers",
    }
    backbone = MedClipBackbone(
        model,
        name=name,
        tokenizer=tokenizer,
        preprocess=options.choose_preprocessing(
            replace(MEDCLIP, image_size=config["image_tower"]["image_size"])
        ),
        architecture={**facts, **copy.deepcopy(dict(config))},
        weights=options.weights_source(found),
        parity=options.parity,
        encode_precision=options.encode_precision,
    )
    if found:
        warn_if_vocabulary_differs(name, tokenizer.vocab_size, backbone.token_embedding.num_embeddings)
    return backbone


def medclip(options: BackboneOptions) -> MedClipBackbone:
    """Return MedCLIP with its Swin-T image tower and Bio_ClinicalBERT, for chest X-rays."""
    return create_medclip(MEDCLIP_VIT, options)
