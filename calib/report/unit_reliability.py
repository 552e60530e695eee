"""Dataset reliability histograms: in how many units (images, patients, sites) a promise was kept, bin by bin.

A pooled reliability diagram shows the mean of all units. Here each column shows how the units spread around
it: many lie on the diagonal where the model is calibrated in every unit, and far off on both sides where its
errors only cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from calib.core.binning import BinStatistics
from calib.core.text import printable
from calib.metrics.unit_bins import bin_error, pooled_bins, reliability_histogram

GAMMA = 0.35  # of the colours, so that a single unit is seen, as the authors draw them
MANY_TIMES = 100  # between the fullest and the emptiest bin, from which on the counts have a log axis
MOST = 8  # panels of one picture


def unit_reliability_values(stats: BinStatistics) -> dict[str, Any]:
    """Return what a dataset reliability histogram shows, as plain numbers for a file.

    Args:
        stats: Sums per unit and bin, each (U, M); see `calib.metrics.unit_bins`.

    Returns:
        "units": U; "histogram": [r][m] units whose bin m has a mean target in the r-th row of M, from 0 up;
        "mean_value" and "mean_target" of all units per bin (None where empty), "counts" per bin; "errors": of
        the pooled bins, and as means over units, "ece", "ace", "mce".

    Raises:
        ValueError: There is no unit.

    Example:
        >>> import torch
        >>> counts, values, targets = [[4.0, 0.0]] * 2, [[1.0, 0.0]] * 2, [[0.0, 0.0], [2.0, 0.0]]
        >>> stats = BinStatistics(*torch.tensor([counts, values, targets]))
        >>> values = unit_reliability_values(stats)  # overconfident in one unit, underconfident in the other
        >>> values["histogram"], values["errors"]["pooled"]["ace"], values["errors"]["mean_of_units"]["ace"]
        ([[2, 0], [0, 0]], 0.0, 0.25)
    """
    pooled = pooled_bins(stats)
    errors: dict[str, dict[str, float | None]] = {"pooled": {}, "mean_of_units": {}}
    for name in ("ece", "ace", "mce"):
        errors["pooled"][name] = _number(float(bin_error(pooled, name)))
        errors["mean_of_units"][name] = _number(float(bin_error(stats, name).nanmean()))
    return {
        "units": len(stats.counts),
        "histogram": reliability_histogram(stats).tolist(),
        "mean_value": [_number(value) for value in (pooled.value_sums / pooled.counts).tolist()],
        "mean_target": [_number(value) for value in (pooled.target_sums / pooled.counts).tolist()],
        "counts": pooled.counts.tolist(),
        "errors": errors,
    }


def unit_reliability_figure(
    panels: Mapping[str, BinStatistics],
    *,
    unit: str = "image",
    value: str = "Probability",
    target: str = "Share of pixels",
    counted: str = "Pixels",
) -> Figure:
    """Return dataset reliability histograms side by side.

    Above: columns are bins of the value, rows the mean target of a unit's values there; the colour is the
    share of the units that have anything in that bin. The line is the pooled mean, the dashed one
    calibration. Below: how much lies in each bin.

    Args:
        panels: Title -> sums per unit and bin, each (U, M), at least one unit; at most 8 panels.
        unit: What a unit is, in the singular.
        value: What the bins are of.
        target: What is compared with it.
        counted: What is counted below.

    Raises:
        ValueError: There is no panel, or there are too many, or one has no unit.

    Example:
        >>> import torch
        >>> counts, values, targets = [[4.0, 0.0]] * 2, [[1.0, 0.0]] * 2, [[0.0, 0.0], [2.0, 0.0]]
        >>> stats = BinStatistics(*torch.tensor([counts, values, targets]))
        >>> unit_reliability_figure({"nucleus": stats}).axes[0].texts[0].get_text().splitlines()
        ['2 images: ACE 25.0 %, ECE 25.0 % (means)', 'pooled: ACE 0.0 %, ECE 0.0 %']

    Source: Barfoot et al., arXiv 2506.03942 (dataset reliability histogram).
    """
    if not 1 <= len(panels) <= MOST:
        raise ValueError(f"Expected 1 to {MOST} panels to draw, got {len(panels)}.")
    figure = Figure(figsize=(1.1 + 3.2 * len(panels), 4.8), dpi=200, layout="constrained")
    grid = figure.subplots(2, len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": [3, 1]})
    for (title, stats), above, below in zip(panels.items(), *grid, strict=True):
        values = unit_reliability_values(BinStatistics(*(each.cpu() for each in stats)))
        shown = _draw_units(above, values, unit)
        _draw_counts(below, values)
        above.set_title(printable(title), fontsize=11, pad=26, parse_math=False)
        below.set_xlabel(f"{value} (%)")
    grid[0, 0].set_ylabel(f"{target} (%)")
    grid[1, 0].set_ylabel(counted)
    bar = figure.colorbar(shown, ax=grid[0, :], shrink=0.9, format=PercentFormatter(1, 0, symbol=""))
    bar.set_label(f"{unit.capitalize()}s of the column (%)", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _draw_units(axes: Axes, values: Mapping[str, Any], unit: str) -> ScalarMappable:
    table = np.array(values["histogram"], dtype=float)
    columns = table.sum(axis=0, keepdims=True)
    shares = np.divide(table, columns, out=np.full_like(table, np.nan), where=(columns > 0) & (table > 0))
    norm = PowerNorm(GAMMA, vmin=0, vmax=1)
    shown = axes.imshow(
        shares, origin="lower", extent=(0, 1, 0, 1), aspect="auto", cmap="YlOrRd", norm=norm, zorder=2
    )
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="Calibrated", zorder=3)
    held = [place for place, mean in enumerate(values["mean_value"]) if mean is not None]
    means = ([values[key][place] for place in held] for key in ("mean_value", "mean_target"))
    axes.plot(
        *means, color="#0072B2", marker="o", markersize=3, linewidth=1.5, label="All together", zorder=4
    )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    n = values["units"]
    means_of, pooled = values["errors"]["mean_of_units"], values["errors"]["pooled"]
    caption = (
        f"{n} {unit}{'s' * (n != 1)}: ACE {_percent(means_of['ace'])}, "
        f"ECE {_percent(means_of['ece'])} (means)\n"
        f"pooled: ACE {_percent(pooled['ace'])}, ECE {_percent(pooled['ece'])}"
    )
    axes.text(0.5, 1.015, caption, transform=axes.transAxes, ha="center", va="bottom", fontsize=8)
    _tidy(axes)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    return shown


def _draw_counts(axes: Axes, values: Mapping[str, Any]) -> None:
    counts = np.array(values["counts"])
    n_bins = len(counts)
    axes.bar(np.arange(n_bins) / n_bins, counts, 1 / n_bins, align="edge", color="#BBBBBB", edgecolor="white")
    filled = counts[counts > 0]
    if filled.max() > MANY_TIMES * filled.min():
        axes.set_yscale("log")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(color="#DDDDDD", linewidth=0.6, zorder=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
