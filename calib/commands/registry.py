"""The commands by name: what each is called with, reads before torch is imported, and says when it ends."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from calib.commands import usage
from calib.commands.calibrate_arguments import calibrate_arguments
from calib.commands.data_arguments import data_arguments
from calib.commands.export_arguments import export_arguments
from calib.commands.predict_arguments import predict_arguments
from calib.commands.review_arguments import review_arguments
from calib.commands.search.grid import sweep_of
from calib.commands.search.space import search_of
from calib.commands.sets_arguments import sets_arguments
from calib.commands.vqa.arguments import vqa_arguments
from calib.config import EvaluateRun, ReportRun, load_config, split_arguments, task_of


@dataclass(frozen=True)
class After:
    """What is said of going on, in the line that says why a command has ended.

    Attributes:
        interruption: After Ctrl-C.
        stop: After a signal that asked the process to stop.
        write_error: Where a file could not be written.
    """

    interruption: str = ""
    stop: str = ""
    write_error: str = ""


NOTHING_WRITTEN = After(
    interruption=" Nothing was written.", stop=" Nothing was written: the same command begins anew."
)
NOTHING_CHANGED = After(
    interruption=" What was not said to be kept or written is as it was.",
    stop=" What was not said to be kept or written is as it was.",
)
FEATURES_KEPT = After(
    interruption=" Image features that were encoded are kept; the same command goes on from there.",
    stop=" Image features that were encoded are kept; the same command goes on from there.",
)
GOES_ON = After(
    interruption=" The same command goes on from the last finished epoch.",
    stop=" The same command goes on from what is saved.",
    write_error=" Then the same command goes on (out=FOLDER is where results go, data.cache_dir=FOLDER image "
    "features).",
)


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        summary: A line for the list of commands.
        main: The function that does it, "module:name". It is imported when it is needed, takes what `read`
            has returned, and returns the exit status.
        read: Returns what the arguments say, and raises ValueError where they are wrong. It is called once in
            a process, before torch is imported: a typo is answered at once. Left out: the arguments as they
            are.
        usage: How it is called, with examples; `--help` says this and the settings of `task`. Empty: `read`
            or `main` answer it themselves.
        task: The settings it takes, a key of `calib.config.SCHEMAS`.
        tasks: What is done instead where the settings ask for this task.
        shared: Whether several processes may do it together.
        after: What is said of going on.
    """

    summary: str
    main: str
    read: Callable[[Sequence[str]], Any] = list
    usage: str = ""
    task: str = ""
    tasks: Mapping[str, Command] = field(default_factory=dict)
    shared: bool = False
    after: After = After()

    def chosen(self, argv: Sequence[str]) -> Command:
        """Return this command, or the one that its arguments ask for by their task.

        Raises:
            FileNotFoundError: A YAML file does not exist.
            ValueError: The task is unknown.
        """
        return self.tasks.get(task_of(argv), self) if self.tasks else self

    def function(self) -> Callable[[Any], int]:
        """Return the function that does it, imported."""
        module, _, name = self.main.partition(":")
        function: Callable[[Any], int] = getattr(importlib.import_module(module), name)
        return function


def with_runs(argv: Sequence[str], *, task: str) -> EvaluateRun | ReportRun:
    """Return the settings of a command on finished runs, with those that are named among its arguments.

    Example:
        >>> with_runs(["runs/mine", "seed=2"], task="evaluate").runs
        ['runs/mine']
        >>> with_runs(["runs/mine", "--json"], task="report").json
        True
    """
    settings, runs = split_arguments(["json=true" if word == "--json" else word for word in argv])
    config = load_config(settings, task=task)
    assert isinstance(config, EvaluateRun | ReportRun)
    return replace(config, runs=[*config.runs, *runs])


_TRAIN = Command(
    summary="learn a calibrated prompt, or with task=failure to predict its failures",
    main="calib.commands.train:main",
    read=partial(load_config, task="prompt"),
    usage=usage.TRAIN,
    task="prompt",
    shared=True,
    after=GOES_ON,
)
_FAILURE = replace(
    _TRAIN,
    main="calib.commands.failure.run:main",
    read=partial(load_config, task="failure"),
    usage=usage.FAILURE,
    task="failure",
)
COMMANDS = {
    "data": Command(
        summary="look at data before anything is encoded: calib data check FOLDER_OR_TABLE",
        main="calib.commands.data:main",
        read=data_arguments,
        after=NOTHING_WRITTEN,
    ),
    "train": replace(_TRAIN, tasks={"failure": _FAILURE}),
    "sweep": Command(
        summary="train many settings and seeds side by side, in one table",
        main="calib.commands.search.sweep:main",
        read=sweep_of,
        usage=usage.SWEEP,
        task="prompt",
        after=GOES_ON,
    ),
    "tune": Command(
        summary="search the best settings by a validation metric: calib tune key=low..high trials=40",
        main="calib.commands.search.tune:main",
        read=search_of,
        usage=usage.TUNE,
        task="prompt",
        after=GOES_ON,
    ),
    "evaluate": Command(
        summary="compare exported prompts on their own test images or on others",
        main="calib.commands.evaluate:main",
        read=partial(with_runs, task="evaluate"),
        usage=usage.EVALUATE,
        task="evaluate",
        shared=True,
        after=FEATURES_KEPT,
    ),
    "report": Command(
        summary="one page on finished runs: tables, curves, cases, checklists; opens from disk",
        main="calib.commands.report:main",
        read=partial(with_runs, task="report"),
        usage=usage.REPORT,
        task="report",
        after=NOTHING_WRITTEN,
    ),
    "export": Command(
        summary="a finished run as a folder for others, with a model card; on the hub where asked",
        main="calib.commands.export:main",
        read=export_arguments,
        after=NOTHING_CHANGED,
    ),
    "completion": Command(
        summary="a script that completes commands and settings: calib completion bash|zsh|fish",
        main="calib.commands.completion:main",
        after=NOTHING_WRITTEN,
    ),
    "configs": Command(
        summary="list the settings files that come with calib, or print one: calib configs [NAME]",
        main="calib.commands.configs:main",
        after=NOTHING_WRITTEN,
    ),
    "doctor": Command(
        summary="what is here, what is missing and how to get it: packages, devices, weights, caches",
        main="calib.commands.doctor:main",
        after=NOTHING_WRITTEN,
    ),
    "cache": Command(
        summary="list, check and prune cached image features: calib cache [FOLDER] [--prune DAYS]",
        main="calib.commands.cache:main",
        after=NOTHING_CHANGED,
    ),
    "predict": Command(
        summary="classify images with an exported prompt",
        main="calib.commands.predict:main",
        read=predict_arguments,
        after=NOTHING_WRITTEN,
    ),
    "calibrate": Command(
        summary="fit a calibrator to labelled outputs of a run or of any model, or apply one",
        main="calib.commands.calibrate:main",
        read=calibrate_arguments,
        after=NOTHING_CHANGED,
    ),
    "sets": Command(
        summary="fit prediction sets with a stated coverage to labelled outputs, or add them to a table",
        main="calib.commands.sets:main",
        read=sets_arguments,
        after=NOTHING_CHANGED,
    ),
    "review": Command(
        summary="which predictions may pass and which a person must look at, with what is guaranteed",
        main="calib.commands.review:main",
        read=review_arguments,
        after=NOTHING_CHANGED,
    ),
    "vqa": Command(
        summary="visual question answering: items, perturb, answer, evaluate (calib vqa --help)",
        main="calib.commands.vqa.dispatch:main",
        read=vqa_arguments,
        after=After(
            interruption=" The same command goes on from the last answers that were written.",
            stop=" The same command goes on from the last answers that were written.",
        ),
    ),
}
