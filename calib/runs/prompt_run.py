"""What every way of training a prompt does before and after: learner, batches, export, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from calib.config import PromptRun, to_dict
from calib.core import ranks
from calib.data import FeatureTable, FewShotDataModule, ImageTable
from calib.data.predictions import Predictions
from calib.io.files import MARK, write_json
from calib.losses import Objective
from calib.losses.registry import losses_in_words
from calib.metrics import expected_calibration_error, maximum_calibration_error, summarize
from calib.prompts.export import Prompt
from calib.prompts.familiar import familiar_with
from calib.prompts.learner import PromptLearner
from calib.runs.folder import RunFolder
from calib.runs.prepare import RunInputs, features_of
from calib.training.fit import versions


def title(method: str, objective: Objective) -> str:
    """Return a method's name with its losses.

    Example:
        >>> title("calibprompt", Objective({"ce": {}, "smac": {}, "as": {"weight": 0.01}}))
        'calibprompt (CE + SMAC + AS)'
    """
    return f"{method} ({losses_in_words(objective.weights)})"


def check_trainable(objective: Objective, class_names: Sequence[str]) -> None:
    """Refuse an objective that cannot be computed or has no gradient.

    Raises:
        ValueError: A setting is out of its loss's range, or it is ZS-Norm alone with two classes, where
            normalised logits are the same for every prompt.
    """
    objective.try_on(len(class_names))
    if set(objective.weights) == {"zs_norm"} and len(class_names) == 2:
        raise ValueError(
            "zs-norm has no gradient with two classes and would train nothing. Choose another preset, or "
            "give it a task loss as well, e.g. loss.ce.weight=1."
        )


def new_learner(config: PromptRun, prepared: RunInputs) -> PromptLearner:
    """Return an untrained prompt.

    Raises:
        ValueError: A class name does not fit beside the context.
    """
    return PromptLearner(
        prepared.backbone,
        prepared.task.class_names,
        **asdict(config.prompt),
        seed=config.seed,
        truncate=config.parity.truncate,
    )


def batches_of(config: PromptRun, prepared: RunInputs) -> FewShotDataModule:
    """Return the batches of a run: order and views depend on its seed alone."""
    return FewShotDataModule(
        prepared.train,
        prepared.val,
        batch_size=config.data.batch_size,
        seed=config.seed,
        drop_last=config.data.drop_last,
        preprocess=prepared.backbone.preprocess,
        augment=config.data.views > 0,
    )


def plain_shots(config: PromptRun, prepared: RunInputs) -> FeatureTable:
    """Return the features of the shots without augmentation."""
    if isinstance(prepared.train, ImageTable):
        return features_of(prepared.train, prepared.backbone, config.data)
    return prepared.train.with_views(0)


def exported(
    config: PromptRun, prepared: RunInputs, objective: Objective, text_features: Tensor, context: Tensor
) -> Prompt:
    """Return a trained prompt ready for export.

    Args:
        config: The settings it was trained with.
        prepared: Backbone, task and shots.
        objective: What was minimised.
        text_features: (C, D) unit norm.
        context: (M, E) or (C, M, E).
    """
    return replace(
        prepared.zero_shot,
        text_features=text_features.detach().cpu(),
        context=context.detach().cpu(),
        prompt=asdict(config.prompt),
        training={
            "method": config.preset,
            "objective": objective.terms,
            "seed": config.seed,
            "split": prepared.record["digest"],
            **({"chosen": prepared.record["chosen"]} if "chosen" in prepared.record else {}),
            "config": to_dict(config),
            "versions": versions(),
        },
        decisions=familiar_with(plain_shots(config, prepared), prepared.record.get("chosen")),
    )


@ranks.by_first
def evaluate_prompt(
    config: PromptRun,
    prompt: Prompt,
    prepared: RunInputs,
    folder: RunFolder,
    found: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a prompt's export, test predictions and metrics, and return the metrics.

    What is written is about the prompt as it predicts; that of a calibrated one without its calibration lies
    in `bare`.

    Args:
        config: The run's settings.
        prompt: What was trained.
        prepared: Backbone, task and shots.
        folder: The run's folder.
        found: What metrics.json says besides: calibration and cross-fitted shots.
    """
    if prompt.calibration is not None:
        _write_evaluated(config, _without_calibration(prompt), prepared, folder.bare_run, {})
    return _write_evaluated(config, prompt, prepared, folder, found or {})


def _write_evaluated(
    config: PromptRun, prompt: Prompt, prepared: RunInputs, folder: RunFolder, found: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a prompt's export, test predictions and metrics, and return the test metrics.

    Without test images there are neither predictions nor metrics of them.
    """
    mark, data = folder.mark, config.data.name
    results: dict[str, Any] = {"method": prompt.training["method"], "seed": config.seed, "data": data}
    predictions = None if prepared.test is None else prompt.predict(prepared.test, data=data)
    if predictions is not None:
        results["test"] = _metrics(predictions, config)
    if prepared.val is not None:
        results["val"] = _metrics(prompt.predict(prepared.val, data=data), config)
    prompt.save(folder.prompt, run=mark)
    if predictions is not None:
        predictions.save(folder.predictions, run=mark)
    write_json(folder.metrics, {**results, **found, MARK: mark})
    test: dict[str, Any] = results.get("test", {})
    return test


def _without_calibration(prompt: Prompt) -> Prompt:
    """Return a calibrated prompt as it was trained, and as if no calibration had been asked for."""
    config = prompt.training["config"]
    asked = {**config["calibrate"], "method": "none"}
    return replace(prompt.bare(), training={**prompt.training, "config": {**config, "calibrate": asked}})


def _metrics(predictions: Predictions, config: PromptRun) -> dict[str, Any]:
    """Return all metrics and, on request, ECE and MCE as the CalibPrompt release defines them."""
    names, n_bins = predictions.class_names, config.n_bins
    values = summarize(predictions.logits, predictions.labels, class_names=names, n_bins=n_bins)
    if not config.parity.metrics:
        return values
    confidence, top = predictions.probs.max(dim=1)
    correct = top == predictions.labels
    return values | {
        "ece_official": float(expected_calibration_error(confidence, correct, n_bins=n_bins, official=True)),
        "mce_official": float(maximum_calibration_error(confidence, correct, n_bins=n_bins, official=True)),
    }
