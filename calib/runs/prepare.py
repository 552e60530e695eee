"""What a job needs before it begins: the frozen backbone, the data, few-shot draw, image features."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.config import BackboneConfig, DataConfig, FailureRun, PromptRun, given, to_dict
from calib.core.hashing import json_digest
from calib.core.names import hard_to_read, plain_name
from calib.core.problems import noted, together
from calib.core.text import few
from calib.data import (
    FeatureTable,
    FewShotSplit,
    ImageTable,
    TaskData,
    check_overlap,
    load_data,
)
from calib.data.chosen_shots import chosen_split, warn_of_chosen
from calib.data.encode import encode
from calib.data.shot_list import read_shot_list
from calib.data.specs import POOL
from calib.data.task import DEFAULT_TEMPLATE
from calib.processes.devices import quickest_device
from calib.processes.threads import thread_share
from calib.prompts.export import Prompt
from calib.prompts.zero_shot import class_tokens, template_prompt, zero_shot_features
from calib.runs.marks import BACKBONE

log = logging.getLogger(__name__)


@dataclass
class RunInputs:
    """Everything that the runs on one few-shot draw share.

    Attributes:
        backbone: The frozen model.
        task: The data set.
        train: The shots: features, or images where nothing is cached.
        val: Features of the validation shots. None: there are none.
        test: Features of the test split. None: the data have none.
        zero_shot: The prompt made of the template.
        record: What split.json says: the draw, images found on both sides of a split, terms and limits of the
            data.
    """

    backbone: Backbone
    task: TaskData
    train: FeatureTable | ImageTable
    val: FeatureTable | None
    test: FeatureTable | None
    zero_shot: Prompt
    record: dict[str, Any]


@dataclass
class SharedInputs:
    """What runs on one backbone and data set share, whatever their shots.

    Attributes:
        backbone: The frozen model.
        task: The data set.
        test: Features of the test split. None: the data have none.
        text_features: (C, D) of the template's sentences.
        record: What split.json says about the data and the backbone.
    """

    backbone: Backbone
    task: TaskData
    test: FeatureTable | None
    text_features: Tensor
    record: dict[str, Any]


def prepare(config: PromptRun) -> RunInputs:
    """Return the backbone, data, draw and features that a configuration describes.

    Raises:
        FileNotFoundError: Images or weights are not there.
        ValueError: A class has too few images, an image cannot be read, packaged features belong to another
            backbone.
    """
    return draw(config, load_shared(config))


def load_shared(config: PromptRun) -> SharedInputs:
    """Return backbone, data set and test features of a configuration; raises as `prepare`."""
    from calib.processes.join import pick_device  # takes seconds to import, and predictions do without

    backbone = make_backbone(config.backbone, parity_of(config)).to(pick_device(config.trainer))
    with together():  # all that can be found is said at once, before anything is encoded
        task = load_task(config.data)
        with noted():
            if len(task.train):  # else that was said
                split_of(config, task)
        with noted():
            class_tokens(backbone, task.class_names, task.template)
    say_sentence(task)
    record = {**describe_data(task), BACKBONE: backbone.weights_digest}
    return SharedInputs(
        backbone=backbone,
        task=task,
        test=features_of(task.test, backbone, config.data) if len(task.test) else None,
        text_features=zero_shot_features(backbone, task.class_names, task.template).cpu(),
        record=record,
    )


def say_sentence(task: TaskData) -> None:
    """Say what zero-shot reads, once: a sentence that reads badly costs more than any loss gains."""
    sentence = task.template.replace("{}", plain_name(task.class_names[0]))
    if task.template == DEFAULT_TEMPLATE:
        log.warning(
            'Zero-shot reads "%s", which does not say what the images are, and that matters more than any '
            'loss: "data.template=A chest X-ray of {}.", for example.',
            sentence,
        )
    else:
        log.info('Zero-shot reads "%s" (data.template, data.class_names).', sentence)
    if poor := hard_to_read(task.class_names):
        log.warning("These class names read badly there: %s. Plain words say more.", few(poor, 10))


def describe_data(task: TaskData) -> dict[str, Any]:
    """Return what split.json says about a data set, whatever the shots; without test images no `test`."""
    return {
        "test": fingerprint(task.test) if len(task.test) else None,  # null: `RunFolder.tested`
        "overlap": check_overlap(task).to_dict(),
        "data": terms_of(task),
    }


def data_record(config: PromptRun) -> dict[str, Any]:
    """Return what split.json would say now; reads no weights and encodes nothing.

    Raises:
        FileNotFoundError: The images are not there.
        ValueError: The data are not right.
    """
    task = load_task(config.data)
    return {**split_of(config, task).to_dict(), **describe_data(task)}


def split_of(config: PromptRun, task: TaskData) -> FewShotSplit:
    """Return the shots of a configuration: drawn from every class, or those of a list.

    Raises:
        FileNotFoundError: There is no such list.
        ValueError: A class has too few images, or the list is not of these.
    """
    data = config.data
    beside: dict[str, Any] = {"val_shots": data.val_shots, "at_most": data.at_most, "seed": config.seed}
    if data.shots_from is not None:
        return chosen_split(task, read_shot_list(data.shots_from), **beside)
    return task.draw(data.shots, **beside)


def draw(config: PromptRun, shared: SharedInputs) -> RunInputs:
    """Return a configuration's few-shot draw and its features.

    Raises:
        ValueError: A class has too few images, or an image cannot be read.
    """
    backbone, task = shared.backbone, shared.task
    split = split_of(config, task)
    warn_of_chosen(split, task)
    shots = task.train.subset(split.train)
    return RunInputs(
        backbone=backbone,
        task=task,
        train=features_of(shots, backbone, config.data, views=config.data.views)
        if config.data.cache
        else shots,
        val=features_of(task.train.subset(split.val), backbone, config.data) if len(split.val) else None,
        test=shared.test,
        zero_shot=template_prompt(backbone, task, shared.text_features, training=facts_of(config)),
        record={**split.to_dict(), **shared.record},
    )


def facts_of(config: PromptRun | FailureRun) -> dict[str, Any]:
    """Return what an untrained prompt says of the run it belongs to."""
    return {"seed": config.seed, "config": to_dict(config)}


def terms_of(task: TaskData) -> dict[str, Any]:
    """Return where the data come from and what a reader of the results should know about them."""
    return {"name": task.name, "source": task.source, "licence": task.licence, "notes": list(task.notes)}


def make_backbone(settings: BackboneConfig, parity: Mapping[str, bool]) -> Backbone:
    """Return the frozen model that the settings name.

    Args:
        settings: Name, weights and the rest.
        parity: Official quirks of the backbone to switch on.
    """
    return create_backbone(
        settings.name,
        weights=settings.weights,
        tokenizer=settings.tokenizer,
        revision=settings.revision,
        preprocessing=settings.preprocessing,
        quick_gelu=settings.quick_gelu,
        parity=parity,
        encode_precision=settings.encode_precision,
    )


def restored_backbone(
    prompt: Prompt, *, weights: str | None = None, tokenizer: str | None = None
) -> Backbone:
    """Return the frozen model of an export, placed as `placed` says.

    Args:
        prompt: The export.
        weights: The weights where they have moved since training. None: where they were.
        tokenizer: Likewise for the tokenizer.

    Raises:
        FileNotFoundError: The weights are not there.
        ValueError: They are others than those the prompt was made for.
    """
    return placed(prompt.restore_backbone(weights=weights, tokenizer=tokenizer))


def placed(backbone: Backbone) -> Backbone:
    """Return a frozen model where this process computes if nobody says where: on a GPU if there is one."""
    return backbone.to(quickest_device())


def check_own_backbone(prompt: Prompt, asked: BackboneConfig, source: str) -> None:
    """Refuse settings of a backbone that ask for another one than a prompt was made for.

    Args:
        prompt: The prompt, whose own backbone is used.
        asked: The settings; weights and tokenizer say where these are now, and may be any.
        source: What the prompt is called.

    Raises:
        ValueError: One was asked for that the prompt's backbone does not have.
    """
    made = {"name": prompt.backbone["name"], **(prompt.backbone.get("build") or {})}
    for key in sorted(given(asked, BackboneConfig()) - {"weights", "tokenizer"}):
        value, own = getattr(asked, key), made.get(key, getattr(BackboneConfig(), key))
        if value not in ({own, prompt.backbone["name"]} if key == "name" else {own}):
            said = "" if key == "name" else f" with backbone.{key}={'null' if own is None else own}"
            raise ValueError(
                f"The prompt '{source}' was made for {prompt.backbone['name']}{said}; leave out "
                f"backbone.{key} (it is {value})."
            )


def parity_of(config: PromptRun) -> dict[str, bool]:
    """Return the quirks that a backbone itself must know, if any is switched on."""
    return {"official_double_embedding": True} if config.parity.double_embedding else {}


def load_task(
    data: DataConfig, *, needs: Sequence[str] = ("train",), among: Sequence[str] | None = None
) -> TaskData:
    """Return the data set that the settings name; `needs` and `among` as for `calib.load_data`."""
    return load_data(
        data.name,
        data.root,
        template=data.template,
        class_names=data.class_names,
        needs=needs,
        among=among,
        shots_from=data.shots_from if data.name == POOL else None,
        **data.options,
    )


def features_of(
    table: FeatureTable | ImageTable, backbone: Backbone, data: DataConfig, *, views: int = 0
) -> FeatureTable:
    """Return the image features of a table: encoded once and cached, or as packaged.

    Args:
        table: Images, or features that were encoded before.
        backbone: The frozen model.
        data: Where the cache is and how many images are encoded at once.
        views: Augmented views per image.

    Raises:
        ValueError: Packaged features are of another backbone or preprocessing, or hold fewer views.
    """
    return encode(
        backbone,
        table,
        views=views,
        cache=data.cache_dir,
        batch_size=data.encode_batch_size,
        on_batch=thread_share().settle,
    )


def fingerprint(table: FeatureTable | ImageTable) -> dict[str, Any]:
    """Return what tells the images and labels of a split from any others: how many, and a digest."""
    return {"n": len(table), "digest": json_digest([list(table.ids), table.labels.tolist()])}
