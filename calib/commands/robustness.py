"""`calib robustness`: what corruptions and real shifts of images do to finished runs, in one table."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from calib.config import RobustnessRun
from calib.core.text import printable
from calib.processes.threads import thread_share
from calib.robustness.assess import assess
from calib.robustness.result import Robustness
from calib.robustness.tables import changes, glance, heading, strengths
from calib.robustness.words import findings
from calib.runs.folder import RunFolder
from calib.runs.identity import data_word, robustness_name
from calib.runs.judged_runs import judged_runs
from calib.runs.robustness_folder import RobustnessFolder


def robustness(config: RobustnessRun) -> Robustness:
    """Return what shifts and corruptions do to the runs that the settings name; writes it to `out`.

    Args:
        config: The settings.

    Raises:
        FileNotFoundError: A run, its data or its weights are not there.
        ValueError: As `calib.runs.judged_runs.judged_runs`, or `out` belongs to something else.
    """
    folder = RobustnessFolder(_out(config))
    given = judged_runs(config)
    found = assess(
        given.systems,
        given.images,
        given.backbone,
        corruptions=config.corruptions,
        severities=config.severities,
        shifts=given.shifts,
        usual=config.usual or None,
        trained=given.trained,
        least=config.least,
        labelled=given.labelled,
        counts=given.counts,
        validation=given.validation,
        cache=given.data.cache_dir,
        batch_size=given.data.encode_batch_size,
        on_batch=thread_share().settle,
        n_bins=config.n_bins,
        n_resamples=config.n_resamples,
        level=config.level,
        seed=config.seed,
    )
    about = {"data": data_word(given.data), "split": config.split, **found.about}
    found = replace(found, about=about, notes=(*found.notes, *given.notes))
    folder.write(config, found)
    return found


def main(config: RobustnessRun) -> int:
    """Run `calib robustness` and print its table and findings. Returns the exit status."""
    found = robustness(config)
    told = "\n".join(f"- {line}" for line in findings(found))
    parts = filter(None, (heading(found), glance(found), changes(found), strengths(found), told))
    sys.stdout.write(printable("\n" + "\n\n".join(parts) + "\n\n"))
    table = RunFolder(_out(config)).table
    sys.stdout.write(printable(f"Every condition with its intervals: {table}; CSV, metrics beside it.\n"))
    return 0


def _out(config: RobustnessRun) -> Path:
    return Path(config.out) if config.out else Path("runs") / robustness_name(config)
