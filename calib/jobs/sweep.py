"""`calib sweep`: many prompts over the same backbone and data, trained side by side, in one table."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning import Callback, seed_everything
from torch import Tensor

from calib.config import PromptRun
from calib.core.hashing import json_digest
from calib.data.datamodule import BatchLoader
from calib.io.files import blocking_file, is_strings, read_json, write_json, write_text
from calib.jobs.grid import Point, SweepSettings, expand, sweep_settings
from calib.jobs.identity import is_among, relevant_settings
from calib.jobs.prepare import Common, Prepared, draw, load_common
from calib.jobs.processes import check_started
from calib.jobs.prompt_run import batches_of, check_trainable, evaluate_prompt, exported, new_learner
from calib.jobs.run_checkpoint import write_curves
from calib.jobs.runfolder import OTHER, RunFolder
from calib.jobs.sweep_report import sweep_table
from calib.jobs.trainer import check_trainer, close_loggers, fit, make_trainer, run_loggers
from calib.losses import Objective, resolve_terms
from calib.modules.prompt_stack import PromptStackModule, StackedLoader, StackedPrompt

# Settings that the prompts of one stack may have each for itself.
OWN = (
    "seed",
    "preset",
    "loss",
    "optim.lr",
    "optim.momentum",
    "optim.weight_decay",
)
OWN_LENGTH = ("data.shots", "data.batch_size")  # how many batches an epoch has
# With one of these a run ends, or validates, by batches: those of a stack then all have as many.
BY_BATCHES = (
    "limit_train_batches",
    "limit_val_batches",
    "max_steps",
    "max_time",
    "overfit_batches",
    "val_check_interval",
)
OWN_SCHEDULE = ("optim.warmup_epochs", "optim.warmup_lr")
# Settings that decide which images are encoded, with which model.
COMMON = (
    "backbone",
    "data.name",
    "data.root",
    "data.template",
    "data.class_names",
    "data.options",
    "parity",
    "trainer.accelerator",
)
STACK, MEMBERS = ".stack-", "members.json"
log = logging.getLogger(__name__)


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


def sweep(argv: Sequence[str], settings: SweepSettings) -> dict[str, Any]:
    """Train and evaluate every point of a sweep, and return the table and where things lie.

    Every run gets a folder as if it had been trained alone; finished ones are read back, an interrupted stack
    goes on. A run whose loss becomes NaN is named in the table and does not stop the others.

    Args:
        argv: Settings of the runs, as for `calib.jobs.grid.expand`.
        settings: Folder, sampling, ranking and the size of a stack.

    Returns:
        {"table": Markdown, "best": settings with the best validation metric, "folder": path, "trained":
        number of runs trained now, "failed": {name: why}}.

    Raises:
        FileNotFoundError: Images or weights are not there.
        ValueError: A setting is wrong, or the folder holds something else; nothing is trained then.
    """
    runs = plan(argv, settings)
    folder = _folder_of(argv, settings)
    RunFolder(folder).refuse_if_busy()  # before minutes of encoding
    groups = _stacks_to_train(runs, folder, settings.stack)
    failed: dict[str, str] = {}
    trained = 0
    with RunFolder(folder).locked():
        for run in runs:  # another process may have begun a run here meanwhile
            run.folder.check(run.config)
        for stack in groups:
            failed |= train_stack(stack, _place(folder, stack))
            trained += len(stack)
            log.info("%d of %d runs to train are done.", trained, sum(len(each) for each in groups))
        _remove_finished_stacks(runs, folder)
        results = [(run, run.folder.results()) for run in runs if run.point.name not in failed]
        table, best = sweep_table(
            [(run.point, run.config.seed, values) for run, values in results], by=settings.by
        )
        lines = [table, *(f"Failed: {name}: {why}" for name, why in failed.items())]
        write_text(folder / "table.md", "\n\n".join(lines) + "\n")
        write_json(
            folder / "sweep.json",
            {
                "arguments": list(argv),
                "settings": asdict(settings),
                "best": best,
                "failed": failed,
                "runs": [
                    {"folder": run.folder.path.name, **run.point.changes, **values} for run, values in results
                ],
            },
        )
    return {
        "table": "\n\n".join(lines),
        "best": best,
        "folder": str(folder),
        "trained": trained,
        "failed": failed,
    }


def plan(argv: Sequence[str], settings: SweepSettings) -> list[Run]:
    """Return all runs of a sweep, each checked; writes nothing.

    Raises:
        ValueError: As `sweep`.
    """
    folder = _folder_of(argv, settings)
    blocking = blocking_file(folder)
    if blocking is not None:
        raise ValueError(f"The sweep's folder '{folder}' cannot be made: '{blocking}' is a file. {OTHER}")
    if (folder / "config.yaml").is_file():
        raise ValueError(f"'{folder}' is the folder of a run. {OTHER}")
    runs = []
    for point, config in expand(argv, samples=settings.samples, seed=settings.sample_seed):
        if config.out is not None:
            raise ValueError("The folder of a sweep is given once, out=FOLDER, not swept over.")
        runs.append(new_run(point, config, folder / point.name))
    return runs


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
    place = RunFolder(path)
    run = replace(config, out=str(place.path))
    place.check(run)
    return Run(point, run, place, Objective(resolve_terms(run.preset, run.loss)))


def stacks(
    runs: Sequence[Run], commons: dict[str, Common], size: int
) -> Iterator[list[tuple[Run, Prepared]]]:
    """Yield the runs in groups that can be trained side by side, with their data.

    Args:
        runs: Runs to train.
        commons: Backbones and data sets already there; new ones are added.
        size: Runs per group at most.
    """
    groups: dict[str, list[tuple[Run, Prepared]]] = {}
    for run in runs:
        place = json_digest(_some(run.config, COMMON))
        if place not in commons:
            commons[place] = load_common(run.config)
        prepared = draw(run.config, commons[place])
        check_trainable(run.objective, prepared.task.class_names)
        new_learner(run.config, prepared)  # a class name that does not fit is refused before any training
        groups.setdefault(_stack_key(run.config), []).append((run, prepared))
    for group in groups.values():
        group.sort(key=_batches)  # those of one stack should end an epoch together
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _stacks_to_train(runs: Sequence[Run], folder: Path, size: int) -> list[list[tuple[Run, Prepared]]]:
    """Return the stacks that an interrupted call began, as they were, and the unfinished runs in new ones.

    A prompt depends, in its last bits, on those beside it: so the finished ones of a stack stay in it.
    """
    named = {run.point.name: run for run in runs}
    missing = {name: run for name, run in named.items() if run.config.overwrite or not run.folder.finished}
    commons: dict[str, Common] = {}
    begun = []
    for path, names in _members(folder):
        if set(names) <= named.keys() and missing.keys() & set(names):
            made = list(stacks([named[name] for name in names], commons, len(names)))
            if len(made) == 1 and _place(folder, made[0]).path == path:
                begun += made
                missing = {name: run for name, run in missing.items() if name not in names}
    return [*begun, *stacks(list(missing.values()), commons, size)]


def _members(folder: Path) -> list[tuple[Path, list[str]]]:
    """Return the folders of stacks with the names of their runs."""
    found = [(path.parent, read_json(path)) for path in sorted(folder.glob(f"{STACK}*/{MEMBERS}"))]
    return [(path, names) for path, names in found if is_strings(names)]


def _remove_finished_stacks(runs: Sequence[Run], folder: Path) -> None:
    """Remove the folders of stacks whose runs are all written: what a process killed just then had left."""
    finished = {run.point.name for run in runs if run.folder.finished}
    for path, names in _members(folder):
        if set(names) <= finished:
            shutil.rmtree(path)


def train_stack(
    stack: Sequence[tuple[Run, Prepared]], place: RunFolder, callbacks: Sequence[Callback] = ()
) -> dict[str, str]:
    """Train runs side by side, write the folders of those that are not finished, and return why any failed.

    Args:
        stack: Runs that `stacks` put together.
        place: Folder of the common checkpoints; removed at the end.
        callbacks: Further Lightning callbacks; what they raise ends the training.

    Returns:
        Name to reason, of the runs whose loss became NaN or infinite.
    """
    first, prepared = stack[0]
    seed_everything(first.config.seed, workers=True, verbose=False)
    prompts = [
        StackedPrompt(
            new_learner(run.config, data),
            run.objective,
            {name: getattr(run.config.optim, name) for name in ("lr", "momentum", "weight_decay")},
            run.config.optim.warmup_epochs,
            run.config.optim.warmup_lr,
        )
        for run, data in stack
    ]
    module = PromptStackModule(
        prepared.backbone,
        prompts,
        prepared.zero_shot.text_features,
        optimizer=first.config.optim.name,
        n_bins=first.config.n_bins,
    )
    modules = [batches_of(run.config, data) for run, data in stack]
    train = StackedLoader([data.train_dataloader() for data in modules])
    vals = [loader for data in modules if isinstance(loader := data.val_dataloader(), BatchLoader)]
    sizes = sorted({len(data.train) for _, data in stack})
    log.info("Training %d prompts side by side on %s images.", len(stack), " or ".join(map(str, sizes)))
    with place.locked():
        write_json(place.path / MEMBERS, [run.point.name for run, _ in stack])
        epochs = int(first.config.trainer.get("max_epochs") or 1)
        trainer = make_trainer(
            first.config,
            place,
            [],
            validate=bool(vals),
            every_n_epochs=max(1, epochs // 5),
            callbacks=callbacks,
        )
        fit(trainer, module, train, StackedLoader(vals) if vals else [], folder=place)
        texts = module.text_features().detach().cpu()  # (S, C, D)
        failed = {}
        for (run, data), prompt, text in zip(stack, prompts, texts, strict=True):
            if prompt.failed is not None:
                failed[run.point.name] = prompt.failed
            elif run.config.overwrite or not run.folder.finished:
                _write_run(run, data, prompt, text)
    shutil.rmtree(place.path)
    return failed


def _write_run(run: Run, data: Prepared, prompt: StackedPrompt, text_features: Tensor) -> None:
    """Write the folder of one run as train.py does."""
    with run.folder.locked():
        run.folder.check(run.config)
        run.folder.claim(run.config, data.record)
        write_curves(run.folder.curves, prompt.curves)
        with run_loggers(run.config, run.folder) as loggers:
            for row in prompt.curves:
                values = {name: value for name, value in row.items() if name != "step"}
                for logger in loggers:
                    logger.log_metrics(values, step=int(row["step"]))
            checkpoint = exported(run.config, data, text_features, prompt.learner.context)
            test = evaluate_prompt(run.config, checkpoint, data, run.folder)
            close_loggers(loggers, test, run.folder, n_bins=run.config.n_bins)


def _batches(run: tuple[Run, Prepared]) -> int:
    return -(-len(run[1].train) // run[0].config.data.batch_size)


def _stack_key(config: PromptRun) -> str:
    """Return what two runs must share to be trained side by side."""
    by_batches = any(key in config.trainer for key in BY_BATCHES)
    own = (*OWN, *OWN_SCHEDULE, *(() if by_batches else OWN_LENGTH))
    shared = {key: value for key, value in relevant_settings(config).items() if not is_among(key, own)}
    return json_digest(shared)


def _place(folder: Path, stack: Sequence[tuple[Run, Prepared]]) -> RunFolder:
    """Return where a stack keeps its checkpoint while it is trained; the name says settings and images."""
    content = [[run.point.name, relevant_settings(run.config), data.record] for run, data in stack]
    return RunFolder(folder / f"{STACK}{json_digest(content)[:12]}")


def _some(config: PromptRun, names: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in relevant_settings(config).items() if is_among(key, names)}


def _folder_of(argv: Sequence[str], settings: SweepSettings) -> Path:
    return Path(settings.out or Path("runs") / f"sweep-{json_digest(sorted(argv))[:6]}")


def main(argv: Sequence[str]) -> int:
    """Run `calib sweep` and print the table. Returns the exit status: 1 if a run failed."""
    settings, rest = sweep_settings(argv)
    started = time.monotonic()
    results = sweep(rest, settings)
    say = sys.stdout.write
    say(f"\n{results['table']}\n\n")
    if results["trained"]:
        say(f"Trained and evaluated {results['trained']} runs in {time.monotonic() - started:.0f} s.\n")
    best = results["best"] or "unknown (there are none; data.val_shots says how many)"
    say(f"Best on the validation shots: {best}\nRuns and table: {results['folder']}\n")
    return 1 if results["failed"] else 0
