"""What `calib select` chooses from and by: images, earlier labels, the model that doubts, its home domain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from calib.backbones.base import Backbone
from calib.config import DataConfig, PoolConfig, SelectRun, part_from_dict
from calib.core.errors import meant_path
from calib.core.names import name_key
from calib.core.tables import names_in
from calib.core.text import few
from calib.data import FeatureTable
from calib.data.encode import encode
from calib.data.first_look import looked_at
from calib.data.readers.pool import load_unlabelled
from calib.data.selection import NEED_MODEL
from calib.data.shot_list import ShotList
from calib.data.specs import POOL
from calib.data.task import DEFAULT_TEMPLATE, Splits, Table
from calib.prompts.export import Prompt
from calib.prompts.zero_shot import zero_shot_features
from calib.runs.exports import prompt_path
from calib.runs.folder import RunFolder
from calib.runs.marks import record_in
from calib.runs.prepare import check_own_backbone, load_task, make_backbone, placed, restored_backbone


@dataclass(frozen=True)
class Model:
    """What is known of the images before they are labelled.

    Attributes:
        backbone: The frozen model.
        class_names: C names. None: not known.
        weight: (C, D), `logits = features @ weight.T + bias`. None: there is no model.
        bias: (C,).
        what: What it is called in record.json.
        template: The sentence that the prompt's run was given. None: no prompt, or none was given.
    """

    backbone: Backbone
    class_names: list[str] | None
    weight: Tensor | None
    bias: Tensor | None
    what: str
    template: str | None = None


def pool_of(data: PoolConfig) -> tuple[Table, list[str] | None, str]:
    """Return the images, the names of their classes where they are known, and the zero-shot sentence."""
    if data.name != POOL:
        full = DataConfig(
            name=data.name,
            root=data.root,
            template=data.template,
            class_names=data.class_names,
            options=data.options,
        )
        task = load_task(full)
        return task.train, task.class_names, task.template
    if data.root is None:
        raise ValueError("Say where the images are: calib select FOLDER budget=24, or data.name=NAME.")
    allowed = ("grey16_max", "skip_unreadable")
    stray = next((name for name in data.options if name not in allowed), None)
    if stray is not None:
        raise ValueError(f"data.options.{stray} is for other data; for data.name=pool: {', '.join(allowed)}.")
    table = load_unlabelled(Path(data.root).expanduser())
    table.grey16_max = data.options.get("grey16_max")
    found = looked_at(Splits([], {"train": table}), skip_unreadable=bool(data.options.get("skip_unreadable")))
    if not len(found.tables["train"]):
        raise ValueError(f"No image in {data.root} can be read. {' '.join(found.notes)}")
    return found.tables["train"], data.class_names, data.template or DEFAULT_TEMPLATE


def with_labels(
    earlier: ShotList, table: Table, names: list[str] | None, *, own: bool
) -> tuple[list[str] | None, ShotList]:
    """Return the class names and an earlier list with all its labels; a data set's own fill in what lacks.

    Args:
        earlier: The list.
        table: The images.
        names: Of the classes, where they are known.
        own: Whether the table knows labels.
    """
    rows = earlier.rows_in(table.ids, table.names, what="the images to choose from")
    if own and names is not None:
        true = [names[int(table.labels[row])] for row in rows]
        filled = [
            replace(each, label=each.label or label) for each, label in zip(earlier.images, true, strict=True)
        ]
        earlier = replace(earlier, images=tuple(filled))
    earlier.check_filled()
    _, found = earlier.numbered(names)
    return names or found, earlier


def model_of(config: SelectRun, names: list[str] | None, template: str) -> Model:
    """Return the model whose doubts count."""
    if config.prompt is not None:
        path = prompt_path(config.prompt)
        prompt = Prompt.load(path)
        check_own_backbone(prompt, config.backbone, config.prompt)
        backbone = restored_backbone(
            prompt, weights=config.backbone.weights, tokenizer=config.backbone.tokenizer
        )
        if names is not None and sorted(map(name_key, names)) != sorted(map(name_key, prompt.class_names)):
            raise ValueError(
                f"{path} knows the classes {few(prompt.class_names)}, and the images are of {few(names)}."
            )
        line = prompt.linear_map()
        what = f"prompt {path.parent.name}"
        return Model(backbone, prompt.class_names, line.weight, line.bias, what, _sentence_of(prompt))
    backbone = placed(make_backbone(config.backbone, {}))
    if names is None:
        if config.strategy in NEED_MODEL:
            free = [each for each in names_in("calib.data.selection", "STRATEGIES") if each not in NEED_MODEL]
            raise ValueError(
                f"strategy={config.strategy} asks what the model doubts, and it does not know the classes: "
                f'"data.class_names=[NAME,NAME,...]", or prompt=RUN. Without: {", ".join(free)}.'
            )
        return Model(backbone, None, None, None, "none")
    weight = None
    if config.strategy in NEED_MODEL:
        texts = zero_shot_features(backbone, names, template).cpu().double()
        weight = math.exp(float(backbone.logit_scale)) * texts
    return Model(backbone, names, weight, None, "none" if weight is None else "zero-shot")


def _sentence_of(prompt: Prompt) -> str | None:
    """Return the sentence that the settings of a prompt's run name. None: they name none."""
    found: Any = prompt.training.get("config")
    for key in ("data", "template"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None


def encoded(table: Table, backbone: Backbone, data: PoolConfig) -> FeatureTable:
    """Return the features of images, from the cache where they are there."""
    return encode(backbone, table, cache=data.cache_dir, batch_size=data.encode_batch_size)


def has_learned(prompt: str | None, labelled: dict[str, int]) -> bool:
    """Return whether the prompt was trained on what is labelled: on all of it, by its split.json."""
    if prompt is None or not labelled:
        return False
    seen = record_in(RunFolder(prompt_path(prompt).parent).split).get("train")
    return isinstance(seen, list) and labelled.keys() <= set(seen)


def source_of(config: SelectRun, backbone: Backbone) -> Tensor | None:
    """Return the features of the domain that the model is at home in."""
    if config.source is None:
        return None
    if config.source in names_in("calib.data.specs", "DATASETS") and not Path(config.source).exists():
        data = part_from_dict(DataConfig, {"name": config.source}, source="source", prefix="data.")
        table: Table = load_task(data).train
    else:
        path = Path(config.source).expanduser()
        if not path.exists():
            raise FileNotFoundError(
                f"source={config.source} is neither a data set nor a folder or table.{meant_path(path)}"
            )
        table = load_unlabelled(path)
    return encoded(table, backbone, config.data).image_features
