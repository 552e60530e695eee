"""`calib tune`: search settings by a validation metric; resumable, several workers, seeds side by side."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning import Callback, Trainer
from optuna.trial import FrozenTrial, TrialState

from calib.commands.search.grid import Point
from calib.commands.search.space import Search
from calib.commands.search.stacks import Run, new_run, stacks, train_stack
from calib.commands.search.study import AGAIN, PATIENCE, Claimed, Study, StudyError
from calib.commands.search.table import chosen_by, chosen_on, evidence, sweep_table
from calib.config import handed_on
from calib.core.hashing import json_digest
from calib.data.notices import pace
from calib.io.files import blocking_file, read_json, write_json, write_text
from calib.processes.workers import environments_of, run_workers, usable_cores, usable_devices
from calib.prompts.stack import PromptStackModule
from calib.runs.folder import OTHER, RunFolder
from calib.runs.marks import ForeignFileError
from calib.runs.prepare import RunInputs, SharedInputs

log = logging.getLogger(__name__)


class StoppedError(Exception):
    """A trial that is not trained to its end; the message says why."""


class Watch(Callback):
    """Tells the study the mean validation metric of a trial's seeds after every epoch, and stops bad trials.

    Args:
        claimed: The trial.
        by: The validation metric.
    """

    def __init__(self, claimed: Claimed, by: str) -> None:
        self.claimed, self.by = claimed, by

    def on_train_epoch_start(self, trainer: Trainer, pl_module: PromptStackModule) -> None:
        """Look at the epoch before, whose checkpoint and curves are complete."""
        for prompt in pl_module.prompts:
            if prompt.failed is not None:
                raise StoppedError(prompt.failed)
        prompts = [prompt for prompt in pl_module.prompts if not prompt.fold]
        rows = [prompt.curves[-1] for prompt in prompts if prompt.curves]
        values = [row[f"val/{self.by}"] for row in rows if f"val/{self.by}" in row]
        if not rows or len(values) < len(prompts):
            return
        epoch = int(rows[0]["epoch"])
        if epoch not in self.claimed.reported:
            self.claimed.reported.add(epoch)
            with self.claimed.used():
                self.claimed.trial.report(fmean(values), epoch)
        with self.claimed.used():
            prune = self.claimed.trial.should_prune()
        if prune:
            raise StoppedError(
                f"after epoch {epoch}: val. {self.by} {fmean(values):.4f} is worse than the median"
            )


def tune(search: Search) -> dict[str, Any]:
    """Search until the study has all its trials, and return the table and the best settings.

    Args:
        search: From `calib.commands.search.space.search_of`.

    Returns:
        {"table": Markdown, "best": {"trial", "value", "changes", "command"} or None, "evidence": whether it
        differs from the next by more than seeds do, "folder": path, "finished", "stopped", "elsewhere" (at
        work in other processes), "unfinished": numbers of trials}.

    Raises:
        FileNotFoundError: Images or weights are not there.
        ValueError: A setting is wrong, or the folder holds something else; nothing is trained then.
    """
    settings = search.settings
    folder = Path(settings.out or Path("runs") / f"tune-{json_digest(sorted(search.arguments))[:6]}")
    if settings.workers == 1:
        shared: dict[str, SharedInputs] = {}
        first = _runs(0, search.first, search, folder / ".first")
        # What is wrong with the data is said before anything is written.
        _check_validated(next(stacks(first, shared, sys.maxsize)))
        claim(folder, search)
        work(search, folder, shared)
        return report(search, folder)
    own = {**asdict(settings), "workers": 1, "out": str(folder)}
    words = [f"{key}={value}" for key, value in own.items()]
    devices = usable_devices(search.config(search.first, search.seeds[0]).trainer)
    environments = environments_of(settings.workers, devices, cores=usable_cores())
    with handed_on(search.arguments) as arguments:
        statuses = run_workers([*arguments, *words], environments)
    for number, status in enumerate(statuses):
        if status:
            log.warning("Worker %d ended with status %d.", number + 1, status)
    if not RunFolder(folder).search.is_file():
        raise ValueError("No worker could begin; each has said why.")
    return report(search, folder)


def claim(folder: Path, search: Search) -> None:
    """Make the folder and write what it searches, or refuse one that holds something else.

    Raises:
        ValueError: It is another search's or a run's, or cannot be made.
    """
    blocking = blocking_file(folder)
    if blocking is not None:
        raise ValueError(f"The search's folder '{folder}' cannot be made: '{blocking}' is a file. {OTHER}")
    path, now = RunFolder(folder).search, search.identity()
    foreign = folder.is_dir() and any(not each.name.startswith(".") for each in folder.iterdir())
    if foreign and not path.is_file():
        raise ValueError(f"The folder '{folder}' holds files but no search (no {path.name}). {OTHER}")
    try:
        with RunFolder(folder).locked(patience=PATIENCE, tidy=False):
            if not path.is_file():
                write_json(path, now)
    except OSError as error:
        raise ValueError(
            f"The search's folder '{folder}' cannot be written: {error.strerror or error}. {OTHER}"
        ) from error
    then = read_json(path)
    keys = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    if keys:
        said = "; ".join(f"{key} is {then.get(key)!r} there and {now.get(key)!r} here" for key in keys[:4])
        raise ValueError(f"The folder '{folder}' belongs to another search: {said}. {OTHER}")


def work(search: Search, folder: Path, shared: dict[str, SharedInputs]) -> None:
    """Train trials until none is left.

    Args:
        search: What is searched.
        folder: Its folder, claimed.
        shared: Backbones and data that are there; each is loaded once per process.
    """
    config = search.config(search.first, search.seeds[0])
    study = Study(folder, search, epochs=int(config.trainer.get("max_epochs") or 1))
    began, before, total = time.monotonic(), len(study.ended()), search.settings.trials
    while True:
        with study.next() as claimed:
            if claimed is None:
                return
            try:
                value = _value(claimed, study, search, shared)
            except StoppedError as stop:
                study.tell(claimed, why=str(stop))
                shutil.rmtree(_stack_folder(folder, claimed.number), ignore_errors=True)
                log.info("Trial %d is stopped: %s", claimed.number, stop)
            else:
                study.tell(claimed, value)
                # What a process had left that was killed just then.
                shutil.rmtree(_stack_folder(folder, claimed.number), ignore_errors=True)
                by = search.settings.by
                log.info("Trial %d: %s %.4f with %s", claimed.number, by, value, _words(claimed))
        over = len(study.ended())
        told = pace(over - before, total - before, time.monotonic() - began)
        log.info("%d of %d trials are over%s.", over, total, told)


def _value(claimed: Claimed, study: Study, search: Search, shared: dict[str, SharedInputs]) -> float:
    """Train a trial's seeds side by side and return their mean validation metric."""
    twin = study.twin(claimed)
    if twin is not None:
        with claimed.used():
            claimed.trial.set_user_attr("same_as", twin.user_attrs.get("same_as", twin.number))
        if twin.state != TrialState.COMPLETE or twin.value is None:
            raise StoppedError(f"the same settings as trial {twin.number}")
        return twin.value
    try:
        runs = _runs(claimed.number, claimed.changes, search, study.folder)
        todo = [] if all(run.folder.finished for run in runs) else list(stacks(runs, shared, sys.maxsize))
        for stack in todo:
            _check_validated(stack)
    except (ForeignFileError, StudyError):
        raise
    except ValueError as error:  # settings that are possible one by one, and not together
        raise StoppedError(str(error)) from error
    for stack in todo:
        log.info("Trial %d: %s", claimed.number, _words(claimed))
        watch = [Watch(claimed, search.settings.by)] if len(stack) == len(runs) else []
        failed = train_stack(stack, RunFolder(_stack_folder(study.folder, claimed.number)), watch)
        if failed:
            raise StoppedError(next(iter(failed.values())))
    return fmean(chosen_by(run.folder.results())[search.settings.by] for run in runs)


def _check_validated(stack: Sequence[tuple[Run, RunInputs]]) -> None:
    """Refuse runs of which one has nothing to be chosen by: no validation image, no prompts of folds.

    Raises:
        ValueError: There is such a run.
    """
    for run, inputs in stack:
        if inputs.val is None and run.config.calibrate.method == "none":
            data = run.config.data
            raise ValueError(
                f"No image is left for validation, on which settings are chosen: data.shots={data.shots} "
                "takes all that each class has (data.at_most=true). Give a smaller data.shots."
            )


def _runs(number: int, changes: Mapping[str, str], search: Search, folder: Path) -> list[Run]:
    return [
        new_run(
            Point({"trial": str(number), **changes, "seed": str(seed)}),
            search.config(dict(changes), seed),
            _run_folder(folder, number, seed).path,
        )
        for seed in search.seeds
    ]


def _run_folder(folder: Path, number: int, seed: int) -> RunFolder:
    return RunFolder(folder / f"trial-{number:03d}_seed-{seed}")


def _stack_folder(folder: Path, number: int) -> Path:
    """Return the folder of the checkpoints that the seeds of a trial have in common."""
    return folder / f".trial-{number:03d}"


def _words(claimed: Claimed) -> str:
    return " ".join(f"{key}={value}" for key, value in claimed.changes.items())


def report(search: Search, folder: Path) -> dict[str, Any]:
    """Write and return the table of all finished trials; test metrics stand in it and decide nothing."""
    study = Study(folder, search, epochs=1)
    trials, elsewhere = study.trials(), study.owned()
    results, names = [], {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE and "same_as" not in trial.user_attrs:
            point = Point({"trial": str(trial.number), **trial.user_attrs["changes"]})
            folders = {seed: _run_folder(folder, trial.number, seed) for seed in search.seeds}
            if all(each.finished for each in folders.values()):
                for each in folders.values():
                    each.check_marks()
                found = {seed: each.results() for seed, each in folders.items()}
                _check_value(trial, found, search, folder)
                results += [(point, seed, values) for seed, values in found.items()]
                names[point.without_seed()] = trial
            else:
                log.warning("Trial %d is left out: its runs are no longer there.", trial.number)
    table, first = sweep_table(results, by=search.settings.by)
    best = None if first is None else _best(names[first], search)
    stopped = [trial for trial in trials if trial.state in (TrialState.PRUNED, TrialState.FAIL)]
    finished = sum(trial.state == TrialState.COMPLETE for trial in trials)
    counts = {
        "finished": finished,
        "stopped": len(stopped),
        "elsewhere": elsewhere,
        "unfinished": max(search.settings.trials, len(trials)) - finished - len(stopped) - elsewhere,
    }
    said = [f"Stopped: trial {trial.number}: {trial.user_attrs.get('why', '')}" for trial in stopped]
    text = "\n\n".join([table, *said])
    write_text(RunFolder(folder).table, text + "\n")
    listed = [
        {"trial": t.number, "state": t.state.name.lower(), "value": t.value, **t.user_attrs} for t in trials
    ]
    write_json(RunFolder(folder).tune, {"best": best, **counts, "trials": listed})
    told = chosen_on([values for _, _, values in results])
    tie = evidence(results, by=search.settings.by)
    return {"table": text, "best": best, "evidence": tie, "chosen_on": told, "folder": str(folder), **counts}


def _check_value(
    trial: FrozenTrial, found: Mapping[int, Mapping[str, Any]], search: Search, folder: Path
) -> None:
    """Refuse a study that says another value of a trial than the runs of the trial do."""
    own = fmean(chosen_by(values)[search.settings.by] for values in found.values())
    if trial.value is None or not math.isclose(trial.value, own, rel_tol=1e-9, abs_tol=1e-12):
        raise StudyError(
            f"{RunFolder(folder).study} says that trial {trial.number} has {search.settings.by} "
            f"{trial.value}, and its runs have {own}. {AGAIN}"
        )


def _best(trial: FrozenTrial, search: Search) -> dict[str, Any]:
    changes = trial.user_attrs["changes"]
    return {
        "trial": trial.number,
        "value": trial.value,
        "changes": changes,
        "command": search.command(changes),
    }


def main(search: Search) -> int:
    """Run `calib tune` and print the table. Returns the exit status: 1 if trials are left unfinished."""
    started = time.monotonic()
    found = tune(search)
    say, best = sys.stdout.write, found["best"]
    say(f"\n{found['table']}\n\n{found['finished']} trials finished, {found['stopped']} stopped ")
    say(f"before their end; {time.monotonic() - started:.0f} s.\n")
    if best is not None:
        words = " ".join(f"{key}={value}" for key, value in best["changes"].items())
        value = f"{search.settings.by} {best['value']:.4f}"
        say(f"Best on the {found['chosen_on']}: trial {best['trial']}, {words} ({value})\n")
        if found["evidence"] is not None:
            say(f"{found['evidence']}\n")
        say(f"Train it alone: {best['command']}\n")
    say(f"Runs, table and study: {found['folder']}\n")
    if found["elsewhere"]:
        say(f"Trials that other processes work on: {found['elsewhere']}\n")
    if found["unfinished"]:
        say(f"{found['unfinished']} trials are unfinished; the same command goes on with them.\n")
    return 1 if found["unfinished"] else 0
