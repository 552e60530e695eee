"""A prompt learned in one call: no run folder, no settings file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import Trainer

from calib.backbones.base import Backbone
from calib.core.checks import check_kind, check_whole
from calib.core.errors import unknown_name
from calib.data.chosen_shots import chosen_split, warn_of_chosen
from calib.data.datamodule import FewShotDataModule
from calib.data.encode import encode
from calib.data.shot_list import read_shot_list
from calib.data.task import TaskData
from calib.losses import Objective, resolve_terms
from calib.prompts.export import Prompt
from calib.prompts.familiar import familiar_with
from calib.prompts.learner import PromptLearner
from calib.prompts.module import PromptTuningModule
from calib.prompts.shots import ShotSettings, calibrated, folds_of, plans_of
from calib.prompts.stack import PromptStackModule, StackedLoader, StackedPrompt, validation_of
from calib.prompts.zero_shot import zero_shot
from calib.training.fit import fit_quietly, versions

OPTIMIZER = {"name": "sgd", "lr": 0.002, "momentum": 0.9, "weight_decay": 5e-4}


def fit_prompt(
    backbone: Backbone,
    task: TaskData,
    *,
    shots: int | None = 8,
    shots_from: str | Path | None = None,
    objective: str | Mapping[str, Mapping[str, Any]] = "calibprompt",
    seed: int = 1,
    calibrate: str = "auto",
    folds: int = 3,
    prevalence: Mapping[str, float] | None = None,
    val_shots: int = 0,
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
        shots_from: A list of `calib select` with its labels: exactly its images are the shots, and `shots` is
            not read. None: `shots` are drawn from every class.
        objective: A preset (`calib.losses.PRESETS`), or losses by name with their settings, for instance
            {"ce": {}, "smac": {"alpha": 0.1}, "as": {"weight": 0.01}}.
        seed: Draws the shots, starts the context, orders the batches.
        calibrate: How the shots make its confidences right: "scale", "experts", "auto" (experts, unless the
            left-out shots speak against it) or "none"; see `calib.posthoc.calibrate_from_shots`.
        folds: Parts of the shots, for each of which a prompt is trained without it, side by side.
        prevalence: Class name to how frequent it is where the prompt will be used. None: as among the shots.
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
    for name in optimizer:
        if name not in OPTIMIZER:
            raise unknown_name("key", name, OPTIMIZER, prefix="optimizer.")
    optim = {**OPTIMIZER, **optimizer}
    if not optim["lr"] > 0:
        raise ValueError(f"optimizer.lr must be above 0, not {optim['lr']}.")
    terms = resolve_terms(objective) if isinstance(objective, str) else resolve_terms("none", objective)
    losses = Objective(terms)
    losses.try_on(len(task.class_names))
    if shots_from is None:
        split = task.draw(shots, val_shots=val_shots, at_most=at_most, seed=seed)
    else:
        listed = read_shot_list(shots_from)
        split = chosen_split(task, listed, val_shots=val_shots, at_most=at_most, seed=seed)
        warn_of_chosen(split, task)
    fixed = zero_shot(backbone, task)
    made = {
        "n_ctx": n_ctx,
        "class_specific": class_specific,
        "init": init,
        "init_std": init_std,
        "class_position": class_position,
    }
    settings = ShotSettings(method=calibrate, folds=folds, prevalence=prevalence)
    settings.check(task.class_names)
    table = encode(backbone, task.train.subset(split.train), views=views, cache=cache)
    left_out = folds_of(table, settings, task.class_names)
    watched = trainer is not None and len(split.val) > 0  # a quiet one shows nothing
    val = encode(backbone, task.train.subset(split.val), cache=cache) if watched else None
    prompts, batches = [], []
    for plan in plans_of(len(table), left_out, seed):
        learner = PromptLearner(backbone, task.class_names, **made, seed=plan.seed)  # type: ignore[arg-type]
        own = {name: value for name, value in optim.items() if name != "name"}
        prompts.append(StackedPrompt(learner, losses, own, warmup_epochs, warmup_lr, fold=plan.fold))
        seen = table.subset(plan.rows)
        batches.append(
            FewShotDataModule(seen, None if plan.fold else val, batch_size=batch_size, seed=plan.seed)
        )
    device = backbone.device
    module: PromptStackModule | PromptTuningModule
    if left_out:
        module = PromptStackModule(
            backbone, prompts, fixed.text_features, optimizer=optim["name"], n_bins=n_bins, shown=0
        )
        train = StackedLoader([each.train_dataloader() for each in batches])
        fit_quietly(module, train, validation_of(batches) or None, max_epochs=epochs, trainer=trainer)
    else:
        module = PromptTuningModule(
            backbone,
            prompts[0].learner,
            losses,
            fixed.text_features,
            optimizer=optim,
            warmup_epochs=warmup_epochs,
            warmup_lr=warmup_lr,
            n_bins=n_bins,
        )
        fit_quietly(module, batches[0], max_epochs=epochs, trainer=trainer)
    module.to(device)  # Lightning leaves everything on the CPU
    texts, contexts = module.trained()
    plain = table.with_views(0)
    prompt = replace(
        fixed,
        text_features=texts[0] if left_out else texts,
        context=contexts[0] if isinstance(contexts, list) else contexts,
        prompt=made,
        training={
            "method": objective if isinstance(objective, str) else "custom",
            "objective": terms,
            "seed": seed,
            "split": split.digest(),
            **({} if split.chosen is None else {"chosen": split.chosen}),
            "data": task.name,
            "versions": versions(),
        },
        decisions=familiar_with(plain, split.chosen),
    )
    if not left_out:
        return prompt
    return calibrated(prompt, texts[1:], left_out, plain, fixed.text_features, settings)[0]
