"""From `key=v1,v2 seed=1..5` to the points of a sweep."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from calib.config import PromptRun, load_config
from calib.config.written import divided, from_argument, read
from calib.core.errors import unknown_name
from calib.core.hashing import json_digest

CHOOSE_BY = ("nll", "brier", "ece", "accuracy")  # validation metrics a sweep can be ordered by
Settings = TypeVar("Settings")
RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
LONGEST_NAME = 200  # bytes of a folder's name; file systems take 255
SHORT_NAME = 40  # letters that a longer name, or one that two points share, is cut to


@dataclass
class SweepSettings:
    """What `calib sweep` takes besides the settings of the runs.

    Attributes:
        out: Folder of the sweep; every run has a folder of its own in it.
        samples: Combinations drawn at random. None: all.
        sample_seed: Of that draw.
        by: Validation metric the settings are ranked by: nll, brier, ece or accuracy.
        stack: Prompts trained side by side at most.
    """

    out: str | None = None
    samples: int | None = None
    sample_seed: int = 0
    by: str = "nll"
    stack: int = 16


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was asked for, every setting checked.

    Attributes:
        settings: The sweep's own settings.
        arguments: Those of the runs, as they were given.
        points: What is varied, with all settings of each run.
    """

    settings: SweepSettings
    arguments: list[str]
    points: list[tuple[Point, PromptRun]]


@dataclass(frozen=True)
class Point:
    """One setting of all keys that a sweep varies.

    Attributes:
        changes: Dotted key to value, as written.
        numbered: Whether the folder name ends with a digest, as the values alone would not tell it apart.
    """

    changes: dict[str, str]
    numbered: bool = False

    @property
    def name(self) -> str:
        """A folder name made of the varied values."""
        words = [f"{'.'.join(key.split('.')[-2:])}-{value}" for key, value in self.changes.items()]
        plain = re.sub(r"[^\w.+-]+", "_", "_".join(words)).strip("_") or "run"
        if not self.numbered and len(plain.encode()) <= LONGEST_NAME:
            return plain
        return f"{plain[:SHORT_NAME]}-{json_digest(self.changes)[:8]}"

    def without_seed(self) -> str:
        """What the runs of several seeds have in common, for the rows of a table."""
        words = [f"{key}={value}" for key, value in self.changes.items() if key != "seed"]
        return " ".join(words) or "run"


def expand(
    argv: Sequence[str], *, samples: int | None = None, seed: int = 0
) -> list[tuple[Point, PromptRun]]:
    """Return the points of a sweep with their settings, each checked as `load_config` does.

    Values divided by commas (outside brackets and quotes) are tried one after the other, `1..5` stands for
    1,2,3,4,5; all combinations are taken, the last key running fastest.

    Args:
        argv: As for `load_config`.
        samples: Take this many combinations at random, with all seeds of each. None: all.
        seed: Of the random choice.

    Raises:
        FileNotFoundError: A YAML file does not exist.
        ValueError: A setting is wrong, `baselines` is given, or a key or a value is named twice.

    Example:
        >>> [point.name for point, _ in expand(["preset=coop,ls", "seed=1..2"])]
        ['preset-coop_seed-1', 'preset-coop_seed-2', 'preset-ls_seed-1', 'preset-ls_seed-2']
    """
    choices: dict[str, list[str]] = {}
    fixed: list[str] = []
    for argument in argv:
        key, is_change, value = argument.partition("=")
        values = values_of(value) if is_change else []
        if key in choices or (is_change and any(other.partition("=")[0] == key for other in fixed)):
            raise ValueError(f"'{key}' is given twice. Write all its values at once: {key}=A,B.")
        if key == "baselines":
            raise ValueError(
                "A sweep has no baselines. Sweep over objectives instead: preset=calibprompt,coop."
            )
        if len(set(values)) != len(values):
            raise ValueError(f"{key}={value} lists a value twice.")
        if len(values) > 1:
            choices[key] = values
        else:
            fixed.append(f"{key}={values[0]}" if is_change else argument)
    seeds = choices.pop("seed", [])
    combinations = [dict(zip(choices, point, strict=True)) for point in itertools.product(*choices.values())]
    if samples is not None and samples < len(combinations):
        picked = sorted(random.Random(seed).sample(range(len(combinations)), samples))
        combinations = [combinations[index] for index in picked]
    points = [
        Point({**changes, **({"seed": one} if one else {})})
        for changes in combinations
        for one in seeds or [""]
    ]
    return [(point, _settings(fixed, point)) for point in _told_apart(points)]


def _told_apart(points: Sequence[Point]) -> list[Point]:
    """Return points of which each has a folder name of its own, on any file system."""
    counts = Counter(point.name.casefold() for point in points)
    return [replace(point, numbered=counts[point.name.casefold()] > 1) for point in points]


def sweep_of(argv: Sequence[str]) -> Sweep:
    """Return the sweep that arguments describe.

    Args:
        argv: The settings of `SweepSettings`, and those of the runs as for `expand`.

    Raises:
        FileNotFoundError: A YAML file does not exist.
        ValueError: A setting is wrong.

    Example:
        >>> len(sweep_of(["preset=coop,ls", "seed=1..5", "samples=1"]).points)
        5
    """
    settings, arguments = sweep_settings(argv)
    points = expand(arguments, samples=settings.samples, seed=settings.sample_seed)
    return Sweep(settings, arguments, points)


def sweep_settings(argv: Sequence[str]) -> tuple[SweepSettings, list[str]]:
    """Return the sweep's own settings and the arguments that are left for the runs.

    Raises:
        ValueError: A value is of the wrong type or not possible.

    Example:
        >>> sweep_settings(["preset=coop,ls", "stack=4"])
        (SweepSettings(out=None, samples=None, sample_seed=0, by='nll', stack=4), ['preset=coop,ls'])
    """
    settings, rest = own_settings(SweepSettings, argv)
    check_by(settings.by)
    for name in ("samples", "stack"):
        number = getattr(settings, name)
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    return settings, rest


def own_settings(schema: type[Settings], argv: Sequence[str]) -> tuple[Settings, list[str]]:
    """Return a command's own settings, by the names of a dataclass, and the arguments that are left.

    Raises:
        ValueError: A value is of the wrong type.
    """
    names = {each.name for each in fields(schema)}  # type: ignore[arg-type]  # any dataclass
    own = [one for one in argv if one.partition("=")[0] in names]
    written = {name: from_argument(value) for name, _, value in (one.partition("=") for one in own)}
    try:
        settings = schema(**read(written, schema, ""))
    except ValueError as error:
        raise ValueError(f"{' '.join(own)}: {error}") from error
    return settings, [one for one in argv if one not in own]


def check_by(by: str) -> None:
    """Refuse a validation metric that runs cannot be ordered by.

    Raises:
        ValueError: It is none of `CHOOSE_BY`.
    """
    if by not in CHOOSE_BY:
        raise unknown_name("value of by", by, CHOOSE_BY)


def values_of(text: str) -> list[str]:
    """Return the values that the right side of `key=...` lists.

    Raises:
        ValueError: An item is empty, or a range begins above its end.

    Example:
        >>> values_of("0.1,0.2"), values_of("1..3"), values_of("[a,b]"), values_of("'a, b'")
        (['0.1', '0.2'], ['1', '2', '3'], ['[a,b]'], ["'a, b'"])
    """
    values: list[str] = []
    parts = [each.strip() for each in divided(text, opening="[{(", closing=")}]")]
    if len(parts) > 1 and "" in parts:
        raise ValueError(f"The list '{text}' has an empty item: is a comma too many?")
    for one in parts:
        span = RANGE.fullmatch(one)
        if span and int(span[1]) > int(span[2]):
            raise ValueError(f"The range '{one}' is upside down: write {span[2]}..{span[1]}.")
        values += [str(n) for n in range(int(span[1]), int(span[2]) + 1)] if span else [one]
    return values


def _settings(fixed: Sequence[str], point: Point) -> PromptRun:
    changes = [f"{key}={value}" for key, value in point.changes.items()]
    config = load_config([*fixed, *changes, "baselines=[]"], task="prompt")
    assert isinstance(config, PromptRun)
    return config
