"""What tests ask of runs: the names of all that one logs, the decisions that it holds."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from calib.config import FailureRun, PromptRun, SegmentRun
from calib.failure.export import FailureHead
from calib.losses import SEGMENTATION_PRESETS, Objective, resolve_terms
from calib.metrics import FAILURE_METRICS, METRICS
from calib.metrics.segmentation import WATCHED, SegmentationMetric
from calib.posthoc.decisions import Decisions
from calib.prompts.export import Prompt
from calib.runs.decisions import export_of
from calib.runs.exports import load

OFFICIAL = ("ece_official", "mce_official")  # with parity.metrics


def decisions_of(run: str | Path) -> Decisions:
    """Return the decisions that an export holds; empty ones where it holds none."""
    export = load(export_of(run))
    assert isinstance(export, Prompt | FailureHead)
    return export.decisions or Decisions()


def metric_names(config: PromptRun | FailureRun | SegmentRun) -> set[str]:
    """Return the names of all curves and final numbers of a run, the same in CSV and W&B.

    A metric that is not a number (kde_ece of one image, AUROC without a wrong prediction) is left out when it
    is logged.
    """
    names = {"epoch"}
    if isinstance(config, FailureRun):
        watched = [name for name, metric in FAILURE_METRICS.items() if metric.watched]
        names |= {f"train/{config.loss.name}"} | {f"val/{name}" for name in watched}
        of_probability = () if config.doubt == "head" else ("ece",)
        return names | {f"test/{name}" for name in (*FAILURE_METRICS, *of_probability, "n", "n_failures")}
    if isinstance(config, SegmentRun):
        losses = Objective(resolve_terms(config.preset, config.loss, SEGMENTATION_PRESETS)).weights
        names |= {f"train/{term}" for term in (*losses, "total")} | {f"val/{name}" for name in WATCHED}
        of_pixels = get_args(SegmentationMetric)
        return names | {f"test/{way}{name}" for way in ("", "micro_") for name in of_pixels} | {"test/n"}
    terms = Objective(resolve_terms(config.preset, config.loss)).weights
    names |= {f"train/{term}" for term in (*terms, "total")}
    if config.data.val_shots:
        names |= {f"val/{name}" for name in METRICS}
    official = OFFICIAL if config.parity.metrics else ()
    return names | {f"test/{name}" for name in (*METRICS, *official, "n", "n_bins")}
