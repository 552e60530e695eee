"""Honest predictions on a prompt's own shots: each image is judged by a prompt trained without it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from calib.commands.train import fit_prompt
from calib.config import FailureRun, PromptRun, from_dict
from calib.core import ranks
from calib.data.folds import make_folds, owners
from calib.data.task import Table
from calib.failure.cases import FailureCases
from calib.failure.data import CrossFit
from calib.io.files import MARK, write_json
from calib.losses import Objective, resolve_terms
from calib.prompts.export import Prompt
from calib.prompts.shots import calibrated_like
from calib.prompts.zero_shot import zero_shot_features
from calib.runs.folder import RunFolder
from calib.runs.marks import check_file, checked_mark
from calib.runs.prepare import RunInputs, features_of
from calib.runs.trainer import check_trainer, make_loggers

log = logging.getLogger(__name__)


def cross_fit(config: FailureRun, plan: CrossFit, folder: RunFolder) -> FailureCases:
    """Return the cross-fitted predictions on those of the prompt's shots that the head learns from.

    For every fold, a prompt is trained on the other folds with the settings of the prompt that is judged, and
    predicts on the fold. Images of one group are never on both sides. The prompts lie in `folds/<k>/`; those
    that are there are read back.

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

    parts = []
    for number, fold in enumerate(folds):
        judged_here = sorted(set(fold) & set(plan.kept))
        if judged_here:
            rest = sorted(set(range(len(table))) - set(fold))
            log.info("Fold %d of %d: a prompt without %d of its shots.", number + 1, len(folds), len(fold))
            record = {"train": [shots.train_ids[row] for row in rest], "digest": shots.digest()}
            one = _fold_prompt(own, plan, texts, images.subset(rest), record, folder.fold(number + 1))
            if plan.prompt.calibration is not None:
                one = calibrated_like(plan.prompt, one, features.with_views(0).subset(rest), texts())
            parts.append(FailureCases.of_prompt(one, features.subset(judged_here)))
    return FailureCases.join(parts)


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


def _fold_prompt(
    own: PromptRun,
    plan: CrossFit,
    texts: Callable[[], Tensor],
    images: Table,
    record: dict[str, Any],
    folder: RunFolder,
) -> Prompt:
    """Return the prompt trained on some of the shots; read back where it is finished.

    `texts` returns the text features of the fixed sentences, which some losses ask for.
    """
    _begin_fold(own, record, folder)
    if ranks.decided(folder.prompt.is_file):
        return Prompt.load(folder.prompt)
    prepared = RunInputs(
        backbone=plan.backbone,
        task=plan.task,
        train=images,
        val=None,
        test=None,  # not looked at
        zero_shot=replace(plan.prompt, context=None, text_features=texts(), calibration=None),
        record=record,
    )
    objective = Objective(resolve_terms(own.preset, own.loss))
    config = replace(own, out=str(folder.path))
    fitted, _ = fit_prompt(config, prepared, objective, folder, make_loggers(config, folder))
    _write_fold(fitted, folder)
    return fitted


@ranks.by_first
def _begin_fold(own: PromptRun, record: dict[str, Any], folder: RunFolder) -> None:
    write_json(folder.split, {**record, MARK: checked_mark(folder.split, own, record)})
    check_file(folder.prompt, folder.mark)


@ranks.by_first
def _write_fold(prompt: Prompt, folder: RunFolder) -> None:
    prompt.save(folder.prompt, run=folder.mark)
