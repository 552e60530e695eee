"""From `key=low..high key=a,b seed=1..3` to what `calib tune` searches; needs neither torch nor optuna."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from calib.commands.search.grid import check_by, own_settings, values_of
from calib.config import PromptRun, load_config
from calib.core.optional import OPTIONAL
from calib.runs.identity import relevant_settings

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
SPAN = re.compile(rf"({NUMBER})\.\.({NUMBER})(:log)?")
DIGITS = 4  # of a drawn number: what is trained is what the table says


@dataclass
class TuneSettings:
    """What `calib tune` takes besides the settings of the runs.

    Attributes:
        out: Folder of the search: the study, a folder per trial, the table.
        trials: Trials altogether; a later command may ask for more.
        by: Validation metric that is improved: nll, brier, ece or accuracy.
        workers: Processes at work at once, each on trials of its own.
        prune: Stop a trial whose mean over seeds is worse than the median of the earlier ones at that epoch.
        sample_seed: Of the search.
    """

    out: str | None = None
    trials: int = 20
    by: str = "nll"
    workers: int = 1
    prune: bool = True
    sample_seed: int = 0


@dataclass(frozen=True)
class Choice:
    """One of some values, as written."""

    values: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        """What has to be a setting for all values to be one."""
        return self.values


@dataclass(frozen=True)
class Span:
    """A number between two bounds, both included.

    Attributes:
        low: Least value.
        high: Greatest value.
        whole: Whole numbers only: both bounds were written as such.
        log: As likely in every factor of ten.
    """

    low: float
    high: float
    whole: bool = False
    log: bool = False

    @property
    def ends(self) -> tuple[str, ...]:
        """The bounds as settings."""
        return self.text(self.low), self.text(self.high)

    def text(self, value: float) -> str:
        """Return a value as it is given to a run.

        Example:
            >>> Span(1e-4, 1e-2, log=True).text(0.00123456), Span(1, 8, whole=True).text(3)
            ('0.001235', '3')
        """
        if self.whole:
            return str(int(value))
        rounded = float(f"{value:.{DIGITS}g}")
        return str(min(max(rounded, self.low), self.high))


@dataclass
class Search:
    """What a search varies, and what it holds fixed.

    Attributes:
        settings: The search's own settings.
        arguments: Those of the runs, as they were given.
        space: Dotted key to values or bounds.
        fixed: YAML files and `key=value` arguments of every run.
        seeds: Every trial is trained with each of them.
        written: Dotted key to what was given for it.
    """

    settings: TuneSettings
    arguments: list[str]
    space: dict[str, Choice | Span] = field(default_factory=dict)
    fixed: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)

    @property
    def first(self) -> dict[str, str]:
        """The first value of every key."""
        return {key: one.ends[0] for key, one in self.space.items()}

    def config(self, changes: dict[str, str], seed: int) -> PromptRun:
        """Return the settings of one run.

        Raises:
            ValueError: They are not possible.
        """
        words = [f"{key}={value}" for key, value in changes.items()]
        config = load_config([*self.fixed, *words, f"seed={seed}", "baselines=[]"], task="prompt")
        assert isinstance(config, PromptRun)
        return config

    def command(self, changes: dict[str, str]) -> str:
        """Return the command that trains one setting by itself."""
        words = [f"{key}={value}" for key, value in changes.items()]
        return shlex.join(["calib", "train", *self.fixed, *words, f"seed={self.seeds[0]}"])

    def identity(self) -> dict[str, Any]:
        """Return what makes a search the one it is: with anything else its folder is not continued."""
        fixed = relevant_settings(self.config(self.first, self.seeds[0]))
        shared = {key: value for key, value in fixed.items() if key not in self.space and key != "seed"}
        own = {key: getattr(self.settings, key) for key in ("by", "prune", "sample_seed")}
        return {**shared, **self.written, "seed": self.seeds, **own}


def tune_settings(argv: Sequence[str]) -> tuple[TuneSettings, list[str]]:
    """Return the search's own settings and the arguments that are left for the runs.

    Raises:
        ValueError: A value is of the wrong type or not possible, or optuna is not installed.

    Example:
        >>> tune_settings(["trials=5", "optim.lr=1e-4..1e-2:log"])[1]
        ['optim.lr=1e-4..1e-2:log']
    """
    settings, rest = own_settings(TuneSettings, argv)
    check_by(settings.by)
    for name in ("trials", "workers"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}.")
    if settings.sample_seed < 0:
        raise ValueError(f"sample_seed must be at least 0, got {settings.sample_seed}.")
    OPTIONAL["tune"].check()
    return settings, rest


def search_of(argv: Sequence[str]) -> Search:
    """Return what is searched, every bound and every value checked against the settings of a run.

    `low..high` is a range, of whole numbers where both are written so, `:log` after it makes every factor of
    ten as likely; `a,b,c` is a list to choose from; `seed=1..3` are the seeds of every trial.

    Args:
        argv: The settings of `TuneSettings`, and those of the runs.

    Raises:
        FileNotFoundError: A YAML file does not exist.
        ValueError: A key is unknown or given twice, a bound is not possible, nothing is searched, there would
            be no validation images, or optuna is not installed.

    Example:
        >>> search = search_of(["optim.lr=1e-4..1e-2:log", "data.views=2..8", "seed=1..2"])
        >>> search.space["data.views"]
        Span(low=2.0, high=8.0, whole=True, log=False)
        >>> search.seeds
        [1, 2]
    """
    settings, arguments = tune_settings(argv)
    search = Search(settings, arguments, seeds=[1])
    given: set[str] = set()
    for argument in arguments:
        key, is_change, value = argument.partition("=")
        if not is_change:
            search.fixed.append(argument)
            continue
        if key in given:
            raise ValueError(f"'{key}' is given twice. Write all its values at once: {key}=A,B.")
        given.add(key)
        if key == "baselines":
            raise ValueError("A search has no baselines. Search over objectives: preset=calibprompt,coop.")
        if key == "seed":
            search.seeds = _seeds(value)
        elif (one := _searched(key, value)) is not None:
            search.space[key] = one
            search.written[key] = value
        else:
            search.fixed.append(argument)
    if not search.space:
        raise ValueError(
            "Nothing to search: give at least one setting a range (optim.lr=1e-4..1e-2:log) or a list "
            "(preset=coop,calibprompt). To train one setting: calib train."
        )
    _check(search)
    return search


def _searched(key: str, value: str) -> Choice | Span | None:
    span = SPAN.fullmatch(value.strip())
    if span is None:
        if value.endswith(":log") or SPAN.match(value.strip()):
            raise ValueError(f"{key}={value}: a range is written {key}=LOW..HIGH or {key}=LOW..HIGH:log.")
        values = values_of(value)
        if len(set(values)) != len(values):
            raise ValueError(f"{key}={value} lists a value twice.")
        return Choice(tuple(values)) if len(values) > 1 else None
    low, high = float(span[1]), float(span[2])
    if not low < high:
        raise ValueError(f"{key}={value}: the first bound must be below the second.")
    if span[3] and low <= 0:
        raise ValueError(f"{key}={value}: a logarithmic range begins above 0.")
    whole = all(re.fullmatch(r"[-+]?\d+", bound) for bound in span.groups()[:2])
    return Span(low, high, whole, bool(span[3]))


def _seeds(value: str) -> list[int]:
    values = values_of(value)
    try:
        seeds = [int(each) for each in values]
    except ValueError as error:
        raise ValueError(f"seed={value}: seeds are whole numbers, seed=1..3 or seed=1,2,3.") from error
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seed={value} must list different seeds.")
    return seeds


def _check(search: Search) -> None:
    """Check every bound and value beside the first ones of the others."""
    chosen: set[bool] = set()  # on validation images, or on the shots
    for key, one in search.space.items():
        for value in one.ends:
            config = search.config({**search.first, key: value}, search.seeds[0])
            chosen.add(config.data.val_shots > 0)
            if not config.data.val_shots and config.calibrate.method == "none":
                raise ValueError(
                    "Settings are chosen on validation images, or on the shots by the prompts of folds: "
                    "data.val_shots must be above 0, or calibrate.method another than none."
                )
            if config.overwrite:
                raise ValueError(
                    "A search is not replaced by overwrite=true: give another folder (out=FOLDER)."
                )
            if config.out is not None:
                raise ValueError("The folder of a search is given once, out=FOLDER, not in a settings file.")
    if len(chosen) > 1:
        raise ValueError(
            "Settings with validation images are chosen on these, and settings without on the shots: they "
            "cannot be compared. Let data.val_shots be above 0 for all, or 0 for all."
        )
