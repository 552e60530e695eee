"""Intervals for numbers from few test samples and few seeds: bootstrap, paired bootstrap, mean and sd.

A test set of 545 images says little about the third digit. `bootstrap_interval` says how much for one system,
`paired_bootstrap` for the difference of two systems that were run on the same samples, which is far narrower
than the two intervals suggest. Resampling is by sample, or by group where samples come in clusters (slides,
patients); with several runs it is by run (seed) and by sample at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from calib.stats.groups import group_numbers

_CHUNK = 4_000_000  # resample counts held at once, 32 MB
Arrays = np.ndarray | tuple[np.ndarray, ...]
# A number computed from arrays that share their first axis, the samples.
Statistic = Callable[..., float]


@runtime_checkable
class CountedStatistic(Protocol):
    """A statistic that computes many resamples at once from how often each sample was drawn."""

    def of_counts(self, *arrays: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function from counts (R, N) to the statistic of each resample (R,)."""


@dataclass(frozen=True)
class MeanStatistic:
    """A statistic that is a function of means over samples, for which all resamples are one matrix product.

    statistic(*arrays) = finish(mean over samples of columns(*arrays))

    Attributes:
        columns: (*arrays) -> (N, K) float64, K numbers per sample that do not depend on the other samples.
        finish: (R, K) means -> (R,) values.

    Example:
        >>> share = MeanStatistic(lambda hits: hits[:, None], lambda means: means[:, 0])
        >>> share(np.array([1.0, 0.0, 1.0, 1.0]))
        0.75
    """

    columns: Callable[..., np.ndarray]
    finish: Callable[[np.ndarray], np.ndarray]

    def __call__(self, *arrays: np.ndarray) -> float:
        """Return the statistic of the arrays."""
        return float(self.finish(self.columns(*arrays).mean(axis=0, keepdims=True))[0])


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval.

    Attributes:
        estimate: The statistic of the data as they are; with several runs the mean over runs.
        low: Lower end.
        high: Upper end.
        level: Share of the resamples inside, e.g. 0.95.
        n_resamples: Resamples behind the interval.
    """

    estimate: float
    low: float
    high: float
    level: float
    n_resamples: int


def bootstrap_interval(
    statistic: Statistic,
    *arrays: np.ndarray,
    groups: Sequence[object] | np.ndarray | None = None,
    several_runs: bool = False,
    n_resamples: int = 2000,
    level: float = 0.95,
    kind: Literal["percentile", "basic"] = "percentile",
    seed: int = 0,
    undefined: Literal["raise", "drop"] = "raise",
) -> Interval:
    """Return the statistic and its bootstrap interval.

    Of few samples it is somewhat too narrow: with 60, intervals of 95 % held the true accuracy, NLL or Brier
    score of a simulated system in 89 % of draws, with 200 and 545 in 94 to 97 %.

    Each resample draws N samples with replacement; with groups, as many groups as there are, each with all
    its samples. With several runs it also draws S runs with replacement, uses the same samples for all of
    them, and averages the statistic over the drawn runs: the interval covers the choice of the test samples
    and of the seeds. With fewer than about 5 runs the share of the seeds is underestimated.

    Args:
        statistic: Function of the arrays. A `MeanStatistic` is fast; any other is called once per resample
            (and run).
        *arrays: Each (N, ...), or (S, N, ...) with several runs; use np.broadcast_to for labels that all runs
            share.
        groups: (N,) group of each sample; None if the samples are independent.
        several_runs: Whether the first axis of the arrays is S runs of the same samples.
        n_resamples: Number of resamples.
        level: Share of the resamples inside the interval, in (0, 1).
        kind: "percentile": from quantile to quantile of the resamples. "basic": the same mirrored at the
            estimate, 2 estimate - quantile, which allows for the bias of a statistic that grows on noisy
            data, such as the ECE (see `calib.metrics.interval_statistic`); it may leave the range of values.
        seed: Seed of the draws. Two calls with the same seed and data sizes draw the same resamples.
        undefined: What to do when the statistic of a resample is not finite, such as an AUROC without a
            failure: "raise", or "drop" the resample (the interval then counts the rest).

    Raises:
        ValueError: If the inputs are not as above, or the statistic of the data or of a resample is not
            finite.

    Example:
        >>> hits = np.array([1.0] * 90 + [0.0] * 10)
        >>> bootstrap_interval(lambda x: x.mean(), hits)
        Interval(estimate=0.9, low=0.84, high=0.96, level=0.95, n_resamples=2000)

    Source: Efron and Tibshirani 1993, chapter 13 (percentile interval); Davison and Hinkley 1997, section 5.2
        (basic interval) and 3.8 (clusters).
    """
    _check_settings(n_resamples, level, kind, undefined)
    data = _as_runs(arrays, several_runs)
    values = _resampled(statistic, data, None, groups, n_resamples, seed)
    return _interval(values, level, kind, undefined)


def paired_bootstrap(
    statistic: Statistic,
    a: Arrays,
    b: Arrays,
    *,
    groups: Sequence[object] | np.ndarray | None = None,
    several_runs: bool = False,
    n_resamples: int = 2000,
    level: float = 0.95,
    kind: Literal["percentile", "basic"] = "percentile",
    seed: int = 0,
    undefined: Literal["raise", "drop"] = "raise",
) -> Interval:
    """Return statistic(a) - statistic(b) of two systems on the same samples, and its bootstrap interval.

    Each resample draws samples (or groups) once and uses them for both systems. With several runs, run s of a
    and run s of b belong together (same seed, same training shots) and are drawn together. See
    `bootstrap_interval`.

    Args:
        statistic: Function of the arrays of one system.
        a: Arrays of the first system, each (N, ...), or (S, N, ...) with several runs. One array stands for a
            tuple of one.
        b: Arrays of the second system, as many samples and runs as a, in the same order.
        groups: (N,) group of each sample; None if the samples are independent.
        several_runs: Whether the first axis of the arrays is S runs of the same samples.
        n_resamples: Number of resamples.
        level: Share of the resamples inside the interval, in (0, 1).
        kind: "percentile" or "basic", see `bootstrap_interval`.
        seed: Seed of the draws.
        undefined: "raise" or "drop" a resample in which a statistic is not finite.

    Raises:
        ValueError: If the inputs are not as above, or the statistic of the data or of a resample is not
            finite.

    Example:
        >>> a, b = np.array([1.0] * 96 + [0.0] * 32), np.array([1.0] * 88 + [0.0] * 40)
        >>> paired_bootstrap(lambda hits: hits.mean(), a, b)
        Interval(estimate=0.0625, low=0.0234375, high=0.109375, level=0.95, n_resamples=2000)
    """
    _check_settings(n_resamples, level, kind, undefined)
    data_a = _as_runs(a if isinstance(a, tuple) else (a,), several_runs)
    data_b = _as_runs(b if isinstance(b, tuple) else (b,), several_runs)
    if data_a[0].shape[:2] != data_b[0].shape[:2]:
        raise ValueError(
            f"a and b must hold the same runs and samples, got {data_a[0].shape[:2]}, {data_b[0].shape[:2]}."
        )
    values = _resampled(statistic, data_a, data_b, groups, n_resamples, seed)
    return _interval(values, level, kind, undefined)


def mean_sd(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the mean and the sample standard deviation, which divides by n - 1 and is nan for one value.

    Args:
        values: (S,) finite numbers, e.g. a metric over seeds.

    Raises:
        ValueError: If there are no values or one is not finite.

    Example:
        >>> mean_sd([1.0, 2.0, 3.0])
        (2.0, 1.0)
        >>> mean_sd([0.5])
        (0.5, nan)
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.size == 0:
        raise ValueError(f"Expected a list of at least one number, got shape {numbers.shape}.")
    if not np.isfinite(numbers).all():
        raise ValueError(f"Expected finite numbers, got {numbers.tolist()}.")
    return float(numbers.mean()), float(numbers.std(ddof=1)) if numbers.size > 1 else math.nan


def _check_settings(n_resamples: int, level: float, kind: str, undefined: str) -> None:
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}.")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}.")
    if kind not in ("percentile", "basic"):
        raise ValueError(f"kind must be 'percentile' or 'basic', got {kind!r}.")
    if undefined not in ("raise", "drop"):
        raise ValueError(f"undefined must be 'raise' or 'drop', got {undefined!r}.")


def _as_runs(arrays: tuple[np.ndarray, ...], several_runs: bool) -> list[np.ndarray]:
    """Return the arrays as (S, N, ...)."""
    if not arrays:
        raise ValueError("Expected at least one array of samples.")
    data = [np.asarray(array) for array in arrays]
    axes = 2 if several_runs else 1
    if any(array.ndim < axes or array.shape[:axes] != data[0].shape[:axes] for array in data):
        expected = "(S, N, ...) with the same S and N" if several_runs else "(N, ...) with the same N"
        raise ValueError(f"Arrays must be {expected}, got shapes {[array.shape for array in data]}.")
    if 0 in data[0].shape[:axes]:
        raise ValueError(f"No samples to resample: shape {data[0].shape}.")
    return data if several_runs else [array[None] for array in data]


def _resampled(
    statistic: Statistic,
    a: list[np.ndarray],
    b: list[np.ndarray] | None,
    groups: Sequence[object] | np.ndarray | None,
    n_resamples: int,
    seed: int,
) -> np.ndarray:
    """Return the statistic, or its difference between a and b, of the data and of each resample, (1 + R,)."""
    n_runs, n = a[0].shape[:2]
    group_of = None if groups is None else group_numbers(groups, n)
    sample_rng, run_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    of_a = _evaluator(statistic, a)
    of_b = None if b is None else _evaluator(statistic, b)
    per_run = np.concatenate(
        [
            of_a(counts) if of_b is None else of_a(counts) - of_b(counts)
            for counts in _sample_counts(n, group_of, n_resamples, sample_rng)
        ]
    )  # (1 + R, S)
    run_counts = draw_counts(n_runs, n_resamples, run_rng)
    run_weights = np.concatenate([np.ones((1, n_runs)), run_counts]) / n_runs
    # Only drawn runs count: 0 * nan would spoil a resample with a value it did not draw.
    return np.where(run_weights > 0, run_weights * per_run, 0.0).sum(axis=1)


def _sample_counts(
    n: int, group_of: np.ndarray | None, n_resamples: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield how often each sample occurs, (R, N) at a time: the data first, then the resamples."""
    yield np.ones((1, n), dtype=np.int64)
    size = n if group_of is None else int(group_of.max()) + 1
    if size < 2:
        raise ValueError(f"Resampling needs at least 2 samples or groups to draw from, got {size}.")
    rows = max(1, _CHUNK // n)
    for start in range(0, n_resamples, rows):
        drawn = draw_counts(size, min(rows, n_resamples - start), rng)
        yield drawn if group_of is None else drawn[:, group_of]


def draw_counts(size: int, times: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each of `size` things is drawn in `size` draws with replacement, (times, size)."""
    drawn = rng.integers(0, size, (times, size)) + size * np.arange(times)[:, None]
    return np.bincount(drawn.ravel(), minlength=times * size).reshape(times, size)


def _evaluator(statistic: Statistic, arrays: list[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from counts (R, N) to the statistic of each resample and run, (R, S)."""
    runs = [tuple(array[s] for array in arrays) for s in range(len(arrays[0]))]
    if isinstance(statistic, CountedStatistic):
        by_run = [statistic.of_counts(*run) for run in runs]
        return lambda counts: np.stack([of_run(counts) for of_run in by_run], axis=1)
    if isinstance(statistic, MeanStatistic):
        columns = [np.asarray(statistic.columns(*run), dtype=np.float64) for run in runs]

        def of_counts(counts: np.ndarray) -> np.ndarray:
            shares = counts / counts.sum(axis=1, keepdims=True)
            return np.stack([statistic.finish(shares @ column) for column in columns], axis=1)

        return of_counts

    def one_by_one(counts: np.ndarray) -> np.ndarray:
        rows = (np.repeat(np.arange(len(row)), row) for row in counts)
        return np.array([[float(statistic(*(x[index] for x in run))) for run in runs] for index in rows])

    return one_by_one


def _interval(values: np.ndarray, level: float, kind: str, undefined: str) -> Interval:
    """Return the interval of (1 + R,) values, the first of which is that of the data."""
    estimate, resampled = float(values[0]), values[1:]
    finite = np.isfinite(resampled)
    if not math.isfinite(estimate):
        raise ValueError(
            f"The statistic of the data is {estimate}: there is nothing to put an interval around."
        )
    if not finite.any() or (undefined == "raise" and not finite.all()):
        count = f"{(~finite).sum()} of {len(resampled)} resamples"
        raise ValueError(
            f"The statistic is not finite in {count}; undefined='drop' leaves such resamples out."
        )
    low, high = np.quantile(resampled[finite], [(1 - level) / 2, (1 + level) / 2])
    if kind == "basic":
        low, high = 2 * estimate - high, 2 * estimate - low
    return Interval(estimate, float(low), float(high), level, int(finite.sum()))
