"""The table of a sweep: means over seeds, ranks, and what validation would choose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calib.commands.search.grid import Point
from calib.metrics import METRICS, columns_of
from calib.report.compare import over_seeds
from calib.report.tables import aligned, format_cell
from calib.stats import mean_sd

VAL, SHOTS = "val", "shots"  # keys of metrics.json: of the validation images, of the left-out shots


def sweep_table(
    results: Sequence[tuple[Point, int, Mapping[str, Any]]], *, by: str
) -> tuple[str, str | None]:
    """Return the table in Markdown and the settings with the best validation metric.

    One row per setting, in the order of that metric, its mean over seeds; mean rank is the mean of its ranks
    within each seed, ties sharing theirs. Test metrics stand beside it and decide nothing; where no run has
    any, the other validation metrics do.

    Args:
        results: Point, seed and the content of metrics.json of every run.
        by: One of `CHOOSE_BY`.

    Returns:
        Markdown, and the best row's settings; None for it where there is no run or no validation shot.
    """
    rows = _by_setting(results)
    every = [values for runs in rows.values() for values in runs.values()]
    chosen, scores = chosen_split(every), _scores(rows, by)
    validated = chosen is not None
    ranks = _mean_ranks(scores, less_is_better=best_is_least(by))
    order = list(scores) if validated else list(rows)
    columns = {name: column for name, column in columns_of(METRICS).items() if METRICS[name].compared}
    tested = any("test" in values for values in every)
    split, prefix = ("test", "test") if tested else ("val", "val.")
    beside = {key: column for key, column in columns.items() if tested or (validated and key != by)}
    titles = (f"{prefix} {column.title}" for column in beside.values())
    source = "shots" if chosen == SHOTS else "val."
    header = ["settings", "seeds", f"{source} {columns[by].title}", "mean rank", *titles]
    body = []
    for name in order:
        runs = list(rows[name].values())
        rank = ["n/a", "n/a"]
        if validated:
            cell = over_seeds(list(scores[name].values()))
            rank = [format_cell(columns[by], cell), f"{ranks[name]:.1f}"]
        others = [
            format_cell(column, over_seeds([run.get(split, {}).get(key) for run in runs]))
            for key, column in beside.items()
        ]
        body.append([name, str(len(runs)), *rank, *others])
    best = order[0] if validated else None
    return aligned(header, body), best


def evidence(results: Sequence[tuple[Point, int, Mapping[str, Any]]], *, by: str) -> str | None:
    """Return whether the best settings differ from the others by more than the seeds spread, in a sentence.

    With differences d_s = metric of the other - metric of the best over the n seeds s that both have,

        there is no evidence where |mean d| <= t(0.975, n - 1) sd(d) / sqrt(n)

    Of many settings the best is partly the luckiest, which this interval does not count.

    Args:
        results: As for `sweep_table`.
        by: One of `CHOOSE_BY`.

    Returns:
        None where fewer than two settings can be compared.

    Example:
        >>> runs = [("a", 1, 0.4), ("b", 1, 0.5), ("a", 2, 0.5), ("b", 2, 0.45)]
        >>> runs = [(Point({"preset": name}), seed, {"val": {"nll": nll}}) for name, seed, nll in runs]
        >>> evidence(runs, by="nll")
        'No evidence for a difference from preset=b (NLL +0.025, 95 % interval -0.928 to +0.978; 2 seeds).'
    """
    scores = _scores(_by_setting(results), by)
    if len(scores) < 2:
        return None
    best, runner_up, *others = scores
    differences = {name: _paired(scores[best], scores[name]) for name in (runner_up, *others)}
    first = differences[runner_up]
    if len(first) < 2:
        seeds = "one seed" if len(first) == 1 else "no common seed"
        return f"No evidence for a difference from {runner_up} ({seeds}: no spread known)."
    mean, half = _interval(first)
    column = columns_of(METRICS)[by]
    value, low, high = (
        format_cell(column, each, difference=True) for each in (mean, mean - half, mean + half)
    )
    numbers = f"{column.title} {value}, 95 % interval {low} to {high}; {len(first)} seeds"
    if abs(mean) > half:
        return f"It differs from {runner_up} by more than seeds do ({numbers})."
    ties = sum(len(differences[name]) > 1 and _is_tie(differences[name]) for name in others)
    more = f" nor from {ties} more" if ties else ""
    return f"No evidence for a difference from {runner_up}{more} ({numbers})."


def _paired(best: Mapping[int, float], other: Mapping[int, float]) -> np.ndarray:
    """Return the other's metric minus the best's, of every seed that both have."""
    return np.array([other[seed] - best[seed] for seed in sorted(best.keys() & other.keys())])


def _interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the mean of at least two differences, and half the width of its 95 % interval."""
    from scipy.special import stdtrit  # takes a while to import

    mean, sd = mean_sd(differences)
    n = len(differences)
    return mean, float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)


def _is_tie(differences: np.ndarray) -> bool:
    mean, half = _interval(differences)
    return abs(mean) <= half


def _by_setting(
    results: Sequence[tuple[Point, int, Mapping[str, Any]]],
) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Return the runs of every setting by their seeds."""
    rows: dict[str, dict[int, Mapping[str, Any]]] = {}
    for point, seed, values in results:
        rows.setdefault(point.without_seed(), {})[seed] = values
    return rows


def _scores(rows: Mapping[str, Mapping[int, Mapping[str, Any]]], by: str) -> dict[str, dict[int, float]]:
    """Return the metric of every setting and seed, the best setting first; empty without validation."""
    chosen = chosen_split([values for runs in rows.values() for values in runs.values()])
    if chosen is None:
        return {}
    found = {name: {seed: values[chosen][by] for seed, values in runs.items()} for name, runs in rows.items()}
    return dict(sorted(found.items(), key=lambda item: _sort_key(item[1], best_is_least(by))))


def chosen_by(values: Mapping[str, Any]) -> Mapping[str, float]:
    """Return the metrics that settings are chosen by: of the validation images, else of the left-out shots.

    Args:
        values: The content of a run's metrics.json.

    Returns:
        Name to value; empty where there are neither.
    """
    found: Mapping[str, float] = values.get(VAL) or values.get(SHOTS) or {}
    return found


def chosen_split(results: Sequence[Mapping[str, Any]]) -> str | None:
    """Return which images settings are chosen on: those that every run has, validation images first.

    Args:
        results: The content of metrics.json of every run.

    Example:
        >>> chosen_split([{"val": {"nll": 0.4}, "shots": {"nll": 0.5}}, {"shots": {"nll": 0.3}}])
        'shots'
    """
    return next((key for key in (VAL, SHOTS) if results and all(values.get(key) for values in results)), None)


def chosen_on(results: Sequence[Mapping[str, Any]]) -> str:
    """Return which images settings are chosen on, in words.

    Args:
        results: The content of metrics.json of every run.
    """
    return "left-out shots" if chosen_split(results) == SHOTS else "validation shots"


def best_is_least(by: str) -> bool:
    """Return whether settings with less of a metric are better.

    Example:
        >>> best_is_least("ece"), best_is_least("accuracy")
        (True, False)
    """
    return not METRICS[by].higher_is_better


def _sort_key(scores: Mapping[int, float], less_is_better: bool) -> float:
    mean = float(np.mean(list(scores.values())))
    return mean if less_is_better else -mean


def _mean_ranks(scores: Mapping[str, Mapping[int, float]], *, less_is_better: bool) -> dict[str, float]:
    """Return every row's rank within a seed, 1 the best, averaged over its seeds.

    Example:
        >>> _mean_ranks({"a": {1: 0.3, 2: 0.4}, "b": {1: 0.2, 2: 0.4}}, less_is_better=True)
        {'a': 1.75, 'b': 1.25}
    """
    sign = 1 if less_is_better else -1
    ranks: dict[str, list[float]] = {name: [] for name in scores}
    for seed in {seed for runs in scores.values() for seed in runs}:
        here = {name: sign * runs[seed] for name, runs in scores.items() if seed in runs}
        for name, value in here.items():
            less = sum(other < value for other in here.values())
            same = sum(other == value for other in here.values())
            ranks[name].append(less + (same + 1) / 2)
    return {name: float(np.mean(each)) for name, each in ranks.items()}
