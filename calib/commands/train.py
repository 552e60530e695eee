"""`train.py`: learn a calibrated prompt from a few images, and show it beside zero-shot and baselines."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import Logger

from calib.config import PromptRun, check_config
from calib.core import ranks
from calib.data.predictions import Predictions
from calib.io.files import write_text
from calib.losses import Objective, resolve_terms
from calib.processes.join import check_started
from calib.prompts.export import Prompt
from calib.prompts.module import PromptTuningModule
from calib.prompts.stack import PromptStackModule, StackedLoader, validation_of
from calib.prompts.zero_shot import ZERO_SHOT
from calib.report.plots import reliability_panels, save_figure
from calib.report.tables import results_table
from calib.runs.folder import REUSED, RunFolder
from calib.runs.identity import run_name
from calib.runs.marks import warn_if_other
from calib.runs.opening import check_same_data, opened
from calib.runs.prepare import RunInputs, data_record, prepare
from calib.runs.prompt_run import batches_of, check_trainable, evaluate_prompt, exported, new_learner, title
from calib.runs.results import CALIBRATED, about_calibration, methods_of
from calib.runs.shots import calibrated_by_shots, members_of
from calib.runs.trainer import check_trainer, close_loggers, fit, make_trainer, run_loggers

log = logging.getLogger(__name__)


def train(config: PromptRun) -> dict[str, Any]:
    """Run the whole job and return the metrics of every method and where things lie.

    Trains the preset and each baseline on the same shots, calibrates the preset's prompt by them, exports the
    prompts, evaluates them and zero-shot on the test split, where there is one, and writes everything to the
    run folder. An interrupted run of the same settings is continued; what is finished is read back. Several
    processes encode and train together; the first one decides what there is to do, evaluates and writes.

    Args:
        config: The settings.

    Returns:
        {"methods": {name: test metrics}, "val": {name: metrics on the validation shots}, "titles": {name:
        name with its losses}, "calibration": what the shots say, None where they were not asked, "folder":
        path, "prompt": path, "reused": whether nothing was trained}. Without test images "methods" is empty,
        and without validation shots "val".

    Raises:
        FileNotFoundError: Images or weights are not there.
        ValueError: A setting, a file or the data are not right. Nothing has been written then.
        FloatingPointError: A loss became NaN or infinite; its name and epoch are said.
    """
    check_config(config, PromptRun)
    check_trainer(config.trainer)
    check_started(config.trainer)
    folder = RunFolder(config.out or Path("runs") / run_name(config))
    baselines = _baselines(config, folder)
    objectives = {
        run.preset: Objective(resolve_terms(run.preset, run.loss)) for run in (*baselines.values(), config)
    }
    titles = {name: title(name, objective) for name, objective in objectives.items()}
    folders = {name: folder.baseline(name) for name in (ZERO_SHOT, *baselines)} | {config.preset: folder}
    with opened(config, folder, {ZERO_SHOT: None, **baselines}) as job:
        if job.finished:
            _check_data(config, folder)
            if job.lacks_report():
                job.lock()
                _write_report(config, folder)
            else:
                _look_at_table(config, folder)
        else:
            prepared = prepare(config)
            new_learner(config, prepared)  # a class name that does not fit is refused before any is written
            for objective in objectives.values():
                check_trainable(objective, prepared.task.class_names)
            members_of(config, prepared, objectives[config.preset])  # nor shots that cannot be divided
            job.claim(prepared.record)
            evaluate_prompt(config, prepared.zero_shot, prepared, folders[ZERO_SHOT])
            for run, run_folder in job.turns():
                _train_one(run, run_folder, objectives[run.preset], prepared)
            _write_report(config, folder)
    written = _read_results(folder)
    tests, vals = _by_split(written)
    calibration = list(written.values())[-1].get("calibration")
    if calibration is not None:
        titles[f"{config.preset} {CALIBRATED}"] = f"{config.preset} {CALIBRATED} ({calibration['method']})"
    return {
        "methods": tests,
        "val": vals,
        "titles": {ZERO_SHOT: ZERO_SHOT, **titles},
        "calibration": calibration,
        "folder": str(folder.path),
        "prompt": str(folder.prompt),
        "reused": job.finished,
    }


def _baselines(config: PromptRun, folder: RunFolder) -> dict[str, PromptRun]:
    """Return the settings of every prompt that is trained beside the preset, and not calibrated."""
    return {
        name: replace(
            config,
            preset=name,
            loss={},
            baselines=[],
            calibrate=replace(config.calibrate, method="none", prevalence=None),
            out=str(folder.baseline(name).path),
        )
        for name in config.baselines
        if name != config.preset
    }


def _train_one(config: PromptRun, folder: RunFolder, objective: Objective, prepared: RunInputs) -> None:
    log.info("Training %s on %d images.", title(config.preset, objective), len(prepared.train))
    with run_loggers(config, folder) as loggers:
        prompt, found = fit_prompt(config, prepared, objective, folder, loggers)
        test = evaluate_prompt(config, prompt, prepared, folder, found)
        close_loggers(loggers, test, folder, n_bins=config.n_bins)


def fit_prompt(
    config: PromptRun, prepared: RunInputs, objective: Objective, folder: RunFolder, loggers: list[Logger]
) -> tuple[Prompt, dict[str, Any]]:
    """Train one prompt, from its last checkpoint if there is one, and return it ready for export.

    Args:
        config: The settings.
        prepared: Backbone, task and shots.
        objective: What is minimised.
        folder: Where the checkpoints are.
        loggers: Where the curves go.

    Returns:
        The prompt, and what metrics.json says of its calibration; nothing where none is asked for.

    Raises:
        FloatingPointError: A loss became NaN or infinite.
    """
    seed_everything(config.seed, workers=True, verbose=False)
    trainer = make_trainer(config, folder, loggers, validate=prepared.val is not None)
    if config.calibrate.method != "none":
        return _fit_with_folds(config, prepared, objective, trainer, folder)
    settings = config.optim
    module = PromptTuningModule(
        prepared.backbone,
        new_learner(config, prepared),
        objective,
        prepared.zero_shot.text_features,
        optimizer={name: getattr(settings, name) for name in ("name", "lr", "momentum", "weight_decay")},
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=settings.warmup_lr,
        n_bins=config.n_bins,
    )
    fit(trainer, module, batches_of(config, prepared), folder=folder)
    return exported(config, prepared, objective, *module.trained()), {}


def _fit_with_folds(
    config: PromptRun, prepared: RunInputs, objective: Objective, trainer: Trainer, folder: RunFolder
) -> tuple[Prompt, dict[str, Any]]:
    """Train a prompt beside those of its folds, and calibrate it by what these say of the shots."""
    trained = members_of(config, prepared, objective)
    module = PromptStackModule(
        prepared.backbone,
        [member.prompt for member in trained.members],
        prepared.zero_shot.text_features,
        optimizer=config.optim.name,
        n_bins=config.n_bins,
        shown=0,
    )
    batches = [member.batches for member in trained.members]
    train = StackedLoader([each.train_dataloader() for each in batches])
    fit(trainer, module, train, validation_of(batches), folder=folder)
    texts, contexts = module.trained()
    prompt = exported(config, prepared, objective, texts[0], contexts[0])
    return calibrated_by_shots(config, prepared, prompt, trained, texts[1:])


def heading(config: PromptRun, images: str) -> str:
    """Return the line above a table of results: data, model, images, seed."""
    model = f"{config.backbone.name} backbone"
    if config.backbone.weights == "random":
        model += " with random weights"
    return f"{config.data.name}, {model}, {images}, seed {config.seed}; ECE with {config.n_bins} bins."


def shown(
    config: PromptRun,
    tests: Mapping[str, Mapping[str, Any]],
    vals: Mapping[str, Mapping[str, Any]],
    run: str = "RUN",
) -> str:
    """Return what a reader is shown of a finished job: a table, and what it is about.

    Args:
        config: The settings.
        tests: Method to test metrics. Empty: the data have no test images; the validation shots are shown.
        vals: Method to metrics on the validation shots, where there are any.
        run: What the run is called in a command.
    """
    if tests:
        n = next(iter(tests.values()))["n"]
        return f"{heading(config, f'{n} test images')}\n\n{results_table(tests)}"
    pool = config.data.name == "pool"  # which has no split
    missing = (
        "There are no test images, so there are no test results. Those of images elsewhere: calib evaluate "
        f"{run} {'data.name=folder ' if pool else ''}data.root=IMAGES."
        f"{'' if pool else ' Those of a val split of the data: split=val.'}"
    )
    if not vals:
        return missing
    images = f"{next(iter(vals.values()))['n']} validation shots (no test images)"
    return f"{heading(config, images)}\n\n{results_table(vals)}\n\n{missing}"


@ranks.by_first
def _check_data(config: PromptRun, folder: RunFolder) -> None:
    check_same_data(folder, lambda: data_record(config))


@ranks.by_first
def _write_report(config: PromptRun, folder: RunFolder) -> None:
    """Write the table of a finished job, and the reliability diagrams of its test images."""
    folders = methods_of(folder)
    write_text(folder.table, _table(config, folders))
    if not folder.tested:
        return
    predictions = {name: Predictions.load(each.predictions) for name, each in folders.items()}
    panels = {name: (each.probs, each.labels) for name, each in predictions.items()}
    save_figure(reliability_panels(panels, n_bins=config.n_bins), folder.reliability)


@ranks.by_first
def _look_at_table(config: PromptRun, folder: RunFolder) -> None:
    """Say it where the table beside a finished run is not its own."""
    table = _table(config, methods_of(folder))
    advice = "Delete it, and the command that trained the run makes its own again."
    warn_if_other(folder.table, lambda text: text == table, advice=advice)


def _table(config: PromptRun, folders: Mapping[str, RunFolder]) -> str:
    return shown(config, *_by_split({name: each.results() for name, each in folders.items()})) + "\n"


@ranks.by_first
def _read_results(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Return what every method's metrics.json says, once the job's own export could be read."""
    written = {name: each.results() for name, each in methods_of(folder).items()}
    Prompt.load(folder.prompt)  # one that was damaged since is not announced
    return written


def _by_split(written: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics of every method on the test images and on the validation shots; empty without."""

    def on(split: str) -> dict[str, Any]:
        return {name: each[split] for name, each in written.items() if split in each}

    return on("test"), on("val")


def main(config: PromptRun) -> int:
    """Run `train.py` and print the table. Returns the exit status."""
    started = time.monotonic()
    results = train(config)
    say = sys.stdout.write
    titles = results["titles"]
    tests, vals = (
        {titles.get(name, name): row for name, row in results[key].items()} for key in ("methods", "val")
    )
    say(f"\n{shown(config, tests, vals, shlex.quote(results['folder']))}\n\n")
    if results["calibration"] is not None:
        say(about_calibration(results["calibration"], asked=config.calibrate.method) + "\n")
    if results["reused"]:
        say(REUSED)
    else:
        say(f"Trained and evaluated in {time.monotonic() - started:.0f} s.\n")
    say(f"Prompt, ready for use: {results['prompt']}\n")
    rest = "Reliability diagrams, metrics, predictions" if tests else "Metrics, curves"
    say(f"{rest}: {results['folder']}\n")
    return 0
