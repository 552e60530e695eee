"""Decision curves: what acting on the probability of a class is worth, beside treating all and none."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from calib.core.text import few
from calib.metrics import Column, net_benefit
from calib.report.compare import ends_of
from calib.report.document import Picture, Section, Table, Value
from calib.report.sections.overview import percent
from calib.report.subject import Subject
from calib.report.svg import Chart
from calib.report.tables import Cell
from calib.stats import JointBootstrap, MeanStatistic

MOST_CLASSES = 12  # that are drawn
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # in the table
GRID = torch.arange(1, 100, dtype=torch.float64) / 100


def decisions(subject: Subject) -> Section:
    """Return the section of decision curves, each class against all others.

    Args:
        subject: What the report is about.
    """
    names, labels = subject.class_names, subject.outcomes.labels
    present = [c for c in range(len(names)) if bool((labels == c).any())]
    drawn = present if len(names) > 2 else [c for c in present if c == 1] or present
    pictures: list[Picture] = []
    for c in drawn:
        probs, event = subject.outcomes.probs[:, c].clamp(0, 1), labels == c
        if len(pictures) < MOST_CLASSES:
            pictures.append(_curve(probs, event, names[c], f"benefit{c}", subject))
    columns = {
        "acted": Column("acted on", decimals=0),
        "model": Column("net benefit", decimals=4),
        "all": Column("of treating all", decimals=4),
        "gain": Column("model minus better default", decimals=4, signed=True),
    }
    title = "Net benefit in numbers, with bootstrap intervals where resamples differ"
    section = Section(
        "decisions",
        "Decision curves: is acting on it better than not?",
        said=[
            "Somebody acts where the probability of a class reaches a threshold. Acting at 20 % says that a "
            "missed case is four times as bad as a needless action. The net benefit counts right actions "
            "minus needless ones at that price, per image: the model is worth using where its line lies "
            "above both treating all and treating none (zero). Each class stands against all others.",
        ],
        pictures=pictures,
        tables=[
            Table("net_benefit", title, "class and threshold", columns, _rows(subject, drawn), folded=True)
        ],
    )
    left_out = [names[c] for c in range(len(names)) if c not in present]
    if left_out:
        section.notes.append(f"No image is of {few(left_out)}: there is no curve.")
    if len(drawn) > len(pictures):
        section.notes.append(
            f"Curves of {len(drawn) - len(pictures)} more classes are left out; the table has all."
        )
    section.notes.append(
        "These are the shares of the classes among these images. Where a class is rarer, the lines lie lower."
    )
    return section


def _curve(probs: Tensor, event: Tensor, name: str, anchor: str, subject: Subject) -> Picture:
    model = net_benefit(probs, event, GRID).numpy()
    everyone = net_benefit(torch.ones_like(probs), event, GRID).numpy()
    share = float(event.double().mean())
    best = model > np.maximum(everyone, 0) + 1e-12
    top = max(1.1 * share, 0.02)
    low = -0.25 * top
    where = _ranges(GRID.numpy()[best])
    said = f"Above both defaults at thresholds {where}." if where else "Nowhere above both defaults."
    title = f"Net benefit for {name}"
    chart = Chart(title, said, (0, 1), (low, top), "threshold %", "net benefit", percent=(True, False))
    chart.line([0, 1], [0, 0], "axis")
    visible = np.where(everyone >= low, everyone, np.nan)
    chart.line(GRID.numpy(), visible, "s1")
    chart.line(GRID.numpy(), np.where(model >= low, model, np.nan), "s0")
    return Picture(
        chart.svg(anchor),
        f"{name} ({percent(share)} of the images). Solid: {subject.main}; long dashes: treating all; level "
        f"line: treating none. {said}",
    )


def _ranges(values: np.ndarray) -> str:
    """Return thresholds on the grid as ranges in percent.

    Example:
        >>> _ranges(np.array([0.1, 0.11, 0.12, 0.3]))
        '10 to 12 %, 30 %'
    """
    points = np.round(100 * values).astype(int)
    if not len(points):
        return ""
    runs = np.split(points, np.flatnonzero(np.diff(points) > 1) + 1)
    shown = [f"{run[0]} to {run[-1]} %" if len(run) > 1 else f"{run[0]} %" for run in runs]
    return few(shown, 4)


def _rows(subject: Subject, drawn: Sequence[int]) -> dict[str, dict[str, Value]]:
    """Return net benefits with their intervals: means over images, so that all share their resamples."""
    parts, means = subject.parts, {}
    labels = subject.outcomes.labels.cpu().numpy()
    for c in drawn:
        probs = subject.outcomes.probs[:, c].cpu().numpy()
        for threshold in THRESHOLDS:
            price = threshold / (1 - threshold)
            everyone = np.where(labels == c, 1.0, -price)
            each = np.where(probs >= threshold, everyone, 0.0)  # whose mean is the net benefit
            default = everyone if everyone.mean() > 0 else np.zeros_like(everyone)
            means[c, threshold] = {"model": each, "all": everyone, "gain": each - default}
    joint = None
    with contextlib.suppress(ValueError):  # a single image or group: there is nothing to resample
        joint = JointBootstrap(
            {"mean": MeanStatistic(lambda values: values[:, None], lambda means: means[:, 0])},
            {(*at, name): (found[name],) for at, found in means.items() for name in ("model", "gain")},
            groups=subject.groups,
            n_resamples=parts.n_resamples,
            level=parts.level,
            seed=parts.seed,
        )

    def cell(c: int, threshold: float, name: str) -> Cell:
        value = float(means[c, threshold][name].mean())
        if joint is None:
            return Cell(value)
        return Cell(value, interval=ends_of(joint.interval("mean", [(c, threshold, name)])))

    return {
        f"{subject.class_names[c]} at {percent(threshold, 0)}": {
            "acted": int((subject.outcomes.probs[:, c] >= threshold).sum()),
            "model": cell(c, threshold, "model"),
            "all": float(found["all"].mean()),
            "gain": cell(c, threshold, "gain"),
        }
        for (c, threshold), found in means.items()
    }
