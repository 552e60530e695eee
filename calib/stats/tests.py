"""Tests of paired results and of ranks, tests of equivalence, and what many tests at once do to p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from calib.stats.groups import group_numbers

_BLOCK = 4_000_000  # numbers held at once


def permutation_p(observed: float, null: np.ndarray) -> float:
    """Return the p-value of a permutation test, (1 + number of null values >= observed) / (1 + B).

    Args:
        observed: The statistic of the data; larger speaks against the null hypothesis.
        null: (B,) the statistic of B permutations.

    Raises:
        ValueError: Something is not finite, or there is no permutation.

    Example:
        >>> permutation_p(0.7, np.array([0.5, 0.6, 0.8, 0.4]))
        0.4

    Source: Phipson and Smyth 2010: never 0, and exact.
    """
    values = np.asarray(null, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all() or not math.isfinite(observed):
        raise ValueError(
            f"A permutation test needs a finite value and at least one finite null value, got {observed} and "
            f"{values.size} null values."
        )
    # Sums in another order differ in the last bits: such values are equal.
    return float((1 + (values >= observed - 1e-12).sum()) / (1 + len(values)))


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """Return the two-sided exact p-value of McNemar's test: the discordant pairs are a fair coin.

    Args:
        first_only: Cases that only the first is right on.
        second_only: Cases that only the second is right on.

    Raises:
        ValueError: A number is negative.

    Example:
        >>> round(mcnemar_exact(16, 9), 4), mcnemar_exact(0, 0)
        (0.2295, 1.0)

    Source: McNemar 1947, with the binomial distribution instead of a normal one. It takes cases as
        independent; where they come in clusters, see `sign_flip_test`.
    """
    from scipy.stats import binomtest

    if first_only < 0 or second_only < 0:
        raise ValueError(f"Numbers of cases must not be negative, got {first_only} and {second_only}.")
    n = first_only + second_only
    return float(binomtest(first_only, n, 0.5).pvalue) if n else 1.0


def sign_flip_test(
    differences: np.ndarray,
    groups: Sequence[object] | np.ndarray | None = None,
    *,
    n_permutations: int = 9999,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value of a mean difference by flipping the signs of whole clusters.

    Args:
        differences: (N,) differences of pairs.
        groups: (N,) cluster of each pair (image, patient). None: pairs are independent.
        n_permutations: Random flips.
        seed: Of the flips.

    Raises:
        ValueError: There is no difference, or one is not finite.

    Example:
        >>> sign_flip_test(np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]), n_permutations=999) < 0.05
        True

    Source: the sign test's principle for symmetric differences (Fisher 1935), clusters flipped together.
    """
    values = _finite(differences, "differences")
    index = group_numbers(groups, len(values))
    largest = float(np.abs(values).max()) or 1.0  # what is a tie must not depend on the unit
    sums = np.bincount(index, weights=values / largest)
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(sums))
    null = [
        np.abs((2.0 * rng.integers(0, 2, (min(rows, n_permutations - start), len(sums))) - 1) @ sums)
        for start in range(0, n_permutations, rows)
    ]
    return permutation_p(float(abs(sums.sum())), np.concatenate(null))


@dataclass(frozen=True)
class Equivalence:
    """Whether a mean difference is as good as none.

    Attributes:
        mean: Mean difference.
        low: Lower end of its interval of level 1 - 2 alpha: the test's own.
        high: Upper end.
        margin: What counts as no difference.
        p: The larger of the two one-sided p-values; small: |mean difference| is below the margin.
        equivalent: p <= alpha, so that the interval lies within -margin and margin.
        n_clusters: Clusters behind it.
    """

    mean: float
    low: float
    high: float
    margin: float
    p: float
    equivalent: bool
    n_clusters: int


def equivalence_test(
    differences: np.ndarray,
    margin: float,
    groups: Sequence[object] | np.ndarray | None = None,
    *,
    alpha: float = 0.05,
) -> Equivalence:
    """Return whether a mean difference lies within a margin: two one-sided t-tests (TOST).

    That a test finds no difference does not mean that there is none; this test says so. The variance of the
    mean allows for clusters: V = G / (G - 1) * sum_g (sum of (d_i - mean) in g)^2 / N^2, with G - 1 degrees
    of freedom.

    Args:
        differences: (N,) differences of pairs.
        margin: Above 0, in their unit; to be declared before looking.
        groups: (N,) cluster of each pair. None: pairs are independent.
        alpha: Level of the test, in (0, 0.5).

    Raises:
        ValueError: There are fewer than 2 clusters, a difference is not finite, or the margin is not above 0.

    Example:
        >>> result = equivalence_test(np.array([0.01, -0.02, 0.0, 0.03, -0.01, 0.01]), margin=0.1)
        >>> result.equivalent, round(result.p, 5)
        (True, 2e-05)

    Source: Schuirmann 1987; Liang and Zeger 1986 (clusters).
    """
    from scipy.stats import t

    values = _finite(differences, "differences")
    if not (margin > 0 and math.isfinite(margin)) or not 0 < alpha < 0.5:
        raise ValueError(
            f"margin must be above 0 and alpha between 0 and 0.5, got margin {margin} and alpha {alpha}."
        )
    index = group_numbers(groups, len(values))
    n_clusters = int(index.max()) + 1
    if n_clusters < 2:
        raise ValueError("An equivalence test needs at least 2 clusters, and all differences are of one.")
    mean = float(values.mean())
    sums = np.bincount(index, weights=values - mean)
    error = math.sqrt(n_clusters / (n_clusters - 1) * float(sums @ sums)) / len(values)
    half = float(t.ppf(1 - alpha, n_clusters - 1)) * error
    if error > 0:
        p = float(
            max(t.sf((mean + margin) / error, n_clusters - 1), t.cdf((mean - margin) / error, n_clusters - 1))
        )
    else:  # every difference is the same
        p = 0.0 if abs(mean) < margin else 1.0
    return Equivalence(mean, mean - half, mean + half, margin, p, p <= alpha, n_clusters)


def signed_ranks(differences: np.ndarray) -> tuple[float, float]:
    """Return the p-value of Wilcoxon's signed-rank test and the matched rank-biserial correlation.

    The correlation is (ranks of positive - ranks of negative differences) / all ranks, in [-1, 1]: an effect
    size. Differences of 0 are left out, as in scipy's default.

    Args:
        differences: (N,) differences of pairs.

    Returns:
        (1, 0) where every difference is 0.

    Raises:
        ValueError: There is no difference, or one is not finite.

    Example:
        >>> p, effect = signed_ranks(np.array([1.0, 2.0, 3.0, 4.0, 5.0, -0.5]))
        >>> round(p, 4), round(effect, 4)
        (0.0625, 0.9048)

    Source: Wilcoxon 1945; Kerby 2014.
    """
    from scipy.stats import rankdata, wilcoxon

    values = _finite(differences, "differences")
    moved = values[values != 0]
    if len(moved) == 0:
        return 1.0, 0.0
    ranks = rankdata(np.abs(moved))
    return float(wilcoxon(values).pvalue), float((ranks * np.sign(moved)).sum() / ranks.sum())


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation with the p-value of its permutation test.

    Attributes:
        rho: Mean over the columns of Spearman's correlation, in [-1, 1].
        p: Two-sided.
        n: Rows that at least one column has.
        columns: Columns with at least 3 rows and values that differ.
    """

    rho: float
    p: float
    n: int
    columns: int


def spearman_test(
    first: np.ndarray, second: np.ndarray, *, n_permutations: int = 9999, seed: int = 0
) -> RankCorrelation:
    """Return the mean rank correlation within columns, tested by permuting whole rows.

    A row is what is independent (a model), a column a condition under which all rows were measured (a data
    set): cells of one row stay together, so that a model which is good everywhere counts once, and what makes
    one column easier than another does not count at all.

    Args:
        first: (M, D) or (M,); NaN where a cell is missing. The test is exact where none is.
        second: As many; every permutation is judged by the cells that it leaves known in both.
        n_permutations: Random permutations of the rows of `first`.
        seed: Of the permutations.

    Raises:
        ValueError: The shapes differ, or no column has 3 rows whose values differ.

    Example:
        >>> accuracy, auroc = np.array([0.4, 0.5, 0.6, 0.7, 0.8]), np.array([0.61, 0.66, 0.65, 0.7, 0.72])
        >>> result = spearman_test(accuracy, auroc)
        >>> round(result.rho, 4), result.p < 0.1
        (0.9, True)

    Source: Spearman 1904.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (first, second))
    x, y = (values[:, None] if values.ndim == 1 else values for values in (x, y))
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"Expected two tables of one shape, got {x.shape} and {y.shape}.")
    found = _spearman(x.T, y.T)
    usable = np.flatnonzero(np.isfinite(found))
    if not len(usable):
        raise ValueError("No column has 3 rows whose values differ: there is no rank correlation.")
    x, y, rho = x[:, usable], y[:, usable], float(found[usable].mean())
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(len(x)), (n_permutations, 1)), axis=1)
    null = [
        _mean_known(_spearman(x[some].transpose(0, 2, 1), y.T))  # as of the data: where both have a cell
        for some in np.array_split(order, max(1, x.size * n_permutations // _BLOCK))
    ]
    n = int((np.isfinite(x) & np.isfinite(y)).any(axis=1).sum())
    return RankCorrelation(rho, permutation_p(abs(rho), np.abs(np.concatenate(null))), n, len(usable))


def adjusted_p(p_values: Sequence[float] | np.ndarray, method: Literal["holm", "bh"] = "holm") -> np.ndarray:
    """Return p-values corrected for being many, (N,); NaN stays NaN and counts as no test.

    Args:
        p_values: (N,) in [0, 1].
        method: "holm": the chance of any false discovery stays below the level (Holm 1979). "bh": the
            expected share of false discoveries does (Benjamini and Hochberg 1995).

    Raises:
        ValueError: A p-value lies outside [0, 1], or the method is unknown.

    Example:
        >>> adjusted_p([0.01, 0.04, 0.03]).tolist(), adjusted_p([0.01, 0.04, 0.03], "bh").round(4).tolist()
        ([0.03, 0.06, 0.06], [0.03, 0.04, 0.04])
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = np.isfinite(values)
    if method not in ("holm", "bh"):
        raise ValueError(f"method must be 'holm' or 'bh', got {method!r}.")
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise ValueError(f"p-values lie between 0 and 1, got {values[known].min()} to {values[known].max()}.")
    order = np.argsort(values[known], kind="stable")
    ranked, m = values[known][order], int(known.sum())
    if method == "holm":
        corrected = np.maximum.accumulate(ranked * (m - np.arange(m)))
    else:
        corrected = np.minimum.accumulate((ranked * m / np.arange(1, m + 1))[::-1])[::-1]
    out = np.full(len(values), math.nan)
    out[np.flatnonzero(known)[order]] = np.minimum(corrected, 1.0)
    return out


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman's correlations along the last axis, where both are known; NaN: undefined."""
    from scipy.stats import rankdata

    both = np.isfinite(x) & np.isfinite(y)
    many = both.sum(axis=-1, keepdims=True)
    ranks = []
    for values in (x, y):
        found = rankdata(np.where(both, values, np.inf), axis=-1)  # what is missing stands behind
        ranks.append(np.where(both, found - (many + 1) / 2, 0.0))
    a, b = ranks
    spread = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((many[..., 0] >= 3) & (spread > 0), (a * b).sum(axis=-1) / spread, np.nan)


def _mean_known(rho: np.ndarray) -> np.ndarray:
    """Return the mean over columns that have a value, (B,); 0 where none has."""
    known = np.isfinite(rho)
    mean: np.ndarray = np.where(known, rho, 0.0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return mean


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be (N,) finite numbers, N at least 1; got shape {numbers.shape}.")
    return numbers
