"""Variances of AUROCs without resampling: DeLong's, and its version for clusters."""

from __future__ import annotations

import math

import numpy as np

from calib.stats.groups import Groups, group_numbers


def delong(
    uncertainty: np.ndarray, failure: np.ndarray, groups: Groups | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUROCs of uncertainties on the same rows, and their covariances, (M,) and (M, M).

    Args:
        uncertainty: (n, M) numbers, higher = more likely wrong; ties count half.
        failure: (n,) bool.
        groups: (n,) clusters (image, patient). None: rows are independent, which is DeLong's own case.

    Returns:
        NaN covariances with fewer than 2 failures or 2 right ones, or where either are of one group.

    Raises:
        ValueError: A number is NaN, or there is no failure or no right one.

    Example:
        >>> u, failure = np.array([[0.1], [0.4], [0.3], [0.9]]), np.array([False, False, True, True])
        >>> auroc, covariance = delong(u, failure)
        >>> auroc.tolist(), covariance.tolist()
        ([0.75], [[0.125]])

    Source: DeLong, DeLong and Clarke-Pearson 1988; Obuchowski 1997 (clusters).
    """
    from scipy.stats import rankdata

    if np.isnan(uncertainty).any() or failure.all() or not failure.any():
        raise ValueError("DeLong's variance needs a failure, a right prediction, and no uncertainty of NaN.")
    index = group_numbers(groups, len(failure))
    wrong, right = uncertainty[failure], uncertainty[~failure]
    m, n = len(wrong), len(right)
    overall = rankdata(uncertainty, axis=0)
    # How much of the right ones each failure beats, and of the failures each right one loses to.
    of_wrong = (overall[failure] - rankdata(wrong, axis=0)) / n
    of_right = 1 - (overall[~failure] - rankdata(right, axis=0)) / m
    auroc = of_wrong.mean(axis=0)
    if m < 2 or n < 2:
        return auroc, np.full((len(auroc),) * 2, math.nan)
    if groups is None:
        return auroc, _covariance(of_wrong) / m + _covariance(of_right) / n
    g = int(index.max()) + 1
    g_wrong, g_right = (len(np.unique(index[rows])) for rows in (failure, ~failure))
    if g_wrong < 2 or g_right < 2:
        return auroc, np.full((len(auroc),) * 2, math.nan)
    a = _sums(of_wrong - auroc, index[failure], g)
    b = _sums(of_right - auroc, index[~failure], g)
    # Each sum has the groups it is of: of few groups with a failure, those few say how failures vary.
    both = g / (g - 1) * (a.T @ b)
    wrong_sums, right_sums = (k / (k - 1) * (x.T @ x) for k, x in ((g_wrong, a), (g_right, b)))
    return auroc, wrong_sums / m**2 + right_sums / n**2 + (both + both.T) / (m * n)


def delong_test(auroc: np.ndarray, covariance: np.ndarray) -> tuple[float, float]:
    """Return z and the two-sided p-value of the difference of two AUROCs on the same rows.

    Args:
        auroc: (2,) as from `delong`.
        covariance: (2, 2) as from `delong`.

    Example:
        >>> z, p = delong_test(np.array([0.75, 0.65]), np.array([[0.002, 0.001], [0.001, 0.002]]))
        >>> round(z, 3), round(p, 4)
        (2.236, 0.0253)
    """
    from scipy.stats import norm

    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if not variance > 0:
        return math.nan, math.nan
    z = float((auroc[0] - auroc[1]) / math.sqrt(variance))
    return z, float(2 * norm.sf(abs(z)))


def _covariance(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(axis=0)
    found: np.ndarray = centred.T @ centred / (len(values) - 1)
    return found


def _sums(values: np.ndarray, index: np.ndarray, n: int) -> np.ndarray:
    return np.stack([np.bincount(index, weights=column, minlength=n) for column in values.T], axis=1)
