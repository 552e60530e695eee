"""Which settings make a run what it is: how two runs differ, and what a run's folder is called."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from calib.config import (
    Affects,
    DataConfig,
    FailureRun,
    PromptRun,
    RobustnessRun,
    SegmentRun,
    Setting,
    find_setting,
    to_dict,
)

OWN_IMAGES = ("folder", "table", "hf", "medmnist")  # readers whose name says nothing about the data

LONGEST = 80  # letters of the names of several runs in one name


def describe_differences(
    old: PromptRun | FailureRun | SegmentRun, new: PromptRun | FailureRun | SegmentRun
) -> list[str]:
    """Return one phrase per setting that differs between two configurations and matters for the result.

    Example:
        >>> describe_differences(PromptRun(seed=1), PromptRun(seed=2))
        ['seed is 1 there and 2 here']
        >>> describe_differences(PromptRun(), PromptRun(loss={"as": {"weight": 0}}))
        ['loss.as.weight is not set there and 0 here']
    """
    before, after = relevant_settings(old), relevant_settings(new)
    return [
        f"{key} is {_said(before, key)} there and {_said(after, key)} here"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def run_name(config: PromptRun | FailureRun | SegmentRun) -> str:
    """Return the default name of a run's folder.

    Settings that differ from their defaults and are not among the words of the name end it as six digits, so
    that two runs have one name only if they are the same run; or failure runs of prompts in folders of one
    name, of which the second is refused.

    Example:
        >>> run_name(PromptRun())
        'embedded-cxr3-calibprompt-8shot-s1'
        >>> run_name(PromptRun(loss={"smac": {"alpha": 0.1}}))
        'embedded-cxr3-calibprompt-8shot-s1-1d9814'
        >>> run_name(FailureRun(prompt="runs/mine/prompt.safetensors"))
        'failure-mine-all-s1'
    """
    if isinstance(config, SegmentRun):
        return _name(["segment", Path(str(config.data.root)).stem, config.preset], "", config)
    shots = "all" if config.data.shots is None else f"{config.data.shots}shot"
    shots = shots if config.data.shots_from is None else "chosen"
    data = data_word(config.data)
    if isinstance(config, PromptRun):
        words = [config.backbone.name, data, config.preset]
    elif config.embeddings.train is not None:
        words = ["failure", Path(config.embeddings.train).stem]
    elif config.prompt is not None:
        prompt = Path(config.prompt)
        words = ["failure", prompt.parent.name if prompt.suffix else prompt.name]
    else:
        words = ["failure", config.backbone.name, data, "zero-shot"]
    return _name(words, shots, config)


def data_word(data: DataConfig) -> str:
    """Return what data are called: a data set's name, or that of the folder or table of one's own images."""
    own = data.name in OWN_IMAGES and data.root
    return Path(str(data.root)).stem if own else data.name


def robustness_name(config: RobustnessRun) -> str:
    """Return the default name of a robustness check's folder: by the runs that are judged, and the shift.

    Example:
        >>> robustness_name(RobustnessRun(runs=["runs/mine"]))
        'robustness-mine'
        >>> robustness_name(RobustnessRun(runs=["runs/a", "x/b/prompt.safetensors"], shift_by="site"))
        'robustness-a+b-site'
    """
    paths = [Path(run) for run in config.runs]
    names = [path.parent.name if path.suffix == ".safetensors" else path.name for path in paths]
    runs = "+".join(names)
    if len(runs) > LONGEST:
        runs = f"{names[0]}+{len(names) - 1}"
    return _joined(["robustness", runs, *([config.shift_by] if config.shift_by else [])])


def _name(words: list[str], shots: str, config: PromptRun | FailureRun | SegmentRun) -> str:
    return _joined([*words, *([shots] if shots else []), f"s{config.seed}", *_digits(config)])


def _joined(parts: Sequence[str]) -> str:
    return "-".join(re.sub(r"[^\w.+-]+", "_", part).strip("_") for part in parts)


def _digits(config: PromptRun | FailureRun | SegmentRun) -> list[str]:
    """Return a digest of the settings that differ from their defaults and the name does not show."""
    plain = relevant_settings(type(config)())
    changed = {
        key: value
        for key, value, one in each_setting(config)
        if one.affects != "nothing" and plain.get(key) != value and not _is_said(config, one)
    }
    if not changed:
        return []
    return [hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:6]]


def _is_said(config: PromptRun | FailureRun | SegmentRun, one: Setting) -> bool:
    """Return whether the words of a name say a setting; those of a failure run name its prompt."""
    of_prompt = isinstance(config, FailureRun) and config.prompt is not None
    return one.shown or (of_prompt and one.of_prompt)


def relevant_settings(config: PromptRun | FailureRun | SegmentRun) -> dict[str, Any]:
    """Return the settings that matter for the result, by dotted key, lists and numbers as they are."""
    return {key: value for key, value, one in each_setting(config) if one.affects != "nothing"}


def settings_that_affect(what: Affects, config: PromptRun | FailureRun | SegmentRun) -> dict[str, Any]:
    """Return the settings that affect one thing, by dotted key.

    Args:
        what: What they affect, see `calib.config.schema.Setting`.
        config: The settings of a run.

    Example:
        >>> settings_that_affect("draw", PromptRun())
        {'data.shots': 8, 'data.shots_from': None, 'data.val_shots': 0, 'data.at_most': False}
    """
    return {key: value for key, value, one in each_setting(config) if one.affects == what}


def each_setting(config: PromptRun | FailureRun | SegmentRun) -> Iterator[tuple[str, Any, Setting]]:
    """Yield every setting of a run: its dotted key, its value, and what is known about it."""
    for key, value in flat(to_dict(config)).items():
        one = find_setting(type(config), key)
        assert one is not None, key
        yield key, value, one


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under their dotted keys.

    Example:
        >>> flat({"optim": {"lr": 0.1}, "seed": 1})
        {'optim.lr': 0.1, 'seed': 1}
    """
    settings: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            settings |= flat(value, f"{prefix}{key}.")
        else:
            settings[f"{prefix}{key}"] = value
    return settings


def _said(settings: dict[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not set"
