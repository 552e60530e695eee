"""Exact bounds of a binomial share, and how many cases it takes to show that one is small."""

from __future__ import annotations

import functools
import math

import numpy as np

# scipy is imported where it is used: it takes a while.


def upper_bound(wrong: np.ndarray | int, n: np.ndarray | int, delta: float) -> np.ndarray:
    """Return the exact upper confidence bound of shares: the Beta(wrong + 1, n - wrong) quantile 1 - delta.

    Of n independent cases with a true share p, P(p > bound) <= delta, whatever p is. bound <= r where
    `p_value(wrong, n, r) <= delta`, and only there.

    Args:
        wrong: How many of the n are wrong, from 0 to n.
        n: Cases; 0 gives 1.
        delta: How often the bound may be too low, in (0, 1).

    Raises:
        ValueError: delta or a count is not as above.

    Example:
        >>> float(upper_bound(0, 45, 0.1).round(4)), float(upper_bound(2, 100, 0.1).round(4))
        (0.0499, 0.0523)

    Source: Clopper and Pearson 1934, one-sided.
    """
    from scipy.special import betaincinv

    k, m = _counts(wrong, n)
    check_share("delta", delta)
    open_ = np.minimum(k, m - 1) + 1.0  # where all are wrong, the bound is 1 whatever stands here
    bound = betaincinv(np.maximum(open_, 1.0), np.maximum(m - k, 1.0), 1 - delta)
    return np.where(k >= m, 1.0, bound)


def p_value(wrong: np.ndarray | int, n: np.ndarray | int, share: float) -> np.ndarray:
    """Return BinomCDF(wrong; n, share): how likely at most so many of n are wrong at that true share.

    Args:
        wrong: How many of the n are wrong, from 0 to n.
        n: Cases; 0 gives 1: nothing was seen.
        share: In (0, 1).

    Raises:
        ValueError: The share or a count is not as above.

    Example:
        >>> float(p_value(0, 45, 0.05).round(4)), float(p_value(1, 45, 0.05).round(4))
        (0.0994, 0.335)
    """
    from scipy.special import bdtr

    k, m = _counts(wrong, n)
    check_share("share", share)
    return np.where(m == 0, 1.0, bdtr(k.astype(np.float64), np.maximum(m, 1), share))


def fewest_cases(share: float, delta: float) -> int:
    """Return how many cases without an error it takes to bound it: ceil(ln delta / ln(1 - share)).

    Args:
        share: The bound, in (0, 1).
        delta: How often it may be wrong, in (0, 1).

    Example:
        >>> [fewest_cases(r, 0.1) for r in (0.1, 0.05, 0.02)]
        [22, 45, 114]
    """
    check_share("share", share)
    check_share("delta", delta)
    return math.ceil(math.log(delta) / math.log1p(-share) - 1e-12)


def most_wrong(n: np.ndarray | int, share: float, delta: float) -> np.ndarray:
    """Return how many of n may be wrong for `p_value` to stay at most delta; -1: not even none.

    Args:
        n: Cases.
        share: In (0, 1).
        delta: In (0, 1).

    Example:
        >>> most_wrong(np.array([44, 45, 77, 300]), 0.05, 0.1).tolist()
        [-1, 0, 1, 9]
    """
    check_share("delta", delta)
    sizes = np.asarray(n, dtype=np.int64)
    low, high = (
        np.full(sizes.shape, -1, dtype=np.int64),
        sizes.copy(),
    )  # p_value(high) is 1 or more than delta
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        passes = p_value(np.maximum(middle, 0), sizes, share) <= delta
        moves = high - low > 1
        low = np.where(moves & passes, middle, low)
        high = np.where(moves & ~passes, middle, high)
    return low


def enough_accepted(error: float, share: float, delta: float, *, power: float = 0.8) -> int | None:
    """Return how many accepted cases show with a chance of `power` that their error is at most `share`.

    The smallest m with P(Bin(m, error) <= most_wrong(m)) >= power, found among some 400 sizes from
    `fewest_cases` to a million, each 2.5 % above the last. None: not even a million do.

    Args:
        error: The true error rate of accepted cases, in [0, 1].
        share: What is to be shown, in (0, 1).
        delta: How often that may be wrong, in (0, 1).
        power: In (0, 1).

    Example:
        >>> enough_accepted(0.01, 0.05, 0.1), enough_accepted(0.05, 0.05, 0.1)
        (78, None)
    """
    from scipy.special import bdtr

    check_share("power", power)
    if error >= share:
        return None
    sizes, allowed = _allowed(share, delta)
    chance = bdtr(allowed, sizes, error)
    return next((int(size) for size, p in zip(sizes, chance, strict=True) if p >= power), None)


@functools.lru_cache(maxsize=32)
def _allowed(share: float, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return some 400 numbers of cases, and how many of each may be wrong."""
    least = fewest_cases(share, delta)
    sizes = np.unique(np.rint(np.geomspace(least, max(1e6, 2 * least), 400)).astype(np.int64))
    return sizes, np.maximum(most_wrong(sizes, share, delta), 0).astype(np.float64)


def check_share(name: str, value: object) -> float:
    """Return a number between 0 and 1, both excluded; refuse another.

    Args:
        name: What it is called.
        value: What was given.

    Raises:
        ValueError: It is another.

    Example:
        >>> check_share("coverage", 90)
        Traceback (most recent call last):
        ValueError: coverage must be a number above 0 and below 1, not 90: 0.9 stands for 90 %.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1:
        return float(value)
    raise ValueError(f"{name} must be a number above 0 and below 1, not {value!r}: 0.9 stands for 90 %.")


def _counts(wrong: np.ndarray | int, n: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    k, m = np.broadcast_arrays(np.asarray(wrong), np.asarray(n))
    if not (np.issubdtype(k.dtype, np.integer) and np.issubdtype(m.dtype, np.integer)):
        raise ValueError(f"Counts must be whole numbers, not {k.dtype} and {m.dtype}.")
    if bool((k < 0).any()) or bool((k > m).any()):
        raise ValueError("Of n cases from 0 to n can be wrong.")
    return k, m
