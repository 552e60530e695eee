"""Reliability: what is promised against what happens, with what chance alone does, and scores in parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.binning import BinStatistics, bin_edges, bin_indices, bin_statistics
from calib.metrics import Column
from calib.metrics.chance import consistency_band
from calib.metrics.outcomes import Outcomes
from calib.metrics.unit_bins import bin_error, bins_by_unit, pooled_bins, reliability_histogram
from calib.report.document import COUNT, Picture, Section, Table
from calib.report.sections.overview import percent
from calib.report.subject import Subject
from calib.report.svg import Chart
from calib.report.tables import Cell
from calib.stats import proportion_interval

MOST_OTHERS = 5  # diagrams of other methods
LEAST_UNITS, LEAST_IMAGES = 3, 10  # groups of a histogram over groups, and images of each
ROWS = 10  # of that histogram
BAND = 0.95


def reliability(subject: Subject, metrics: Mapping[str, Any]) -> Section:
    """Return the section on reliability.

    Args:
        subject: What the report is about.
        metrics: `calib.metrics.summarize` of the reported predictions.
    """
    names = [subject.main, *[name for name in subject.by_method if name != subject.main]][: 1 + MOST_OTHERS]
    pictures = []
    for number, name in enumerate(names):
        runs = subject.by_method[name]
        one = runs[subject.seed if subject.seed in runs else min(runs)]
        p = Outcomes.from_logits(one.logits, one.labels)
        pictures.append(reliability_picture(p.confidence, p.correct, name, f"rel{number}", subject))
    pictures.insert(1, _histogram(subject.outcomes, subject.parts.n_bins, subject.main))
    units = _units(subject)
    spread = [] if isinstance(units, str) else [_spread(*units)]
    in_numbers = [] if isinstance(units, str) else [_spread_table(*units)]
    section = Section(
        "reliability",
        "Reliability: is it right as often as it says?",
        said=[_reading(subject)],
        pictures=[*pictures, *spread],
        tables=[_bins(subject), *in_numbers, _parts(metrics), _recalibration(metrics)],
        notes=[units] if isinstance(units, str) else [],
    )
    if len(subject.by_method) > len(names):
        section.notes.append(f"Diagrams of {len(subject.by_method) - len(names)} more methods are left out.")
    return section


def _reading(subject: Subject) -> str:
    seed = f" The diagrams are of seed {subject.seed}." if subject.several else ""
    shared = (
        " The boxes take images as independent; some are of one group here: chance is larger than drawn."
        if subject.n_groups is not None and subject.n_groups < len(subject.correct)
        else ""
    )
    return (
        "Each dot is a group of predictions of similar confidence: how sure they were on average, and how "
        "many of them were right. On the dotted line both agree; below it the model claims too much. A grey "
        f"box holds {percent(BAND, 0)} of the dots that a perfectly calibrated model shows there by chance; "
        "a full dot lies outside of its box, a hollow one inside. By chance alone, about 4 in 10 such "
        f"pictures of ten boxes have a dot outside, even of a perfect model.{shared}{seed}"
    )


def reliability_picture(
    confidence: Tensor,
    correct: Tensor,
    title: str,
    name: str,
    subject: Subject,
    *,
    axes: tuple[str, str] = ("confidence %", "right %"),
) -> Picture:
    """Return a reliability diagram.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        title: What it is of.
        name: Of the drawing.
        subject: Says how many bins there are.
        axes: What stands at the axes.
    """
    n_bins = subject.parts.n_bins
    counts, sure, right = (each.cpu().numpy() for each in bin_statistics(confidence, correct, n_bins))
    edges = bin_edges(n_bins).numpy()
    held = np.flatnonzero(counts)
    said = "; ".join(
        f"{100 * sure[b] / counts[b]:.0f} % promised, {100 * right[b] / counts[b]:.0f} % true, n = "
        f"{int(counts[b])}"
        for b in held
    )
    chart = Chart(f"Reliability of {title}", said, (0, 1), (0, 1), *axes)
    outside = np.zeros(n_bins, dtype=bool)
    low, high = (end.cpu().numpy() for end in consistency_band(confidence, n_bins=n_bins, level=BAND))
    for b in held:
        chart.bar(edges[b], edges[b + 1], low[b], high[b], "band")
        outside[b] = not low[b] - 1e-12 <= right[b] / counts[b] <= high[b] + 1e-12
    chart.line([0, 1], [0, 1], "ideal")
    for b in held:
        chart.mark(sure[b] / counts[b], right[b] / counts[b], "dot full" if outside[b] else "dot hollow")
    beyond = f"{int(outside.sum())} of {len(held)} dots lie outside of their box"
    return Picture(chart.svg(name), f"{title}: n = {int(counts.sum()):,}. {beyond}.")


def _histogram(p: Outcomes, n_bins: int, title: str) -> Picture:
    """Return how many predictions there are at each confidence, right ones and wrong ones."""
    bins = bin_indices(p.confidence, n_bins).cpu().numpy()
    correct = p.correct.cpu().numpy()
    right, wrong = (np.bincount(bins[kind], minlength=n_bins) for kind in (correct, ~correct))
    edges = bin_edges(n_bins).numpy()
    top = 1.15 * max(int((right + wrong).max()), 1)
    said = "; ".join(
        f"{100 * edges[b]:.0f} to {100 * edges[b + 1]:.0f} %: {right[b]} right, {wrong[b]} wrong"
        for b in range(n_bins)
        if right[b] + wrong[b]
    )
    chart = Chart(
        f"Confidences of {title}", said, (0, 1), (0, top), "confidence %", "images", percent=(True, False)
    )
    for b in range(n_bins):
        total = int(right[b] + wrong[b])
        if total:
            left, end = edges[b] + 0.06 / n_bins, edges[b + 1] - 0.06 / n_bins
            chart.bar(left, end, 0, right[b], "right", f"{right[b]} right")
            chart.bar(left, end, right[b], total, "wrong", f"{wrong[b]} wrong")
            if n_bins <= 15:
                chart.text((edges[b] + edges[b + 1]) / 2, total + 0.015 * top, f"{total:,}")
    return Picture(
        chart.svg("confidences"),
        f"How sure {title} was: right predictions plain, wrong ones hatched, with their number above.",
    )


def _units(subject: Subject) -> tuple[str, BinStatistics] | str:
    """Return what units there are, seeds or groups, with their bins (U, M); or why they are not shown."""
    runs = subject.by_method[subject.main]
    n_bins = subject.parts.n_bins
    what, units = "seeds", []
    if len(runs) >= LEAST_UNITS:
        for seed in sorted(runs):
            p = Outcomes.from_logits(runs[seed].logits, runs[seed].labels)
            units.append(bin_statistics(p.confidence, p.correct, n_bins))
    elif subject.groups is not None:
        what, p = "groups", subject.outcomes
        _, index, counts = np.unique(subject.groups, return_inverse=True, return_counts=True)
        large = counts >= LEAST_IMAGES
        _, stats = bins_by_unit(p.confidence, p.correct, [f"{each:09d}" for each in index], n_bins=n_bins)
        units = [BinStatistics(*(each[number] for each in stats)) for number in np.flatnonzero(large)]
    if len(units) < LEAST_UNITS:
        return (
            f"How reliability differs between sites or seeds is not shown: it takes {LEAST_UNITS} seeds, or "
            f"{LEAST_UNITS} groups of {LEAST_IMAGES} images."
        )
    return what, BinStatistics(
        *(torch.stack([each.cpu() for each in part]) for part in zip(*units, strict=True))
    )


def _spread(what: str, stats: BinStatistics) -> Picture:
    """Return how reliability differs between seeds or groups."""
    n_units, n_bins = stats.counts.shape
    numbers = reliability_histogram(stats, ROWS).numpy()
    edges = bin_edges(n_bins).numpy()
    chart = Chart(
        f"Reliability of {n_units} {what}",
        "Each cell counts those whose predictions of this confidence were right so often.",
        (0, 1),
        (0, 1),
        "confidence %",
        "right %",
    )
    for row, column in zip(*np.nonzero(numbers), strict=True):
        share = numbers[row, column] / numbers[:, column].sum()
        left, right_ = edges[column], edges[column + 1]
        chart.bar(left, right_, row / ROWS, (row + 1) / ROWS, f"heat h{math.ceil(5 * share)}")
        if n_bins <= 15:
            middle = ((left + right_) / 2, (row + 0.35) / ROWS)
            chart.text(*middle, str(numbers[row, column]), style=f"small on{math.ceil(5 * share)}")
    chart.line([0, 1], [0, 1], "ideal")
    chart.line((edges[:-1] + edges[1:]) / 2, _shares(stats).nanmean(0).numpy(), "s1")
    return Picture(
        chart.svg("spread"),
        f"{n_units} {what}, one by one: a cell counts those that were right so often at this "
        "confidence; the line is their mean. A pooled diagram hides how far they lie apart.",
    )


def _shares(stats: BinStatistics) -> Tensor:
    """Return how often each unit is right in each bin, (U, M); NaN where it has nothing."""
    return stats.target_sums / stats.counts


def _spread_table(what: str, stats: BinStatistics) -> Table:
    """Return the numbers behind the picture of the spread, and the errors it hides."""
    shares, edges = _shares(stats), bin_edges(stats.counts.shape[1])
    rows: dict[str, dict[str, Any]] = {}
    for column in np.flatnonzero((stats.counts > 0).any(0).numpy()):
        of_units = shares[:, column][stats.counts[:, column] > 0]
        rows[f"{100 * edges[column]:g} to {100 * edges[column + 1]:g} %"] = {
            "n": len(of_units),
            "lowest": float(of_units.min()),
            "mean": float(of_units.mean()),
            "highest": float(of_units.max()),
        }
    ece = {
        "all together": bin_error(pooled_bins(stats), "ece"),
        f"mean of {what}": bin_error(stats, "ece").mean(),
    }
    for name, value in ece.items():
        rows[f"ECE, {name}"] = {"n": len(shares), "mean": float(value)}
    columns = {
        "n": Column(what, decimals=0),
        "lowest": Column("right %, lowest"),
        "mean": Column("mean %"),
        "highest": Column("highest %"),
    }
    return Table("spread", f"How {what} differ, in numbers", "confidence", columns, rows, folded=True)


def _bins(subject: Subject) -> Table:
    """Return the numbers behind the diagram of the reported predictions."""
    p, n_bins = subject.outcomes, subject.parts.n_bins
    bins = bin_indices(p.confidence, n_bins).cpu().numpy()
    ends = [end.cpu().numpy() for end in consistency_band(p.confidence, n_bins=n_bins, level=BAND)]
    edges = bin_edges(n_bins).numpy()
    rows: dict[str, dict[str, Any]] = {}
    for b in np.unique(bins):
        inside = bins == b
        groups = None if subject.groups is None else subject.groups[inside]
        share, low, high = proportion_interval(subject.correct[inside], groups, level=subject.parts.level)
        rows[f"{100 * edges[b]:g} to {100 * edges[b + 1]:g} %"] = {
            "n": int(inside.sum()),
            "confidence": float(p.confidence.cpu().numpy()[inside].mean()),
            "accuracy": Cell(share, interval=(low, high)),
            "low": float(ends[0][b]),
            "high": float(ends[1][b]),
        }
    columns = {
        "n": COUNT,
        "confidence": Column("mean confidence %"),
        "accuracy": Column("right %"),
        "low": Column("calibrated from %"),
        "high": Column("to %"),
    }
    title = "The dots in numbers, with exact intervals, and the box of a calibrated model"
    return Table("reliability", title, "confidence", columns, rows, folded=True)


def _parts(metrics: Mapping[str, Any]) -> Table:
    """Return the scores in their CORP parts."""
    found, three = (
        metrics["calibration"],
        {key: Column(key, decimals=4) for key in ("score", "MCB", "DSC", "UNC")},
    )
    rows = {}
    for title, prefix in (
        ("Brier, all classes", "brier"),
        ("log score, all classes", "log"),
        ("Brier of the confidence", "top_brier"),
        ("log score of the confidence", "top_log"),
    ):
        mcb, dsc, unc = (found[f"{prefix}_{part}"] for part in ("mcb", "dsc", "unc"))
        rows[title] = {"score": mcb - dsc + unc, "MCB": mcb, "DSC": dsc, "UNC": unc}
    title = (
        "Scores in parts: score = miscalibration (MCB) - discrimination (DSC) + uncertainty of the task (UNC)"
    )
    return Table("parts", title, "score", three, rows, folded=True)


def _recalibration(metrics: Mapping[str, Any]) -> Table:
    """Return slope, intercept and what recalibrating would gain."""
    found = metrics["calibration"]
    rows = {
        "slope of the confidence (1 is best)": {"value": found["slope"]},
        "intercept (0 is best)": {"value": found["intercept"]},
        "NLL that recalibrating would take off": {"value": found["nll_gain"]},
        "Brier score that recalibrating would take off": {"value": found["brier_gain"]},
        "ECE of a calibrated model, 95 of 100 stay below": {"value": found["null_ece_95"]},
        "ECE, smooth": {"value": metrics["smooth_ece"]},
        "ECE of equally full bins": {"value": metrics["ace"]},
        "ECE per class, mean": {"value": metrics["classwise_ece"]},
        "largest gap of a bin (MCE)": {"value": metrics["mce"]},
    }
    columns = {"value": Column("value", decimals=4)}
    return Table("recalibration", "Further numbers on calibration", "what", columns, rows, folded=True)
