"""The table of a sweep: means over seeds, ranks, and what validation would choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calib.commands.search.grid import Point
from calib.metrics import METRICS, columns_of
from calib.report.compare import over_seeds
from calib.report.tables import aligned, format_cell

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
    rows: dict[str, dict[int, Mapping[str, Any]]] = {}
    for point, seed, values in results:
        rows.setdefault(point.without_seed(), {})[seed] = values
    every = [values for runs in rows.values() for values in runs.values()]
    chosen = chosen_split(every)
    validated = chosen is not None
    if chosen is not None:
        scores = {
            name: {seed: values[chosen][by] for seed, values in runs.items()} for name, runs in rows.items()
        }
        ranks = _mean_ranks(scores, less_is_better=best_is_least(by))
        order = sorted(rows, key=lambda name: _sort_key(scores[name], best_is_least(by)))
    else:
        order = list(rows)
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
