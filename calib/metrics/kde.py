"""Calibration error without bins: accuracy as a smooth function of confidence, in linear time and memory."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from calib.core.checks import as_float64, check_confidence

_CHUNK = 2**20  # kernel values held at once, 8 MB
_SPARSE = 1e-2  # below this leave-one-out mass a point is computed directly
_FLOOR = 1e-10  # the official code's guard against dividing by 0


def official_bandwidth(n: int) -> float:
    """Return the official kernel bandwidth: 0.3 for N below 100, 0.2 below 500, 0.1 below 2000, else 0.05.

    Args:
        n: Number of samples.

    Example:
        >>> official_bandwidth(545)
        0.1

    Source: ECE_KDE in github.com/iabh1shekbasu/CalibPrompt c6ec13e, tools/metrics.py. The value of the metric
        jumps where the bandwidth does; fix a bandwidth to compare sets on both sides of 100, 500 or 2000
        samples.
    """
    for limit, bandwidth in ((100, 0.3), (500, 0.2), (2000, 0.1)):
        if n < limit:
            return bandwidth
    return 0.05


def kde_calibration_error(
    confidence: Tensor,
    correct: Tensor,
    *,
    bandwidth: float | Literal["official"] = "official",
    p: float = 1,
    official: bool = False,
) -> Tensor:
    """Return mean_i |confidence_i - accuracy_i|^p, accuracy_i being smoothed over the other samples.

    accuracy_i = sum_{j != i} k_ij correct_j / sum_{j != i} k_ij
    k_ij = exp(-((confidence_i - confidence_j) / bandwidth)^2 / 2)

    Time O(N m) and memory O(N) with m about 90 at bandwidth 0.05; agrees with the N x N formula to better
    than 1e-9.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        bandwidth: Kernel width in units of confidence, at least 1e-6; "official": `official_bandwidth(N)`.
        p: Power of the gap, > 0. No root is taken.
        official: The official code divides by max(sum k, 1e-10), so a sample more than about 7 bandwidths
            from all others counts as if its accuracy were 0, and a single sample scores its own confidence.

    Returns:
        () float64 in [0, 1]; nan for N = 1, which has no other sample to compare with.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> confidence = torch.tensor([0.9, 0.9, 0.6]); correct = torch.tensor([True, True, False])
        >>> round(float(kde_calibration_error(confidence, correct, bandwidth=0.1)), 4)
        0.1927

    Source: ECE_KDE in github.com/iabh1shekbasu/CalibPrompt c6ec13e, tools/metrics.py (float32, N x N there).
        A Nadaraya-Watson estimate with a Gaussian kernel, not the Dirichlet kernel estimator of Popordanoska
        et al. 2022.
    Differs: no floor under the denominator unless `official`; float64.
    """
    check_confidence(confidence, correct)
    if not p > 0:
        raise ValueError(f"p must be positive, got {p!r}.")
    accuracy = smoothed_accuracy(confidence, correct, bandwidth=bandwidth, floor=_FLOOR if official else 0.0)
    return (as_float64(confidence) - accuracy).abs().pow(p).mean()


def smoothed_accuracy(
    confidence: Tensor,
    correct: Tensor,
    *,
    bandwidth: float | Literal["official"] = "official",
    floor: float = 0.0,
) -> Tensor:
    """Return accuracy_i of `kde_calibration_error` for every sample, (N,) float64 in [0, 1].

    The two kernel sums are smooth functions of the confidence: they are evaluated at m Chebyshev nodes and
    interpolated, which costs N m instead of N^2 kernel values. m follows from a bound on the interpolation
    error (1e-13 of N). The few samples with next to no neighbours, where a small sum would be a difference of
    large ones, are computed directly.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        bandwidth: Kernel width, at least 1e-6; "official": `official_bandwidth(N)`.
        floor: Smallest value of the denominator; 0 for none.

    Returns:
        (N,) float64; for N = 1 nan, or 0 with a floor.

    Example:
        >>> smoothed_accuracy(torch.tensor([0.9, 0.9]), torch.tensor([True, False])).tolist()
        [0.0, 1.0]
    """
    check_confidence(confidence, correct)
    n = len(confidence)
    width = official_bandwidth(n) if bandwidth == "official" else float(bandwidth)
    if not (math.isfinite(width) and width >= 1e-6):
        raise ValueError(f"bandwidth must be at least 1e-6 or 'official', got {bandwidth!r}.")
    x = as_float64(confidence) / width  # from here on the bandwidth is 1
    hits = as_float64(correct)
    if n == 1:
        return torch.full_like(x, 0.0 if floor else math.nan)
    half = max(float(x.max() - x.min()) / 2, 1.0)
    nodes = _node_count(half)
    if nodes >= n:
        return _direct(x, hits, torch.arange(n, device=x.device), floor)
    mass, hit_mass = _interpolated_sums(x, hits, float(x.max() + x.min()) / 2, half, nodes)
    mass, hit_mass = mass - 1, hit_mass - hits  # leave the sample itself out
    accuracy = (hit_mass / mass).clamp(0, 1)
    sparse = (mass < _SPARSE).nonzero().flatten()
    accuracy[sparse] = _direct(x, hits, sparse, floor)
    return accuracy


def _node_count(half: float) -> int:
    """Return how many Chebyshev nodes on [-half, half] interpolate a unit Gaussian to 1e-13.

    On the Bernstein ellipse rho the kernel stays below exp(b^2 half^2 / 2) with b = (rho - 1/rho) / 2, so
    degree d errs by at most 4 exp(b^2 half^2 / 2) rho^-d / (rho - 1) (Trefethen, Approximation Theory and
    Practice, theorem 8.2).
    """
    rho = 1 + torch.logspace(-4, 2, 600, dtype=torch.float64) / half
    b = (rho - 1 / rho) / 2
    degree = (math.log(4e13) + (b * half).square() / 2 - (rho - 1).log()) / rho.log()
    return int(degree.min().ceil()) + 1


def _interpolated_sums(
    x: Tensor, hits: Tensor, centre: float, half: float, nodes: int
) -> tuple[Tensor, Tensor]:
    """Return sum_j k(x_i, x_j) and sum_j k(x_i, x_j) hits_j for all i, itself included, each (N,)."""
    angles = (torch.arange(nodes, dtype=x.dtype, device=x.device) + 0.5) * (math.pi / nodes)
    at = centre + half * angles.cos()
    weights = torch.stack([torch.ones_like(hits), hits], dim=1)  # (N, 2)
    rows = max(1, _CHUNK // nodes)
    sums = x.new_zeros(nodes, 2)
    for part, weight in zip(x.split(rows), weights.split(rows), strict=True):
        sums += (part - at[:, None]).square_().mul_(-0.5).exp_() @ weight
    order = torch.arange(nodes, dtype=x.dtype, device=x.device)
    coefficients = (order[:, None] * angles).cos() @ sums * (2 / nodes)  # (nodes, 2)
    coefficients[0] /= 2
    values = [_clenshaw(coefficients, (part - centre) / half) for part in x.split(2**14)]  # fits the cache
    mass, hit_mass = torch.cat(values, dim=1)
    return mass, hit_mass


def _clenshaw(coefficients: Tensor, t: Tensor) -> Tensor:
    """Return the two Chebyshev series with coefficients (m, 2) at the points t (n,) in [-1, 1], (2, n)."""
    last, before = t.new_zeros(2, len(t)), t.new_zeros(2, len(t))
    for coefficient in coefficients[1:].flip(0):
        last, before = torch.addcmul(coefficient[:, None] - before, last, t, value=2), last
    return torch.addcmul(coefficients[0][:, None] - before, last, t)


def _direct(x: Tensor, hits: Tensor, rows: Tensor, floor: float) -> Tensor:
    """Return the smoothed accuracy of some rows, exact however far their neighbours are."""
    result = []
    for part in rows.split(max(1, _CHUNK // len(x))):
        half_squares = (x[part][:, None] - x).square_().div_(2)
        half_squares.scatter_(1, part[:, None], math.inf)  # the sample itself
        nearest = half_squares.amin(dim=1)
        kernel = (nearest[:, None] - half_squares).exp_()  # the nearest neighbour has weight 1: never 0 / 0
        total = kernel.sum(dim=1)
        accuracy = kernel @ hits / total
        if floor:
            accuracy *= (total * (-nearest).exp() / floor).clamp(max=1)
        result.append(accuracy)
    return torch.cat(result) if result else x.new_zeros(0)
