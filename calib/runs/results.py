"""What a run shows at its end: a table, figures and files.

Everything at the end is read from the run's folder, so it is the same whoever trained the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from matplotlib.figure import Figure

from calib.data.predictions import Predictions
from calib.metrics import FAILURE_METRICS, METRICS, columns_of
from calib.metrics.segmentation import SegmentationMetric
from calib.prompts.zero_shot import ZERO_SHOT
from calib.report.plots import reliability_panels
from calib.runs.folder import RunFolder

CALIBRATED = "calibrated"


@dataclass
class Results:
    """What a finished run shows beside its curves.

    Attributes:
        columns: Names of the table's columns.
        rows: Its rows: what was evaluated, then numbers as fractions.
        figures: Name to matplotlib figure or PNG file.
        export: Files that make the result usable elsewhere: the export and the settings.
        kind: What the export is: "prompt" or "failure-head".
        about: Facts about the export.
        name: What the table is called: those of test and of validation images have different names.
    """

    columns: list[str]
    rows: list[list[Any]]
    figures: dict[str, Figure | Path]
    export: list[Path]
    kind: str
    about: dict[str, Any] = field(default_factory=dict)
    name: str = "results"


def methods_of(folder: RunFolder) -> dict[str, RunFolder]:
    """Return what a finished run of a prompt shows, by name: zero-shot, baselines, the prompt, calibrated.

    Args:
        folder: The run's folder. That of a baseline shows itself alone.
    """
    folders = {ZERO_SHOT: folder.baseline(ZERO_SHOT)}
    if folder.baselines.is_dir():
        folders |= {path.name: RunFolder(path) for path in sorted(folder.baselines.iterdir())}
    written = folder.results()
    method = str(written["method"])
    if folder.calibrated:
        folders[method] = folder.bare_run
        method = f"{method} {CALIBRATED}"
    folders[method] = folder
    return {name: each for name, each in folders.items() if each.finished}


def about_calibration(record: Mapping[str, Any], *, asked: str = "auto") -> str:
    """Return in a few lines what the shots said about the confidences, for people.

    Args:
        record: What metrics.json says under "calibration".
        asked: The setting `calibrate.method`. With auto it is said why a method is taken that is not the best
            on the shots.

    Example:
        >>> print(about_calibration({"method": "experts", "shots": 24,
        ...                          "left_out_nll": {"none": 0.61, "experts": 0.54},
        ...                          "expert_shares": {"prompt": 0.3, "images": 0.7}}))
        Calibrated by its own 24 shots: experts (prompt 30 %, images 70 %).
        Negative log-likelihood of the shots, each left out: none 0.610, experts 0.540.
    """
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in record["expert_shares"].items())
    said = ", ".join(f"{name} {value:.3f}" for name, value in record["left_out_nll"].items())
    if record["method"] == "scale":
        shares = f"logits x {record['weights']['prompt']:.2f}"
    first = f"Calibrated by its own {record['shots']} shots: {record['method']} ({shares})."
    if record["method"] == "none":
        first = (
            f"Not calibrated: nothing does better on the {record['shots']} shots than the prompt as it is."
        )
    if not record["shots"]:
        first = f"Calibrated by what is assumed beforehand: {record['method']} ({shares})."
        said += "; the experts could not be judged, since a class has a single shot or group"
    stated = record.get("prevalence")
    if stated:
        listed = ", ".join(f"{name} {100 * share:g} %" for name, share in stated.items())
        first += f"\nFor the stated class shares: {listed}, whatever those of the test images are."
    nll = record["left_out_nll"]
    if asked == "auto" and record["method"] in nll and nll[record["method"]] > min(nll.values()):
        said += (
            f"; {record['method']} all the same, as auto leaves it only where it is worse than none by three "
            "standard errors (docs/shots.md#why-experts-stay)"
        )
    return f"{first}\nNegative log-likelihood of the shots, each left out: {said}."


def results_of(folder: RunFolder, *, n_bins: int = 10) -> Results:
    """Return what a finished run's folder has to show.

    Args:
        folder: The folder of a prompt or of a failure head; a prompt's table and figure also have the
            finished ones under `baselines`. Without test images the table is about the validation images.
        n_bins: Bins of the reliability diagrams.

    Raises:
        ValueError: A file is damaged.
    """
    written = folder.results()
    if folder.failure.is_file():
        names = [name for name in FAILURE_METRICS if name in written["scores"][written["head"]]]
        return Results(
            ["score", *names],
            [[score, *(values.get(name) for name in names)] for score, values in written["scores"].items()],
            {"risk_coverage": folder.risk_coverage},
            [path for path in (folder.failure, folder.prompt, folder.config) if path.is_file()],
            "failure-head",
            {"head": written["head"], "seed": written["seed"], "data": written["data"]},
        )
    if folder.segment.is_file():
        return _of_segmenter(folder, written)
    folders = methods_of(folder)
    figures: dict[str, Figure | Path] = {}
    if folder.tested:
        predictions = {name: Predictions.load(each.predictions) for name, each in folders.items()}
        panels = {name: (each.probs, each.labels) for name, each in predictions.items()}
        figures["reliability"] = reliability_panels(panels, n_bins=n_bins)
    names = list(columns_of(METRICS))
    split = "test" if folder.tested else "val"
    shown = {name: each.results().get(split, {}) for name, each in folders.items()}
    return Results(
        ["method", *names],
        [[method, *(row.get(name) for name in names)] for method, row in shown.items() if row],
        figures,
        [folder.prompt, folder.config],
        "prompt",
        {key: written[key] for key in ("method", "seed", "data")},
        name="results" if folder.tested else "validation_results",
    )


def _of_segmenter(folder: RunFolder, written: Mapping[str, Any]) -> Results:
    split = "test" if folder.tested else "val"
    names = get_args(SegmentationMetric)
    classes = written.get(split, {}).get("classes", {})
    return Results(
        ["class", *names],
        [[each, *(row.get(name) for name in names)] for each, row in classes.items()],
        {"unit_reliability": folder.unit_reliability} if folder.tested else {},
        [folder.segment, folder.config],
        "segmentation-network",
        {key: written[key] for key in ("method", "seed", "data")},
        name="results" if folder.tested else "validation_results",
    )
