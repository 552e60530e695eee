"""What n calibration cases can promise of prediction sets: ranks, realised coverage, thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from calib.posthoc.set_scores import rounded

SLACK = 1e-9  # (n + 1) * 0.9 is a whole number but for rounding


def rank_of(n: int, coverage: float) -> int:
    """Return k = ceil((n + 1) coverage): the k-th smallest of n scores is the threshold.

    Args:
        n: Calibration cases.
        coverage: In (0, 1).

    Returns:
        n + 1 where n cases are too few for a threshold: every class is then in every set.

    Example:
        >>> rank_of(9, 0.9), rank_of(8, 0.9), rank_of(100, 0.9)
        (9, 9, 91)
    """
    return min(math.ceil((n + 1) * coverage - SLACK), n + 1)


def fewest_cases(coverage: float, confidence: float | None = None) -> int:
    """Return how many calibration cases it takes for a threshold, so that not every set is full.

    k cases allow alpha = 1 - coverage of at least 1 / (k + 1); with the small-sample correction, of at least
    1 - (1 - confidence)^(1 / k).

    Args:
        coverage: In (0, 1).
        confidence: Of the small-sample correction. None: none.

    Example:
        >>> fewest_cases(0.9), fewest_cases(0.95), fewest_cases(0.9, 0.9)
        (9, 19, 22)
    """
    if confidence is None:
        return math.ceil(1 / (1 - coverage) - 1 - SLACK)
    return max(math.ceil(math.log(1 - confidence) / math.log(coverage) - SLACK), fewest_cases(coverage))


def least_error(n: float, confidence: float | None = None) -> float:
    """Return the smallest alpha = 1 - coverage that n cases allow, see `fewest_cases`; 1 without a case.

    Args:
        n: Calibration cases; of weighted ones their effective number.
        confidence: Of the small-sample correction. None: none.

    Example:
        >>> round(least_error(9), 3), round(least_error(21, 0.9), 3), least_error(0, 0.9)
        (0.1, 0.104, 1.0)
    """
    plain = 1 / (n + 1)
    return plain if confidence is None or n == 0 else max(1 - (1 - confidence) ** (1 / n), plain)


def realised_interval(n: float, rank: float, level: float) -> tuple[float, float]:
    """Return the central interval of the coverage over new cases that sets from n cases will have.

    Other n calibration cases give another threshold. Over their choice, the share of new cases whose class is
    in its set is distributed as Beta(rank, n + 1 - rank), where scores have no ties; with ties it is higher.
    Where cases are groups of several rows this is not proven, and holds about.

    Args:
        n: Calibration cases; of weighted ones their effective number.
        rank: k of `rank_of`, at most n + 1: every class is then in every set.
        level: Of the interval.

    Example:
        >>> low, high = realised_interval(99, 90, 0.95)
        >>> round(low, 3), round(high, 3)
        (0.834, 0.95)

    Source: Vovk 2012 (Asian Conference on Machine Learning), training-conditional validity.
    """
    if rank >= n + 1:
        return 1.0, 1.0
    from scipy.special import betaincinv  # takes a while to import

    low, high = (float(betaincinv(rank, n + 1 - rank, share)) for share in ((1 - level) / 2, (1 + level) / 2))
    return low, high


def below_nominal(n: float, coverage: float, *, weighted: bool = False) -> float:
    """Return how likely it is that sets from n cases have a coverage over new cases below that asked for.

    Args:
        n: Calibration cases; of weighted ones their effective number.
        coverage: In (0, 1).
        weighted: Whether n is an effective number, which is whole by chance at most.

    Example:
        >>> [round(below_nominal(n, 0.9), 2) for n in (24, 40, 72, 256)]
        [0.29, 0.42, 0.41, 0.42]
    """
    from scipy.special import betainc  # takes a while to import

    whole = n == round(n) and not weighted
    rank = rank_of(round(n), coverage) if whole else (n + 1) * coverage
    return 0.0 if rank >= n + 1 else float(betainc(rank, n + 1 - rank, coverage))


@cache
def corrected_rank(n: int, coverage: float, confidence: float) -> int:
    """Return the smallest rank with which the coverage is at least as asked for with that confidence.

    The largest u with P(Beta(n + 1 - u, u) >= coverage) >= confidence makes the rank n + 1 - u,
    which is never below that of `rank_of`.

    Args:
        n: Calibration cases.
        coverage: In (0, 1).
        confidence: In (0, 1).

    Returns:
        n + 1 where n cases are too few: every class is then in every set.

    Example:
        >>> 40 + 1 - corrected_rank(40, 0.9, 0.9), corrected_rank(16, 0.9, 0.9)
        (2, 17)

    Source: the small sample beta correction; derived from the distribution of `realised_interval`.
    """
    from scipy.special import betaincc  # takes a while to import

    u = np.arange(1.0, n + 1)
    sure = betaincc(n + 1 - u, u, coverage) >= confidence  # falls with u
    return max(n + 1 - int(sure.sum()), rank_of(n, coverage))


@dataclass(frozen=True)
class Level:
    """How much is to be covered, and how surely.

    Attributes:
        coverage: In (0, 1).
        confidence: Of the small-sample correction. None: none.
    """

    coverage: float
    confidence: float | None = None

    def rank(self, n: float) -> float:
        """Return the rank of the threshold among n cases; for an effective number it is not whole."""
        if n != round(n):
            return (n + 1) * self.coverage
        if self.confidence is None:
            return rank_of(round(n), self.coverage)
        return corrected_rank(round(n), self.coverage, self.confidence)

    def share(self, n: float) -> float:
        """Return the share of n cases and the new one that the threshold must reach."""
        return self.coverage if self.confidence is None else self.rank(n) / (n + 1)


def thresholds(scores: Tensor, weights: Tensor, extra: Tensor, coverage: float) -> Tensor:
    """Return the largest score that a class may have to be in a set, (C,) float64; inf where any may.

    A class whose score is s is in the set where its p-value is above alpha = 1 - coverage:

        (sum of weights of scores >= s, + extra) / (sum of all weights + extra) > alpha

    With weights and extra of 1 the threshold is the k-th smallest score, k of `rank_of`; of equal scores it
    takes all.

    Args:
        scores: (n,) of the calibration rows for their own class.
        weights: (n,) at least 0.
        extra: (C,) what a new case of each class weighs.
        coverage: In (0, 1).

    Example:
        >>> thresholds(torch.arange(9.0), torch.ones(9), torch.ones(1), 0.9).tolist()
        [8.0]
        >>> thresholds(torch.arange(8.0), torch.ones(8), torch.ones(1), 0.9).tolist()
        [inf]

    Source: Podkopaev and Ramdas 2021 (UAI), after Tibshirani, Barber, Candès and Ramdas 2019 (NeurIPS).
    """
    if not len(scores):
        return torch.full_like(extra, torch.inf)
    ordered, order = rounded(scores).sort()
    tail = weights[order].flip(0).cumsum(0).flip(0)  # of this score and all after it
    total = weights.sum() + extra
    needed = (1 - coverage + SLACK) * total - extra  # (C,)
    # Tails fall: those of the first `passing` scores are above what is needed. Of equal scores the first has
    # the tail of all of them, and whichever of them is the last to pass, the threshold is their score.
    passing = len(tail) - torch.searchsorted(tail.flip(0), needed, right=True)
    found = ordered[(passing - 1).clamp_min(0)]
    none = torch.where(passing == 0, -torch.inf, found)
    return torch.where(needed < 0, torch.inf, none)
