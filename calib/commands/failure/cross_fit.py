"""Honest predictions on a prompt's own shots: each image is judged by a prompt trained without it."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning import seed_everything
from torch import Tensor

from calib.config import FailureRun, PromptRun, from_dict
from calib.core import ranks
from calib.core.hashing import json_digest
from calib.data.folds import make_folds, owners
from calib.data.task import Table
from calib.failure.cases import FailureCases
from calib.failure.data import CrossFit
from calib.io.files import MARK, write_json
from calib.losses import Objective, resolve_terms
from calib.prompts.export import Prompt
from calib.prompts.shots import calibrated_like
from calib.prompts.stack import PromptStackModule, StackedLoader
from calib.prompts.zero_shot import zero_shot_features
from calib.runs.folder import RunFolder
from calib.runs.last_state import write_curves
from calib.runs.marks import check_file, checked_mark
from calib.runs.prepare import RunInputs, features_of
from calib.runs.prompt_run import exported
from calib.runs.shots import member_of
from calib.runs.trainer import check_trainer, fit, make_trainer

CHECKPOINTS = 10  # per training, as of a head: a lost epoch is quickly trained again
SIDE_BY_SIDE = 16  # prompts at most: memory grows with them
STACK = ".stack-"  # begins the name of a folder in `folds`, while prompts are trained
log = logging.getLogger(__name__)


def cross_fit(config: FailureRun, plan: CrossFit, folder: RunFolder) -> FailureCases:
    """Return the cross-fitted predictions on those of the prompt's shots that the head learns from.

    For every fold, a prompt is trained on the other folds with the settings of the prompt that is judged, and
    predicts on the fold. Images of one group are never on both sides. They are trained side by side; each
    lies in `folds/<k>/`, and those that are there are read back.

    Args:
        config: Number of folds, and where training runs.
        plan: The shots, and what the prompts of the folds are made of.
        folder: The run's folder, claimed.

    Raises:
        ValueError: A class has its images in one fold only, so that a prompt would not see it.
    """
    backbone, task, shots = plan.backbone, plan.task, plan.shots
    table = task.train.subset(shots.train)
    features = features_of(table, backbone, config.data, views=config.data.views)
    own = _settings(config, plan.prompt)
    images = features_of(table, backbone, own.data, views=own.data.views) if own.data.cache else table
    folds = make_folds(table.labels, owners(table), config.folds, task.class_names)

    @functools.cache  # what is to be said of the class names is said once, and not where all folds are there
    def texts() -> Tensor:
        return zero_shot_features(backbone, task.class_names, task.template).cpu()

    held_out = [
        _Fold(
            number + 1,
            sorted(set(fold) & set(plan.kept)),
            rest := sorted(set(range(len(table))) - set(fold)),
            {"train": [shots.train_ids[row] for row in rest], "digest": shots.digest()},
            folder.fold(number + 1),
        )
        for number, fold in enumerate(folds)
        if set(fold) & set(plan.kept)
    ]
    parts = []
    for fold, trained in zip(
        held_out, _fold_prompts(own, plan, texts, images, held_out, folder), strict=True
    ):
        one = trained
        if plan.prompt.calibration is not None:
            one = calibrated_like(plan.prompt, one, features.with_views(0).subset(fold.rest), texts())
        parts.append(FailureCases.of_prompt(one, features.subset(fold.judged)))
    return FailureCases.join(parts)


@dataclass(frozen=True)
class _Fold:
    """A prompt that is trained without some of the shots, to judge these.

    Attributes:
        number: From 1.
        judged: Rows that it judges.
        rest: Rows that it sees.
        record: What its split.json says.
        folder: Where it lies.
    """

    number: int
    judged: list[int]
    rest: list[int]
    record: dict[str, Any]
    folder: RunFolder


def _settings(config: FailureRun, prompt: Prompt) -> PromptRun:
    """Return the settings the prompt was trained with, but for where images are and training runs."""
    source = f"The record of the prompt '{config.prompt}'"
    try:
        own = from_dict(prompt.training.get("config") or {}, task="prompt", source=source)
        check_trainer(own.trainer)
    except ValueError as error:
        raise ValueError(f"{source}: {error}" if source not in str(error) else str(error)) from error
    here = {
        key: config.trainer[key]
        for key in ("accelerator", "devices", "num_nodes", "enable_progress_bar")
        if key in config.trainer
    }
    elsewhere = {"accelerator", "devices", "num_nodes"}  # where the prompt was trained
    files = {key: getattr(config.data, key) for key in ("root", "cache_dir", "encode_batch_size")}
    return replace(
        own,
        baselines=[],
        calibrate=replace(own.calibrate, method="none", prevalence=None),
        out=None,
        trainer={**{key: value for key, value in own.trainer.items() if key not in elsewhere}, **here},
        data=replace(own.data, **files),
        log=replace(own.log, wandb="disabled"),
        resume=True,
        overwrite=False,
    )


def _fold_prompts(
    own: PromptRun,
    plan: CrossFit,
    texts: Callable[[], Tensor],
    images: Table,
    folds: Sequence[_Fold],
    folder: RunFolder,
) -> list[Prompt]:
    """Return the prompts of all folds, trained side by side; those that are finished are read back.

    `texts` returns the text features of the fixed sentences, which some losses ask for.
    """
    for fold in folds:
        _begin_fold(own, fold)
    prompts: dict[int, Prompt] = {}
    for number, stack in enumerate(_stacks(own, folds)):
        together = RunFolder(folder.folds / f"{STACK}{number + 1}")
        there = ranks.decided(functools.partial(_there, stack))
        prompts |= {fold.number: Prompt.load(fold.folder.prompt) for fold in stack if fold.number in there}
        if len(there) < len(stack):
            trained = _train_side_by_side(own, plan, texts(), images, stack, together)
            prompts = {fold.number: prompt for fold, prompt in zip(stack, trained, strict=True)} | prompts
        _remove(together)
    return [prompts[fold.number] for fold in folds]


def _there(folds: Sequence[_Fold]) -> list[int]:
    return [fold.number for fold in folds if fold.folder.prompt.is_file()]


def _stacks(own: PromptRun, folds: Sequence[_Fold]) -> Iterator[list[_Fold]]:
    """Yield the folds in groups that are trained side by side: of as many batches, and not too many."""
    batches: dict[int, list[_Fold]] = {}
    for fold in folds:
        batches.setdefault(-(-len(fold.rest) // own.data.batch_size), []).append(fold)
    for group in batches.values():
        for start in range(0, len(group), SIDE_BY_SIDE):
            yield group[start : start + SIDE_BY_SIDE]


def _train_side_by_side(
    own: PromptRun, plan: CrossFit, texts: Tensor, images: Table, folds: Sequence[_Fold], folder: RunFolder
) -> list[Prompt]:
    """Train the prompts of some folds from their last common checkpoint, write those that are not there yet.

    Raises:
        FloatingPointError: A loss became NaN or infinite.
    """
    log.info("Training %d prompts side by side, each without one fold of its shots.", len(folds))
    prepared = [
        RunInputs(
            backbone=plan.backbone,
            task=plan.task,
            train=images.subset(fold.rest),
            val=None,
            test=None,  # not looked at
            zero_shot=replace(plan.prompt, context=None, text_features=texts, calibration=None),
            record=fold.record,
        )
        for fold in folds
    ]
    objective = Objective(resolve_terms(own.preset, own.loss))
    members = [member_of(own, each, objective, fold=True) for each in prepared]
    seed_everything(own.seed, workers=True, verbose=False)
    _begin_stack(own, folds, folder)
    epochs = int(own.trainer.get("max_epochs") or 1)
    trainer = make_trainer(own, folder, [], validate=False, every_n_epochs=max(1, epochs // CHECKPOINTS))
    module = PromptStackModule(
        plan.backbone,
        [member.prompt for member in members],
        texts,
        optimizer=own.optim.name,
        n_bins=own.n_bins,
    )
    fit(trainer, module, StackedLoader([each.batches.train_dataloader() for each in members]), folder=folder)
    for member in members:
        if member.prompt.failed is not None:
            raise FloatingPointError(member.prompt.failed)
    prompts = []
    for fold, data, member, text, context in zip(folds, prepared, members, *module.trained(), strict=True):
        config = replace(own, out=str(fold.folder.path))
        prompts.append(exported(config, data, objective, text, context))
        _write_fold(prompts[-1], member.prompt.curves, fold.folder)
    return prompts


@ranks.by_first
def _begin_fold(own: PromptRun, fold: _Fold) -> None:
    split = fold.folder.split
    write_json(split, {**fold.record, MARK: checked_mark(split, own, fold.record)})
    check_file(fold.folder.prompt, fold.folder.mark)


@ranks.by_first
def _begin_stack(own: PromptRun, folds: Sequence[_Fold], folder: RunFolder) -> None:
    """Say whose common checkpoint it is: that of these folds."""
    write_json(folder.split, {MARK: json_digest([fold.folder.mark for fold in folds])})


@ranks.by_first
def _write_fold(prompt: Prompt, curves: Sequence[Mapping[str, float]], folder: RunFolder) -> None:
    if not folder.prompt.is_file():
        write_curves(folder.curves, curves)
        prompt.save(folder.prompt, run=folder.mark)


@ranks.by_first
def _remove(folder: RunFolder) -> None:
    """Remove what the prompts of folds had in common while they were trained."""
    if folder.path.is_dir():
        shutil.rmtree(folder.path)
