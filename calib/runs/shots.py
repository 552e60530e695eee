"""A prompt and the prompts of its folds: what a run trains, and what its shots make of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from calib.config import PromptRun
from calib.data import FewShotDataModule
from calib.losses import Objective
from calib.metrics import summarize
from calib.posthoc.shot_parts import ShotPriors
from calib.prompts.export import Prompt
from calib.prompts.shots import ShotSettings, calibrated, folds_of, plans_of
from calib.prompts.stack import StackedPrompt
from calib.runs.left_out import LEFT_OUT
from calib.runs.prepare import RunInputs
from calib.runs.prompt_run import batches_of, new_learner, plain_shots


@dataclass
class Member:
    """One prompt of a stack with its batches: a run's own, or that of a fold.

    Attributes:
        prompt: What is trained.
        batches: What it is trained on; that of a fold has no validation images.
    """

    prompt: StackedPrompt
    batches: FewShotDataModule


@dataclass
class RunMembers:
    """The prompts that one run trains: its own, and one for each fold of its shots.

    Attributes:
        members: The run's prompt, then those of the folds.
        left_out: Rows of the shots that each of the latter does not see.
    """

    members: list[Member]
    left_out: list[list[int]]

    @property
    def own(self) -> StackedPrompt:
        """The run's prompt."""
        return self.members[0].prompt


def shot_settings(config: PromptRun) -> ShotSettings:
    """Return how a run is calibrated."""
    asked = config.calibrate
    return ShotSettings(
        method=asked.method,
        folds=asked.folds,
        prevalence=asked.prevalence,
        priors=ShotPriors(
            scale_median=asked.scale_median,
            scale_sd=asked.scale_sd,
            medians=asked.medians,
            expert_sd=asked.expert_sd,
            shrinkage=asked.shrinkage,
        ),
    )


def members_of(config: PromptRun, prepared: RunInputs, objective: Objective) -> RunMembers:
    """Return what a run trains, untrained.

    Args:
        config: Its settings.
        prepared: Backbone, task and shots.
        objective: What is minimised.

    Raises:
        ValueError: The shots cannot be divided into folds, or the prevalence does not fit the classes.
    """
    settings = shot_settings(config)
    settings.check(prepared.task.class_names)
    left_out = folds_of(prepared.train, settings, prepared.task.class_names)
    members = []
    for plan in plans_of(len(prepared.train), left_out, config.seed):
        part = replace(prepared, train=prepared.train.subset(plan.rows), val=None) if plan.fold else prepared
        members.append(member_of(replace(config, seed=plan.seed), part, objective, fold=plan.fold))
    return RunMembers(members, left_out)


def member_of(config: PromptRun, prepared: RunInputs, objective: Objective, *, fold: bool) -> Member:
    """Return one prompt of a stack, untrained.

    Args:
        config: The settings it is trained with.
        prepared: Backbone, task, and the shots it sees.
        objective: What is minimised.
        fold: See `StackedPrompt`.
    """
    optim = config.optim
    prompt = StackedPrompt(
        new_learner(config, prepared),
        objective,
        {name: getattr(optim, name) for name in ("lr", "momentum", "weight_decay")},
        optim.warmup_epochs,
        optim.warmup_lr,
        fold=fold,
    )
    return Member(prompt, batches_of(config, prepared))


def calibrated_by_shots(
    config: PromptRun, prepared: RunInputs, prompt: Prompt, members: RunMembers, fold_texts: Tensor
) -> tuple[Prompt, dict[str, Any]]:
    """Return a trained prompt with the calibration its shots support, and what metrics.json says of it.

    Args:
        config: The run's settings.
        prepared: Backbone, task and shots.
        prompt: As it was trained.
        members: What the run has trained.
        fold_texts: (K, C, D) of the prompts of the folds.

    Returns:
        The prompt, and {"calibration": what was fitted, "shots": metrics of the shots, each judged by what
        did not see it; "left_out": its logits, and its label and group}; the latter two are missing where
        nothing could be left out.
    """
    shots = plain_shots(config, prepared)
    done, found = calibrated(
        prompt,
        fold_texts,
        members.left_out,
        shots,
        prepared.zero_shot.text_features,
        shot_settings(config),
    )
    asked = config.calibrate.prevalence
    said: dict[str, Any] = {
        "calibration": {
            "method": "none" if done.calibration is None else done.calibration.method,
            "weights": found.weights,
            **({} if asked is None else {"prevalence": dict(asked)}),
            **found.facts(),
        }
    }
    if found.method in found.nll:  # else nothing could be left out to judge it by
        names = prompt.class_names
        metrics = summarize(found.logits, shots.labels, class_names=names, n_bins=config.n_bins)
        said["shots"] = {**metrics, "nll": found.nll[found.method]}
        said[LEFT_OUT] = {
            "logits": found.logits.tolist(),
            "labels": shots.labels.tolist(),
            "groups": None if shots.groups is None else [str(group) for group in shots.groups],
        }
    return done, said
