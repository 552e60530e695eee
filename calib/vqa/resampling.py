"""The cluster bootstrap of many statistics at once: all see the same draws, so that they are paired."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from calib.metrics.failure.registry import FAILURE_METRICS, WITH_SETTINGS
from calib.metrics.failure.steps import Ranking, Steps
from calib.stats.groups import group_numbers
from calib.stats.joint import known_ends

_BLOCK = 200_000  # numbers of one array that is worked on at once: it stays near the processor
_KEPT = 400_000_000  # bytes of draws that are kept; more are drawn again when they are needed
_DRAWN = 1 << 23  # draws made at once


@dataclass(frozen=True)
class Counted:
    """Numbers that are computed for many resamples at once from how often each cluster was drawn.

    Attributes:
        names: The M numbers.
        size: Rows behind them: what a block of resamples costs.
        of_counts: (B, G) counts of clusters -> (B, M) float64; NaN where a number is undefined.
    """

    names: tuple[str, ...]
    size: int
    of_counts: Callable[[np.ndarray], np.ndarray]


def ranked(
    names: Sequence[str], uncertainty: np.ndarray, failure: np.ndarray, clusters: np.ndarray
) -> Counted:
    """Return failure metrics of an uncertainty, for the bootstrap.

    "auroc", "augrc", "aurc" and "prr" are computed in whole numbers, several times faster than, and equal to,
    the functions of FAILURE_METRICS, from which all others come.

    Args:
        names: Keys of FAILURE_METRICS; "prr"; or one with a setting: "prr@0.5", "capture@0.1",
            "coverage_at_risk@0.2", "risk_at_coverage@0.8".
        uncertainty: (n,) numbers, not NaN.
        failure: (n,) bool.
        clusters: (n,) the number of each row's cluster.

    Raises:
        ValueError: A name is unknown.

    Example:
        >>> u, failure = np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, False, True, True])
        >>> counted = ranked(["auroc"], u, failure, np.arange(4))
        >>> counted.of_counts(np.array([[1, 1, 1, 1], [2, 0, 1, 1]])).tolist()
        [[0.75], [1.0]]
    """
    others = {name: _metric(name) for name in names if name not in _FAST}
    by_row = Ranking.of(np.asarray(uncertainty, dtype=np.float64), np.asarray(failure, dtype=bool))
    order, wrong = clusters[by_row.order], by_row.failure.astype(np.uint8)
    starts = None if len(by_row.starts) == len(order) else by_row.starts
    fast = _Fast(by_row, starts) if len(others) < len(names) else None

    def of_counts(counts: np.ndarray) -> np.ndarray:
        size = np.take(counts, order, axis=1)
        failures = size * wrong
        if starts is not None:
            size, failures = (np.add.reduceat(x, starts, axis=1, dtype=np.int32) for x in (size, failures))
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is the NaN that is wanted
            found = fast(size, failures) if fast else {}
            if others:
                steps = Steps(size.astype(np.float64), failures.astype(np.float64))
                found |= {name: function(steps) for name, function in others.items()}
        return np.stack([found[name] for name in names], axis=1)

    return Counted(tuple(names), len(failure), of_counts)


_FAST = ("auroc", "augrc", "aurc", "prr")


class _Fast:
    """The metrics of _FAST from samples and failures per step, both (B, G); formulas as in `steps`.

    Args:
        ranking: The rows in order.
        starts: Where steps of several rows begin. None: every row is a step of its own.
    """

    def __init__(self, ranking: Ranking, starts: np.ndarray | None) -> None:
        failure = ranking.failure
        share = (
            failure if starts is None else np.add.reduceat(failure, starts) / np.diff([*starts, len(failure)])
        )
        self.wrong = (share == 1).astype(np.float64)  # steps of failures alone
        self.mixed = np.flatnonzero((share > 0) & (share < 1))
        self.harmonic = _harmonic(2 * len(failure))

    def __call__(self, size: np.ndarray, failures: np.ndarray) -> dict[str, np.ndarray]:
        accepted = np.cumsum(size, axis=1, dtype=np.int32)
        wrong = np.cumsum(failures, axis=1, dtype=np.int32)
        n, n_wrong = accepted[:, -1].astype(np.float64), wrong[:, -1].astype(np.float64)
        n_right = n - n_wrong
        pairs = np.einsum("bi,bi->b", failures.astype(np.float64), (accepted - wrong).astype(np.float64))
        some, both = (np.take(x, self.mixed, axis=1).astype(np.float64) for x in (failures, size))
        auroc = (pairs - (some * (both - some)).sum(axis=1) / 2) / (n_wrong * n_right)
        top = int(n.max())
        harmonic = self.harmonic if top < len(self.harmonic) else _harmonic(top)
        rise = np.take(harmonic, accepted)
        rise[:, 1:] -= rise[:, :-1].copy()
        # e - k f / m before a step: of right ones alone it is e, of wrong ones alone e - k, else in between.
        taken = accepted - size
        before = (wrong - failures) - taken * self.wrong
        share = np.divide(some, both, out=np.zeros_like(some), where=both > 0)
        before[:, self.mixed] -= np.take(taken, self.mixed, axis=1) * share
        aurc = (n_wrong + np.einsum("bi,bi->b", before, rise)) / n
        span = harmonic[n.astype(np.int64)] - harmonic[n_right.astype(np.int64)]
        best = (n_wrong - n_right * span) / n
        rate = n_wrong / n
        defined = (n_wrong > 0) & (n_right > 0)
        return {
            "auroc": auroc,
            # Right ones above wrong ones are what AUROC counts; of two wrong ones one is above the other.
            "augrc": np.where(defined, rate * (1 - rate) * (1 - auroc), 0.0) + rate**2 / 2,
            "aurc": aurc,
            "prr": np.where(defined, (rate - aurc) / (rate - best), np.nan),
        }


def _harmonic(top: int) -> np.ndarray:
    """Return 0, 1, 1 + 1/2, ..., the sum to 1 / top."""
    return np.concatenate([[0.0], (1 / np.arange(1, top + 1)).cumsum()])


def summed(
    names: Sequence[str],
    columns: np.ndarray,
    clusters: np.ndarray,
    n_clusters: int,
    finish: Callable[[np.ndarray], np.ndarray],
) -> Counted:
    """Return numbers that follow from sums over rows, for the bootstrap: shares, means, ratios, ECE.

    Args:
        names: The M numbers.
        columns: (n, K) numbers of each row.
        clusters: (n,) the number of each row's cluster.
        n_clusters: G.
        finish: (B, K) sums -> (B, M).

    Example:
        >>> share = summed(["share"], np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([0, 1]), 2, mean_of_first)
        >>> share.of_counts(np.array([[1, 1], [2, 0]])).tolist()
        [[0.5], [1.0]]
    """
    sums = np.stack(
        [np.bincount(clusters, weights=column, minlength=n_clusters) for column in columns.T], axis=1
    )

    def of_counts(counts: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return finish(counts.astype(np.float64) @ sums)

    return Counted(tuple(names), n_clusters, of_counts)


def mean_of_first(sums: np.ndarray) -> np.ndarray:
    """Return the first K - 1 sums divided by the last, (B, K - 1): means of columns, the last being ones."""
    means: np.ndarray = sums[:, :-1] / sums[:, -1:]
    return means


class ClusterBootstrap:
    """Draws of whole clusters, the same for every statistic.

    Args:
        groups: (N,) the cluster of every row (image, patient).
        n_resamples: Number of resamples.
        level: Share of the resamples inside an interval, in (0, 1).
        seed: Of the draws.

    Attributes:
        index: (N,) the number of each row's cluster.
        n_clusters: How many there are.

    Raises:
        ValueError: There are fewer than 2 clusters, or a setting is out of range.

    Example:
        >>> boot = ClusterBootstrap(["a", "a", "b", "c"], n_resamples=200)
        >>> values = boot.values(summed(["mean"], np.ones((4, 2)), boot.index, 3, mean_of_first))
        >>> values.shape, boot.interval(values[:, 0])
        ((201, 1), (1.0, 1.0))
    """

    def __init__(
        self,
        groups: Sequence[object] | np.ndarray,
        *,
        n_resamples: int = 2000,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        if n_resamples < 1 or not 0 < level < 1:
            raise ValueError(
                f"n_resamples must be at least 1 and level between 0 and 1, got {n_resamples} and {level}."
            )
        self.index = group_numbers(groups, len(groups))
        self.n_clusters = int(self.index.max(initial=-1)) + 1
        if self.n_clusters < 2:
            raise ValueError(
                f"Intervals need at least 2 clusters to draw from, got {self.n_clusters}: group_id names the "
                "image or the patient of a question."
            )
        self.n_resamples, self.level, self.seed = n_resamples, level, seed

    def values(self, statistic: Counted) -> np.ndarray:
        """Return the numbers of the data and of every resample, (1 + R, M)."""
        rows = max(1, _BLOCK // max(statistic.size, 1))
        blocks = (block[i : i + rows] for block in self._blocks() for i in range(0, len(block), rows))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            data = np.ones((1, self.n_clusters), dtype=np.uint8)
            return np.concatenate([statistic.of_counts(data), *pool.map(statistic.of_counts, blocks)])

    def interval(
        self, values: np.ndarray, kind: Literal["percentile", "basic"] = "percentile"
    ) -> tuple[float, float]:
        """Return the interval of (1 + R,) values, the first of which is that of the data.

        Resamples in which the number is undefined are left out; (NaN, NaN) where it is in more than half.

        Args:
            values: As from `values`, one column.
            kind: See `calib.stats.bootstrap_interval`.
        """
        return known_ends(values, self.level, kind=kind)

    def p_value(self, differences: np.ndarray) -> float:
        """Return the two-sided p-value of a difference of paired numbers by the resamples.

        Args:
            differences: (1 + R,) differences of two columns of `values`.
        """
        finite = differences[1:][np.isfinite(differences[1:])]
        if len(finite) * 2 < self.n_resamples:
            return math.nan
        tail = min((finite <= 0).sum(), (finite >= 0).sum())
        return float(min(1.0, 2 * (1 + tail) / (1 + len(finite))))

    def _blocks(self) -> Iterator[np.ndarray]:
        if self.n_resamples * self.n_clusters <= _KEPT:
            yield self._kept
        else:
            yield from self._draws()

    @cached_property
    def _kept(self) -> np.ndarray:
        return np.concatenate(list(self._draws()))

    def _draws(self) -> Iterator[np.ndarray]:
        """Yield how often each cluster is drawn, (B, G) uint8, always the same."""
        rng = np.random.default_rng(self.seed)
        rows, size = max(1, _DRAWN // self.n_clusters), self.n_clusters
        for start in range(0, self.n_resamples, rows):
            times = min(rows, self.n_resamples - start)
            drawn = rng.integers(0, size, (times, size), dtype=np.int32)
            # Of 256 clusters or more none is drawn 256 times in a lifetime.
            yield np.stack([np.bincount(row, minlength=size) for row in drawn]).astype(np.uint8)


def _metric(name: str) -> Callable[..., np.ndarray]:
    bare, _, value = name.partition("@")
    known = FAILURE_METRICS | WITH_SETTINGS
    if bare not in known:
        raise ValueError(f"{name!r} is no failure metric; these are: {', '.join(known)}.")
    metric = known[bare]
    settings = dict(metric.settings)
    if value:
        settings[_SETTING[bare]] = float(value)
    return lambda steps: metric.of_steps(steps, **settings)


_SETTING = {
    "prr": "max_rejection",
    "capture": "budget",
    "coverage_at_risk": "risk",
    "risk_at_coverage": "coverage",
    "fpr_at_tpr": "tpr",
}
