"""Finished runs whose robustness is judged: prompts and failure heads with all they hold, and their data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from calib.backbones.base import Backbone
from calib.backbones.same import check_same_backbone
from calib.config import DataConfig, EvaluateRun, RobustnessRun, given
from calib.core.names import same_names
from calib.core.text import few
from calib.data import FeatureTable, ImageTable
from calib.data.task import AbsentSplitError, TaskData
from calib.failure.export import FailureHead
from calib.prompts.export import Prompt
from calib.robustness.assess import FEATURES_ONLY, some_of
from calib.robustness.said import PromptSystem
from calib.runs.entries import Entry, find_entries, method_of
from calib.runs.folder import FILES, RunFolder
from calib.runs.from_exports import own_data, own_data_of
from calib.runs.metadata import columns_asked, metadata_table, read_columns
from calib.runs.prepare import features_of, load_task, restored_backbone
from calib.runs.validation import shots_of_run

log = logging.getLogger(__name__)
WITH_HEAD = "+ failure head"
SPLITS = ("test", "val")


@dataclass
class JudgedRuns:
    """What is judged, on what.

    Attributes:
        systems: Method to seed to model.
        backbone: The frozen model of all of them.
        data: Where the images come from.
        images: Those that are judged: images, or features without them.
        labelled: Features of the first run's shots. None: not known.
        counts: (C,) training images of each class. None: not known.
        validation: Features of images to calibrate sanity baselines on. None: there are none.
        shifts: Column to what it says of each image.
        trained: Column to what it says of the first run's shots. None: not known.
        notes: What a reader has to know.
    """

    systems: dict[str, dict[int, PromptSystem]]
    backbone: Backbone
    data: DataConfig
    images: FeatureTable | ImageTable
    labelled: FeatureTable | None
    counts: Tensor | None
    validation: FeatureTable | None
    shifts: dict[str, list[str]]
    trained: dict[str, list[str]] | None
    notes: list[str]


@dataclass
class _Found:
    """A prompt that is judged.

    Attributes:
        name: Its method.
        path: Its file, for messages.
        prompt: What is in it.
        head: A failure head for it. None: there is none.
        data: The data set it is judged on.
    """

    name: str
    path: Path
    prompt: Prompt
    head: FailureHead | None
    data: DataConfig


def judged_runs(config: RobustnessRun) -> JudgedRuns:
    """Return what the settings ask to be judged.

    Raises:
        FileNotFoundError: A run, its data or weights are not there.
        ValueError: Nothing is named, the runs differ in backbone, data or classes, there are no images to
            corrupt, or the table of a shift does not know them.
    """
    if config.split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not '{config.split}'.")
    found = _found(config)
    first = found[0]
    _check_alike(found)
    task, with_train = _task(first, config)
    table = task.splits()[config.split]
    if config.corruptions != [] and not isinstance(table, ImageTable):
        raise ValueError(f"{first.path} on '{first.data.name}': {FEATURES_ONLY}")
    rows = some_of(table, config.images)
    notes = []
    if len(rows) < len(table):
        notes.append(f"{len(rows)} of {len(table)} images are judged (images={config.images}).")
    table = table.subset(rows)
    shots, validation = _draw(first, task) if with_train else (None, None)
    columns = columns_asked(config.shift_by)
    shifts: dict[str, list[str]] = {}
    trained = None
    if columns:
        said = metadata_table(first.data, config.metadata)
        shifts = read_columns(said, columns, table.names, table.ids)
        if shots is not None:
            seen = task.train.subset(shots)
            try:
                trained = read_columns(said, columns, seen.names, seen.ids)
            except ValueError as error:
                log.info("Nothing is known of the training images: %s", error)
    backbone = restored_backbone(
        first.prompt, weights=config.backbone.weights, tokenizer=config.backbone.tokenizer
    )
    labelled = None
    counts = None
    if shots is not None:
        labelled = features_of(task.train.subset(shots), backbone, first.data)
        counts = task.train.labels.bincount(minlength=len(task.class_names))
    else:
        notes.append("The shots of the run are not at hand: there are fewer sanity baselines.")
    known = None
    if config.split != "val" and task.val is not None and len(task.val):
        known = features_of(task.val, backbone, first.data)
    elif validation is not None and len(validation):
        known = features_of(task.train.subset(validation), backbone, first.data)
    else:
        notes.append("There are no validation images: sanity baselines are as they are, not calibrated.")
    for each in found:
        notes += _lacking(each)
    systems = _by_seed(found)
    _check_seeds(systems)
    return JudgedRuns(
        {
            name: {
                seed: PromptSystem(each.prompt, each.head, task.class_names) for seed, each in runs.items()
            }
            for name, runs in systems.items()
        },
        backbone,
        first.data,
        table,
        labelled,
        counts,
        known,
        shifts,
        trained,
        list(dict.fromkeys(notes)),
    )


def _found(config: RobustnessRun) -> list[_Found]:
    """Return the prompts of the runs that are named, the first run's own before its baselines."""
    if not config.runs:
        raise ValueError("Nothing to judge: name run folders or prompt.safetensors files.")
    heads = [run for run in config.runs if Path(run).is_dir() and RunFolder(run).failure.is_file()]
    prompts = [run for run in config.runs if run not in heads]
    found = []
    if prompts:
        entries = find_entries(EvaluateRun(runs=prompts, data=config.data))
        found += [_Found(each.method, each.path, each.prompt, None, each.data) for each in _ordered(entries)]
    return found + [_of_head(RunFolder(run), config) for run in heads]


def _ordered(entries: Sequence[Entry]) -> list[Entry]:
    """Return entries with what was trained before what only stands beside it."""
    return sorted(entries, key=lambda each: RunFolder(each.path.parent).is_baseline)


def _of_head(folder: RunFolder, config: RobustnessRun) -> _Found:
    """Return the prompt of a failure run, with its head."""
    folder.check_marks()
    if not folder.prompt.is_file():
        raise ValueError(
            f"'{folder.path}' judges a model of which there are embeddings only: there is no prompt that "
            "could be asked of corrupted images."
        )
    head, prompt = FailureHead.load(folder.failure), Prompt.load(folder.prompt)
    asked = given(config.data, EvaluateRun().data)
    data = own_data_of(head, str(folder.failure), config.data) if "name" not in asked else config.data
    if data is None or not data.name:
        raise ValueError(f"'{folder.path}' does not say which data it is of: data.name=... data.root=...")
    return _Found(f"{method_of(prompt, folder.path.name)} {WITH_HEAD}", folder.failure, prompt, head, data)


def _check_alike(found: Sequence[_Found]) -> None:
    first = found[0]
    for other in found[1:]:
        check_same_backbone(
            first.prompt.backbone,
            other.prompt.backbone,
            what=f"{first.path} was made for",
            at_hand=str(other.path),
        )
        if not same_names(first.prompt.class_names, other.prompt.class_names):
            raise ValueError(
                f"{first.path} knows the classes {few(first.prompt.class_names)}, and {other.path} "
                f"{few(other.prompt.class_names)}: judge them one at a time."
            )
        for key in ("name", "root", "options"):
            ours, theirs = getattr(first.data, key), getattr(other.data, key)
            if ours != theirs:
                raise ValueError(
                    f"{first.path} is of data.{key}={ours}, and {other.path} of data.{key}={theirs}: judge "
                    "them one at a time, or name the data on this command."
                )


def _by_seed(found: Sequence[_Found]) -> dict[str, dict[int, _Found]]:
    """Return method to seed of the prompt to what is judged; refuse two different ones of the same."""
    systems: dict[str, dict[int, _Found]] = {}
    for each in found:
        seed = int(each.prompt.training.get("seed") or 0)
        twin = systems.setdefault(each.name, {}).setdefault(seed, each)
        if each.head and twin.head and each.head.doubt_digest() != twin.head.doubt_digest():
            raise ValueError(
                f"{twin.path} and {each.path} are different heads, both of '{each.name}' with seed {seed}. "
                "Judge them one at a time."
            )
    return systems


def _check_seeds(systems: Mapping[str, Mapping[int, _Found]]) -> None:
    sizes = {name: sorted(runs) for name, runs in systems.items()}
    if len({tuple(seeds) for seeds in sizes.values()}) > 1:
        log.info("The methods have different seeds: %s.", sizes)


def _task(first: _Found, config: RobustnessRun) -> tuple[TaskData, bool]:
    """Return the data, and whether their training split is at hand."""
    names = first.prompt.class_names
    own = own_data(first.prompt, str(first.path))
    same = own is not None and own.name == first.data.name
    try:
        if same:
            try:
                return load_task(first.data, needs=("train", config.split), among=names), True
            except AbsentSplitError as error:
                if config.split not in error.there:
                    raise
        return load_task(first.data, needs=(config.split,), among=names), False
    except AbsentSplitError as error:
        others = [each for each in SPLITS if each != config.split and each in error.there]
        instead = "".join(f", or its {each} split (split={each})" for each in others)
        raise ValueError(
            f"{error} To judge {first.path}, give data with test images (data.root=IMAGES, with "
            f"test/<class>/* or <class>/* alone){instead}."
        ) from error


def _draw(first: _Found, task: TaskData) -> tuple[Tensor | None, Tensor | None]:
    """Return the rows of the run's shots and of its validation images; None where they are not these data."""
    own, training = own_data(first.prompt, str(first.path)), first.prompt.training
    seed, digest = training.get("seed"), training.get("split")
    if own is None or seed is None:
        return None, None
    try:
        split = shots_of_run(first.path, own, task, seed)
    except ValueError as error:
        log.info("The shots of %s cannot be drawn from these data: %s", first.path, error)
        return None, None
    if split is None or (digest is not None and split.digest() != digest):
        log.info("The training images at hand are not those of %s.", first.path)
        return None, None
    return torch.as_tensor(split.train), torch.as_tensor(split.val)


def _lacking(each: _Found) -> list[str]:
    """Return what a run does not hold, where a word says how to add it."""
    beside = each.path.parent.name == FILES["bare"].path or RunFolder(each.path.parent).is_baseline
    if each.prompt.context is None or beside:
        return []
    system = PromptSystem(each.prompt, each.head)
    words = {"sets": ("prediction sets", "calib sets"), "review": ("review threshold", "calib review")}
    missing = [words[name] for name in words if getattr(system, name) is None]
    if system.review is not None and not system.review.achievable:
        return [f"{each.name}: its review threshold accepts nothing, so that there is no error of accepted."]
    if not missing:
        return []
    listed = " and no ".join(what for what, _ in missing)
    how = " and ".join(command for _, command in missing)
    return [f"{each.name} holds no {listed}; {how} would add them."]
