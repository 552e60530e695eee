"""`calib data check`: what will be read, and what training would refuse, before anything is encoded."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from calib.backbones.base import Backbone
from calib.commands.check_failure import check_embeddings, learned_from, words_of_embeddings
from calib.commands.data_arguments import DataCheck
from calib.commands.data_words import words_of
from calib.commands.exit_codes import DONE, FAILED
from calib.commands.failure.images import resolve
from calib.commands.machine import to_json
from calib.config import FailureRun, PromptRun, SegmentRun
from calib.core.names import hard_to_read, plain_name
from calib.core.problems import collected
from calib.core.text import few, printable
from calib.data import FeatureTable, FewShotSplit, ImageTable, TaskData, check_overlap
from calib.data.inspection import Inspection
from calib.losses import Objective, resolve_terms
from calib.prompts.learner import PromptLearner
from calib.prompts.shots import folds_of
from calib.prompts.zero_shot import class_tokens
from calib.report.contact_sheet import SheetRow, save_contact_sheet
from calib.runs.prepare import load_task, make_backbone, parity_of, split_of
from calib.runs.prompt_run import check_trainable
from calib.runs.shots import shot_settings

HERE = "embedded"  # the backbone whose text tower is at hand
NAMED = 10


def check(asked: DataCheck) -> dict[str, Any]:
    """Return what was found in data, as JSON would have it.

    Args:
        asked: From `calib.commands.data_arguments.data_arguments`.

    Returns:
        {"data": name, root, class names and the zero-shot sentence, "splits": {split: counts}, "images":
        kinds, sizes and what cannot be read, "overlap": copies and shared patients, "shots": the draw, None
        where there can be none, "warnings": sentences, "refused": what training would refuse, in its words}.
    """
    config = asked.config
    assert isinstance(config, PromptRun | FailureRun)
    if isinstance(config, FailureRun):
        config = resolve(config)
    found: dict[str, Any] = {
        "data": {"name": config.data.name, "root": config.data.root, "class_names": [], "sentence": None},
        "splits": {},
        "images": Inspection().to_dict(),
        "overlap": None,
        "shots": None,
        "warnings": [],
        "refused": [],
    }
    with _said(found["warnings"]):
        seen = Inspection()
        task = _task(config, seen, found, wholly=not asked.headers)
        found["images"] = seen.to_dict()
        if task is None:
            return found
        sentence = task.template.replace("{}", plain_name(task.class_names[0]))
        found["data"] |= {"class_names": task.class_names, "sentence": sentence}
        found["splits"] = {split: _counts(table, task.class_names) for split, table in task.splits().items()}
        found["overlap"] = {**check_overlap(task).to_dict(), "images_of_shared_groups": _of_shared(task)}
        _judge_images(config, seen, found)
        if isinstance(config, FailureRun):
            found["failure"] = None
            with _refusal(found["refused"]):
                found["failure"] = learned_from(config, task)
            return found
        if poor := hard_to_read(task.class_names):
            found["warnings"].append(f"These class names read badly in a sentence: {few(poor, NAMED)}.")
        split = _drawn(config, task, found["refused"])
        _try_names(config, task, found)
        if split is not None:
            found["shots"] = _shots(config, task, split)
            if asked.picture is not None:
                _draw(config, task, split, asked, found)
    return found


def _task(
    config: PromptRun | FailureRun, seen: Inspection, found: dict[str, Any], *, wholly: bool
) -> TaskData | None:
    """Return the data with whatever splits there are. None: they cannot be read at all."""
    look, refused = partial(seen.look, wholly=wholly), found["refused"]
    data = replace(config.data, options={**config.data.options, "look": look})
    task = None
    with collected() as problems:
        task = load_task(data, needs=("train",) if isinstance(config, PromptRun) else ("train", "test"))
    refused += map(str, problems)
    return task


def _counts(table: ImageTable | FeatureTable, class_names: Sequence[str]) -> dict[str, Any]:
    counts = Counter(table.labels.tolist())
    return {
        "n": len(table),
        "classes": {name: counts[label] for label, name in enumerate(class_names)},
        "groups": None if table.groups is None else len(set(table.groups)),
    }


def _of_shared(task: TaskData) -> dict[str, list[str]]:
    """Return the images of every group that is in more than one split, as "split: name"."""
    where: dict[str, dict[str, list[str]]] = {}
    for split, table in task.splits().items():
        for group, name in zip(table.groups or (), table.names, strict=False):
            where.setdefault(group, {}).setdefault(split, []).append(f"{split}: {name}")
    return {
        group: [name for names in by_split.values() for name in names]
        for group, by_split in sorted(where.items())
        if len(by_split) > 1
    }


def _judge_images(config: PromptRun | FailureRun, seen: Inspection, found: dict[str, Any]) -> None:
    bad = [reason for reasons in seen.unreadable.values() for reason in reasons.values()]
    if bad:
        more = [f"and {len(bad) - NAMED} more."] if len(bad) > NAMED else []
        said = "\n  ".join([f"{len(bad)} images that cannot be read:", *bad[:NAMED], *more])
        if config.data.options.get("skip_unreadable"):
            found["warnings"].append(f"Left out: {said}")
        else:
            found["refused"].append(f"{said}\n  To train without: data.options.skip_unreadable=true.")
    if seen.burned_in:
        found["warnings"].append(
            f"{len(seen.burned_in)} DICOM files say that their pixels show text about the patient "
            f"({few(seen.burned_in)}): so would pictures of them in a report (images=false leaves them out)."
        )


def _drawn(config: PromptRun, task: TaskData, refused: list[str]) -> FewShotSplit | None:
    """Return the shots, once everything that decides whether they can be trained on was tried."""
    data, split = config.data, None
    if not len(task.train):
        return None  # which was said
    with _refusal(refused):
        split = split_of(config, task)
    settings = shot_settings(config)
    with _refusal(refused):
        settings.check(task.class_names)
        if split is not None:
            folds_of(task.train.subset(split.train), settings, task.class_names)
    for preset in dict.fromkeys((config.preset, *config.baselines)):
        with _refusal(refused):
            loss = config.loss if preset == config.preset else {}
            check_trainable(Objective(resolve_terms(preset, loss)), task.class_names)
    with _refusal(refused):
        if isinstance(task.train, FeatureTable):
            task.train.with_views(data.views)
    return split


@contextlib.contextmanager
def _refusal(refused: list[str]) -> Iterator[None]:
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        refused.append(str(error))


def _try_names(config: PromptRun, task: TaskData, found: dict[str, Any]) -> None:
    """Say which class names no prompt could hold; models whose weights are elsewhere are not loaded."""
    if config.backbone.name != HERE:
        return
    with _refusal(found["refused"]):
        backbone: Backbone = make_backbone(config.backbone, parity_of(config))
        class_tokens(backbone, task.class_names, task.template)
        PromptLearner(
            backbone,
            task.class_names,
            **asdict(config.prompt),
            seed=config.seed,
            truncate=config.parity.truncate,
        )
        for table in task.splits().values():
            if isinstance(table, FeatureTable):
                table.check_backbone(backbone)


def _shots(config: PromptRun, task: TaskData, split: FewShotSplit) -> dict[str, Any]:
    def counts(rows: Any) -> dict[str, int]:
        by_label = Counter(task.train.labels[rows].tolist())
        return {name: by_label[label] for label, name in enumerate(task.class_names)}

    rows = [*split.train.tolist(), *split.val.tolist()]
    groups = task.train.groups
    return {
        "seed": config.seed,
        "train": counts(split.train),
        "val": counts(split.val),
        "train_names": split.train_names,
        "val_names": split.val_names,
        "groups": None if groups is None else len({groups[row] for row in rows}),
        "picture": None,
    }


def _draw(
    config: PromptRun, task: TaskData, split: FewShotSplit, asked: DataCheck, found: dict[str, Any]
) -> None:
    """Draw the shots by class."""
    table = task.train
    if not isinstance(table, ImageTable):
        found["warnings"].append("There is no picture of the shots: these are packaged features.")
        return
    labels = table.labels.tolist()

    def of(label: int, rows: Any) -> list[Any]:
        return [table.open(row) for row in rows.tolist() if labels[row] == label]

    rows = [
        SheetRow(name, of(label, split.train), of(label, split.val))
        for label, name in enumerate(task.class_names)
    ]
    title = f"{config.data.name}: the shots of seed {config.seed}"
    assert asked.picture is not None
    save_contact_sheet(rows, title, asked.picture)
    found["shots"]["picture"] = str(asked.picture)


@contextlib.contextmanager
def _said(sentences: list[str]) -> Iterator[None]:
    """Collect what readers and checks warn of, instead of showing it as it comes."""
    logger, collector = logging.getLogger("calib"), _Collector(sentences)
    others = [*logging.getLogger().handlers, *logger.handlers]
    logger.addHandler(collector)
    for handler in others:
        handler.addFilter(_is_progress)
    try:
        yield
    finally:
        logger.removeHandler(collector)
        for handler in others:
            handler.removeFilter(_is_progress)


class _Collector(logging.Handler):
    """Keeps the sentences of warnings."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._sentences = sentences

    def emit(self, record: logging.LogRecord) -> None:
        self._sentences.append(record.getMessage())


def _is_progress(record: logging.LogRecord) -> bool:
    return record.levelno < logging.WARNING or not record.name.startswith("calib")


def main(asked: DataCheck) -> int:
    """Run `calib data check`. Returns the exit status: 1 where training would refuse the data."""
    found, words = _found(asked)
    if found is None:
        return DONE
    text = to_json(found) if asked.json else printable(words(found))
    sys.stdout.write(f"{text}\n")
    return FAILED if found["refused"] else DONE


def _found(asked: DataCheck) -> tuple[dict[str, Any] | None, Callable[[Mapping[str, Any]], str]]:
    """Return what was found, None where help was shown, and what puts it into words."""
    config = asked.config
    if asked.items:
        from calib.commands.check_items import check_items, words_of_items

        return check_items(asked.items, asked.root), words_of_items
    if isinstance(config, SegmentRun):
        from calib.commands.check_pixels import check_pixels, words_of_pixels

        return check_pixels(config, asked.picture), words_of_pixels
    if isinstance(config, FailureRun) and asked.picture is not None:
        raise ValueError("out=FILE.png draws the shots of a prompt: leave out task=failure for it.")
    if isinstance(config, FailureRun) and config.embeddings.train is not None:
        return check_embeddings(config), words_of_embeddings
    return (None if config is None else check(asked)), words_of
