"""Which cases to review: errors among what is accepted, by threshold, and the threshold that was fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.metrics import FAILURE_METRICS, Column, columns_of
from calib.metrics.failure import aurc, failures_of_counts, summarize_failure
from calib.posthoc.review_fitted import FittedReview
from calib.posthoc.review_words import result_of
from calib.report.compare import ends_of
from calib.report.document import NO_TEST, PROMISED, Picture, Section, Table, Value, sentences_of
from calib.report.sections.overview import NONE_WRONG, between, percent
from calib.report.sections.steps import Steps, steps_of
from calib.report.subject import Review, Subject
from calib.report.svg import Chart
from calib.report.tables import Cell
from calib.stats import counted_intervals, proportion_interval

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # reviewed, in the table
DRAWN = 3  # curves of other scores
FEW = 20  # accepted images, below which a share is all chance
PAGE = "the images of this page"


def review(subject: Subject, others: Mapping[str, Tensor] | None = None) -> Section:
    """Return the section on which cases to review.

    Args:
        subject: What the report is about.
        others: Further scores of doubt by name, (N,) each, that are compared.
    """
    parts, wrong = subject.parts, ~subject.correct
    judged, can = subject.judged.numpy(), subject.judged.isfinite().numpy()
    scores = {parts.doubt_name: subject.doubt, **(others or {})}
    said = (
        f"Predictions are sorted by {parts.their_doubt}. What lies below a threshold is "
        "accepted, the rest is looked at by a reader. The curve shows how many of the accepted ones "
        "are wrong."
    )
    unlike = int((~can).sum())
    if unlike:
        said += (
            f" {unlike:,} of {len(can):,} are unlike the images seen: a reader sees them at any threshold."
        )
    if not wrong.any():
        said += f" {NONE_WRONG}"
    section = Section("review", "Which cases a reader should see", said=[said])
    if can.any():
        groups = None if subject.groups is None else subject.groups[can]
        steps = steps_of(judged[can], wrong[can], groups, level=parts.level)
        section.pictures.append(_curve(subject, steps, scores))
        section.tables.append(_workloads(subject, steps))
        section.slider = _slider(subject, steps)
    section.tables.append(_scores(subject, scores))
    if parts.review is not None:
        _fitted(subject, parts.review, section)
    else:
        section.notes.append(
            "No review threshold was fitted. One with a guarantee is fitted on cases that are not those of "
            "this page; what is read off this curve holds for these images alone, since it was chosen on "
            "them."
        )
    return section


def _curve(subject: Subject, steps: Steps, scores: Mapping[str, Tensor]) -> Picture:
    n, wrong = len(subject.correct), ~subject.correct
    failure = torch.from_numpy(wrong)
    coverage, risk = steps.accepted / n, steps.errors / steps.accepted
    telling = steps.accepted >= min(FEW, n)
    top = max(1.15 * max([*risk[telling].tolist(), float(wrong.mean())]), 0.05)
    share = float(wrong.mean())
    said = "; ".join(
        f"{percent(k / n, 0)} accepted: {percent(e / k)} wrong" for k, e in _at(steps, n, (0, 0.2, 0.5, 0.8))
    )
    chart = Chart(
        f"Errors among accepted predictions of {subject.main}",
        said,
        (0, 1),
        (0, top),
        "accepted without review %",
        "wrong among the accepted %",
    )
    chart.area(coverage.tolist(), steps.low.tolist(), steps.high.tolist(), "interval")
    if n > FEW:
        chart.bar(0, FEW / n, 0, top, "few")
    chart.line([0, 1], [share, share], "random")
    ideal = np.linspace(1 / n, 1, 100)
    chart.line(ideal, np.maximum(1 - (1 - share) / ideal, 0), "ideal")
    legend = []
    for number, (name, score) in enumerate(list(scores.items())[1 : 1 + DRAWN], start=1):
        other = steps_of(score.cpu().double().numpy(), wrong, None)
        chart.line(other.accepted / n, other.errors / other.accepted, f"s{number}")
        legend.append(f"{_DASHES[number]}: {name} (AURC {percent(float(aurc(score, failure)))})")
    chart.line(coverage, risk, "s0", steps=True)
    at = subject.parts.review.threshold if subject.parts.review is not None else None
    if at is not None:
        chart.upright(float((subject.judged.numpy() < at).mean()), "fitted")
    chart.upright(1, "cursor", "review-cursor")
    own = f"solid line: {next(iter(scores))} (AURC {percent(float(aurc(subject.doubt, failure)))})"
    marks = [
        own,
        *legend,
        "level dashes: accepted at random",
        "dotted: every right one before any wrong one",
        f"shade: {percent(subject.parts.level, 0)} intervals of the solid line",
        *(["upright dashes: the fitted threshold"] if at is not None else []),
    ]
    return Picture(chart.svg("risk"), f"{'; '.join(marks)}.".replace("s", "S", 1), wide=True)


_DASHES = ("solid", "long dashes", "short dashes", "dashes and dots")


def _at(steps: Steps, n: int, reviewed: tuple[float, ...]) -> list[tuple[int, int]]:
    """Return accepted and errors where at most these shares are reviewed."""
    found = []
    for share in reviewed:
        index = min(int(np.searchsorted(steps.accepted, (1 - share) * n - 1e-9)), len(steps.accepted) - 1)
        found.append((int(steps.accepted[index]), int(steps.errors[index])))
    return found


def _workloads(subject: Subject, steps: Steps) -> Table:
    n, total = len(subject.correct), int((~subject.correct).sum())
    rows: dict[str, dict[str, Value]] = {}
    for share in SHARES:
        index = min(int(np.searchsorted(steps.accepted, (1 - share) * n - 1e-9)), len(steps.accepted) - 1)
        k, e = int(steps.accepted[index]), int(steps.errors[index])
        rows.setdefault(
            percent((n - k) / n),
            {
                "threshold": float(steps.threshold[index]),
                "accepted": k,
                "errors": e,
                "error": Cell(e / k, interval=(float(steps.low[index]), float(steps.high[index]))),
                "caught": (total - e) / total if total else None,
            },
        )
    columns = {
        "threshold": Column("doubt at most", decimals=4),
        "accepted": COUNT_OF["accepted"],
        "errors": COUNT_OF["errors"],
        "error": Column("wrong among accepted %"),
        "caught": Column("of all mistakes reviewed %"),
    }
    return Table("workload", "Thresholds at a glance", "reviewed", columns, rows)


COUNT_OF = {"accepted": Column("accepted", decimals=0), "errors": Column("of them wrong", decimals=0)}


def _scores(subject: Subject, scores: Mapping[str, Tensor]) -> Table:
    """Return how well each score tells wrong predictions from right ones, with intervals."""
    failure = torch.from_numpy(~subject.correct)
    columns = columns_of(FAILURE_METRICS)
    rows: dict[str, dict[str, Value]] = {}
    for name, score in scores.items():
        values = score.cpu().double()
        found, ends = summarize_failure(values, failure), _ends(subject, list(columns), values, failure)
        rows[name] = {key: Cell(found[key], interval=ends.get(key)) for key in columns}
    title = "How well the doubt tells wrong predictions from right ones"
    return Table("doubt", title, "score", columns, rows)


def _ends(
    subject: Subject, names: list[str], score: Tensor, failure: Tensor
) -> dict[str, tuple[float, float]]:
    """Return the intervals of failure metrics; nothing for one that is undefined."""
    of_counts = failures_of_counts(names, score.numpy(), failure.numpy())
    parts = subject.parts
    try:
        found = counted_intervals(
            of_counts,
            len(failure),
            groups=subject.groups,
            n_resamples=parts.n_resamples,
            level=parts.level,
            seed=parts.seed,
        )
    except ValueError:  # a single image or group: there is nothing to resample
        return {}
    pairs = {name: ends_of(each) for name, each in zip(names, found, strict=True)}
    return {name: ends for name, ends in pairs.items() if ends is not None}


def _slider(subject: Subject, steps: Steps) -> dict[str, Any]:
    """Return what the slider shows at each of its positions, in order of what is accepted."""
    n = len(subject.correct)
    review, start = subject.parts.review, len(steps.accepted) - 1
    if review is not None and review.threshold is not None:
        start = max(int(np.searchsorted(steps.threshold, review.threshold)) - 1, 0)  # doubts below it
    else:
        start = min(int(np.searchsorted(steps.accepted, 0.8 * n - 1e-9)), start)
    return {
        "n": n,
        "errors": int((~subject.correct).sum()),
        "start": start,
        "level": subject.parts.level,
        "steps": [
            [float(f"{t:.5g}"), int(k), int(e), round(float(a), 4), round(float(b), 4)]
            for t, k, e, a, b in zip(
                steps.threshold, steps.accepted, steps.errors, steps.low, steps.high, strict=True
            )
        ],
    }


def _fitted(subject: Subject, fitted: Review, section: Section) -> None:
    """Say what the fitted threshold promises, and what it does on these images."""
    points = sentences_of(fitted.guarantee)
    lead = points[0]
    if isinstance(fitted, FittedReview):
        (_, accept), *found = result_of(fitted)
        lead = f"accept {accept}."
        told = [f"{title}: {said}." for title, said in found]
        points = [*told, *points] if fitted.achievable else told  # else its guarantee says the same again
    else:
        points = points[1:]
    section.said.append(f"The fitted threshold: {lead}")
    if points:
        section.points[PROMISED] = points
    if not fitted.achievable:
        if isinstance(fitted, FittedReview):
            return
        needed = f" About {fitted.needed:,} would be needed." if fitted.needed is not None else ""
        section.said.append(f"No threshold keeps the promise with the cases it was fitted on.{needed}")
    else:
        section.said.append(_applied(subject, fitted))
    table = _fit_curve(fitted)
    if table is not None:
        section.tables.append(table)


def _applied(subject: Subject, fitted: Review) -> str:
    """Return what the threshold does on the images of the page."""
    accepted = fitted(subject.judged).cpu().numpy().astype(bool)
    kept, n = int(accepted.sum()), len(accepted)
    if not kept:
        return f"On {PAGE} it accepts none of {n:,}. {NO_TEST}"
    groups = None if subject.groups is None else subject.groups[accepted]
    share, low, high = proportion_interval(~subject.correct[accepted], groups, level=subject.parts.level)
    at = "" if fitted.threshold is None else f"; doubt below {fitted.threshold:.4g}"
    at = "; whatever their doubt" if fitted.threshold == math.inf else at
    return (
        f"On {PAGE} it accepts {kept:,} of {n:,} ({percent(kept / n)}{at}), of which "
        f"{percent(share)} are wrong ({between(low, high)}); {n - kept:,} go to a reader. "
        f"{NO_TEST}"
    )


def _plain(value: Any) -> Value:
    """Return a value of a point of the curve; an endless threshold in words."""
    if value is None or isinstance(value, str | int):
        return value
    return "any" if value == math.inf else float(value)


def _fit_curve(fitted: Review) -> Table | None:
    """Return what the threshold was chosen from, where it says so."""
    curve = getattr(fitted, "curve", None)
    records = list(curve()) if callable(curve) else []
    if not records:
        return None
    steps = [dict(each) if isinstance(each, Mapping) else each._asdict() for each in records]
    at = getattr(fitted, "at", None)  # the threshold itself, which need not be one of the steps
    taken = None if at is None else at._asdict()
    if taken is not None:
        steps = [each for each in steps if each["threshold"] != taken["threshold"]]
        steps = sorted([*steps, taken], key=lambda each: float(each["threshold"]))
    rows: dict[str, dict[str, Value]] = {}
    keys: dict[str, Column] = {}
    for number, said in enumerate(steps, start=1):
        rows[f"{number} (taken)" if said is taken else str(number)] = {
            str(key): _plain(value) for key, value in said.items()
        }
        keys |= {str(key): Column(str(key).replace("_", " "), decimals=4) for key in said}
    title = "What the threshold was chosen from: the cases it was fitted on"
    title += "" if taken is None else "; the threshold that was taken is marked"
    return Table("threshold_curve", title, "step", keys, rows, folded=True)
