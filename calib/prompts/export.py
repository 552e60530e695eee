"""Exported prompts: one small safetensors file with everything a prediction needs besides the image tower."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.backbones import rebuild_backbone
from calib.backbones.base import Backbone
from calib.backbones.same import check_same_backbone, encode_precision_of, said_precision
from calib.core.checks import (
    FLOAT32_NORM,
    HALF_NORM,
    LARGEST_LOGIT_SCALE,
    check_kind,
    check_tensor,
    check_unit_norm,
)
from calib.core.names import name_key
from calib.data.features import FeatureTable
from calib.data.mapping import OutputMapping
from calib.data.predictions import Predictions
from calib.io.tensors import (
    load_tensors,
    require_keys,
    require_strings,
    require_tensor,
    require_version,
    save_tensors,
)
from calib.posthoc.decisions import Decisions, doubt_digest
from calib.posthoc.shot_parts import PROMPT
from calib.prompts.calibration import BIAS, WEIGHT, Calibration

KIND = "prompt"
VERSION = 3
OLDER = (1, 2)  # without a calibration; without decisions
_SAID = {str: "text", int: "whole number", dict: "mapping"}
RECORD = ("version", "class_names", "logit_scale", "temperature", "backbone", "prompt", "training")
LIMITS = {"logit_scale": (-20, LARGEST_LOGIT_SCALE), "temperature": (1e-6, 1e6)}  # CLIP's own scale is 4.6


@dataclass(eq=False)
class Prompt:
    """A learned (or zero-shot) prompt, finished for use.

    `logits = exp(logit_scale) / temperature * image_features @ text_features.T`, or where it is calibrated
    `logits = image_features @ calibration.weight.T + calibration.bias`.

    Attributes:
        text_features: (C, D) unit norm: the finished class embeddings.
        class_names: C names in label order.
        logit_scale: Log of the scale.
        backbone: The backbone's `describe()`: name, weights digest, preprocessing, ...;
            and, under `build`, the settings that make it again.
        context: The learned vectors (M, E) or (C, M, E). None: a zero-shot prompt.
        prompt: n_ctx, class_position, class_specific, init of a learned prompt; template of a zero-shot one.
        temperature: Divides the logits; 1 unless fitted on validation images.
        training: Objective, seed, split digest, data set, software versions.
        calibration: What makes the confidences right, in the place of the prompt's own logits. None: these
            are used as they are.
        decisions: What may pass and what must be reviewed: a threshold on 1 - confidence, prediction sets,
            and which images are unlike the shots. None: nothing is known.
    """

    text_features: Tensor = field(repr=False)
    class_names: list[str]
    logit_scale: float
    backbone: dict[str, Any] = field(repr=False)
    context: Tensor | None = field(default=None, repr=False)
    prompt: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    training: dict[str, Any] = field(default_factory=dict, repr=False)
    calibration: Calibration | None = None
    decisions: Decisions | None = field(default=None, repr=False)

    @property
    def encode_precision(self) -> str:
        """In what images are encoded for it: "fp32" or "bf16" (as in `create_backbone`)."""
        return str(encode_precision_of(self.backbone))

    def bare(self) -> Prompt:
        """Return the prompt without its calibration: the logits it was trained with.

        What was decided by its calibrated confidences stays behind.
        """
        kept = None if self.decisions is None else self.decisions.bare()
        return replace(self, calibration=None, decisions=kept)

    def doubt_digest(self) -> str:
        """Return what names the prompt's confidences: classes, texts, scale, calibration and backbone.

        The order of the classes does not matter.
        """
        order = sorted(range(len(self.class_names)), key=lambda row: self.class_names[row])
        ordered = {"text_features": self.text_features.float()[order]}
        if self.calibration is not None:
            parts = self.calibration.tensors()
            ordered |= {name: parts[name][order] for name in (WEIGHT, BIAS)}
        facts = {
            "class_names": sorted(self.class_names),
            "logit_scale": self.logit_scale,
            "temperature": self.temperature,
            "backbone": self.backbone["weights"]["digest"],
            "preprocessing": self.backbone["preprocessing"],
            **said_precision(self.backbone),
        }
        return doubt_digest(ordered, facts)

    def linear_map(self) -> Calibration:
        """Return what the prompt predicts with: its calibration, or its own map (C, D) as one."""
        if self.calibration is not None:
            return self.calibration
        weight = math.exp(self.logit_scale) / self.temperature * self.text_features.double()
        return Calibration(
            weight=weight, bias=weight.new_zeros(len(weight)), method="mapping", weights={PROMPT: 1.0}
        )

    def mapped(self, mapping: OutputMapping) -> Prompt:
        """Return the prompt with a calibrator of its outputs as part of it.

        Args:
            mapping: Fitted to labelled outputs of this prompt, as `calib calibrate` fits it.

        Raises:
            ValueError: The calibrator is no linear map of logits, or of other classes.
        """
        calibration = self.linear_map().mapped(mapping, self.class_names)
        return replace(self.bare(), calibration=calibration)

    def logits(self, image_features: Tensor) -> Tensor:
        """Return the logits (N, C) of images.

        Args:
            image_features: (N, D) unit norm, made by the backbone the prompt was trained for.

        Raises:
            ValueError: The features have another width than the prompt, or not unit norm.
        """
        check_tensor(image_features, "image_features")
        width = self.text_features.shape[1]
        if image_features.dim() != 2 or image_features.shape[1] != width:
            raise ValueError(
                f"image_features must be (N, {width}) for this prompt, not {tuple(image_features.shape)}."
            )
        advice = "Divide each row by its norm, as encode_image does."
        check_unit_norm(image_features, "image_features", tolerance=HALF_NORM, advice=advice)
        if self.calibration is not None:
            return self.calibration.logits(image_features)
        text = self.text_features.to(image_features)
        return (
            torch.tensor(self.logit_scale).exp().to(image_features)
            / self.temperature
            * image_features
            @ text.T
        )

    def predict(self, table: FeatureTable, *, data: str | None = None) -> Predictions:
        """Return what the prompt says about every image of a feature table.

        Args:
            table: Image features with labels, from the prompt's backbone.
            data: Name of the data set. None: not said.

        Raises:
            ValueError: The features have another width than the prompt.
        """
        check_kind(table, FeatureTable, "table", "calib.encode returns one; logits takes image features.")
        about = {key: self.training.get(key) for key in ("method", "seed", "split")}
        return Predictions(
            logits=self.logits(table.image_features),
            labels=table.labels,
            image_features=table.image_features,
            ids=list(table.ids),
            names=list(table.names),
            class_names=list(self.class_names),
            groups=None if table.groups is None else [str(group) for group in table.groups],
            about={**about, "backbone": self.backbone["name"], "data": data},
        )

    def in_order(self, class_names: Sequence[str]) -> Prompt:
        """Return the same prompt with its classes in another order, e.g. that of a data set.

        Args:
            class_names: The C names of this prompt, in the order wanted.

        Raises:
            ValueError: They are not the names of this prompt's classes.
        """
        place = {name_key(name): index for index, name in enumerate(self.class_names)}
        if sorted(map(name_key, class_names)) != sorted(place):
            raise ValueError(
                f"The prompt knows the classes {self.class_names}, and the data have {list(class_names)}. "
                "They must be the same; data.class_names sets those of the data."
            )
        order = [place[name_key(name)] for name in class_names]
        per_class = self.context is not None and self.context.dim() == 3
        return replace(
            self,
            class_names=list(class_names),
            text_features=self.text_features[order],
            context=self.context[order] if per_class and self.context is not None else self.context,
            calibration=None if self.calibration is None else self.calibration.in_order(order),
            decisions=None if self.decisions is None else self.decisions.in_order(order),
        )

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse a backbone other than the one the prompt was trained for.

        Raises:
            ValueError: Its weights or its preprocessing differ; the message says which.
        """
        check_same_backbone(self.backbone, backbone.describe(), what="This prompt was made for")

    def restore_backbone(
        self, *, weights: str | Path | None = None, tokenizer: str | Path | None = None
    ) -> Backbone:
        """Return the backbone the prompt was made for, with the same weights and preprocessing.

        Args:
            weights: Where the weights are now. None: where they were at training.
            tokenizer: Likewise for the tokenizer.

        Raises:
            ValueError: The weights found are not those the prompt was trained with.
            FileNotFoundError: They are not there.
        """
        build = self.backbone.get("build", {"name": self.backbone["name"]})
        parity = self.backbone.get("parity", {})
        said = self.backbone.get("weights", {}).get("source")
        made_with = None if said is None else str(said)
        backbone = rebuild_backbone(
            build, weights=weights, tokenizer=tokenizer, parity=parity, made_with=made_with
        )
        self.check_backbone(backbone)
        return backbone

    def save(self, path: str | Path, *, run: str | None = None) -> None:
        """Write the prompt to a safetensors file, atomically.

        Args:
            path: The file.
            run: The mark of the run in whose folder it lies. None: it is nobody's.

        Raises:
            ValueError: Its decisions were fitted for another prompt.
        """
        tensors = {"text_features": self.text_features.float()}
        if self.context is not None:
            tensors["context"] = self.context.float()
        record = {
            "kind": KIND,
            "version": VERSION,
            "class_names": self.class_names,
            "logit_scale": self.logit_scale,
            "temperature": self.temperature,
            "backbone": self.backbone,
            "prompt": self.prompt,
            "training": self.training,
            "calibration": None if self.calibration is None else self.calibration.record(),
            "decisions": None if self.decisions is None else self.decisions.to_record(),
        }
        if self.calibration is not None:
            tensors |= self.calibration.tensors()
        if self.decisions is not None:
            self.decisions.check(self.doubt_digest(), what="This prompt")
            tensors |= self.decisions.tensors()
        save_tensors(path, tensors, record, run=run)

    @classmethod
    def load(cls, path: str | Path) -> Prompt:
        """Return the prompt in a file written by `save`, checked.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, of another kind or version, or its parts do not fit together;
                decisions that were fitted for another prompt among them.
        """
        tensors, record = load_tensors(path, kind=KIND)
        require_version(record, VERSION, path=path, older=OLDER)
        require_keys(record, RECORD, path=path)
        names = require_strings(record, "class_names", path=path)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{path}: class_names must be different names, and they are {names}.")
        for key, (low, high) in LIMITS.items():
            number = record[key]
            if not isinstance(number, int | float) or isinstance(number, bool) or not low <= number <= high:
                kind = "positive number" if low > 0 else "number"
                raise ValueError(f"{path}: {key} must be a {kind} from {low:g} to {high:g}, not {number!r}.")
        _check_description(record["backbone"], path)
        _check_facts(record, path)
        text_features = require_tensor(tensors, "text_features", (len(names), None), path=path)
        check_unit_norm(text_features, f"{path}: text_features", tolerance=FLOAT32_NORM)
        context = tensors.get("context")
        if context is not None:
            shape = (len(names), None, None) if context.dim() == 3 else (None, None)
            require_tensor(tensors, "context", shape, path=path)
        width = text_features.shape[1]
        calibration = Calibration.read(tensors, record.get("calibration"), names, width, path=path)
        decisions = Decisions.from_record(record.get("decisions"), tensors, width=width, path=path)
        prompt = cls(
            text_features=text_features,
            class_names=names,
            logit_scale=float(record["logit_scale"]),
            backbone=record["backbone"],
            context=context,
            prompt=record["prompt"],
            temperature=float(record["temperature"]),
            training=record["training"],
            calibration=calibration,
            decisions=decisions,
        )
        if decisions is not None:
            decisions.check(prompt.doubt_digest(), what=str(path))
        return prompt


def _check_description(backbone: Any, path: str | Path) -> None:
    for key in ("name", "weights", "preprocessing"):
        if not isinstance(backbone, dict) or key not in backbone:
            raise ValueError(f"{path}: the description of the backbone lacks '{key}'.")
    weights = backbone["weights"]
    if not isinstance(weights, dict) or not isinstance(weights.get("digest"), str):
        raise ValueError(f"{path}: the description of the backbone lacks the digest of its weights.")
    kinds = {"name": str, "preprocessing": dict, "build": dict, "parity": dict, "architecture": dict}
    kinds["encode_precision"] = str
    for key, kind in kinds.items():
        if key in backbone and not isinstance(backbone[key], kind):
            raise ValueError(f"{path}: the backbone's {key} must be a {_SAID[kind]}, not {backbone[key]!r}.")


def _check_facts(record: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a description of the training that those who read it could not use."""
    for key in ("prompt", "training"):
        if not isinstance(record[key], dict):
            raise ValueError(f"{path}: {key} must be a mapping, not {record[key]!r}.")
    training = record["training"]
    kinds = {"method": str, "seed": int, "split": str, "config": dict, "objective": dict}
    for key, kind in kinds.items():
        if training.get(key) is not None and not isinstance(training[key], kind):
            raise ValueError(f"{path}: training.{key} must be a {_SAID[kind]}, not {training[key]!r}.")
    for name, settings in (training.get("objective") or {}).items():
        if not isinstance(settings, dict):
            raise ValueError(f"{path}: training.objective.{name} must be a mapping, not {settings!r}.")
