"""Training of a failure head, without settings and without a run folder."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from calib.core.checks import check_kind, check_whole
from calib.core.errors import unknown_name
from calib.core.hashing import stable_hash
from calib.data.features import FeatureTable
from calib.failure.captions import CaptionPairs
from calib.failure.cases import FailureCases
from calib.failure.data import FrozenClassifier, check_both_kinds
from calib.failure.digests import prompt_digest
from calib.failure.doubt import HEAD, STACK, Doubt, parts_of
from calib.failure.doubt_fit import N_FOLDS, doubt_folds, fit_doubt, fold_of
from calib.failure.export import FailureHead
from calib.failure.module import FailurePredictionModule
from calib.failure.vilu import ViLU
from calib.prompts.export import Prompt
from calib.training.fit import fit_quietly, versions

EVALUATED_AT_ONCE = 512  # validation images per batch
log = logging.getLogger(__name__)
# The defaults of `train.py task=failure`.
LOSS: Mapping[str, Any] = {"weighting": "static", "weight": 1.0, "max_weight": 100.0}
OPTIMIZER: Mapping[str, Any] = {"name": "adamw", "lr": 0.001, "momentum": 0.9, "weight_decay": 0.1}


def fit_failure_head(
    prompt: Prompt,
    features: FeatureTable,
    *,
    epochs: int = 50,
    seed: int = 1,
    batch_size: int = 128,
    residual: bool = True,
    doubt: str = STACK,
    folds: int = N_FOLDS,
    trainer: Trainer | None = None,
    **options: Any,
) -> FailureHead:
    """Return a head that says how likely each prediction of a prompt is wrong.

    It learns from the prompt's predictions on images the prompt was not trained on (on its own shots it is
    nearly always right), the plain ones and their augmented views in turn. Beside it, a head is trained
    without each fold of the images; what these and simpler scores say of the images they have not seen is
    stacked to one probability (`calib.failure.doubt`). The same seed gives the same head. Nothing is printed
    or written, and the global random state is left alone. For other losses, optimisers or validation images
    see `fit_head`.

    Args:
        prompt: The prompt that is judged.
        features: Such images, encoded by the prompt's backbone, with labels of the prompt's classes.
        epochs: Passes over the images; with V augmented views, epoch e sees view e modulo 1 + V.
        seed: Of the initial weights and the order of the images.
        batch_size: Images per training step.
        residual: Start at the prompt's own confidence and learn what to add to it.
        doubt: What `uncertainty` returns: "stack", "head", or a single score by its name.
        folds: Parts of the images, each judged by what was fitted without it; groups stay together.
        trainer: What trains; it decides on epochs, device and logging. None: one that is silent.
        **options: Further options of `ViLU`, e.g. hidden=(64,).

    Raises:
        ValueError: All predictions are wrong, or all are right and the doubt is not a stack; the features do
            not fit the prompt; or an option is unknown or out of range.
        FloatingPointError: The loss became NaN or infinite.

    Example:
        >>> from torch.nn.functional import normalize
        >>> draw = torch.Generator().manual_seed(0)
        >>> texts, labels = torch.eye(3, 8), torch.arange(60) % 3
        >>> images = normalize(texts[labels] + 0.6 * torch.randn(60, 8, generator=draw), dim=1)
        >>> names = [str(row) for row in range(60)]
        >>> seen = FeatureTable(images, labels, ids=names, names=names)
        >>> prompt = Prompt(texts, ["a", "b", "c"], logit_scale=3.0, backbone={"name": "toy"})
        >>> head = fit_failure_head(prompt, seen, epochs=2, hidden=(4,))
        >>> predictions = prompt.logits(images).argmax(1)
        >>> doubt, wrong = head.uncertainty(images, predictions), predictions != labels
        >>> bool(doubt[wrong].mean() > doubt[~wrong].mean())
        True
        >>> head.doubt.stack.names
        ['mcp', 'class_gaussians', 'image_prototypes', 'logit_scaling', 'head']
    """
    check_kind(prompt, Prompt, "prompt", "calib.fit_prompt and calib.load return one.")
    check_kind(features, FeatureTable, "features", "calib.encode returns one.")
    check_whole(1, epochs=epochs, batch_size=batch_size)
    check_whole(0, seed=seed)
    cases = FailureCases.of_prompt(prompt, features)
    judged = FrozenClassifier.of(prompt)
    dim = prompt.text_features.shape[1]
    return fit_head(
        new_head(dim, logit_scale=judged.logit_scale, seed=seed, residual=residual, **options),
        cases,
        judged,
        train=functools.partial(fit_quietly, max_epochs=epochs, trainer=trainer),
        batch_size=batch_size,
        seed=seed,
        doubt=doubt,
        n_folds=folds,
    )


def new_head(dim: int, *, logit_scale: float, seed: int, **options: Any) -> ViLU:
    """Return a head with random weights that depend on the seed alone. The global random state is left alone.

    Args:
        dim: D of images and texts.
        logit_scale: Log of the scale of the model that is judged.
        seed: Of the weights.
        **options: Of `ViLU`.

    Raises:
        ValueError: An option is unknown or out of range.
    """
    known = inspect.signature(ViLU).parameters.keys() - {"dim", "logit_scale"}
    for name in options:
        if name not in known:
            raise unknown_name("head option", name, known)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed every GPU
        return ViLU(dim, logit_scale=logit_scale, **options)


def fit_head(
    head: ViLU,
    cases: FailureCases,
    judged: FrozenClassifier,
    *,
    train: Callable[..., Any],
    val: FailureCases | None = None,
    pairs: CaptionPairs | None = None,
    loss: str = "bce",
    loss_settings: Mapping[str, Any] = LOSS,
    optimizer: Mapping[str, Any] = OPTIMIZER,
    warmup_epochs: int = 5,
    warmup_lr: float = 1e-4,
    batch_size: int = 128,
    seed: int = 1,
    drop_last: bool = False,
    doubt: str = STACK,
    n_folds: int = N_FOLDS,
    draw: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> FailureHead:
    """Return a head trained on predictions, with all that belongs to it.

    Where all predictions are right, a residual head that is part of a stack stays at the confidence it starts
    at: nothing shows it what makes one wrong.

    Args:
        head: What is trained, from `new_head`.
        cases: The predictions.
        judged: The model they are of.
        train: Trains a module when called with it, its training batches, and its validation batches or None:
            `Trainer.fit`, or what goes on from a checkpoint.
        val: Predictions on validation images, of the model that is judged. None: there are none.
        pairs: The pairs of images and captions that `cases` were made of, whose batches are the candidates.
            None: classes.
        loss: A key of FAILURE_LOSSES.
        loss_settings: Its settings.
        optimizer: Arguments of `make_optimizer`.
        warmup_epochs: Epochs during which the learning rate rises in a straight line.
        warmup_lr: Learning rate of the first epoch.
        batch_size: Images per training step, over all processes.
        seed: Of the order of the images.
        drop_last: Leave out a last, smaller batch; of pairs it is always left out.
        doubt: As in `fit_failure_head`. Where it cannot be made (of pairs there are no classes to compare
            with; all images may be of one group) it is the head's, and a warning says so.
        n_folds: Parts of the images that are left out in turn, at least 2.
        draw: How the images were drawn, for the head's record. None: not said.
        config: The settings of a run, for the head's record. None: there are none.

    Raises:
        ValueError: All predictions are wrong, or all are right and the head would have to be trained; the
            doubt, the loss, one of its settings or the optimiser is unknown.
        FloatingPointError: The loss became NaN or infinite.
    """
    parts = parts_of(doubt)
    check_whole(2, folds=n_folds)
    folds = _folds(cases, parts, n_folds, pairs)
    stacked = doubt == STACK and bool(folds)
    learns = check_learnable(cases, residual=head.options["residual"], stacked=stacked)
    of_folds = [_like(head, stable_hash("fold of a doubt", seed, k) % 2**31) for k in range(len(folds))]
    if HEAD not in parts:
        of_folds = []
    texts: Tensor | None = cases.text_features
    if pairs is not None:  # the texts of training are in its batches
        batches = pairs.batches(batch_size, seed=seed)
        texts = None if val is None else val.text_features
    else:
        batches = cases.batches(batch_size, seed=seed, drop_last=drop_last)
        if val is not None and len(cases.text_features) > 1:  # cross-fitted: val is of the judged prompt
            val = replace(val, source=val.source + len(cases.text_features))
            texts = torch.cat([cases.text_features, val.text_features])
    module = FailurePredictionModule(
        head,
        texts,
        loss=loss,
        loss_settings=loss_settings,
        optimizer=optimizer,
        warmup_epochs=warmup_epochs,
        warmup_lr=warmup_lr,
        folds=of_folds,
        fold_of=fold_of(folds, len(cases)) if of_folds else None,
    )
    if learns:
        train(module, batches, None if val is None else val.batches(EVALUATED_AT_ONCE))
    trained = module.head.cpu().eval()
    return FailureHead(
        head=trained,
        text_features=judged.text_features,
        class_names=judged.class_names,
        means=part_means(trained, cases),
        backbone=None if judged.prompt is None else judged.prompt.backbone,
        prompt=None if judged.prompt is None else prompt_digest(judged.prompt),
        calibration=None if judged.prompt is None else judged.prompt.calibration,
        doubt=_doubt(cases, folds, parts, judged, [each.cpu().eval() for each in of_folds]),
        training={
            "loss": {loss: dict(loss_settings)},
            "seed": seed,
            **(draw or {}),
            "images": len(cases),
            "failures": int(cases.failure.sum()),
            **({} if learns else {"trained": False}),
            **({} if config is None else {"config": config}),
            "versions": versions(),
        },
    )


def check_learnable(cases: FailureCases, *, residual: bool, stacked: bool) -> bool:
    """Return whether the head has something to learn: False where all predictions are right, and that is all.

    Args:
        cases: The predictions.
        residual: Whether the head starts at the confidence, where it may stay.
        stacked: Whether it is part of a stack; a single score or a head alone has no use for such cases.

    Raises:
        ValueError: All are wrong; or all are right, and the head would have to learn.
    """
    failure = cases.predictions != cases.labels  # (V, N)
    if failure.any() or not residual or not stacked:
        check_both_kinds(cases)
        return True
    log.warning(
        "All %d predictions to learn from are right. The failure head stays at the model's confidence, and "
        "P(wrong) comes from that and from the images by prior weights.",
        len(cases),
    )
    return False


def _folds(
    cases: FailureCases, parts: tuple[str, ...], n_folds: int, pairs: CaptionPairs | None
) -> list[list[int]]:
    """Return the rows that are left out in turn; empty where the doubt is the head's, and why is said."""
    if not parts:
        return []
    if pairs is not None:
        log.info("Captions are other ones in every batch: the doubt is the head's own.")
        return []
    try:
        return doubt_folds(cases, n_folds)
    except ValueError as error:
        log.warning("The doubt is the head's own. %s", error)
        return []


def _like(head: ViLU, seed: int) -> ViLU:
    """Return a head with the options of another one and a random start of its own."""
    return new_head(logit_scale=head.logit_scale, seed=seed, **head.options)


def _doubt(
    cases: FailureCases,
    folds: list[list[int]],
    parts: tuple[str, ...],
    judged: FrozenClassifier,
    of_folds: list[ViLU],
) -> Doubt | None:
    """Return the doubt of a head; None where it is the head's own."""
    if not folds or judged.text_features is None:
        return None
    told = None
    if of_folds:
        told = torch.full((len(cases),), torch.nan, dtype=torch.float64)
        for rows, head in zip(folds, of_folds, strict=True):
            told[rows] = _judged_by(head, cases, torch.tensor(rows))
    return fit_doubt(cases, folds, parts, judged.text_features.cpu(), head=told)


@torch.no_grad()
def _judged_by(head: ViLU, cases: FailureCases, rows: Tensor) -> Tensor:
    """Return the failure logits (n,) of plain images, each judged by the texts it belongs to."""
    found = torch.empty(len(rows), dtype=torch.float64)
    for model in cases.source[rows].unique().tolist():
        at = (cases.source[rows] == model).nonzero().flatten()
        found[at] = head(
            cases.image_features[0][rows[at]],
            cases.text_features[model],
            cases.predictions[0][rows[at]],
            model_logits=cases.logits[0][rows[at]] if cases.calibrated else None,
        ).double()
    return found


def part_means(head: ViLU, cases: FailureCases) -> dict[str, Tensor]:
    """Return the mean input of the head over the plain training images, for its explanations.

    Args:
        head: The trained head.
        cases: What it was trained on; with several models each image counts with the texts that judged it.
    """
    sums: dict[str, Tensor] = {}
    for model, texts in enumerate(cases.text_features):
        rows = (cases.source == model).nonzero().flatten()
        if not len(rows):
            continue
        means = head.part_means(
            cases.image_features[0][rows],
            texts,
            cases.predictions[0][rows],
            model_logits=cases.logits[0][rows] if cases.calibrated else None,
        )
        for name, value in means.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(rows) / len(cases)
    return sums
