"""KDE-ECE: the fast sums against the N x N formula, the official numbers, and points without neighbours."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from calib.metrics import kde_calibration_error, official_bandwidth, smoothed_accuracy

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())


def dense(confidence, correct, bandwidth):
    """Return the smoothed accuracy from all N x N kernel values."""
    exponents = -((confidence[:, None] - confidence) ** 2) / (2 * bandwidth**2)
    exponents.fill_diagonal_(-math.inf)
    return exponents.softmax(dim=1) @ correct.double()


def confidences(kind, n=700):
    generator = torch.Generator().manual_seed(3)
    ones = torch.ones(n, dtype=torch.float64)
    return {
        "uniform": torch.rand(n, generator=generator, dtype=torch.float64),
        "saturated": 1 - torch.rand(n, generator=generator, dtype=torch.float64).pow(8),
        "all equal": 0.73 * ones,
        "two ends": torch.cat([0 * ones, ones]),
        "isolated points": torch.cat([ones, torch.tensor([0.0, 0.31, 0.55], dtype=torch.float64)]),
        "ever sparser": 1 - torch.logspace(-8, 0, n, dtype=torch.float64),
        "two samples": torch.tensor([0.2, 0.9], dtype=torch.float64),
        "two ties": torch.tensor([0.4, 0.4], dtype=torch.float64),
    }[kind]


@pytest.mark.parametrize("bandwidth", [0.3, 0.1, 0.05, 0.02])
@pytest.mark.parametrize(
    "kind",
    [
        "uniform",
        "saturated",
        "all equal",
        "two ends",
        "isolated points",
        "ever sparser",
        "two samples",
        "two ties",
    ],
)
def test_fast_sums_equal_the_dense_formula(kind, bandwidth):
    confidence = confidences(kind)
    correct = torch.rand(len(confidence), generator=torch.Generator().manual_seed(4)) < 0.6
    fast = smoothed_accuracy(confidence, correct, bandwidth=bandwidth)
    exact = dense(confidence, correct, bandwidth)
    torch.testing.assert_close(fast, exact, rtol=0, atol=1e-8)
    error = kde_calibration_error(confidence, correct, bandwidth=bandwidth)
    assert float(error) == pytest.approx(float((confidence - exact).abs().mean()), abs=1e-11)


def test_the_fast_path_was_taken():
    """Of 700 points some are interpolated: the two paths differ in the last digits and nowhere else."""
    confidence = confidences("uniform")
    correct = confidence > 0.5
    fast, exact = smoothed_accuracy(confidence, correct, bandwidth=0.1), dense(confidence, correct, 0.1)
    assert 0 < float((fast - exact).abs().max()) < 1e-12


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_official_variant_gives_the_official_numbers(case):
    confidence = torch.tensor(case["conf"], dtype=torch.float64)
    correct = torch.tensor([p == y for p, y in zip(case["pred"], case["label"], strict=True)])
    settings = {"kde": {}, "kde_p2": {"p": 2}, "kde_bw0.1": {"bandwidth": 0.1}}
    for key, setting in settings.items():
        ours = kde_calibration_error(confidence, correct, official=True, **setting)
        assert float(ours) == pytest.approx(case["out"][key], abs=GOLDEN["tolerance"]["kde"]), key


def test_by_hand():
    confidence = torch.tensor([0.9, 0.9, 0.6], dtype=torch.float64)
    correct = torch.tensor([True, True, False])
    near = 1 / (1 + math.exp(-4.5))  # the two samples at 0.9 see each other and, faintly, the wrong one
    expected = (2 * abs(0.9 - near) + abs(0.6 - 1)) / 3
    assert float(kde_calibration_error(confidence, correct, bandwidth=0.1)) == pytest.approx(
        expected, abs=1e-12
    )


def test_an_isolated_sample_takes_its_nearest_neighbours_where_the_official_code_takes_accuracy_zero():
    confidence = torch.tensor([0.2, 0.99, 0.99], dtype=torch.float64)
    correct = torch.tensor([False, True, True])
    assert smoothed_accuracy(confidence, correct, bandwidth=0.05)[0] == 1
    ours = kde_calibration_error(confidence, correct, bandwidth=0.05)
    theirs = kde_calibration_error(confidence, correct, bandwidth=0.05, official=True)
    assert float(ours) == pytest.approx((0.8 + 2 * 0.01) / 3)
    assert float(theirs) == pytest.approx((0.2 + 2 * 0.01) / 3)


def test_one_sample_is_undefined_and_officially_its_own_confidence():
    confidence, correct = torch.tensor([0.75]), torch.tensor([True])
    assert math.isnan(float(kde_calibration_error(confidence, correct)))
    assert float(kde_calibration_error(confidence, correct, official=True)) == 0.75


def test_all_right_and_all_wrong():
    confidence = confidences("uniform")
    right = torch.ones(len(confidence), dtype=torch.bool)
    assert float(kde_calibration_error(confidence, right)) == pytest.approx(float(1 - confidence.mean()))
    assert float(kde_calibration_error(confidence, ~right)) == pytest.approx(float(confidence.mean()))


def test_the_order_of_the_rows_does_not_matter():
    confidence = confidences("saturated").round(decimals=2)
    correct = torch.rand(len(confidence), generator=torch.Generator().manual_seed(5)) < confidence
    order = torch.randperm(len(confidence), generator=torch.Generator().manual_seed(6))
    one = kde_calibration_error(confidence, correct)
    other = kde_calibration_error(confidence[order], correct[order])
    assert float(one) == pytest.approx(float(other), abs=1e-12)


def test_bandwidth_follows_the_official_steps():
    assert [official_bandwidth(n) for n in (99, 100, 499, 500, 1999, 2000)] == [0.3, 0.2, 0.2, 0.1, 0.1, 0.05]


def test_memory_is_linear():
    """Forty thousand samples would need 12.8 GB as a matrix of float64."""
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    confidence = torch.rand(40_000, generator=torch.Generator().manual_seed(0))
    correct = torch.rand(40_000, generator=torch.Generator().manual_seed(1)) < confidence
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    error = kde_calibration_error(confidence, correct)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < 300e6
    assert 0 < float(error) < 0.03  # calibrated by construction: what is left is noise


@pytest.mark.parametrize("bandwidth", [0, -0.1, float("nan"), float("inf"), 1e-9])
def test_impossible_bandwidths_raise(bandwidth):
    with pytest.raises(ValueError, match="bandwidth"):
        kde_calibration_error(torch.tensor([0.5, 0.5]), torch.tensor([True, False]), bandwidth=bandwidth)


@pytest.mark.parametrize("power", [0, -1.0, math.nan])
def test_a_power_that_is_not_above_0_is_refused(power):
    with pytest.raises(ValueError, match="p must be positive"):
        kde_calibration_error(torch.tensor([0.5, 0.5]), torch.tensor([True, False]), p=power)
