"""Smooth ECE: the integral by quadrature over all samples, the fixed point, known miscalibration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from calib.metrics import confidence_gap, smooth_calibration_error
from calib.metrics.smooth import _FEWEST, _errors


def drawn(n, seed=0, shift=0.0):
    """Return confidences and outcomes whose probability is `shift` lower."""
    generator = torch.Generator().manual_seed(seed)
    confidence = 0.4 + 0.55 * torch.rand(n, generator=generator, dtype=torch.float64)
    return confidence, torch.rand(n, generator=generator, dtype=torch.float64) < confidence - shift


def by_quadrature(confidence, correct, sigma, points=4000):
    """Return smECE_sigma from N x T kernel values; images beyond the second mirror weigh nothing."""
    f, y = confidence.numpy(), correct.double().numpy()
    t = (np.arange(points) + 0.5) / points
    residual = np.zeros(points)
    for turn in range(-4, 5):
        for mirrored in (f + 2 * turn, -f + 2 * turn):
            residual += np.exp(-((t[:, None] - mirrored) ** 2) / (2 * sigma**2)) @ (y - f)
    return np.abs(residual).sum() / (points * len(f) * sigma * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("sigma", [0.016, 0.03, 0.1, 0.4, 1.0])
def test_the_grid_gives_the_integral_over_all_samples(sigma):
    confidence, correct = drawn(60)
    found = float(smooth_calibration_error(confidence, correct, bandwidth=sigma))
    assert found == pytest.approx(by_quadrature(confidence, correct, sigma), rel=2e-4)


def test_a_narrow_bandwidth_takes_a_finer_grid():
    confidence, correct = drawn(30, seed=1)
    found = float(smooth_calibration_error(confidence, correct, bandwidth=0.002))
    assert found == pytest.approx(by_quadrature(confidence, correct, 0.002, points=40_000), rel=2e-4)
    coarse = _errors(confidence.numpy(), (correct.double() - confidence).numpy(), _FEWEST)
    assert coarse(0.002) != pytest.approx(found, rel=2e-3)  # it was needed


def test_the_fixed_point_is_one_and_is_that_of_the_quadrature():
    confidence, correct = drawn(80, seed=2, shift=0.1)
    found = float(smooth_calibration_error(confidence, correct))
    again = float(smooth_calibration_error(confidence, correct, bandwidth=found))
    assert again == pytest.approx(found, abs=1e-10)
    root = brentq(lambda sigma: by_quadrature(confidence, correct, sigma) - sigma, 0.02, 1, xtol=1e-6)
    assert found == pytest.approx(root, rel=2e-4)


def test_smoothing_more_never_makes_it_larger():
    confidence, correct = drawn(100, seed=3)
    errors = [
        float(smooth_calibration_error(confidence, correct, bandwidth=s)) for s in (0.01, 0.05, 0.2, 1.0)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] >= abs(float(confidence_gap(confidence, correct))) - 1e-9


@pytest.mark.parametrize("shift", [0.05, 0.15, 0.3])
def test_a_constant_error_is_found(shift):
    assert float(smooth_calibration_error(*drawn(40_000, shift=shift))) == pytest.approx(shift, abs=0.01)


def test_a_calibrated_model_has_nearly_none_and_less_in_larger_sets():
    small, large = (float(smooth_calibration_error(*drawn(n, seed=4))) for n in (400, 40_000))
    assert large < 0.008 < small < 0.05


def test_by_hand():
    one = torch.tensor([0.75], dtype=torch.float64)
    # A single residual is smoothed, but nothing cancels it.
    assert float(smooth_calibration_error(one, torch.tensor([True]))) == pytest.approx(0.25, abs=1e-6)
    assert float(smooth_calibration_error(one, torch.tensor([False]))) == pytest.approx(0.75, abs=1e-6)
    # Two residuals of 1/2 and -1/2 at the same place cancel.
    pair = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert float(smooth_calibration_error(pair, torch.tensor([True, False]))) == pytest.approx(0, abs=1e-9)


def test_limits():
    ones = torch.ones(4)
    assert float(smooth_calibration_error(ones, torch.ones(4, dtype=torch.bool))) == 0
    assert float(smooth_calibration_error(ones, torch.zeros(4, dtype=torch.bool))) == pytest.approx(
        1, abs=1e-9
    )
    assert float(smooth_calibration_error(0 * ones, torch.zeros(4, dtype=torch.bool))) == 0
    near = torch.full((10,), 1 - 2e-6, dtype=torch.float64)  # below what the grid resolves
    assert float(smooth_calibration_error(near, near > 0)) == pytest.approx(2e-6, rel=1e-3)


def test_the_order_of_the_rows_does_not_matter():
    confidence, correct = drawn(150, seed=5)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(6))
    one = float(smooth_calibration_error(confidence, correct))
    assert float(smooth_calibration_error(confidence[order], correct[order])) == pytest.approx(one, abs=1e-12)


@pytest.mark.parametrize("bandwidth", [0, -0.1, float("nan"), float("inf"), 1e-5])
def test_impossible_bandwidths_raise(bandwidth):
    with pytest.raises(ValueError, match="bandwidth must be at least 1e-4 or 'fixed_point'"):
        smooth_calibration_error(torch.tensor([0.5]), torch.tensor([True]), bandwidth=bandwidth)
