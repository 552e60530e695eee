"""Calibrating a prompt by its own shots: prompts of folds judge what they did not see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from calib.core.errors import unknown_name
from calib.core.hashing import stable_hash
from calib.core.names import name_key
from calib.core.text import few
from calib.data.features import FeatureTable
from calib.data.folds import make_folds, owners
from calib.data.task import Table
from calib.posthoc.discriminant import LinearDiscriminant
from calib.posthoc.shares import check_shares
from calib.posthoc.shot_parts import METHODS, PROMPT, ZERO_SHOT, ShotCalibration, ShotPriors, Shots
from calib.posthoc.shots import calibrate_from_shots, check_every_class, expert_map
from calib.prompts.calibration import Calibration, with_mapping
from calib.prompts.export import Prompt


@dataclass(frozen=True, kw_only=True)
class ShotSettings:
    """How a prompt is calibrated by its shots.

    Attributes:
        method: One of `calib.posthoc.shot_parts.METHODS`.
        folds: Parts of the shots, at least 2.
        prevalence: Class name to how frequent it is where the prompt will be used. None: as among the shots.
        priors: What is assumed before any shot is seen.
    """

    method: str = "auto"
    folds: int = 3
    prevalence: Mapping[str, float] | None = None
    priors: ShotPriors = field(default_factory=ShotPriors)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown_name("value of calibrate.method", self.method, METHODS)
        if self.method == "none" and self.prevalence is not None:
            raise ValueError(
                "calibrate.prevalence was given with calibrate.method=none, which changes no confidence: "
                "leave one of them out."
            )
        if self.folds < 2:
            raise ValueError(f"calibrate.folds must be at least 2, got {self.folds}.")

    def check(self, class_names: Sequence[str]) -> None:
        """Refuse a prevalence that does not fit the classes, before anything is trained; see `shares`."""
        self.shares(class_names)

    @property
    def trains_folds(self) -> bool:
        """Whether prompts of folds are needed."""
        return self.method != "none"

    def shares(self, class_names: Sequence[str]) -> Tensor | None:
        """Return the stated prevalence (C,) in label order. None: none is stated.

        Raises:
            ValueError: A class is unknown or missing, a share is not above 0, or they do not sum to 1.
        """
        if self.prevalence is None:
            return None
        index = {name_key(name): label for label, name in enumerate(class_names)}
        given = {name_key(name): (name, share) for name, share in self.prevalence.items()}
        for key, (name, share) in given.items():
            if key not in index:
                raise unknown_name("class in calibrate.prevalence", name, class_names)
            if not 0 < share <= 1:
                raise ValueError(f"calibrate.prevalence.{name} must be above 0 and at most 1, not {share}.")
        missing = [name for name in class_names if name_key(name) not in given]
        if missing:
            raise ValueError(f"calibrate.prevalence says nothing of {few(missing)}; it needs every class.")
        shares = torch.tensor([given[name_key(name)][1] for name in class_names], dtype=torch.float64)
        try:
            return check_shares(shares, len(class_names))
        except ValueError as error:
            raise ValueError(f"calibrate.prevalence: {error}") from error


def folds_of(shots: Table, settings: ShotSettings, class_names: Sequence[str]) -> list[list[int]]:
    """Return the rows of the shots that each prompt of a fold is trained without; none are needed: empty.

    Groups stay together, and classes are spread evenly. A class whose shots are all of one group is judged by
    a prompt that saw none of its images, and knows it by its name.

    Args:
        shots: The images a prompt is trained on.
        settings: How it is calibrated.
        class_names: C names in label order.

    Raises:
        ValueError: All shots are of one group: nothing is left to train on; or the calibration needs a
            class of which there is no shot.
    """
    if not settings.trains_folds:
        return []
    stated = settings.prevalence is not None
    check_every_class(
        shots.labels, len(class_names), method=settings.method, stated=stated, class_names=class_names
    )
    if len(set(owners(shots))) < 2:
        raise ValueError(
            f"All {len(shots)} shots are of one group, so that none can be left out to calibrate by: "
            "calibrate.method=none trains without."
        )
    return make_folds(shots.labels, owners(shots), settings.folds, class_names, every_class=False)


@dataclass(frozen=True)
class PromptPlan:
    """One prompt that is to be trained.

    Attributes:
        rows: Which of the shots it sees.
        seed: Of its start and of its batches.
        fold: Whether it is that of a fold.
    """

    rows: list[int]
    seed: int
    fold: bool


def plans_of(n_shots: int, folds: Sequence[Sequence[int]], seed: int) -> list[PromptPlan]:
    """Return what is trained side by side: the prompt itself, then one without each fold.

    Those of the folds have random starts and orders of their own.

    Args:
        n_shots: Shots of the prompt.
        folds: Rows that each is trained without.
        seed: Of the prompt.

    Example:
        >>> [plan.rows for plan in plans_of(4, [[0, 2], [1, 3]], seed=1)]
        [[0, 1, 2, 3], [1, 3], [0, 2]]
    """
    everything = range(n_shots)
    plans = [PromptPlan(list(everything), seed, fold=False)]
    for number, fold in enumerate(folds):
        rest = sorted(set(everything) - set(fold))
        plans.append(PromptPlan(rest, stable_hash("fold", seed, number) % 2**31, fold=True))
    return plans


def calibrated(
    prompt: Prompt,
    fold_texts: Tensor,
    folds: Sequence[Sequence[int]],
    shots: FeatureTable,
    zero_shot_features: Tensor,
    settings: ShotSettings,
) -> tuple[Prompt, ShotCalibration]:
    """Return a prompt with the calibration that its shots support, and what they say.

    Args:
        prompt: Trained on all shots.
        fold_texts: (K, C, D) unit norm, of the prompts trained without each fold.
        folds: K lists of rows of the shots.
        shots: Plain features of the shots.
        zero_shot_features: (C, D) of the fixed sentences.
        settings: How it is calibrated.

    Raises:
        ValueError: The prevalence does not fit the classes.
    """
    scale = _scale_of(prompt)
    features = shots.image_features.cpu().double()
    logits = torch.full((len(features), len(prompt.class_names)), torch.nan, dtype=torch.float64)
    for rows, texts in zip(folds, fold_texts.cpu().double(), strict=True):
        logits[list(rows)] = scale * features[list(rows)] @ texts.T
    found = calibrate_from_shots(
        Shots(
            features=features,
            labels=shots.labels.cpu(),
            logits=logits,
            zero_shot_logits=scale * features @ zero_shot_features.cpu().double().T,
            owners=owners(shots),
        ),
        scale * prompt.text_features.cpu().double(),
        scale * zero_shot_features.cpu().double(),
        method=settings.method,
        priors=settings.priors,
        shares=settings.shares(prompt.class_names),
    )
    if found.method == "none" and settings.prevalence is None:
        return prompt, found
    names = prompt.class_names
    calibration = Calibration(
        weight=found.weight.float(),
        bias=found.bias.float(),
        method="prevalence" if found.method == "none" else found.method,
        weights=found.weights,
        shrinkage=settings.priors.shrinkage,
        tilt={} if settings.prevalence is None else dict(zip(names, found.tilt.tolist(), strict=True)),
        facts=found.facts(),
    )
    return replace(prompt, calibration=calibration), found


def calibrated_like(other: Prompt, prompt: Prompt, shots: FeatureTable, zero_shot_features: Tensor) -> Prompt:
    """Return a prompt with the weights of another one's calibration, and its own shots behind them.

    That is what the calibrated prompt would be without the images it is to be judged on.

    Args:
        other: The prompt whose calibration it is; one without passes.
        prompt: One trained like it on fewer shots.
        shots: Plain features of these.
        zero_shot_features: (C, D) of the fixed sentences.
    """
    model = other.calibration
    if model is None:
        return prompt
    names = prompt.class_names
    scale = _scale_of(prompt)
    texts = {
        PROMPT: scale * prompt.text_features.cpu().double(),
        ZERO_SHOT: scale * zero_shot_features.cpu().double(),
    }
    images = None
    if model.method == "experts":
        images = LinearDiscriminant.fit(
            shots.image_features.cpu(), shots.labels.cpu(), len(names), shrinkage=model.shrinkage
        )
    weight, bias = expert_map(model.weights, texts, images)
    bias = bias + torch.tensor([model.tilt.get(name, 0.0) for name in names]).double()
    for mapping in model.mappings:
        weight, bias = with_mapping(weight, bias, mapping, names)
    return replace(prompt, calibration=replace(model, weight=weight.float(), bias=bias.float()))


def _scale_of(prompt: Prompt) -> float:
    """Return what a prompt multiplies cosines with."""
    return math.exp(prompt.logit_scale) / prompt.temperature
