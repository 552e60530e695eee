"""Failure data from images: predictions on those the prompt was not trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from calib.backbones.base import Backbone
from calib.config import DataConfig, FailureRun, given, leaves
from calib.core.hashing import stable_hash
from calib.core.names import same_names
from calib.core.text import few
from calib.data import FewShotSplit, TaskData, check_overlap, few_shot_split
from calib.data.task import AbsentSplitError, Table
from calib.failure.cases import FailureCases
from calib.failure.data import NEEDS_TEST, CrossFit, FailureData, FrozenClassifier, cases_of, draw_rows
from calib.failure.digests import prompt_digest
from calib.io.files import read_mapping
from calib.processes.join import pick_device
from calib.prompts.export import Prompt
from calib.prompts.zero_shot import zero_shot
from calib.runs.exports import prompt_path
from calib.runs.folder import RunFolder
from calib.runs.from_exports import data_from_export, own_data
from calib.runs.marks import BACKBONE, NAMES
from calib.runs.prepare import (
    check_own_backbone,
    facts_of,
    features_of,
    fingerprint,
    load_task,
    make_backbone,
    say_sentence,
    terms_of,
)

ENOUGH = 8  # images per class outside the prompt's shots, below which fit_on=auto cross-fits
log = logging.getLogger(__name__)


def resolve(config: FailureRun) -> FailureRun:
    """Return the settings with the data set filled in: the prompt's own where none is named.

    Raises:
        FileNotFoundError: The prompt is not there.
        ValueError: The prompt is damaged, or neither it nor the settings name a data set.
    """
    if config.embeddings.train is not None:
        return config
    if config.prompt is None:
        return replace(config, data=replace(config.data, name=config.data.name or DataConfig().name))
    if config.data.name:
        return config
    path = prompt_path(config.prompt)
    own = own_data(Prompt.load(path), str(path))
    if own is None:
        raise ValueError(
            f"The prompt '{config.prompt}' does not say which data set it was trained on; give one: "
            "data.name=... data.root=..."
        )
    asked = given(config.data, FailureRun().data)
    left_out = [key for key, one in leaves(DataConfig) if one.of_prompt and key not in asked]
    data = data_from_export(own, config.data, asked, source=str(path), take=left_out)
    return replace(config, data=data)


def from_images(config: FailureRun) -> FailureData:
    """Return model, images and predictions that the settings describe. Writes nothing but the feature cache.

    Raises:
        FileNotFoundError: A prompt, images or weights are not there.
        ValueError: They do not fit together, or there are too few images.
    """
    try:
        task = load_task(config.data, needs=("train", "test"))
    except AbsentSplitError as error:
        raise ValueError(f"{error}{f' {NEEDS_TEST}' if 'test' not in error.there else ''}") from error
    prompt, backbone = _prompt_and_backbone(config, task)
    draw, copies = planned(config, task, prompt)
    table = task.train
    record = {
        **draw.split.to_dict(),
        "fit_on": "all" if prompt.context is None else draw.fit_on,
        "cross_fitted": [] if draw.own is None else [draw.own.train_ids[at] for at in draw.kept],
        "prompt": prompt_digest(prompt),
        BACKBONE: backbone.weights_digest,
        "test": fingerprint(task.test),
        "test_copies_left_out": sum(id_ in copies for id_ in table.ids),
        "overlap": check_overlap(task).to_dict(),
        "data": terms_of(task),
    }

    def seen(part: Table, views: int = 0) -> FailureCases:
        return FailureCases.of_prompt(prompt, features_of(part, backbone, config.data, views=views))

    cases = val = None
    if draw.outside and config.data.shots is None:  # nearly all images: encode all, which every seed can use
        features = features_of(table, backbone, config.data, views=config.data.views)
        cases = FailureCases.of_prompt(prompt, features.subset(draw.outside))
    elif draw.outside:
        cases = seen(table.subset(draw.outside), config.data.views)
    if len(draw.split.val):
        val = seen(table.subset(draw.split.val))
    test = prompt.predict(features_of(task.test, backbone, config.data), data=config.data.name)
    crossed = None
    if draw.own is not None and draw.kept:
        crossed = CrossFit(prompt=prompt, backbone=backbone, task=task, shots=draw.own, kept=draw.kept)
    return FailureData(
        judged=FrozenClassifier.of(prompt),
        cases=cases,
        val=val,
        test=test,
        test_cases=cases_of(test, prompt.text_features, calibrated=prompt.calibration is not None),
        record=record,
        cross_fit=crossed,
    )


def planned(config: FailureRun, task: TaskData, prompt: Prompt | None) -> tuple[_Draw, set[str]]:
    """Return which images the head learns from, and the ids of test images, whose copies it does not see.

    Args:
        config: The settings.
        task: The data, with train and test.
        prompt: The prompt that is judged. None: zero-shot.

    Raises:
        ValueError: There are too few images, or it cannot be found out which the prompt was trained on.
    """
    shots = None if prompt is None else _prompt_shots(prompt, config, task.train)
    copies = set(task.test.ids)
    return _draw(config, task, shots, copies), copies


def _prompt_and_backbone(config: FailureRun, task: TaskData) -> tuple[Prompt, Backbone]:
    """Return the prompt that is judged, and its backbone on the device of the run."""
    device = pick_device(config.trainer)
    if config.prompt is None:
        backbone = make_backbone(config.backbone, {}).to(device)
        say_sentence(task)
        return zero_shot(backbone, task, training=facts_of(config)), backbone
    prompt = Prompt.load(prompt_path(config.prompt))
    check_own_backbone(prompt, config.backbone, config.prompt)
    if not same_names(task.class_names, prompt.class_names):
        raise ValueError(
            f"The prompt '{config.prompt}' knows the classes {few(prompt.class_names)}, the data set "
            f"{config.data.name} has {few(task.class_names)}. They must be the same, in the same order."
        )
    backbone = prompt.restore_backbone(weights=config.backbone.weights, tokenizer=config.backbone.tokenizer)
    return prompt, backbone.to(device)


def _prompt_shots(prompt: Prompt, config: FailureRun, table: Table) -> FewShotSplit | None:
    """Return the prompt's own shots as rows of the training split. None: it had none (zero-shot)."""
    if prompt.context is None:
        return None
    own, digest = own_data(prompt, str(config.prompt)), prompt.training.get("split")
    if own is not None and own.shots_from is None:
        try:
            drawn = few_shot_split(
                table.labels,
                table.ids,
                own.shots,
                val_shots=own.val_shots,
                at_most=own.at_most,
                seed=int(prompt.training.get("seed") or 0),
                groups=table.groups,
            )
        except ValueError:  # these are not the images it was trained on
            drawn = None
        if drawn is not None and drawn.digest() == digest:
            return drawn
    written = RunFolder(prompt_path(str(config.prompt)).parent).split
    if digest is not None and written.is_file() and read_mapping(written).get("digest") == digest:
        return _known_rows(read_mapping(written), table)
    raise ValueError(
        f"Which images the prompt '{config.prompt}' was trained on cannot be found out: these images give "
        f"another draw (its own has the digest {str(digest)[:12]}), and there is no split.json beside it. "
        "Give the data it was trained on (data.name, data.root), or the run folder."
    )


def _known_rows(record: Mapping[str, Any], table: Table) -> FewShotSplit:
    """Return the images of a written split that are among these; of another data set, perhaps none."""
    there = set(table.ids)
    kept: dict[str, Any] = {part: [id_ for id_ in record[part] if id_ in there] for part in ("train", "val")}
    kept |= dict.fromkeys(NAMES)  # those of other images, once some are left out or added
    return FewShotSplit.from_dict({**record, **kept}, table.ids)


@dataclass(frozen=True)
class _Draw:
    """Which images the head learns from.

    Attributes:
        split: All of them, and the validation images, as rows of the training split.
        outside: Rows judged by the prompt as it is.
        own: The prompt's shots where some of them are cross-fitted.
        kept: Which of these, as positions among them.
    """

    split: FewShotSplit
    outside: list[int]
    own: FewShotSplit | None = None
    kept: tuple[int, ...] = ()

    @property
    def fit_on(self) -> str:
        """How the images were chosen, in a word."""
        if self.own is None:
            return "outside"
        return "outside_and_cross_fitted" if self.outside else "cross_fitted"


def _draw(config: FailureRun, task: TaskData, shots: FewShotSplit | None, copies: set[str]) -> _Draw:
    """Return the head's images: outside the prompt's shots; where these are too few, the shots as well."""
    if shots is None and config.fit_on == "cross_fitted":
        raise ValueError("fit_on=cross_fitted needs a learned prompt: a zero-shot one has no shots.")
    table = task.train
    free = [] if config.fit_on == "cross_fitted" else _free_rows(table, shots, copies)
    if shots is not None and not free and config.fit_on != "outside":
        return _with_own_shots(config, task, shots, free, copies)
    try:
        split = draw_rows(
            table,
            free,
            task.class_names,
            shots=config.data.shots,
            val_shots=config.data.val_shots,
            at_most=config.data.at_most,
            seed=config.seed,
        )
    except ValueError as error:
        if shots is None or config.fit_on == "outside":
            where = "the training split" if shots is None else "what the prompt's shots leave of it"
            raise ValueError(f"Too few images to train a failure head on, in {where}: {error}") from error
        return _with_own_shots(config, task, shots, free, copies)
    counts = table.labels[split.train].bincount(minlength=len(task.class_names))
    enough = config.data.shots is not None or int(counts.min()) >= ENOUGH
    if enough or shots is None or config.fit_on == "outside":
        return _Draw(split, split.train.tolist())
    return _with_own_shots(config, task, shots, free, copies)


def _free_rows(table: Table, shots: FewShotSplit | None, copies: set[str]) -> list[int]:
    """Return the rows that share no image or group with the prompt's shots, and no image with the test."""
    rows = range(len(table)) if shots is None else shots.outside(table.ids, table.groups)
    return [row for row in rows if table.ids[row] not in copies]


def _with_own_shots(
    config: FailureRun, task: TaskData, shots: FewShotSplit, free: list[int], copies: set[str]
) -> _Draw:
    """Return the images outside the shots, and where a class has too few of them its shots as well.

    The prompt's validation shots, which it was not trained on either, validate the head.
    """
    ids, labels, limit = task.train.ids, task.train.labels.tolist(), config.data.shots
    own = _without(shots, task.train, copies)
    outside: list[int] = []
    kept: list[int] = []
    for label in range(len(task.class_names)):
        there = [row for row in free if labels[row] == label]
        there = sorted(there, key=lambda row: stable_hash(config.seed, ids[row]))[:limit]
        mine = [at for at, row in enumerate(own.train.tolist()) if labels[row] == label]
        outside += there
        kept += mine if limit is None else mine[: max(0, limit - len(there))]
    rows = [*outside, *own.train[kept].tolist()]
    log.info(
        "%d images outside the prompt's shots, and %d of these cross-fitted.%s",
        len(outside),
        len(kept),
        _left_out_words(config, task.train, shots, free, copies),
    )
    split = replace(
        own,
        train=torch.tensor(rows, dtype=torch.int64),
        train_ids=[ids[row] for row in rows],
        shots=limit,
        seed=config.seed,
    )
    return _Draw(split, outside, own, tuple(kept))


def _left_out_words(
    config: FailureRun, table: Table, shots: FewShotSplit, free: list[int], copies: set[str]
) -> str:
    """Return how many images are no shots and yet not free, in a sentence, and why; empty where none is."""
    if config.fit_on == "cross_fitted":
        return ""
    known = {*shots.train_ids, *shots.val_ids, *copies}
    count = sum(id_ not in known for id_ in table.ids) - len(free)
    if not count:
        return ""
    return f" {count} more {'shares' if count == 1 else 'share'} a patient (or group) with a shot: left out."


def _without(shots: FewShotSplit, table: Table, copies: set[str]) -> FewShotSplit:
    """Return the prompt's own shots without copies of test images."""
    kept = {
        part: [id_ for id_ in ids if id_ not in copies]
        for part, ids in (("train", shots.train_ids), ("val", shots.val_ids))
    }
    return FewShotSplit.from_dict({**shots.to_dict(), **kept}, table.ids)
