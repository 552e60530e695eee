"""`calib sweep`: many prompts over the same backbone and data, trained side by side, in one table."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from calib.commands.search.grid import Sweep
from calib.commands.search.stacks import STACK, Run, new_run, stack_folder, stacks, train_stack
from calib.commands.search.table import chosen_on, evidence, sweep_table
from calib.core.hashing import json_digest
from calib.data.notices import pace
from calib.io.files import blocking_file, is_strings, read_json, write_json, write_text
from calib.runs.folder import FILES, OTHER, RunFolder
from calib.runs.prepare import RunInputs, SharedInputs

log = logging.getLogger(__name__)


def sweep(wanted: Sweep) -> dict[str, Any]:
    """Train and evaluate every point of a sweep, and return the table and where things lie.

    Every run gets a folder as if it had been trained alone; finished ones are read back, an interrupted stack
    goes on. A run whose loss becomes NaN is named in the table and does not stop the others.

    Args:
        wanted: From `calib.commands.search.grid.sweep_of`.

    Returns:
        {"table": Markdown, "best": settings with the best metric, "evidence": whether it differs from the
        next by more than seeds do, "chosen_on": of which images, "folder": path, "trained": number of runs
        trained now, "failed": {name: why}}.

    Raises:
        FileNotFoundError: Images or weights are not there.
        ValueError: A setting is wrong, or the folder holds something else; nothing is trained then.
    """
    runs, settings = plan(wanted), wanted.settings
    folder = _folder_of(wanted)
    RunFolder(folder).refuse_if_busy()  # before minutes of encoding
    groups = _stacks_to_train(runs, folder, settings.stack)
    failed: dict[str, str] = {}
    trained, began = 0, time.monotonic()
    with RunFolder(folder).locked():
        for run in runs:  # another process may have begun a run here meanwhile
            run.folder.check(run.config)
        for stack in groups:
            failed |= train_stack(stack, stack_folder(folder, stack))
            trained += len(stack)
            total = sum(len(each) for each in groups)
            told = pace(trained, total, time.monotonic() - began)
            log.info("%d of %d runs to train are done%s.", trained, total, told)
        _remove_finished_stacks(runs, folder)
        results = [(run, run.folder.results()) for run in runs if run.point.name not in failed]
        rows = [(run.point, run.config.seed, values) for run, values in results]
        table, best = sweep_table(rows, by=settings.by)
        tie = evidence(rows, by=settings.by)
        lines = [table, *(f"Failed: {name}: {why}" for name, why in failed.items())]
        write_text(RunFolder(folder).table, "\n\n".join(lines) + "\n")
        write_json(
            RunFolder(folder).sweep,
            {
                "arguments": wanted.arguments,
                "settings": asdict(settings),
                "best": best,
                "evidence": tie,
                "failed": failed,
                "runs": [
                    {"folder": run.folder.path.name, **run.point.changes, **values} for run, values in results
                ],
            },
        )
    return {
        "table": "\n\n".join(lines),
        "best": best,
        "evidence": tie,
        "chosen_on": chosen_on([values for _, values in results]),
        "folder": str(folder),
        "trained": trained,
        "failed": failed,
    }


def plan(wanted: Sweep) -> list[Run]:
    """Return all runs of a sweep, each checked; writes nothing.

    Raises:
        ValueError: As `sweep`.
    """
    folder = _folder_of(wanted)
    blocking = blocking_file(folder)
    if blocking is not None:
        raise ValueError(f"The sweep's folder '{folder}' cannot be made: '{blocking}' is a file. {OTHER}")
    if RunFolder(folder).config.is_file():
        raise ValueError(f"'{folder}' is the folder of a run. {OTHER}")
    runs = []
    for point, config in wanted.points:
        if config.out is not None:
            raise ValueError("The folder of a sweep is given once, out=FOLDER, not swept over.")
        runs.append(new_run(point, config, folder / point.name))
    return runs


def _stacks_to_train(runs: Sequence[Run], folder: Path, size: int) -> list[list[tuple[Run, RunInputs]]]:
    """Return the stacks that an interrupted call began, as they were, and the unfinished runs in new ones.

    A prompt depends, in its last bits, on those beside it: so the finished ones of a stack stay in it.
    """
    named = {run.point.name: run for run in runs}
    missing = {name: run for name, run in named.items() if run.config.overwrite or not run.folder.finished}
    shared: dict[str, SharedInputs] = {}
    begun = []
    for path, names in _members(folder):
        if set(names) <= named.keys() and missing.keys() & set(names):
            made = list(stacks([named[name] for name in names], shared, sys.maxsize))
            if len(made) == 1 and stack_folder(folder, made[0]).path == path:
                begun += made
                missing = {name: run for name, run in missing.items() if name not in names}
    return [*begun, *stacks(list(missing.values()), shared, size)]


def _members(folder: Path) -> list[tuple[Path, list[str]]]:
    """Return the folders of stacks with the names of their runs."""
    pattern = f"{STACK}*/{FILES['members'].path}"
    found = [(path.parent, read_json(path)) for path in sorted(folder.glob(pattern))]
    return [(path, names) for path, names in found if is_strings(names)]


def _remove_finished_stacks(runs: Sequence[Run], folder: Path) -> None:
    """Remove the folders of stacks whose runs are all written: what a process killed just then had left."""
    finished = {run.point.name for run in runs if run.folder.finished}
    for path, names in _members(folder):
        if set(names) <= finished:
            shutil.rmtree(path)


def _folder_of(wanted: Sweep) -> Path:
    return Path(wanted.settings.out or Path("runs") / f"sweep-{json_digest(sorted(wanted.arguments))[:6]}")


def main(wanted: Sweep) -> int:
    """Run `calib sweep` and print the table. Returns the exit status: 1 if a run failed."""
    started = time.monotonic()
    results = sweep(wanted)
    say = sys.stdout.write
    say(f"\n{results['table']}\n\n")
    if results["trained"]:
        say(f"Trained and evaluated {results['trained']} runs in {time.monotonic() - started:.0f} s.\n")
    best = results["best"] or "unknown (there are none; data.val_shots says how many)"
    say(f"Best on the {results['chosen_on']}: {best}\n")
    if results["evidence"] is not None:
        say(f"{results['evidence']}\n")
    say(f"Runs and table: {results['folder']}\n")
    return 1 if results["failed"] else 0
