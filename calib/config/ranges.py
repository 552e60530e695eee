"""Values that no run can have, and settings that exclude each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from calib.config.keys import leaves
from calib.config.schema import (
    TRAINER_KEYS,
    DataConfig,
    FailureRun,
    PixelDataConfig,
    PromptRun,
    RobustnessRun,
    SelectRun,
    Setting,
)
from calib.core.errors import unknown_name

SEVERITIES = 5  # of corruptions


def check_ranges(config: Any) -> None:
    """Refuse a run's settings that are out of range or exclude each other.

    Raises:
        ValueError: Such a setting; the message names it.
    """
    _check_options(config.data)
    _check_leaves(config, "")
    if isinstance(config, FailureRun):
        _check_source(config)
    if isinstance(config, RobustnessRun):
        _check_severities(config)
    if isinstance(config, SelectRun):
        _check_select(config)
    elif getattr(config.data, "shots_from", None) is not None:
        _check_shots_from(config)


def check_trainer_bounds(settings: Mapping[str, Any]) -> None:
    """Refuse trainer settings below the bounds that are written beside them.

    Raises:
        ValueError: One is; the message names it.
    """
    _check_inside("trainer", TRAINER_KEYS, settings)


def _check_inside(prefix: str, known: Mapping[str, Setting], values: Mapping[str, Any]) -> None:
    for name, one in known.items():
        _check(f"{prefix}.{name}", one, values.get(name))


def check_part(part: Any, prefix: str) -> None:
    """Refuse a group of a run's settings in which one is out of range.

    Args:
        part: The group.
        prefix: What stands before its keys, e.g. "data.".

    Raises:
        ValueError: One is; the message names it.
    """
    if isinstance(part, DataConfig | PixelDataConfig):
        _check_options(part)
    _check_leaves(part, prefix)


def _check_leaves(part: Any, prefix: str) -> None:
    for key, one in leaves(type(part)):
        value = attrgetter(key)(part)
        _check(f"{prefix}{key}", one, value)
        if isinstance(value, Mapping):
            _check_inside(f"{prefix}{key}", one.keys, value)


def _check_options(data: DataConfig | PixelDataConfig) -> None:
    for name in ("name", "root", "template", "class_names"):
        if name in data.options:
            raise ValueError(f"data.options.{name} is written data.{name}={data.options[name]}.")


def _check(key: str, one: Setting, value: Any) -> None:
    """Refuse a value outside the bounds that are written beside a setting; None is never one."""
    if value is None:
        return
    if one.one_of and value not in one.one_of:
        raise unknown_name(f"value of {key}", value, one.one_of)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be a finite number, got {value}.")
    if one.at_least is not None and not (isinstance(value, int | float) and value >= one.at_least):
        raise ValueError(f"{key} must be at least {one.at_least}, got {value}.")
    if one.above is not None and one.below is not None:
        if not one.above < value < one.below:
            raise ValueError(f"{key} must lie between {one.above} and {one.below}, got {value}.")
    elif one.above is not None and not value > one.above:
        raise ValueError(f"{key} must be above {one.above}, got {value}.")
    elif one.below is not None and not value < one.below:
        raise ValueError(f"{key} must be below {one.below}, got {value}.")


def _check_severities(config: RobustnessRun) -> None:
    wrong = [each for each in config.severities if not 1 <= each <= SEVERITIES]
    if wrong or (not config.severities and config.corruptions != []):
        said = f"not {wrong[0]}" if wrong else "and there are none"
        raise ValueError(
            f"severities must be whole numbers from 1 (mild) to {SEVERITIES} (strong), {said}. Without any "
            'corruption: "corruptions=[]".'
        )
    if config.corruptions == [] and config.shift_by is None:
        raise ValueError(
            "Without corruptions there is nothing to look at but a shift: say its column, shift_by=COLUMN."
        )


def _check_shots_from(config: Any) -> None:
    """Refuse a list of shots where no prompt learns from it, or beside a number of shots."""
    if not isinstance(config, PromptRun):
        raise ValueError(
            "data.shots_from says which images a prompt learns from (calib train); here none does: leave it "
            "out. A run knows its own shots."
        )
    if config.data.shots not in (None, DataConfig().shots):
        raise ValueError(
            f"data.shots={config.data.shots} and data.shots_from exclude each other: all images of the list "
            "are the shots. Leave out data.shots."
        )


def _check_select(config: SelectRun) -> None:
    """Refuse what cannot be chosen by, before torch is imported."""
    if config.near > 1:
        raise ValueError(f"near must be at most 1, got {config.near}.")
    if config.source is not None and config.strategy != "aligned":
        raise ValueError(f"source is for strategy=aligned, and the strategy is {config.strategy}.")
    if config.source is None and config.strategy == "aligned":
        raise ValueError(
            "strategy=aligned needs images of the domain the model is at home in, which need no labels: "
            "source=FOLDER, or a data set's name. Without them: strategy=dual."
        )


def _check_source(config: FailureRun) -> None:
    files = config.embeddings
    if files.train is not None and config.prompt is not None:
        raise ValueError("Predictions come from `prompt` or from `embeddings.train`, not from both.")
    if files.test is not None and files.train is None:
        raise ValueError("embeddings.test was given without embeddings.train.")
    if files.captions and files.train is None:
        raise ValueError("embeddings.captions=true was given without embeddings.train.")
    if files.captions and config.data.shots is not None:
        raise ValueError("data.shots counts images per class, and captions have none: leave it out.")
    if files.captions and config.data.batch_size < 2:
        raise ValueError("With captions data.batch_size is the number of candidates: at least 2.")
