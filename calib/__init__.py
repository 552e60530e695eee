"""Calibrated prompts and uncertainty for frozen medical vision-language models.

    backbone = calib.create_backbone("plip", weights="hf://vinid/plip")
    task = calib.load_data("folder", "IMAGES")
    prompt = calib.fit_prompt(backbone, task, shots=8, objective="calibprompt", seed=1)
    test = prompt.predict(calib.encode(backbone, task.test))
    test.metrics(n_bins=10)["ece"]
    prompt.save("prompt.safetensors")
    calib.report(test, "report.html")

What there is: `create_backbone`, `load_data`, `encode`, `zero_shot`, `fit_prompt`, `fit_failure_head`,
`load`, `open_image`, `report`; the classes `Prompt`, `FailureHead`, `Predictions`, each with `save` and
`load`; and the rooms `calib.losses`, `calib.metrics`, `calib.scores`, `calib.posthoc`, `calib.stats`,
`calib.vqa`, `calib.robustness`, whose docstrings lead on. Everything is imported when it is first used. What
the commands add to this (folders, going on after an interruption, logging, several processes) is told by
`calib --help`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calib import losses, metrics, posthoc, robustness, scores, stats, vqa
    from calib.backbones import create_backbone
    from calib.data.encode import encode
    from calib.data.images import open_image
    from calib.data.predictions import Predictions
    from calib.data.specs import load_data
    from calib.failure.export import FailureHead
    from calib.failure.fit import fit_failure_head
    from calib.prompts.export import Prompt
    from calib.prompts.fit import fit_prompt
    from calib.prompts.zero_shot import zero_shot
    from calib.report.page import report
    from calib.runs.exports import load

__version__ = "0.1.0"
__all__ = [
    "FailureHead",
    "Predictions",
    "Prompt",
    "create_backbone",
    "encode",
    "fit_failure_head",
    "fit_prompt",
    "load",
    "load_data",
    "losses",
    "metrics",
    "open_image",
    "posthoc",
    "report",
    "robustness",
    "scores",
    "stats",
    "vqa",
    "zero_shot",
]
_HOMES = {
    "FailureHead": "calib.failure.export",
    "Predictions": "calib.data.predictions",
    "Prompt": "calib.prompts.export",
    "create_backbone": "calib.backbones",
    "encode": "calib.data.encode",
    "fit_failure_head": "calib.failure.fit",
    "fit_prompt": "calib.prompts.fit",
    "load": "calib.runs.exports",
    "load_data": "calib.data.specs",
    "open_image": "calib.data.images",
    "zero_shot": "calib.prompts.zero_shot",
}


def __getattr__(name: str) -> Any:
    """Return a name of the door, imported now: torch and the rest take seconds."""
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value  # asked for once
        return value
    if name in __all__:
        return import_module(f"calib.{name}")
    raise AttributeError(f"module 'calib' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
