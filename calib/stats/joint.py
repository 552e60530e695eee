"""Many statistics of several systems on the same resamples: one pass for what one by one takes many."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np

from calib.stats.bootstrap import (
    _CHUNK,
    Interval,
    MeanStatistic,
    _as_runs,
    _check_settings,
    _interval,
    _sample_counts,
    draw_counts,
)
from calib.stats.groups import group_numbers

System = TypeVar("System", bound=Hashable)


class JointBootstrap(Generic[System]):
    """Bootstrap intervals of many statistics, and of their differences between systems.

    Each interval is that of `bootstrap_interval`, and each difference that of `paired_bootstrap`, with the
    same seed, but for rounding. All statistics are functions of means, so that one product of matrices gives
    all resamples of all of them.

    Args:
        statistics: Name to statistic of the arrays of one system.
        systems: Name to arrays, each (N, ...) with the same samples in the same order.
        groups: (N,) group of each sample; None if the samples are independent.
        n_resamples: Number of resamples.
        level: Share of the resamples inside an interval, in (0, 1).
        seed: Of the draws.

    Raises:
        ValueError: If the inputs are not as above, or there is only one sample or group.

    Example:
        >>> share = MeanStatistic(lambda hits: hits[:, None], lambda means: means[:, 0])
        >>> hits = {"a": (np.array([1.0] * 96 + [0.0] * 32),), "b": (np.array([1.0] * 88 + [0.0] * 40),)}
        >>> joint = JointBootstrap({"share": share}, hits)
        >>> joint.interval("share", ["a"], minus=["b"])
        Interval(estimate=0.0625, low=0.0234375, high=0.109375, level=0.95, n_resamples=2000)
    """

    def __init__(
        self,
        statistics: Mapping[str, MeanStatistic],
        systems: Mapping[System, tuple[np.ndarray, ...]],
        *,
        groups: Sequence[object] | np.ndarray | None = None,
        n_resamples: int = 2000,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        _check_settings(n_resamples, level, "percentile", "raise")
        if not statistics or not systems:
            raise ValueError("Expected at least one statistic and one system.")
        self._level, self._n_resamples = level, n_resamples
        sizes = {len(_as_runs(arrays, False)[0][0]) for arrays in systems.values()}
        if len(sizes) > 1:
            raise ValueError(f"Systems must hold the same samples, got {sorted(sizes)} of them.")
        n = sizes.pop()
        index = group_numbers(groups, n)
        number = int(index.max()) + 1
        if number < 2:
            raise ValueError(f"Resampling needs at least 2 samples or groups to draw from, got {number}.")
        sample_rng, self._run_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        self._run_state = self._run_rng.bit_generator.state
        places, sums = self._sums(statistics, systems, index, number)
        counts = np.bincount(index, minlength=number).astype(np.float64)
        means = [sums.sum(axis=0, keepdims=True) / n]
        rows = max(1, _CHUNK // n)
        for start in range(0, n_resamples, rows):
            drawn = draw_counts(number, min(rows, n_resamples - start), sample_rng).astype(np.float64)
            means.append(drawn @ sums / (drawn @ counts)[:, None])
        every = np.concatenate(means)
        self._values = {
            (system, name): statistics[name].finish(every[:, place])
            for (system, name), place in places.items()
        }

    @staticmethod
    def _sums(
        statistics: Mapping[str, MeanStatistic],
        systems: Mapping[System, tuple[np.ndarray, ...]],
        index: np.ndarray,
        number: int,
    ) -> tuple[dict[tuple[System, str], slice], np.ndarray]:
        """Return where the columns of each system and statistic lie, and all of them summed by group."""
        places: dict[tuple[System, str], slice] = {}
        parts, start = [], 0
        for system, arrays in systems.items():
            for name, statistic in statistics.items():
                columns = np.asarray(statistic.columns(*arrays), dtype=np.float64)
                summed = columns
                if not np.array_equal(index, np.arange(len(index))):  # groups of one may be in any order
                    summed = np.stack([np.bincount(index, each, number) for each in columns.T], axis=1)
                places[system, name] = slice(start, start + columns.shape[1])
                start += columns.shape[1]
                parts.append(summed)
        return places, np.concatenate(parts, axis=1)

    def interval(
        self,
        name: str,
        systems: Sequence[System],
        *,
        minus: Sequence[System] = (),
        kind: Literal["percentile", "basic"] = "percentile",
    ) -> Interval:
        """Return a statistic with its interval, or its difference between systems.

        Args:
            name: One of the statistics.
            systems: Runs of one system, over which the statistic is averaged; each resample draws among them.
            minus: Runs of another system, each belonging to the run at the same place, whose statistic is
                taken off. Empty: nothing is.
            kind: As for `bootstrap_interval`.

        Raises:
            ValueError: The statistic is not finite, or there are not as many runs of both.
        """
        values = np.stack([self._values[system, name] for system in systems], axis=1)  # (1 + R, S)
        if minus:
            if len(minus) != len(systems):
                raise ValueError(
                    f"Runs belong together: {len(systems)} of one and {len(minus)} of the other."
                )
            values = values - np.stack([self._values[system, name] for system in minus], axis=1)
        runs = values.shape[1]
        self._run_rng.bit_generator.state = self._run_state  # every interval draws the same runs
        drawn = draw_counts(runs, self._n_resamples, self._run_rng)
        weights = np.concatenate([np.ones((1, runs)), drawn]) / runs
        return _interval(np.where(weights > 0, weights * values, 0.0).sum(axis=1), self._level, kind, "raise")


def counted_intervals(
    of_counts: Callable[[np.ndarray], np.ndarray],
    n: int,
    *,
    groups: Sequence[object] | np.ndarray | None = None,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval | None]:
    """Return the intervals of K statistics that are computed together; None for one that is undefined.

    Each is that of `bootstrap_interval` with undefined="drop" and the same seed.

    Args:
        of_counts: From how often each resample drew each sample, (R, n), to the statistics (R, K).
        n: Samples.
        groups: (n,) group of each sample; None if they are independent.
        n_resamples: Number of resamples.
        level: Share of the resamples inside an interval, in (0, 1).
        seed: Of the draws.

    Raises:
        ValueError: If the inputs are not as above, or there is only one sample or group.

    Example:
        >>> hits = np.array([1.0] * 90 + [0.0] * 10)
        >>> counted_intervals(lambda counts: (counts @ hits)[:, None] / 100, 100)
        [Interval(estimate=0.9, low=0.84, high=0.96, level=0.95, n_resamples=2000)]
    """
    _check_settings(n_resamples, level, "percentile", "drop")
    (values,) = counted_resamples([of_counts], n, groups=groups, n_resamples=n_resamples, seed=seed)
    return [_defined(column, level) for column in values.T]


def counted_resamples(
    of_counts: Sequence[Callable[[np.ndarray], np.ndarray]],
    n: int,
    *,
    groups: Sequence[object] | np.ndarray | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
    on_done: Callable[[int], object] = lambda done: None,
) -> list[np.ndarray]:
    """Return statistics of several systems on the same resamples, (1 + R, K) each; the first row is the data.

    `resampled_interval` makes intervals of their columns, and of differences between these.

    Args:
        of_counts: Of each system, see `counted_intervals`.
        n: Samples.
        groups: (n,) group of each sample; None if they are independent.
        n_resamples: R.
        seed: Of the draws.
        on_done: Called with how many resamples are done.

    Raises:
        ValueError: If the inputs are not as above, or there is only one sample or group.
    """
    _check_settings(n_resamples, 0.5, "percentile", "drop")
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(2)[0])
    group_of = None if groups is None else group_numbers(groups, n)
    found, done = [], 0
    for counts in _sample_counts(n, group_of, n_resamples, rng):
        found.append([each(counts) for each in of_counts])
        done += len(counts)
        on_done(min(done, n_resamples))
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def resampled_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Return the interval of a statistic, or of a difference, that some resamples may leave undefined.

    That of `bootstrap_interval` and `paired_bootstrap` with undefined="drop".

    Args:
        values: (1 + R,), the first of the data.
        level: Share of the resamples inside, in (0, 1).

    Raises:
        ValueError: `level` is out of range, or the value of the data or of every resample is not finite.

    Example:
        >>> resampled_interval(np.array([0.5, 0.4, 0.5, 0.6, np.nan]), level=0.5)
        Interval(estimate=0.5, low=0.45, high=0.55, level=0.5, n_resamples=3)
    """
    _check_settings(1, level, "percentile", "drop")
    return _interval(values, level, "percentile", "drop")


def known_ends(
    values: np.ndarray, level: float = 0.95, *, kind: Literal["percentile", "basic"] = "percentile"
) -> tuple[float, float]:
    """Return the ends of the interval of a statistic; (NaN, NaN) where more than half are undefined.

    Args:
        values: (1 + R,), the first of the data. Resamples that are not finite are left out; where that of the
            data is not, there is no interval either.
        level: Share of the resamples inside, in (0, 1).
        kind: "percentile" or "basic", see `bootstrap_interval`.

    Example:
        >>> known_ends(np.array([0.5, 0.4, 0.5, 0.6]), level=0.5), known_ends(np.array([0.5, np.nan]))
        ((0.45, 0.55), (nan, nan))
    """
    known = np.isfinite(values)
    if not known[0] or 2 * int(known[1:].sum()) < len(values) - 1:
        return math.nan, math.nan
    found = _interval(values, level, kind, "drop")
    return found.low, found.high


def _defined(values: np.ndarray, level: float) -> Interval | None:
    try:
        return _interval(values, level, "percentile", "drop")
    except ValueError:  # of the data, or of every resample
        return None
