"""Accuracy, calibration error and confidence over severities, in one picture."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calib.core.text import printable
from calib.report.plots import LINES
from calib.robustness.measures import MEASURES
from calib.robustness.result import AS_IT_IS, CORRUPTION, MEAN, Condition, Robustness

PANELS = ("accuracy", "ece", "confidence")


def severity_picture(found: Robustness) -> Figure | None:
    """Return a figure of what happens as corruptions grow; None where nothing was corrupted.

    Above, every model: the mean over the corruptions at each severity, that of the first with its interval
    as a band. Below, the first model under each corruption. At 0 are the images as they are.
    """
    conditions = [each for each in found.conditions if each.kind == CORRUPTION]
    kinds = list(dict.fromkeys(each.corruption for each in conditions if each.corruption))
    if not kinds:
        return None
    severities = sorted({each.severity for each in conditions if each.severity is not None})
    figure = Figure(figsize=(11, 6.8), dpi=150, layout="constrained")
    grid = figure.subplots(2, len(PANELS), sharex=True, sharey="col")
    mean = {
        severity: Condition(f"{MEAN} {severity}", CORRUPTION, "", severity).name
        if len(kinds) > 1
        else Condition.of_corruption(kinds[0], severity).name
        for severity in severities
    }
    level = f"{100 * found.about.get('level', 0.95):g} %"
    for above, below, measure in zip(*grid, PANELS, strict=True):
        for number, system in enumerate(found.systems):
            style, label = LINES[number % len(LINES)], system if number else f"{system} ({level} interval)"
            _line(above, found, system, mean, measure, style, label, band=not number)
        for number, kind in enumerate(kinds):
            names = {severity: Condition.of_corruption(kind, severity).name for severity in severities}
            style = (LINES[number % len(LINES)][0], "-" if number < len(LINES) else (0, (2, 1)))
            _line(
                below,
                found,
                found.systems[0],
                names,
                measure,
                style,
                kind,
                mark="os"[number // len(LINES) % 2],
            )
        above.set_title(MEASURES[measure].column.title, fontsize=10)
        below.set_xlabel("severity")
        below.set_xticks([0, *severities])
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", linewidth=0.4, alpha=0.6)
            axes.set_ylim(bottom=0)
    for axes, title in ((grid[0, 0], "mean over corruptions"), (grid[1, 0], printable(found.systems[0]))):
        axes.set_ylabel(title, parse_math=False)
    for row in grid:
        row[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    return figure


def _line(
    axes: Axes,
    found: Robustness,
    system: str,
    names: dict[int, str],
    measure: str,
    style: tuple[str, Any],
    label: str,
    *,
    band: bool = False,
    mark: str = "o",
) -> None:
    rows = [(0, found.find(system, AS_IT_IS, measure))]
    rows += [(severity, found.find(system, name, measure)) for severity, name in names.items()]
    points = [(at, row.value) for at, row in rows if row is not None]
    at = [each for each, _ in points]
    colour, dashes = style
    axes.plot(
        at,
        [100 * value.value for _, value in points],
        color=colour,
        linestyle=dashes,
        marker=mark,
        markersize=3.5,
        linewidth=1.8 if band else 1.2,
        label=printable(label).replace("$", r"\$"),
    )
    if band:
        low, high = ([100 * getattr(value, end) for _, value in points] for end in ("low", "high"))
        axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
