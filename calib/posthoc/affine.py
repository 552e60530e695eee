"""Convex fits in float64: softmax of an affine map, and logistic regression with bounds and priors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SEPARABLE = 1e-6  # a mean NLL (nats) that only falls this low when every row can be had right with certainty
CONVERGED = 1e-5  # the largest slope at a minimum, in units in which the curvature is about 1


def minimised(
    objective: Callable[[Floats], tuple[float, Floats]], start: Floats, *, scale: Floats, what: str
) -> Floats:
    """Return where a convex function is smallest, by L-BFGS.

    Args:
        objective: Returns value and gradient (P,) at a point (P,).
        start: (P,).
        scale: (P,) above 0: the square root of the curvature along each axis, about. Logits of 100 beside
            offsets of 1 would make hundreds of steps of ten.
        what: What is fitted, for the message.

    Raises:
        ValueError: No minimum was found.

    Example:
        >>> def bowl(x): return float(((x - 3) ** 2).sum()), 2 * (x - 3)
        >>> minimised(bowl, np.zeros(1), scale=np.ones(1), what="a bowl").round(6).tolist()
        [3.0]
    """
    from scipy.optimize import minimize  # slow to import and needed here only

    def scaled(y: Floats) -> tuple[float, Floats]:
        value, gradient = objective(y / scale)
        return value, gradient / scale

    options = {"maxiter": 5000, "maxfun": 20000, "maxcor": 20, "ftol": 1e-15, "gtol": 1e-9}
    result = minimize(scaled, start * scale, jac=True, method="L-BFGS-B", options=options)
    steepest = float(np.abs(scaled(result.x)[1]).max())
    if not steepest <= CONVERGED:
        raise ValueError(_no_minimum(what, steepest))
    found: Floats = result.x / scale
    return found


def _no_minimum(what: str, slope: float) -> str:
    return (
        f"The fit of {what} found no minimum (slope {slope:.1g}). Are the labels those of these logits? "
        "'temperature_prior' needs the fewest rows."
    )


def affine_objective(
    features: Floats,
    labels: Ints,
    weights: Floats,
    *,
    diagonal: float,
    off_diagonal: float | None,
    offset: float,
) -> Callable[[Floats], tuple[float, Floats]]:
    """Return the function that `fit_affine` minimises, of the free parameters: A (flat), then b.

    Args:
        features: (N, K).
        labels: (N,) in [0, K).
        weights: (N,).
        diagonal: As for `fit_affine`.
        off_diagonal: Likewise. None: A is its diagonal, K numbers.
        offset: Likewise.
    """
    n, k = features.shape
    rows, full = np.arange(n), off_diagonal is not None
    identity = np.eye(k) if full else np.ones(k)
    penalty: Floats = np.full(identity.shape, diagonal)
    if off_diagonal is not None:
        penalty = np.where(np.eye(k) > 0, diagonal, off_diagonal)

    def value_and_gradient(x: Floats) -> tuple[float, Floats]:
        a, b = x[:-k].reshape(identity.shape), x[-k:]
        scores = (features @ a.T if full else features * a) + b
        scores -= scores.max(axis=1, keepdims=True)
        exps = np.exp(scores)
        sums = exps.sum(axis=1)
        away = a - identity
        value = weights @ (np.log(sums) - scores[rows, labels]) / n
        value += (penalty * away**2).sum() + offset * (b @ b)
        error = exps / sums[:, None]
        error[rows, labels] -= 1
        error *= weights[:, None] / n
        slope = error.T @ features if full else (error * features).sum(axis=0)
        slope = slope + 2 * penalty * away
        return float(value), np.concatenate([slope.ravel(), error.sum(axis=0) + 2 * offset * b])

    return value_and_gradient


def fit_affine(
    features: Floats,
    labels: Ints,
    weights: Floats,
    *,
    diagonal: float,
    off_diagonal: float | None,
    offset: float,
    what: str,
) -> tuple[Floats, Floats]:
    """Return A (K, K) and b (K,) with the smallest penalised NLL of softmax(A f + b).

    mean_i w_i CE(A f_i + b, y_i) + diagonal sum_c (A_cc - 1)^2 + off_diagonal sum_{c != d} A_cd^2
    + offset |b|^2

    Args:
        features: (N, K), finite.
        labels: (N,) in [0, K).
        weights: (N,) above 0, of mean 1.
        diagonal: At least 0.
        off_diagonal: At least 0. None: A is diagonal, and returned as (K,).
        offset: At least 0.
        what: What is fitted, for messages.

    Raises:
        ValueError: There is no minimum: the rows are separable, and not all parameters have a penalty.

    Example:
        >>> features, labels = np.zeros((4, 2)), np.array([0, 0, 0, 1])  # only the offsets can say 3 to 1
        >>> a, b = fit_affine(
        ...     features, labels, np.ones(4), diagonal=0, off_diagonal=None, offset=0, what="offsets")
        >>> float((b[0] - b[1]).round(6)), a.tolist()
        (1.098612, [1.0, 1.0])
    """
    k = features.shape[1]
    penalties = {"diagonal": diagonal, "off_diagonal": off_diagonal, "offset": offset}
    objective = affine_objective(features, labels, weights, **penalties)  # type: ignore[arg-type]
    curvature = 0.25 * (weights @ features**2) / len(features)  # (K,), of a logit with probability 1/2
    identity = np.eye(k) if off_diagonal is not None else np.ones(k)
    ridge = diagonal if off_diagonal is None else np.where(np.eye(k) > 0, diagonal, off_diagonal)
    scale = np.concatenate(
        [np.sqrt(curvature + 2 * ridge + 0 * identity).ravel(), np.full(k, np.sqrt(0.25 + 2 * offset))]
    )
    scale[scale == 0] = 1.0
    start = np.concatenate([identity.ravel(), np.zeros(k)])
    found = minimised(objective, start, scale=scale, what=what)
    if 0 in penalties.values() and objective(found)[0] < SEPARABLE:
        raise ValueError(
            f"The rows are separable: the likelihood of {what} grows without end. Fit on more rows, or with "
            "a prior (prior_sd=10)."
        )
    return found[:-k].reshape(identity.shape), found[-k:]


def fit_logistic(
    features: Floats,
    targets: Floats,
    weights: Floats,
    *,
    centre: Floats,
    sd: Floats,
    lower: Floats | None = None,
    what: str,
) -> Floats:
    """Return the coefficients (P + 1,), the last one the intercept, of a logistic regression with priors.

    They minimise mean_i w_i BCE(sigmoid(f_i c + c_0), t_i) + sum_j (c_j - centre_j)^2 / (2 N sd_j^2): the
    mode under independent normal priors.

    Args:
        features: (N, P), finite.
        targets: (N,) in [0, 1].
        weights: (N,) above 0, of mean 1.
        centre: (P + 1,).
        sd: (P + 1,) above 0; inf for no prior.
        lower: (P + 1,) lower bounds, -inf for none. None: none at all.
        what: What is fitted, for messages.

    Raises:
        ValueError: No minimum was found.

    Example:
        >>> prior = {"centre": np.zeros(2), "sd": np.full(2, 1e3)}  # three of four, whatever the feature
        >>> targets = np.array([1.0, 1.0, 1.0, 0.0])
        >>> found = fit_logistic(np.zeros((4, 1)), targets, np.ones(4), **prior, what="an intercept")
        >>> round(float(found[1]), 4)
        1.0986
    """
    n = len(features)
    columns = np.column_stack([features, np.ones(n)])
    ridge = 1 / (2 * n * sd**2)
    scale = np.sqrt(0.25 * (weights @ columns**2) / n + 2 * ridge)
    scale[scale == 0] = 1.0
    columns, ridge, centre = columns / scale, ridge / scale**2, centre * scale
    low = np.full(len(centre), -np.inf) if lower is None else lower * scale
    bounded = np.flatnonzero(np.isfinite(low)).tolist()
    best: tuple[float, Floats] | None = None
    for count in range(len(bounded) + 1):  # of a convex function: the smallest of those within the bounds
        for held in combinations(bounded, count):
            x, value = _newton(columns, targets, weights, centre, ridge, low, list(held), what)
            if bool((x >= low).all()) and (best is None or value < best[0]):
                best = value, x
        if best is not None and count == 0:
            break
    assert best is not None  # with all of them held at their bounds
    return best[1] / scale


def _newton(
    columns: Floats,
    targets: Floats,
    weights: Floats,
    centre: Floats,
    ridge: Floats,
    low: Floats,
    held: list[int],
    what: str,
) -> tuple[Floats, float]:
    """Return the minimum of a logistic regression, some of its coefficients held at bounds, and its value."""
    n, free = len(columns), np.setdiff1d(np.arange(columns.shape[1]), held)

    def value_of(x: Floats) -> float:
        scores = columns @ x
        return float(weights @ (np.logaddexp(0, scores) - targets * scores) / n + ridge @ (x - centre) ** 2)

    x = np.where(np.isin(np.arange(len(centre)), held), low, 0.0)  # where no row is settled yet
    value, slope = value_of(x), np.zeros(len(free))
    for _ in range(200):
        probs = np.exp(-np.logaddexp(0, -(columns @ x)))
        slope = (columns.T @ (weights * (probs - targets)) / n + 2 * ridge * (x - centre))[free]
        curved = (columns.T * (weights * probs * (1 - probs))) @ columns / n + np.diag(2 * ridge)
        step = np.linalg.lstsq(curved[np.ix_(free, free)], slope, rcond=None)[0]
        gain, part = float(slope @ step), 1.0
        if gain < 1e-20:
            break
        moved, new = x.copy(), value
        while part > 1e-12:
            moved[free] = x[free] - part * step
            new = value_of(moved)
            if new <= value - 1e-4 * part * gain:
                break
            part /= 2
        if not new < value:
            break
        x, value = moved, new
    if len(free) and not float(np.abs(slope).max()) <= CONVERGED:
        raise ValueError(_no_minimum(what, float(np.abs(slope).max())))
    return x, value
