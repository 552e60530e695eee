"""Reliability diagrams: what is promised (confidence) against what happens (accuracy), bin by bin.

Figures are plain `matplotlib.figure.Figure` objects, made without pyplot and its global state: they need no
display and no closing, and are saved with `figure.savefig(path)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from calib.core.binning import BinStatistics, bin_edges, bin_statistics
from calib.core.text import printable
from calib.io.files import atomic_path
from calib.metrics.calibration import error_from_sums
from calib.metrics.chance import consistency_band, null_ece
from calib.metrics.failure import aurc, risk_coverage_curve
from calib.metrics.outcomes import Outcomes

# From the palette of Okabe and Ito: told apart with every kind of colour vision, and in grey print.
SKY, BLUE, VERMILION, GREY = "#56B4E9", "#0072B2", "#D55E00", "#BBBBBB"
LINES: tuple[tuple[str, Any], ...] = (  # colour and dashes
    (BLUE, "-"),
    (VERMILION, "-"),
    ("#009E73", (0, (6, 1))),
    ("#CC79A7", (0, (3, 1, 1, 1))),
    ("#E69F00", (0, (1, 0.5))),
    (SKY, (0, (3, 1))),
)
BAND = 0.95  # of the accuracies of a calibrated bin
FEW = 20  # accepted samples, below which a risk is all chance
_WHITE_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}


def reliability_panels(
    systems: Mapping[str, tuple[Tensor, Tensor]], *, n_bins: int = 10, independent: bool = True
) -> Figure:
    """Return reliability diagrams of several systems side by side, each above a histogram of confidences.

    Above, each bin that holds samples has a bar up to its accuracy, and a hatched bar from there to its mean
    confidence: the gap. The ECE is the mean of the gaps, weighted with the shares of the histogram. A bin
    without samples has no bar at all. The bracket of a bin holds 95 % of the accuracies that a perfectly
    calibrated model has there by chance, with as many samples of these confidences: a bar that ends inside
    says nothing against the model. What such a model's ECE is on average stands behind the ECE ("chance").
    Below, the share of the samples in each bin with their number, and lines at accuracy and mean confidence.

    Args:
        systems: Title -> (probs (N, C) whose rows sum to 1, labels (N,)), at least one; drawn from left to
            right, on the same axes.
        n_bins: Number of equally wide bins on [0, 1].
        independent: Whether the samples of a system are. Where several seeds predict the same images they are
            not: chance is larger than it would seem, and neither brackets nor its ECE are shown.

    Raises:
        ValueError: If there is no system, or the inputs are not as above.

    Example:
        >>> import torch
        >>> one = (torch.tensor([[0.95, 0.05], [1.0, 0.0]]), torch.tensor([0, 1]))
        >>> figure = reliability_panels({"zero-shot": one, "CE": one})
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['zero-shot', 'CE']
        >>> figure.axes[0].texts[0].get_text().splitlines()
        ['ECE 47.5 % (chance 4.8 %), n = 2', 'Accuracy 50.0 %, Confidence 97.5 %']

    Source: Broecker and Smith 2007 (consistency bars).
    """
    if not systems:
        raise ValueError("Expected at least one system to draw, got none.")
    panels = [(title, Outcomes.from_probs(*given)) for title, given in systems.items()]
    return _figure(panels, n_bins, independent)


def _figure(panels: list[tuple[str, Outcomes]], n_bins: int, independent: bool) -> Figure:
    figure = Figure(figsize=(0.6 + 3.2 * len(panels), 4.8), dpi=200, layout="constrained")
    grid = figure.subplots(
        2, len(panels), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": [3, 1]}
    )
    for (title, p), above, below in zip(panels, *grid, strict=True):
        stats = BinStatistics(*(s.cpu() for s in bin_statistics(p.confidence, p.correct, n_bins)))
        _draw_bars(above, stats, _caption(p, stats, independent))
        if independent:
            _draw_band(above, p, n_bins)
        _draw_histogram(below, stats, p)
        above.set_title(printable(title), fontsize=11, pad=26, parse_math=False)  # a "$" is a dollar
        below.set_xlabel("Confidence (%)")
    grid[0, 0].set_ylabel("Accuracy (%)")
    grid[1, 0].set_ylabel("Samples (%)")
    grid[1, 0].set_ylim(0, 1.3 * max(bar.get_height() for axes in grid[1] for bar in axes.patches))
    columns = {1: 2, 2: 3, 3: 3}.get(len(panels), 6)  # as many of the names as fit the width
    legend = [axes.get_legend_handles_labels() for axes in grid[:, 0]]
    handles, names = (above + below for above, below in zip(*legend, strict=True))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def _draw_bars(axes: Axes, stats: BinStatistics, caption: str) -> None:
    held = stats.counts > 0  # an empty bin has no accuracy, not accuracy 0
    counts, confidence_sums, correct_sums = (s[held].numpy() for s in stats)
    accuracy, confidence = correct_sums / counts, confidence_sums / counts
    left, width = bin_edges(len(held))[:-1][held].numpy(), 1 / len(held)
    axes.bar(left, accuracy, width, align="edge", color=SKY, edgecolor="white", label="Accuracy")
    gap = {"fill": False, "edgecolor": VERMILION, "hatch": "////", "clip_on": False}
    label = "Gap to mean confidence"
    axes.bar(left, confidence - accuracy, width, bottom=accuracy, align="edge", label=label, **gap)
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="Perfect calibration")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.text(0.5, 1.015, caption, transform=axes.transAxes, ha="center", va="bottom", fontsize=8)
    _tidy(axes)


def _draw_band(axes: Axes, p: Outcomes, n_bins: int) -> None:
    """Draw the accuracies of a calibrated model as a bracket in every bin that holds samples."""
    ends = [end.cpu() for end in consistency_band(p.confidence, n_bins=n_bins, level=BAND)]
    held = ~ends[0].isnan()
    low, high, left = (values[held].numpy() for values in (*ends, bin_edges(n_bins)[:-1]))
    middle, arm = left + 0.5 / n_bins, 0.22 / n_bins
    style: dict[str, Any] = {"color": "black", "linewidth": 1.1, "zorder": 4, "clip_on": False}
    axes.vlines(middle, low, high, label=f"Calibrated model ({100 * BAND:.0f} %)", **style)
    for end in (low, high):
        axes.hlines(end, middle - arm, middle + arm, **style)


def _draw_histogram(axes: Axes, stats: BinStatistics, p: Outcomes) -> None:
    n_bins = len(stats.counts)
    shares = (stats.counts / stats.counts.sum()).numpy()
    bars = axes.bar(
        bin_edges(n_bins)[:-1].numpy(), shares, 1 / n_bins, align="edge", color=GREY, edgecolor="white"
    )
    axes.axvline(_mean(p.correct), color=BLUE, linewidth=1.5, label="Accuracy of all samples")
    axes.axvline(
        _mean(p.confidence), color=VERMILION, linewidth=1.5, linestyle=":", label="Confidence of all samples"
    )
    counts = [_short(int(count)) for count in stats.counts]
    rotation = 90 if n_bins > 10 else 0
    axes.bar_label(bars, counts, fontsize=6.5, padding=2, rotation=rotation, bbox=_WHITE_BOX, zorder=3)
    _tidy(axes)


def _caption(p: Outcomes, stats: BinStatistics, independent: bool) -> str:
    shares = {
        "ECE": float(error_from_sums(stats)),
        "Accuracy": _mean(p.correct),
        "Confidence": _mean(p.confidence),
    }
    ece, accuracy, confidence = (f"{name} {100 * share:.1f} %" for name, share in shares.items())
    if independent:
        ece += f" (chance {100 * float(null_ece(p.confidence, n_bins=len(stats.counts))):.1f} %)"
    return f"{ece}, n = {len(p.labels):,}\n{accuracy}, {confidence}"


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _no_math(name: str) -> str:
    return printable(name).replace("$", r"\$")


def _short(count: int) -> str:
    """Return a count in at most four characters below a million; nothing for 0."""
    if count < 10_000:
        return str(count or "")
    return f"{count / 1000:.0f}k"


def _tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def risk_coverage_diagram(
    systems: Mapping[str, tuple[Tensor, Tensor]], *, title: str | None = None
) -> Figure:
    """Return risk-coverage curves: the share of failures among the accepted, by how many are accepted.

    A curve that stays low for long is a good one; its mean height, the AURC, stands behind its name. The
    dashed line is what accepting at random would give, the dotted one what accepting every right prediction
    before any wrong one would, the best there is. On the grey ground fewer than 20 samples are accepted and
    single ones decide; curves that leave the picture there are cut off.

    Args:
        systems: Name -> (uncertainty (N,), failure (N,) bool), at least one, all on the same samples; the
            first is drawn strongest.
        title: Written above; None for the numbers of samples and failures.

    Raises:
        ValueError: If there is no system or no sample, or the inputs are not as above.

    Example:
        >>> import torch
        >>> scores = torch.tensor([0.1, 0.2, 0.9]), torch.tensor([False, False, True])
        >>> figure = risk_coverage_diagram({"mine": scores})
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['mine (AURC 11.1 %)', 'Accepted at random', 'Right ones first']
    """
    if not systems:
        raise ValueError("There is no system to draw.")
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    failure = next(iter(systems.values()))[1]
    n, share = len(failure), _mean(failure)
    highest = share
    for number, (name, (uncertainty, wrong)) in enumerate(systems.items()):
        if not len(wrong):
            raise ValueError(f"There are no samples of '{name}'.")
        curve = risk_coverage_curve(uncertainty, wrong)
        colour, style = LINES[number % len(LINES)]
        axes.step(
            curve.coverage.cpu().numpy(),
            curve.risk.cpu().numpy(),
            where="post",
            color=colour,
            linestyle=style,
            linewidth=2.4 if number == 0 else 1.4,
            label=f"{_no_math(name)} (AURC {100 * float(aurc(uncertainty, wrong)):.1f} %)",
        )
        highest = max([highest, *curve.risk[curve.coverage * n >= FEW].tolist()])
    axes.axhline(share, color="black", linewidth=0.8, linestyle="--", label="Accepted at random")
    coverage = np.arange(1, n + 1) / n
    ideal = np.maximum(1 - (1 - share) / coverage, 0)
    axes.plot(coverage, ideal, color="black", linewidth=0.8, linestyle=":", label="Right ones first")
    if n > FEW:
        axes.axvspan(0, FEW / n, color="#EEEEEE", linewidth=0, zorder=0)
    axes.set(xlim=(0, 1), xlabel="Accepted samples (%)", ylabel="Wrong among the accepted (%)")
    axes.set_ylim(0, max(1.08 * highest, 0.05))
    axes.set_title(
        _no_math(title) if title else f"{n:,} samples, {int(failure.sum()):,} predicted wrongly", fontsize=10
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    _tidy(axes)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a matplotlib figure as PNG, atomically; it is drawn once, where `savefig` draws it twice."""
    figure.set_dpi(150)
    with atomic_path(path) as part:
        FigureCanvasAgg(figure).print_png(part)
