"""Names in settings that there are not: answered before torch, which takes seconds, is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calib.config.schema import FailureRun, PromptRun, RobustnessRun, SegmentRun, SelectRun
from calib.core.byname import check_settings
from calib.core.errors import meant_path, unknown_name
from calib.core.tables import names_in, settings_in

# What a name stands for, and the tables (module, name in it) that list all there are.
TABLES = {
    "backbone": [("calib.backbones", "BACKBONES"), ("calib.backbones", "FORMS")],
    "corruption": [("calib.robustness.corruptions", "CORRUPTIONS")],
    "data set": [("calib.data.specs", "DATASETS")],
    "doubt": [("calib.failure.doubt", "WHOLE"), ("calib.scores.registry", "SCORES")],
    "failure loss": [("calib.losses.failure", "FAILURE_LOSSES")],
    "loss": [("calib.losses.registry", "LOSSES")],
    "loss of pixels": [("calib.losses.registry", "OF_PIXELS")],
    "loss preset": [("calib.losses.presets", "PRESETS")],
    "score": [("calib.scores.registry", "SCORES")],
    "segmentation preset": [("calib.losses.presets", "SEGMENTATION_PRESETS")],
    "strategy": [("calib.data.selection", "STRATEGIES")],
    "weighting": [("calib.losses.failure", "WEIGHTINGS")],
}

# Data sets whose images lie in a place here, and what that place is.
LAYOUTS = {
    "folder": "folder",
    "table": "folder or table",
    "medmnist": "file or folder",
    "pool": "folder or table",
}


def check_names(config: Any) -> None:
    """Refuse presets, losses, backbones, data sets, scores and the like that are in no table.

    Imports none of them.

    What uses a name checks it as well, with the same words.

    Args:
        config: The settings of a run.

    Raises:
        ValueError: A name, or a setting of a loss, is unknown; the message says which was probably meant.
    """
    if isinstance(config, SegmentRun):
        _check("segmentation preset", config.preset)
        _check_losses(config.loss, "loss of pixels")
        return
    if config.data.name:
        _check("data set", config.data.name)
    if isinstance(config, PromptRun | FailureRun | SelectRun):
        _check_backbone(config.backbone.name)
    if isinstance(config, PromptRun):
        for preset in (config.preset, *config.baselines):
            _check("loss preset", preset)
        _check_losses(config.loss)
    if isinstance(config, SelectRun):
        _check("strategy", config.strategy)
        known = settings_in(*TABLES["strategy"][0], config.strategy)
        check_settings(config.settings, known, name=f"strategy {config.strategy!r}")
    if isinstance(config, FailureRun):
        _check("failure loss", config.loss.name)
        _check("weighting", config.loss.weighting)
        _check("doubt", config.doubt)
        for score in config.scores:
            _check("score", score)
    if isinstance(config, RobustnessRun):
        for name in config.corruptions or ():
            _check("corruption", name)


def check_root(data: Any) -> None:
    """Refuse images of one's own that are not there, with the words of the readers; imports none of them.

    Args:
        data: Settings of the data; anything else passes.

    Raises:
        FileNotFoundError: There is no such folder or file.
    """
    what = LAYOUTS.get(getattr(data, "name", ""))
    if what is None or data.root is None:
        return
    root = Path(data.root).expanduser()
    if not (os.path.isdir(root) if what == "folder" else os.path.exists(root)):  # however long it is
        raise FileNotFoundError(f"There is no {what} {root} (data.root).{meant_path(root)}")


def known_names(kind: str) -> list[str]:
    """Return all names of a kind, a key of `TABLES`."""
    return [name for place in TABLES[kind] for name in names_in(*place)]


def _check(kind: str, name: str) -> None:
    known = known_names(kind)
    if name not in known:
        raise unknown_name(kind, name, known)


def _check_backbone(name: str) -> None:
    prefix, _, rest = name.partition(":")
    if not (rest and any(form.startswith(f"{prefix}:") for form in known_names("backbone"))):
        _check("backbone", name)


def _check_losses(losses: Mapping[str, Any], kind: str = "loss") -> None:
    for name, options in losses.items():
        _check(kind, name)
        if isinstance(options, Mapping):
            given = {key: value for key, value in options.items() if key != "weight"}
            known = settings_in(*TABLES["loss"][0], name)
            check_settings(given, known, name=f"loss {name!r}", also=("weight",))
