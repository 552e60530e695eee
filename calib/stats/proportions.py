"""Intervals for shares: exact ones, and where samples come in groups as wide as that makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib.stats.groups import group_numbers

Numbers = np.ndarray | float


def clopper_pearson(hits: Numbers, n: Numbers, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact interval of a share, also where all or none of the samples are hits.

    low = B(a/2; hits, n - hits + 1), high = B(1 - a/2; hits + 1, n - hits), a = 1 - level, B the quantile of
    the beta distribution; low is 0 where hits = 0, and high is 1 where hits = n.

    Args:
        hits: In [0, n]; need not be whole (`proportion_interval`). Any shape.
        n: Above 0, of the same shape or one number.
        level: Coverage, in (0, 1); it is at least this.

    Returns:
        Lower and upper ends, float64, of the shape of the inputs.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> low, high = clopper_pearson(0, 60)
        >>> float(low), round(float(high), 4)  # of 60 nothing was wrong: up to 6 % may be
        (0.0, 0.0596)

    Source: Clopper and Pearson 1934, Biometrika 26.
    """
    from scipy.special import betaincinv  # takes a while to import

    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}.")
    hits, n = np.broadcast_arrays(np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if not (np.isfinite(n).all() and (n > 0).all() and (hits >= 0).all() and (hits <= n).all()):
        raise ValueError("Expected numbers of hits from 0 to n, and n above 0.")
    tail = (1 - level) / 2
    none, everything = hits == 0, hits == n
    low = np.where(none, 0.0, betaincinv(np.where(none, 1.0, hits), n - hits + 1, tail))
    high = np.where(everything, 1.0, betaincinv(hits + 1, np.where(everything, 1.0, n - hits), 1 - tail))
    return low, high


def effective_size(
    hits: np.ndarray, groups: Sequence[object] | np.ndarray | None, *, level: float = 0.95
) -> float:
    """Return how many independent samples say as much about a share as these, which come in groups.

    n_eff = n / deff (t_{n-1} / t_{G-1})^2, at most n, where deff is the variance of the share between G
    groups over that of n independent samples, and t are quantiles of Student's distribution. Where all
    samples are hits, or none, the variance says nothing: each group then counts as one sample.

    Args:
        hits: (N,) bool.
        groups: (N,) group of each sample. None: they are independent, and it is N.
        level: Coverage of the interval it is for.

    Raises:
        ValueError: There are no samples, or not one group for each.

    Example:
        >>> hits = np.array([True, True, True, False, False, False, True, True])
        >>> effective_size(hits, None), round(effective_size(hits, list("aaabbbcc")), 2)
        (8.0, 0.57)

    Source: Korn and Graubard 1998, Survey Methodology 24 (exact intervals for shares from clustered samples).
    """
    from scipy.stats import t as student

    hits = np.asarray(hits, dtype=bool)
    n = len(hits)
    if n == 0:
        raise ValueError("There are no samples.")
    if groups is None:
        return float(n)
    index = group_numbers(groups, n)
    number = int(index.max()) + 1
    share = hits.mean()
    if number == 1 or share in (0.0, 1.0):
        return float(number)
    residuals = np.bincount(index, hits - share)
    between = number / (number - 1) * float((residuals**2).sum()) / n**2
    design = max(between * n / (share * (1 - share)), 1e-12)
    tail = (1 + level) / 2
    correction = (student.ppf(tail, n - 1) / student.ppf(tail, number - 1)) ** 2
    return float(min(n / design * correction, n))


def proportion_interval(
    hits: np.ndarray, groups: Sequence[object] | np.ndarray | None = None, *, level: float = 0.95
) -> tuple[float, float, float]:
    """Return a share with the ends of its interval: (share, low, high).

    Exact for independent samples; where several are of one patient, that of as many independent samples as
    say the same (`effective_size`).

    Args:
        hits: (N,) bool.
        groups: (N,) group of each sample, e.g. its patient. None: the samples are independent.
        level: Coverage, in (0, 1).

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> [round(end, 3) for end in proportion_interval(np.array([True] * 9 + [False]))]
        [0.9, 0.555, 0.997]
    """
    hits = np.asarray(hits, dtype=bool)
    n = effective_size(hits, groups, level=level)
    share = float(hits.mean())
    low, high = clopper_pearson(share * n, n, level=level)
    return share, float(low), float(high)
