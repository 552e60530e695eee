"""Runs that are trained side by side: which can be, and how."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning import Callback, seed_everything
from torch import Tensor

from calib.commands.search.grid import Point
from calib.config import PromptRun
from calib.core.hashing import json_digest
from calib.io.files import MARK, write_json
from calib.losses import Objective, resolve_terms
from calib.processes.join import check_started
from calib.prompts.stack import PromptStackModule, StackedLoader, validation_of
from calib.runs.folder import RunFolder
from calib.runs.identity import each_setting, relevant_settings, settings_that_affect
from calib.runs.last_state import write_curves
from calib.runs.prepare import RunInputs, SharedInputs, draw, load_shared
from calib.runs.prompt_run import check_trainable, evaluate_prompt, exported
from calib.runs.shots import RunMembers, calibrated_by_shots, members_of
from calib.runs.trainer import check_trainer, close_loggers, fit, make_trainer, run_loggers

log = logging.getLogger(__name__)
STACK = ".stack-"


@dataclass
class Run:
    """One run of a sweep.

    Attributes:
        point: The values that the sweep varies.
        config: All its settings.
        folder: Where its results go.
        objective: What it is trained on.
    """

    point: Point
    config: PromptRun
    folder: RunFolder
    objective: Objective


def new_run(point: Point, config: PromptRun, path: Path) -> Run:
    """Return a run that is to be trained beside others, checked; writes nothing.

    Args:
        point: The values that are varied.
        config: All its settings.
        path: Its folder.

    Raises:
        ValueError: A setting is wrong, or the folder holds something else.
    """
    if not config.data.cache:
        raise ValueError("Prompts side by side are trained on cached features: leave out data.cache=false.")
    check_trainer(config.trainer)
    check_started(config.trainer)
    folder = RunFolder(path)
    run = replace(config, out=str(folder.path))
    folder.check(run)
    if folder.finished and not run.overwrite:
        folder.check_marks()
    return Run(point, run, folder, Objective(resolve_terms(run.preset, run.loss)))


def stacks(
    runs: Sequence[Run], shared: dict[str, SharedInputs], size: int
) -> Iterator[list[tuple[Run, RunInputs]]]:
    """Yield the runs in groups that can be trained side by side, with their data.

    Args:
        runs: Runs to train.
        shared: Backbones and data sets already there; new ones are added.
        size: Prompts per group at most, those of the folds of a calibrated run among them.
    """
    groups: dict[str, list[tuple[Run, RunInputs]]] = {}
    for run in runs:
        key = sharing_key(run.config)
        if key not in shared:
            shared[key] = load_shared(run.config)
        prepared = draw(run.config, shared[key])
        check_trainable(run.objective, prepared.task.class_names)
        members_of(run.config, prepared, run.objective)  # what does not fit is refused before any training
        groups.setdefault(_stack_key(run.config), []).append((run, prepared))
    for group in groups.values():
        group.sort(key=_batches)  # those of one stack should end an epoch together
        asked = group[0][0].config.calibrate  # the same in all of the group
        runs_at_once = size if asked.method == "none" else max(1, size // (1 + asked.folds))
        for start in range(0, len(group), runs_at_once):
            yield group[start : start + runs_at_once]


def train_stack(
    stack: Sequence[tuple[Run, RunInputs]], folder: RunFolder, callbacks: Sequence[Callback] = ()
) -> dict[str, str]:
    """Train runs side by side, write the folders of those that are not finished, and return why any failed.

    Args:
        stack: Runs that `stacks` put together.
        folder: Folder of the common checkpoints; removed at the end.
        callbacks: Further Lightning callbacks; what they raise ends the training.

    Returns:
        Name to reason, of the runs whose loss became NaN or infinite.
    """
    first, prepared = stack[0]
    seed_everything(first.config.seed, workers=True, verbose=False)
    trained = [members_of(run.config, data, run.objective) for run, data in stack]
    members = [member for each in trained for member in each.members]
    module = PromptStackModule(
        prepared.backbone,
        [member.prompt for member in members],
        prepared.zero_shot.text_features,
        optimizer=first.config.optim.name,
        n_bins=first.config.n_bins,
    )
    train = StackedLoader([member.batches.train_dataloader() for member in members])
    val = validation_of([member.batches for member in members])
    sizes = sorted({len(data.train) for _, data in stack})
    on = " or ".join(map(str, sizes))
    beside = f", and {len(members) - len(stack)} of their folds" if len(members) > len(stack) else ""
    log.info("Training %d prompts side by side on %s images%s.", len(stack), on, beside)
    with folder.locked():
        write_json(folder.members, [run.point.name for run, _ in stack])
        write_json(folder.split, {MARK: _stack_digest(stack)})
        epochs = int(first.config.trainer.get("max_epochs") or 1)
        trainer = make_trainer(
            first.config,
            folder,
            [],
            validate=isinstance(val, StackedLoader),
            every_n_epochs=max(1, epochs // 5),
            callbacks=callbacks,
        )
        fit(trainer, module, train, val, folder=folder)
        failed, row = {}, 0
        texts, _ = module.trained()  # (S, C, D)
        for (run, data), each in zip(stack, trained, strict=True):
            mine = texts[row : row + len(each.members)]
            row += len(mine)
            why = next((member.prompt.failed for member in each.members if member.prompt.failed), None)
            if why is not None:
                failed[run.point.name] = why
            elif run.config.overwrite or not run.folder.finished:
                _write_run(run, data, each, mine)
    shutil.rmtree(folder.path)
    return failed


def _write_run(run: Run, data: RunInputs, members: RunMembers, texts: Tensor) -> None:
    """Write the folder of one run as train.py does.

    Args:
        run: The run.
        data: Backbone, task and shots.
        members: What it has trained.
        texts: (1 + K, C, D) unit norm, of its prompt and of those of its folds.
    """
    prompt = members.own
    with run.folder.locked():
        run.folder.check(run.config)
        run.folder.claim(run.config, data.record)
        write_curves(run.folder.curves, prompt.curves)
        with run_loggers(run.config, run.folder) as loggers:
            for row in prompt.curves:
                values = {name: value for name, value in row.items() if name != "step"}
                for logger in loggers:
                    logger.log_metrics(values, step=int(row["step"]))
            export = exported(run.config, data, run.objective, texts[0], prompt.learner.context)
            found: dict[str, Any] = {}
            if members.left_out:
                export, found = calibrated_by_shots(run.config, data, export, members, texts[1:])
            test = evaluate_prompt(run.config, export, data, run.folder, found)
            close_loggers(loggers, test, run.folder, n_bins=run.config.n_bins)


def _batches(run: tuple[Run, RunInputs]) -> int:
    return -(-len(run[1].train) // run[0].config.data.batch_size)


def sharing_key(config: PromptRun) -> str:
    """Return what two runs must agree in to share a backbone, a data set and its test features.

    Example:
        >>> plain, other = PromptRun(), PromptRun(trainer={"accelerator": "cpu"})
        >>> sharing_key(PromptRun(seed=2)) == sharing_key(plain), sharing_key(other) == sharing_key(plain)
        (True, False)
    """
    return json_digest(settings_that_affect("encoding", config))


def _stack_key(config: PromptRun) -> str:
    """Return what two runs must agree in to be trained side by side."""
    known = [*each_setting(config)]
    by_batches = any(one.by_batches for _, _, one in known)
    shared = {
        key: value
        for key, value, one in known
        if one.affects not in ("nothing", "own") and (by_batches or not one.sets_length)
    }
    return json_digest(shared)


def stack_folder(folder: Path, stack: Sequence[tuple[Run, RunInputs]]) -> RunFolder:
    """Return where a stack keeps its checkpoint while it is trained; the name says settings and images."""
    return RunFolder(folder / f"{STACK}{_stack_digest(stack)[:12]}")


def _stack_digest(stack: Sequence[tuple[Run, RunInputs]]) -> str:
    """Return what tells a stack from others: the names, settings and images of its runs."""
    return json_digest([[run.point.name, relevant_settings(run.config), data.record] for run, data in stack])
