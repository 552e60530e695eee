"""The commands by name: what each is called with, reads before torch is imported, and says when it ends."""

from __future__ import annotations

import importlib
import shlex
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
from calib.commands.segment.arguments import evaluate_arguments
from calib.commands.segment.arguments import predict_arguments as segment_predict_arguments
from calib.commands.sets_arguments import sets_arguments
from calib.commands.vqa.arguments import vqa_arguments
from calib.config import (
    EvaluateRun,
    ReportRun,
    RobustnessRun,
    SelectRun,
    load_config,
    split_arguments,
    task_of,
)

AGAIN = "COMMAND"  # stands for the command that was typed
LONG = 200  # letters of a command that is not repeated


@dataclass(frozen=True)
class After:
    """What is said of going on, in the line that says why a command has ended; `AGAIN` is the command itself.

    Attributes:
        interruption: After Ctrl-C.
        stop: After a signal that asked the process to stop.
        write_error: Where a file could not be written.
    """

    interruption: str = ""
    stop: str = ""
    write_error: str = ""

    def told(self, text: str, command: str, argv: Sequence[str]) -> str:
        """Return one of the sentences with the command that was typed; a long one is left out.

        Example:
            >>> After().told(f" Again: {AGAIN}", "train", ["out=my run"])
            " Again: calib train 'out=my run'"
        """
        typed = shlex.join(["calib", command, *argv])
        return text.replace(AGAIN, typed) if len(typed) < LONG else text.replace(f": {AGAIN}", ".")


NOTHING_WRITTEN = After(
    interruption=" Nothing was written.", stop=" Nothing was written: the same command begins anew."
)
NOTHING_CHANGED = After(
    interruption=" What was not said to be kept or written is as it was.",
    stop=" What was not said to be kept or written is as it was.",
)
_MASKS = (
    " Masks that were written are whole; predictions.csv, which lists them, is missing: give a new folder."
)
MASKS_KEPT = After(interruption=_MASKS, stop=_MASKS)
FEATURES_KEPT = After(
    interruption=" Image features that were encoded are kept; the same command goes on from there.",
    stop=" Image features that were encoded are kept; the same command goes on from there.",
)
GOES_ON = After(
    interruption=f" The same command goes on from the last finished epoch: {AGAIN}",
    stop=f" The same command goes on from what is saved: {AGAIN}",
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
        forms: What is done instead where this is the first of the arguments; all of these are read.
        shared: Whether several processes may do it together.
        trains: Whether it trains by Lightning.
        after: What is said of going on.
    """

    summary: str
    main: str
    read: Callable[[Sequence[str]], Any] = list
    usage: str = ""
    task: str = ""
    tasks: Mapping[str, Command] = field(default_factory=dict)
    forms: Mapping[str, Command] = field(default_factory=dict)
    shared: bool = False
    trains: bool = False
    after: After = After()

    def form(self, argv: Sequence[str]) -> Command:
        """Return this command, or the one that the first of its arguments names."""
        return self.forms.get(argv[0], self) if argv else self

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


def with_runs(argv: Sequence[str], *, task: str) -> EvaluateRun | ReportRun | RobustnessRun:
    """Return the settings of a command on finished runs, with those that are named among its arguments.

    Example:
        >>> with_runs(["runs/mine", "seed=2"], task="evaluate").runs
        ['runs/mine']
        >>> with_runs(["runs/mine", "--json"], task="report").json
        True
    """
    settings, runs = split_arguments(["json=true" if word == "--json" else word for word in argv])
    config = load_config(settings, task=task)
    assert isinstance(config, EvaluateRun | ReportRun | RobustnessRun)
    return replace(config, runs=[*config.runs, *runs])


def with_pool(argv: Sequence[str]) -> SelectRun:
    """Return the settings of `calib select`, with the folder of images that is named among its arguments.

    Raises:
        ValueError: A setting is wrong, or there are several folders.

    Example:
        >>> with_pool(["scans", "budget=24"]).data.root
        'scans'
    """
    settings, roots = split_arguments(argv)
    config = load_config(settings, task="select")
    assert isinstance(config, SelectRun)
    if len(roots) + (config.data.root is not None) > 1:
        raise ValueError(
            f"Expected one folder or table of images, got {', '.join([*roots, config.data.root or ''])}."
        )
    return replace(config, data=replace(config.data, root=roots[0])) if roots else config


_TRAIN = Command(
    summary="learn a calibrated prompt, or with task=failure to predict its failures",
    main="calib.commands.train:main",
    read=partial(load_config, task="prompt"),
    usage=usage.TRAIN,
    task="prompt",
    shared=True,
    trains=True,
    after=GOES_ON,
)
_FAILURE = replace(
    _TRAIN,
    main="calib.commands.failure.run:main",
    read=partial(load_config, task="failure"),
    usage=usage.FAILURE,
    task="failure",
)
_SEGMENT = replace(
    _TRAIN,
    summary="train a small network on images and masks, calibrated; predict, evaluate (Dice against ACE)",
    main="calib.commands.segment.train:main",
    read=partial(load_config, task="segment"),
    usage=usage.SEGMENT,
    task="segment",
)
_VQA = Command(
    summary="visual question answering: items, perturb, answer, evaluate (calib vqa --help)",
    main="calib.commands.vqa.dispatch:main",
    read=vqa_arguments,
    after=After(
        interruption=" The same command goes on from the last answers that were written.",
        stop=" The same command goes on from the last answers that were written.",
    ),
)
COMMANDS = {
    "data": Command(
        summary="look at data before anything is encoded: calib data check FOLDER_OR_TABLE",
        main="calib.commands.data:main",
        read=data_arguments,
        after=NOTHING_WRITTEN,
    ),
    "train": replace(_TRAIN, tasks={"failure": _FAILURE, "segment": _SEGMENT}),
    "sweep": Command(
        summary="train many settings and seeds side by side, in one table",
        main="calib.commands.search.sweep:main",
        read=sweep_of,
        usage=usage.SWEEP,
        task="prompt",
        trains=True,
        after=GOES_ON,
    ),
    "tune": Command(
        summary="search the best settings by a validation metric: calib tune key=low..high trials=40",
        main="calib.commands.search.tune:main",
        read=search_of,
        usage=usage.TUNE,
        task="prompt",
        trains=True,
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
    "robustness": Command(
        summary="what corruptions and real shifts do to accuracy, calibration and guarantees of runs",
        main="calib.commands.robustness:main",
        read=partial(with_runs, task="robustness"),
        usage=usage.ROBUSTNESS,
        task="robustness",
        after=After(
            interruption=" The same command goes on: features of encoded images are kept (data.cache_dir).",
            stop=" The same command goes on: features of encoded images are kept (data.cache_dir).",
        ),
    ),
    "select": Command(
        summary="which images to label: a list to fill in, contact sheets; calib train learns from it",
        main="calib.commands.select:main",
        read=with_pool,
        usage=usage.SELECT,
        task="select",
        after=After(
            interruption=" No new list was written; encoded images are kept: the same command goes on.",
            stop=" No new list was written; encoded images are kept: the same command goes on.",
        ),
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
    "segment": replace(
        _SEGMENT,
        forms={
            "predict": Command(
                summary="masks and probabilities of images",
                main="calib.commands.segment.predict:main",
                read=segment_predict_arguments,
                after=MASKS_KEPT,
            ),
            "evaluate": Command(
                summary="networks beside each other on images with masks",
                main="calib.commands.segment.evaluate:main",
                read=evaluate_arguments,
                after=NOTHING_WRITTEN,
            ),
        },
    ),
    "vqa": replace(
        _VQA,
        forms=dict.fromkeys(
            ("items", "perturb", "requests", "evaluate"), replace(_VQA, after=NOTHING_CHANGED)
        ),
    ),
}
