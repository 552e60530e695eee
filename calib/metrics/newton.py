"""Newton's method for convex functions of a few numbers, and the recalibration maps that it fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Derivatives = tuple[float, np.ndarray, np.ndarray]  # value, gradient and Hessian
Convex = Callable[[np.ndarray], Derivatives]
_PRECISION = 1e-10  # of a minimum, as half the squared Newton decrement relative to the value
_STEPS = 100  # Newton needs about six
_SAFE = 300.0  # exp of it and of its negative is a number far from the ends of float64
_BLOCK = 2**15  # numbers that are worked on at once, which stay in the processor's cache


class SoftmaxFit:
    """The negative log-likelihood of softmax(beta z + b) on some rows, at points (beta, b)."""

    def __init__(self, z: np.ndarray, y: np.ndarray) -> None:
        self.x = np.ascontiguousarray(z.T)  # (C, N): sums over classes are sums of long rows
        self.classes = len(self.x)
        self.drawn = np.bincount(y, minlength=self.classes)
        self.own = z[np.arange(len(y)), y].sum()
        self.least = float(z.max(axis=1).min()) if len(z) else 0.0  # of the largest log-probabilities

    def __call__(self, point: np.ndarray) -> Derivatives:
        """Return value, gradient and Hessian."""
        beta, bias, n = point[0], point[1:, None], self.x.shape[1]
        value = -beta * self.own - self.drawn @ point[1:]
        gradient = -np.concatenate([[self.own], self.drawn])
        hessian = np.zeros((self.classes + 1, self.classes + 1))
        safe = beta > 0 and beta * self.least + bias.min() > -_SAFE and bias.max() < _SAFE
        columns = max(1, _BLOCK // self.classes)
        both = np.empty((2, self.classes, min(columns, n)))
        for start in range(0, n, columns):
            x = self.x[:, start : start + columns]
            p, weighted = both[:, :, : x.shape[1]]
            np.multiply(x, beta, out=p)
            p += bias
            if not safe:  # else no exp is infinite, and none of the sums is 0
                top = p.max(axis=0)
                value += top.sum()
                p -= top
            np.exp(p, out=p)
            total = p.sum(axis=0)
            value += np.log(total).sum()
            p /= total
            np.multiply(p, x, out=weighted)
            expected, sums = weighted.sum(axis=0), p.sum(axis=1)
            gradient[0] += expected.sum()
            gradient[1:] += sums
            weighted -= p * expected
            hessian[0, 0] += np.vdot(weighted, x)
            hessian[0, 1:] += weighted.sum(axis=1)
            hessian[1:, 1:] += np.diag(sums) - p @ p.T
        hessian[1:, 0] = hessian[0, 1:]
        return float(value), gradient, hessian


def left_out_fits(parts: list[SoftmaxFit]) -> list[np.ndarray]:
    """Return the penalised fit (beta, b) to all parts but each.

    All of them are near the fit to everything, and that is near the fit to one part. So a few rows do most of
    the steps, and one pass at the common point, part by part, is the first step of each.
    """
    neutral = np.array([1.0] + [0.0] * parts[0].classes)
    common = minimum(penalised(parts[:1], neutral), neutral)
    common = minimum(penalised(parts, neutral), common)
    there = [part(common) for part in parts]
    fits = []
    for left_out in range(len(parts)):
        rest = parts[:left_out] + parts[left_out + 1 :]
        known = there[:left_out] + there[left_out + 1 :]
        fits.append(minimum(penalised(rest, neutral, {common.tobytes(): known}), common))
    return fits


def penalised(
    parts: list[SoftmaxFit],
    neutral: np.ndarray,
    known: Mapping[bytes, list[Derivatives]] | None = None,
) -> Convex:
    """Return the sum of parts with |point - neutral|^2 / 2; what is known at a point is not computed."""

    def of(point: np.ndarray) -> Derivatives:
        found = (known or {}).get(point.tobytes()) or [part(point) for part in parts]
        away = point - neutral
        value = float(away @ away / 2) + sum(each[0] for each in found)
        gradient = away + sum(each[1] for each in found)
        return value, gradient, np.eye(len(point)) + sum(each[2] for each in found)

    return of


def minimum(of: Convex, start: np.ndarray) -> np.ndarray:
    """Return where a convex function is least, by Newton steps that are halved until they go down enough.

    Args:
        of: Value, gradient and Hessian at a point (P,).
        start: (P,).
    """
    point = start
    value, gradient, hessian = of(point)
    for _ in range(_STEPS):
        step = np.linalg.solve(hessian, gradient)
        promised = float(gradient @ step)  # twice what a quadratic function would fall by
        if promised <= 2 * _PRECISION * (1 + abs(value)):
            return point - step  # the last step needs no proof: its error is of the order of the promise
        size = 1.0
        found = of(point - step)
        while not found[0] <= value - 1e-4 * size * promised and size > 1e-9:
            size /= 2
            found = of(point - size * step)
        point, (value, gradient, hessian) = point - size * step, found
    return point
