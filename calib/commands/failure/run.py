"""`train.py task=failure`: learn which predictions are wrong, and compare the head with simple scores."""

from __future__ import annotations

import functools
import logging
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger

from calib.commands.failure.cross_fit import cross_fit
from calib.commands.failure.embeddings import from_captions, from_embeddings
from calib.commands.failure.images import from_images, resolve
from calib.commands.failure.results import look_at_texts, write_results
from calib.config import FailureLossConfig, FailureRun, check_config, to_dict
from calib.core import ranks
from calib.core.byname import settings as settings_of
from calib.core.errors import unknown_name
from calib.failure.cases import FailureCases
from calib.failure.data import FailureData
from calib.failure.digests import prompt_digest, same_prompt
from calib.failure.doubt import STACK, parts_of
from calib.failure.evaluation import DOUBT, score_names
from calib.failure.export import FailureHead
from calib.failure.fit import check_learnable, fit_head, new_head
from calib.failure.report import heading, short_report
from calib.failure.vilu import ViLU
from calib.losses.failure import FAILURE_LOSSES, failure_weights
from calib.processes.join import check_started
from calib.prompts.export import Prompt
from calib.runs.folder import REUSED, RunFolder
from calib.runs.identity import run_name
from calib.runs.opening import check_same_data, opened
from calib.runs.trainer import check_trainer, close_loggers, fit, make_trainer, run_loggers

CHECKPOINTS = 10  # per run: epochs are short, and a lost one is quickly trained again
log = logging.getLogger(__name__)


def train_failure(config: FailureRun) -> dict[str, Any]:
    """Run the whole job and return the test metrics of every score and where things lie.

    Trains the head on predictions it can learn from, exports it, evaluates it and every other score on the
    test split, and writes everything to the run folder. An interrupted run of the same settings is continued;
    a finished one is read back. Several processes encode and train together; the first one decides what there
    is to do, evaluates and writes.

    Args:
        config: The settings.

    Returns:
        {"scores": {name: metrics}, "head": its name among them, "doubt": how P(wrong) is made (None: by the
        head), "test": {"n", "n_failures"}, "folder": path, "failure": path of the export, "reused": whether
        nothing was trained}.

    Raises:
        FileNotFoundError: Images, weights, the prompt or a file of embeddings are not there.
        ValueError: A setting, a file or the data are not right, or all training predictions are right or all
            are wrong.
        FloatingPointError: The loss became NaN or infinite.
    """
    check_config(config, FailureRun)
    config = resolve(config)
    folder = RunFolder(config.out or Path("runs") / run_name(config))
    check_trainer(config.trainer)
    check_started(config.trainer)
    names = score_names(config.scores)
    parts_of(config.doubt)  # refuses a name that there is not
    loss = loss_settings(config.loss)
    with opened(config, folder) as job:
        if job.finished:
            FailureHead.load(folder.failure)  # one that was damaged since is not announced
            check_same_data(folder, lambda: _as_begun(config, _data(config), folder).record)
            look_at_texts(folder)
            return _results(folder, reused=True)
        data = _as_begun(config, _data(config), folder)
        head = _head(config, data)  # an option that does not fit is refused before any file is written
        if data.cases is not None and data.cross_fit is None:
            stacked = config.doubt == STACK and data.captions is None
            check_learnable(data.cases, residual=config.head.residual, stacked=stacked)
        job.claim(data.record)
        _keep_prompt(data, folder)
        cases = _cases(config, data, folder)
        with run_loggers(config, folder) as loggers:
            export = _fit(config, data, cases, head, loss, folder, loggers)
            write_results(config, data, cases, export, names, folder)
            results = _results(folder, reused=False)
            main = DOUBT if DOUBT in results["scores"] else results["head"]
            close_loggers(loggers, results["scores"][main], folder)
    return results


def _as_begun(config: FailureRun, data: FailureData, folder: RunFolder) -> FailureData:
    """Return the data; of a prompt that rounding alone sets apart the record says what the run began with.

    Text features are computed anew where a run goes on, perhaps on another processor.
    """
    digest = ranks.decided(lambda: None if config.overwrite else _digest_as_begun(data.judged.prompt, folder))
    return data if digest is None else replace(data, record={**data.record, "prompt": digest})


def _digest_as_begun(prompt: Prompt | None, folder: RunFolder) -> str | None:
    if prompt is None or not folder.prompt.is_file():
        return None
    begun = Prompt.load(folder.prompt)
    return prompt_digest(begun) if same_prompt(begun, prompt) else None


@ranks.by_first
def _keep_prompt(data: FailureData, folder: RunFolder) -> None:
    """Write the prompt that is judged, from the beginning: split.json only names it."""
    if data.judged.prompt is not None and not folder.prompt.is_file():
        data.judged.prompt.save(folder.prompt, run=folder.mark)


def _data(config: FailureRun) -> FailureData:
    files = config.embeddings.train
    if files is None:
        return from_images(config)
    return from_captions(config, files) if config.embeddings.captions else from_embeddings(config, files)


def loss_settings(config: FailureLossConfig) -> dict[str, Any]:
    """Return the settings of the loss of that name; those it does not have must be at their defaults.

    Raises:
        ValueError: The loss is unknown, or a setting was given that it does not have.
    """
    if config.name not in FAILURE_LOSSES:
        raise unknown_name("failure loss", config.name, FAILURE_LOSSES)
    known, blank = settings_of(FAILURE_LOSSES[config.name]), FailureLossConfig()
    given = {key: value for key, value in asdict(config).items() if key != "name"}
    for key, value in given.items():
        if key not in known and value != getattr(blank, key):
            raise ValueError(f"The failure loss '{config.name}' has no setting '{key}' (loss.{key}={value}).")
    weights = {key: given[key] for key in ("weighting", "weight", "max_weight")}
    failure_weights(torch.tensor([True, False]), **weights)  # refuses what is out of range, before any work
    return {key: value for key, value in given.items() if key in known}


def _head(config: FailureRun, data: FailureData) -> ViLU:
    dim = data.test.image_features.shape[1]
    return new_head(dim, logit_scale=data.judged.logit_scale, seed=config.seed, **asdict(config.head))


def _cases(config: FailureRun, data: FailureData, folder: RunFolder) -> FailureCases:
    """Return what the head learns from: the predictions at hand, and those that are cross-fitted."""
    crossed = [] if data.cross_fit is None else [cross_fit(config, data.cross_fit, folder)]
    return FailureCases.join([*([] if data.cases is None else [data.cases]), *crossed])


def _fit(
    config: FailureRun,
    data: FailureData,
    cases: FailureCases,
    head: ViLU,
    loss: dict[str, Any],
    folder: RunFolder,
    loggers: list[Logger],
) -> FailureHead:
    """Train the head, from its last checkpoint if there is one, and return it ready for export."""
    epochs = int(config.trainer.get("max_epochs") or CHECKPOINTS)
    trainer = make_trainer(
        config,
        folder,
        loggers,
        validate=data.val is not None,
        every_n_epochs=max(1, epochs // CHECKPOINTS),
        may_rest=not config.head.keep_frozen,
    )
    log.info(
        "Training a failure head on %d images, %d predictions wrong.", len(cases), int(cases.failure.sum())
    )
    settings = config.optim
    return fit_head(
        head,
        cases,
        data.judged,
        train=functools.partial(fit, trainer, folder=folder),
        val=data.val,
        pairs=None if data.captions is None else data.captions.pairs,
        loss=config.loss.name,
        loss_settings=loss,
        optimizer={name: getattr(settings, name) for name in ("name", "lr", "momentum", "weight_decay")},
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=settings.warmup_lr,
        batch_size=config.data.batch_size,
        seed=config.seed,
        drop_last=config.data.drop_last,
        doubt=config.doubt,
        n_folds=config.folds,
        draw={"split": data.record["digest"], "fit_on": data.record["fit_on"]},
        config=to_dict(config),
    )


@ranks.by_first
def _results(folder: RunFolder, *, reused: bool) -> dict[str, Any]:
    written = folder.results()
    return {
        **{key: written[key] for key in ("scores", "head", "test", "images", "data", "level")},
        "doubt": written.get("doubt"),
        "folder": str(folder.path),
        "failure": str(folder.failure),
        "reused": reused,
    }


def main(config: FailureRun) -> int:
    """Run `train.py task=failure` and print the tables. Returns the exit status."""
    started = time.monotonic()
    results = train_failure(config)
    say = sys.stdout.write
    say(f"\n{heading(results)}\n\n{short_report(results)}\n\n")
    if results["reused"]:
        say(REUSED)
    else:
        say(f"Trained and evaluated in {time.monotonic() - started:.0f} s.\n")
    say(f"Failure head: {results['failure']}\n")
    say(f"Doubtful images with reasons, all scores (table.md), curves, metrics: {results['folder']}\n")
    return 0
