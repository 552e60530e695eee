"""The fits of a stack: weights of at least 0 under a ridge, its strength, and what stands in for a fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from calib.posthoc.affine import Floats

FOLDS = 5


def fitted(z: Floats, targets: Floats, ridge: float, prior: Floats) -> tuple[Floats, float]:
    """Return weights (P,) of at least 0 and intercept with the smallest penalised NLL, see `DoubtStack`.

    Args:
        z: (N, P) standardised scores.
        targets: (N,), 1 where the prediction is wrong, else 0; of both kinds.
        ridge: Above 0.
        prior: (P,) at least 0.

    Example:
        >>> weights, intercept = fitted(np.zeros((3, 1)), np.array([0.0, 0.0, 1.0]), 1.0, np.array([0.5]))
        >>> weights.tolist(), round(float(np.exp(intercept)), 4)  # odds (1 + 1/2) / (2 + 1/2)
        ([0.5], 0.6)
    """
    from scipy.optimize import minimize  # slow to import and needed here only

    n, p = z.shape
    columns = np.vstack(
        [np.column_stack([z, np.ones(n)]), np.eye(1, p + 1, p)]
    )  # the last row: an average case
    goal = np.append(targets, 0.5)  # half of it wrong and half of it right
    towards = np.append(prior, 0.0)
    penalty = np.append(np.full(p, ridge), 0.0)

    def value_and_gradient(x: Floats) -> tuple[float, Floats]:
        logits = columns @ x
        away = penalty * (x - towards)
        value = (np.logaddexp(0, logits) - goal * logits).sum() + 0.5 * float(away @ (x - towards))
        probs = np.exp(-np.logaddexp(0, -logits))
        return float(value) / n, (columns.T @ (probs - goal) + away) / n

    base = (targets.sum() + 0.5) / (n + 1)
    start = np.append(prior, math.log(base / (1 - base)))
    found = minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * p + [(None, None)],
        options={"maxiter": 2000, "maxcor": 20, "ftol": 1e-15, "gtol": 1e-9},
    )
    weights: Floats = found.x[:p]
    return weights, float(found.x[p])


def best_ridge(z: Floats, targets: Floats, fold: np.ndarray, prior: Floats, ridges: Sequence[float]) -> float:
    """Return the strength under which the cases left out are likeliest; of equal ones the largest.

    Args:
        z: As in `fitted`.
        targets: As in `fitted`.
        fold: (N,), the fold of each case.
        prior: As in `fitted`.
        ridges: To choose from.
    """
    nll = dict.fromkeys(sorted(ridges, reverse=True), 0.0)
    for ridge in nll:
        for number in sorted(set(fold.tolist())):
            out = fold == number
            weights, intercept = fitted(z[~out], targets[~out], ridge, prior)
            logits = intercept + z[out] @ weights
            nll[ridge] += float((np.logaddexp(0, logits) - targets[out] * logits).sum())
    return min(nll, key=lambda ridge: nll[ridge])


def of_prior(z: Floats, wrong: int, prior: Floats) -> tuple[Floats, float]:
    """Return the prior weights, and the intercept with which P(wrong) is (wrong + 1/2) / (N + 1) on average.

    Args:
        z: As in `fitted`.
        wrong: How many of the N cases are wrong.
        prior: As in `fitted`.

    Example:
        >>> weights, intercept = of_prior(np.zeros((24, 2)), 0, np.array([0.5, 0.5]))
        >>> weights.tolist(), round(1 / (1 + math.exp(-intercept)), 4)  # 1/2 of 25
        ([0.5, 0.5], 0.02)
    """
    from scipy.optimize import brentq  # slow to import and needed here only

    told, aim = z @ prior, (wrong + 0.5) / (len(z) + 1)
    reach = float(np.abs(told).max()) + abs(math.log(aim / (1 - aim))) + 1

    def excess(intercept: float) -> float:
        return float(np.exp(-np.logaddexp(0, -(intercept + told))).mean()) - aim

    return prior.copy(), float(brentq(excess, -reach, reach, xtol=1e-12))


def dealt(targets: Floats) -> np.ndarray:
    """Return a fold (N,) for every case: wrong ones and right ones are dealt out in turn.

    Args:
        targets: As in `fitted`.
    """
    fold = np.zeros(len(targets), dtype=np.int64)
    for kind in (1.0, 0.0):
        rows = np.flatnonzero(targets == kind)
        fold[rows] = np.arange(len(rows)) % FOLDS
    return fold
