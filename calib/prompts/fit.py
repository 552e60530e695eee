"""A prompt learned in one call: no run folder, no settings file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import Trainer

from calib.backbones.base import Backbone
from calib.core.checks import check_kind, check_whole
from calib.data.datamodule import FewShotDataModule
from calib.data.encode import encode
from calib.data.task import TaskData
from calib.losses import Objective, resolve_terms
from calib.prompts.export import Prompt
from calib.prompts.learner import PromptLearner
from calib.prompts.module import PromptTuningModule
from calib.prompts.zero_shot import zero_shot
from calib.training.fit import fit_quietly, versions

OPTIMIZER = {"name": "sgd", "lr": 0.002, "momentum": 0.9, "weight_decay": 5e-4}


def fit_prompt(
    backbone: Backbone,
    task: TaskData,
    *,
    shots: int | None = 8,
    objective: str | Mapping[str, Mapping[str, Any]] = "calibprompt",
    seed: int = 1,
    val_shots: int = 4,
    at_most: bool = False,
    epochs: int = 50,
    batch_size: int = 16,
    views: int = 8,
    n_ctx: int = 16,
    class_specific: bool = False,
    init: str | None = None,
    init_std: float = 0.02,
    class_position: str = "end",
    optimizer: Mapping[str, Any] = OPTIMIZER,
    warmup_epochs: int = 1,
    warmup_lr: float = 1e-5,
    n_bins: int = 10,
    cache: str | Path | None = ".calib_cache",
    trainer: Trainer | None = None,
) -> Prompt:
    """Return a prompt learned on a few images per class, the one `calib train` would export.

    Global random state is left alone: shots, start, batches and views depend on `seed` and the images.

    Args:
        backbone: The frozen model.
        task: The data set; shots come from its training split.
        shots: Training images per class. None: all.
        objective: A preset (`calib.losses.PRESETS`), or losses by name with their settings, for instance
            {"ce": {}, "smac": {"alpha": 0.1}, "as": {"weight": 0.01}}.
        seed: Draws the shots, starts the context, orders the batches.
        val_shots: Validation images per class, from the rest of the training split. They change nothing here,
            but keep the draw that of `calib train`.
        at_most: Whether both are upper limits: a class with fewer images gives what it has.
        epochs: Passes over the shots.
        batch_size: Images per step.
        views: Augmented views per training image; 0 trains on the plain image.
        n_ctx: M, context tokens.
        class_specific: One context per class instead of one for all.
        init: Words to start from. None: random, N(0, init_std).
        init_std: Standard deviation of the random start.
        class_position: Where the class name stands: end, middle or front.
        optimizer: name ("sgd" or "adamw"), lr, momentum, weight_decay.
        warmup_epochs: Epochs at `warmup_lr` before the cosine begins.
        warmup_lr: Learning rate of the warm-up.
        n_bins: Bins of the ECE that a trainer of your own logs on the validation shots.
        cache: Folder of cached image features. None: encoded for this call only.
        trainer: A Lightning trainer of your own, with its `max_epochs`. None: one device, nothing written.

    Raises:
        ValueError: A class has too few images, a class name does not fit beside the context, or a loss, a
            setting or the optimiser is unknown.
        FloatingPointError: A loss became NaN or infinite.

    Example:
        >>> import calib
        >>> task = calib.load_data("cxr3")
        >>> prompt = calib.fit_prompt(calib.create_backbone("embedded"), task, shots=2, epochs=1, seed=1)
        >>> prompt.class_names
        ['no finding', 'pneumonia', 'COVID-19']
    """
    check_kind(backbone, Backbone, "backbone", "calib.create_backbone returns one.")
    check_kind(task, TaskData, "task", "calib.load_data returns one.")
    check_kind(objective, (str, Mapping), "objective", "Losses are given as {'ce': {}, 'smac': {}}.")
    check_whole(1, shots=1 if shots is None else shots, epochs=epochs, batch_size=batch_size, n_ctx=n_ctx)
    check_whole(0, seed=seed, val_shots=val_shots, views=views, warmup_epochs=warmup_epochs)
    terms = resolve_terms(objective) if isinstance(objective, str) else resolve_terms("none", objective)
    losses = Objective(terms)
    losses.try_on(len(task.class_names))
    split = task.draw(shots, val_shots=val_shots, at_most=at_most, seed=seed)
    fixed = zero_shot(backbone, task)
    made = {
        "n_ctx": n_ctx,
        "class_specific": class_specific,
        "init": init,
        "init_std": init_std,
        "class_position": class_position,
    }
    learner = PromptLearner(backbone, task.class_names, **made, seed=seed)  # type: ignore[arg-type]
    watched = trainer is not None and len(split.val) > 0  # a quiet one shows nothing
    val = encode(backbone, task.train.subset(split.val), cache=cache) if watched else None
    batches = FewShotDataModule(
        encode(backbone, task.train.subset(split.train), views=views, cache=cache),
        val,
        batch_size=batch_size,
        seed=seed,
    )
    module = PromptTuningModule(
        backbone,
        learner,
        losses,
        fixed.text_features,
        optimizer={**OPTIMIZER, **optimizer},
        warmup_epochs=warmup_epochs,
        warmup_lr=warmup_lr,
        n_bins=n_bins,
    )
    device = backbone.device
    fit_quietly(module, batches, max_epochs=epochs, trainer=trainer)
    module.to(device)  # Lightning leaves everything on the CPU
    text_features, context = module.trained()
    return replace(
        fixed,
        text_features=text_features,
        context=context,
        prompt=made,
        training={
            "method": objective if isinstance(objective, str) else "custom",
            "objective": terms,
            "seed": seed,
            "split": split.digest(),
            "data": task.name,
            "versions": versions(),
        },
    )
