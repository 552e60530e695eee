"""`train.py`: learn a calibrated prompt from a few images, and show it beside zero-shot and baselines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from lightning.pytorch.loggers import Logger

from calib.config import PromptRun, load_config
from calib.core import ranks
from calib.data.predictions import Predictions
from calib.io.files import write_text
from calib.losses import Objective, resolve_terms
from calib.processes.join import check_started
from calib.prompts.export import Prompt
from calib.prompts.module import PromptTuningModule
from calib.report.plots import reliability_panels
from calib.report.tables import results_table
from calib.runs.folder import REUSED, RunFolder, check_same_data, save_figure
from calib.runs.identity import run_name
from calib.runs.prepare import RunInputs, data_record, prepare
from calib.runs.prompt_run import batches_of, check_trainable, evaluate_prompt, exported, new_learner, title
from calib.runs.trainer import check_trainer, close_loggers, fit, make_trainer, run_loggers

ZERO_SHOT = "zero-shot"
log = logging.getLogger(__name__)


def train(config: PromptRun) -> dict[str, Any]:
    """Run the whole job and return the test metrics of every method and where things lie.

    Trains the preset and each baseline on the same shots, exports the prompts, evaluates them and zero-shot
    on the test split, and writes everything to the run folder. An interrupted run of the same settings is
    continued; what is finished is read back. Several processes encode and train together; the first one
    decides what there is to do, evaluates and writes.

    Args:
        config: The settings.

    Returns:
        {"methods": {name: metrics}, "titles": {name: name with its losses}, "folder": path, "prompt": path,
        "reused": whether nothing was trained}.

    Raises:
        FileNotFoundError: Images or weights are not there.
        ValueError: A setting, a file or the data are not right. Nothing has been written then.
        FloatingPointError: A loss became NaN or infinite; its name and epoch are said.
    """
    check_trainer(config.trainer)
    check_started(config.trainer)
    folder = RunFolder(config.out or Path("runs") / run_name(config))
    runs = _runs(config, folder)
    objectives = {name: Objective(resolve_terms(run.preset, run.loss)) for name, (run, _) in runs.items()}
    titles = {name: title(name, objective) for name, objective in objectives.items()}
    zero_shot = RunFolder(folder.baselines / ZERO_SHOT)
    places = {ZERO_SHOT: zero_shot} | {name: place for name, (_, place) in runs.items()}

    def unfinished() -> list[str]:
        folder.check(config)
        for run, place in runs.values():
            place.check(run)
        return [name for name, place in places.items() if config.overwrite or not place.finished]

    def begin() -> list[str]:
        for run, place in runs.values():  # another process may have begun or finished a run here meanwhile
            place.check(run)
        folder.claim(config, prepared.record)
        for place in places.values():  # one table is about one set of images
            place.check_data(prepared.record)
        evaluate_prompt(config, prepared.zero_shot, prepared, zero_shot)
        return [name for name, (_, place) in runs.items() if config.overwrite or not place.finished]

    def look_again() -> None:
        check_same_data(folder, lambda: data_record(config))
        if folder.lacks_report(config.task):  # killed just before the end
            with folder.locked():
                _write_report(places, folder, config)

    todo = ranks.decided(unfinished)
    if todo:
        ranks.decided(folder.refuse_if_busy)  # before minutes of encoding
        prepared = prepare(config)
        new_learner(config, prepared)  # a class name that does not fit is refused before any file is written
        for objective in objectives.values():
            check_trainable(objective, prepared.task.class_names)
        with ranks.held(folder.locked):
            for name in ranks.decided(begin):
                run, place = runs[name]
                _train_one(replace(run, overwrite=False), place, objectives[name], prepared)
            ranks.decided(lambda: _write_report(places, folder, config))
    else:
        ranks.decided(look_again)
    return ranks.decided(
        lambda: {
            "methods": {name: place.results()["test"] for name, place in places.items()},
            "titles": {ZERO_SHOT: ZERO_SHOT, **titles},
            "folder": str(folder.path),
            "prompt": str(_intact(folder.prompt)),
            "reused": not todo,
        }
    )


def _runs(config: PromptRun, folder: RunFolder) -> dict[str, tuple[PromptRun, RunFolder]]:
    """Return the settings and folder of every prompt to train: the baselines, then the preset."""
    runs = {}
    for name in dict.fromkeys(config.baselines):
        if name != config.preset:
            place = RunFolder(folder.baselines / name)
            runs[name] = (replace(config, preset=name, loss={}, baselines=[], out=str(place.path)), place)
    return runs | {config.preset: (config, folder)}


def _train_one(config: PromptRun, folder: RunFolder, objective: Objective, prepared: RunInputs) -> None:
    ranks.decided(lambda: folder.claim(config, prepared.record))
    log.info("Training %s on %d images.", title(config.preset, objective), len(prepared.train))
    with run_loggers(config, folder) as loggers:
        checkpoint = fit_prompt(config, prepared, objective, folder, loggers)
        ranks.decided(lambda: _finish(config, checkpoint, prepared, folder, loggers))


def _finish(
    config: PromptRun,
    checkpoint: Prompt,
    prepared: RunInputs,
    folder: RunFolder,
    loggers: list[Logger],
) -> None:
    test = evaluate_prompt(config, checkpoint, prepared, folder)
    close_loggers(loggers, test, folder, n_bins=config.n_bins)


def fit_prompt(
    config: PromptRun, prepared: RunInputs, objective: Objective, folder: RunFolder, logger: list[Logger]
) -> Prompt:
    """Train one prompt, from its last checkpoint if there is one, and return it ready for export.

    Args:
        config: The settings.
        prepared: Backbone, task and shots.
        objective: What is minimised.
        folder: Where the checkpoints are.
        logger: Where the curves go.

    Raises:
        FloatingPointError: A loss became NaN or infinite.
    """
    seed_everything(config.seed, workers=True, verbose=False)
    backbone, settings = prepared.backbone, config.optim
    module = PromptTuningModule(
        backbone,
        new_learner(config, prepared),
        objective,
        prepared.zero_shot.text_features,
        optimizer={name: getattr(settings, name) for name in ("name", "lr", "momentum", "weight_decay")},
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=settings.warmup_lr,
        n_bins=config.n_bins,
    )
    trainer = make_trainer(config, folder, logger, validate=prepared.val is not None)
    fit(trainer, module, batches_of(config, prepared), folder=folder)
    with torch.no_grad():
        text_features = module.text_features().cpu()
    return exported(config, prepared, text_features, module.learner.context)


def heading(config: PromptRun, n: int) -> str:
    """Return the line above a table of results: data, model, test images, seed."""
    model = f"{config.backbone.name} backbone"
    if config.backbone.weights == "random":
        model += " with random weights"
    return f"{config.data.name}, {model}, {n} test images, seed {config.seed}; ECE with {config.n_bins} bins."


def _write_report(places: dict[str, RunFolder], folder: RunFolder, config: PromptRun) -> None:
    """Write the table and the reliability diagrams of a finished job."""
    methods = {name: place.results()["test"] for name, place in places.items()}
    n = methods[ZERO_SHOT]["n"]
    write_text(folder.table, f"{heading(config, n)}\n\n{results_table(methods)}\n")
    predictions = {name: Predictions.load(place.predictions) for name, place in places.items()}
    panels = {name: (each.probs, each.labels) for name, each in predictions.items()}
    save_figure(reliability_panels(panels, n_bins=config.n_bins), folder.reliability)


def _intact(export: Path) -> Path:
    """Return the path of an export after reading it: one that was damaged since is not announced."""
    Prompt.load(export)
    return export


def main(argv: Sequence[str]) -> int:
    """Run `train.py` and print the table. Returns the exit status."""
    config = load_config(argv, task="prompt")
    started = time.monotonic()
    results = train(config)
    say = sys.stdout.write
    n = next(iter(results["methods"].values()))["n"]
    say(f"\n{heading(config, n)}\n\n")
    say(results_table({results["titles"][name]: row for name, row in results["methods"].items()}) + "\n\n")
    if results["reused"]:
        say(REUSED)
    else:
        say(f"Trained and evaluated in {time.monotonic() - started:.0f} s.\n")
    say(f"Calibrated prompt: {results['prompt']}\n")
    say(f"Reliability diagrams, metrics, predictions: {results['folder']}\n")
    return 0
