"""Smooth ECE: calibration error without bins, whose width of smoothing is its own value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from torch import Tensor

from calib.core.checks import as_float64, check_confidence

_FEWEST, _MOST = 512, 2**17  # cells of the grid
_CELLS_PER_BANDWIDTH = 8  # at least: then the grid is off by less than 1e-4 of the result
_TURNS = 100  # of the search, which needs about ten


def smooth_calibration_error(
    confidence: Tensor, correct: Tensor, *, bandwidth: float | Literal["fixed_point"] = "fixed_point"
) -> Tensor:
    """Return the integral of |smoothed residual| over [0, 1], smoothed as widely as the result is large.

    residual(t) = mean_i (correct_i - confidence_i) K(t, confidence_i)
    smECE_sigma = integral of |residual(t)| dt
    smECE = sigma*, the only sigma with smECE_sigma = sigma

    K is the Gaussian of width sigma reflected at 0 and 1. It is the heat kernel of the interval, with the
    cosines as its eigenfunctions: cosine coefficients of the residuals, times exp(-(pi k sigma)^2 / 2), are
    the coefficients of residual(t). They are computed once, on a grid on which the residuals are spread to
    fourth order, and every sigma that is tried costs one FFT, whatever N is. smECE_sigma falls with sigma, so
    the fixed point is found between 0 and 1 by false position.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        bandwidth: sigma, at least 1e-4; "fixed_point" for sigma*.

    Returns:
        () float64 in [0, 1], to about 1e-4 of itself. A fixed point below 6e-5 is given as smECE at a sigma
        of 6e-5, which is smaller still.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> import torch
        >>> confidence, correct = torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([True, True, False, True])
        >>> round(float(smooth_calibration_error(confidence, correct)), 3)
        0.09
        >>> round(float(smooth_calibration_error(confidence, correct, bandwidth=0.02)), 3)
        0.1

    Source: Blasiok and Nakkiran 2023 (arXiv 2309.12236), section 3: reflected Gaussian kernel, definitions of
        smECE_sigma and of smECE.
    """
    check_confidence(confidence, correct)
    fixed = bandwidth == "fixed_point"
    if not fixed and not (math.isfinite(float(bandwidth)) and float(bandwidth) >= 1e-4):
        raise ValueError(f"bandwidth must be at least 1e-4 or 'fixed_point', got {bandwidth!r}.")
    at = as_float64(confidence.detach()).cpu().numpy()
    residuals = as_float64(correct).cpu().numpy() - at
    cells = _FEWEST
    while True:
        error = _errors(at, residuals, cells)
        finest = _CELLS_PER_BANDWIDTH / cells
        wide_enough = error(finest) >= finest if fixed else float(bandwidth) >= finest
        if wide_enough or cells >= _MOST:
            break
        cells *= 4
    width = float(bandwidth) if not fixed else _fixed_point(error, finest) if wide_enough else finest
    return as_float64(confidence).new_tensor(min(error(width), 1.0))


def _errors(at: np.ndarray, residuals: np.ndarray, cells: int) -> Callable[[float], float]:
    """Return the function from sigma to smECE_sigma."""
    # The interval is half of a circle of 2 cells; the real parts of the Fourier coefficients are those of the
    # cosines, as if every residual were there a second time at its mirror image.
    place = np.minimum(np.floor(at * cells), cells - 1)
    u = at * cells - place
    # Cubic Lagrange weights of the four points around each residual.
    weights = (
        -u * (u - 1) * (u - 2) / 6,
        (u + 1) * (u - 1) * (u - 2) / 2,
        -(u + 1) * u * (u - 2) / 2,
        (u + 1) * u * (u - 1) / 6,
    )
    spread = np.zeros(2 * cells)
    for offset, weight in enumerate(weights, start=-1):
        index = (place.astype(np.int64) + offset) % (2 * cells)
        spread += np.bincount(index, weight * residuals, 2 * cells)
    coefficients = np.fft.rfft(spread).real * (2 * cells / len(at))
    halves = (np.pi * np.arange(cells + 1)) ** 2 / 2

    def error(sigma: float) -> float:
        residual = np.fft.irfft(coefficients * np.exp(-halves * sigma**2), 2 * cells)[: cells + 1]
        size = np.abs(residual)
        left, right = size[:-1], size[1:]
        # The trapezoidal rule, but two triangles where |residual| touches 0; on either side of such a kink
        # the rule falls short by the slope times the squared step / 12.
        crossed = residual[:-1] * residual[1:] < 0
        total = left + right
        kinks = total[crossed] / 6 - left[crossed] * right[crossed] / total[crossed]
        return float((total.sum() / 2 + kinks.sum()) / cells)

    return error


def _fixed_point(error: Callable[[float], float], low: float) -> float:
    """Return the sigma in [low, 1] with error(sigma) = sigma, by false position (the Illinois variant)."""
    high = 1.0
    above, below = error(low) - low, error(high) - high
    if below >= 0:  # everything is wrong, with confidence 1
        return high
    side = 0
    for _ in range(_TURNS):
        middle = (low * below - high * above) / (below - above)
        value = error(middle) - middle
        if abs(value) <= 1e-12 or high - low <= 1e-12:
            break
        if value > 0:
            low, above = middle, value
            below /= 2 if side == 1 else 1
            side = 1
        else:
            high, below = middle, value
            above /= 2 if side == -1 else 1
            side = -1
    return middle
