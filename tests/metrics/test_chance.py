"""What chance does to a calibrated model's bins: enumeration, the binomial, and draws as oracles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from calib.metrics import consistency_band, expected_calibration_error, null_ece, null_ece_quantile
from calib.metrics.chance import _EXACT, _Chance, _edgeworth, _exact


def confidences(n=545, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + 0.7 * torch.rand(n, generator=generator, dtype=torch.float64).sqrt()


def every_outcome(confidence, n_bins):
    """Return the ECE of each of the 2^N outcomes and its probability."""
    eces, shares = [], []
    for outcome in itertools.product([False, True], repeat=len(confidence)):
        correct = torch.tensor(outcome)
        eces.append(float(expected_calibration_error(confidence, correct, n_bins=n_bins)))
        shares.append(float(torch.where(correct, confidence, 1 - confidence).prod()))
    return np.array(eces), np.array(shares)


def test_mean_and_quantile_are_those_of_all_outcomes():
    confidence = torch.tensor([0.12, 0.35, 0.4, 0.72, 0.77, 0.9, 0.97, 1.0], dtype=torch.float64)
    eces, shares = every_outcome(confidence, 4)
    assert float(null_ece(confidence, n_bins=4)) == pytest.approx(eces @ shares, abs=1e-12)
    order = eces.argsort()
    exact = eces[order][np.searchsorted(shares[order].cumsum(), 0.9)]
    found = float(null_ece_quantile(confidence, n_bins=4, level=0.9))
    assert found == pytest.approx(exact, abs=2e-3)


def test_the_mean_is_that_of_drawn_labels():
    confidence = confidences()
    drawn = (
        torch.rand(1000, 545, generator=torch.Generator().manual_seed(1), dtype=torch.float64) < confidence
    )
    eces = torch.stack([expected_calibration_error(confidence, correct) for correct in drawn])
    assert float(null_ece(confidence)) == pytest.approx(
        float(eces.mean()), abs=4 * float(eces.std()) / 1000**0.5
    )
    quantile = float(null_ece_quantile(confidence))
    assert float((eces <= quantile).double().mean()) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("chance", [0.5, 0.9, 0.97])
def test_the_approximation_takes_over_without_a_step(chance):
    """Just above the largest variance that is computed exactly, by both ways and against the binomial."""
    n = math.ceil(_EXACT / (chance * (1 - chance))) + 1
    p = np.full(n, chance)
    counts = np.arange(n + 1)
    truth = binom.pmf(counts, n, chance)
    assert _exact(p, 0, n + 1) == pytest.approx(truth, abs=1e-14)
    rough = _Chance(p)
    assert rough.shares[0] != truth[rough.lowest]  # it is the approximation
    mean_distance = np.abs(counts - n * chance) @ truth
    near = np.abs(rough.lowest + np.arange(len(rough.shares)) - n * chance) @ rough.shares
    assert near == pytest.approx(mean_distance, rel=1e-4)
    assert _edgeworth(np.zeros(1), 0.0, 0.0) == [1.0]


def test_limits():
    ones = torch.ones(5)
    assert float(null_ece(ones)) == float(null_ece_quantile(ones)) == 0  # certain, and right in any case
    assert float(null_ece(torch.zeros(3))) == 0
    assert float(null_ece(torch.tensor([0.75]))) == pytest.approx(2 * 0.75 * 0.25)
    large = torch.full((100_000,), 0.7, dtype=torch.float64)  # sqrt(2 p q / (pi n))
    assert float(null_ece(large)) == pytest.approx((2 * 0.21 / math.pi / 1e5) ** 0.5, rel=1e-4)
    assert float(null_ece(large.float())) == pytest.approx(float(null_ece(large)), rel=1e-4)


def test_a_few_certain_errors_among_many_are_poisson():
    """A saturated model: 20,000 predictions of which two should be wrong."""
    confidence = torch.full((20_000,), 1 - 1e-4, dtype=torch.float64)
    low, high = consistency_band(confidence)
    wrong = binom(20_000, 1e-4)
    assert float(low[-1]) == pytest.approx(1 - wrong.ppf(0.975) / 20_000, abs=1e-12)
    assert float(high[-1]) == pytest.approx(1 - wrong.ppf(0.025) / 20_000, abs=1e-12)
    mean = np.abs(np.arange(40) - 2) @ wrong.pmf(np.arange(40)) / 20_000
    assert float(null_ece(confidence)) == pytest.approx(mean, rel=1e-9)


def test_bands_are_binomial_quantiles_and_empty_bins_have_none():
    confidence = torch.cat([torch.full((30,), 0.55), torch.full((200,), 0.95)]).double()
    low, high = consistency_band(confidence, n_bins=10, level=0.9)
    for b, n, p in ((5, 30, 0.55), (9, 200, 0.95)):
        p = float(torch.tensor(p).double())  # as it was rounded to float32
        assert float(low[b]) == pytest.approx(binom.ppf(0.05, n, p) / n)
        assert float(high[b]) == pytest.approx(binom.ppf(0.95, n, p) / n)
    assert low.isnan().tolist() == high.isnan().tolist() == [b not in (5, 9) for b in range(10)]


def test_the_order_of_the_rows_does_not_matter():
    confidence = confidences(200)
    turned = confidence[torch.randperm(200, generator=torch.Generator().manual_seed(2))]
    assert float(null_ece(turned)) == pytest.approx(float(null_ece(confidence)), abs=1e-14)


def test_unusable_inputs_raise():
    with pytest.raises(ValueError, match="must lie in"):
        null_ece(torch.tensor([2.0]))
    with pytest.raises(ValueError, match="n_bins"):
        null_ece(torch.tensor([0.5]), n_bins=0)
    for function in (null_ece_quantile, consistency_band):
        with pytest.raises(ValueError, match="level must lie between 0 and 1, got 95"):
            function(torch.tensor([0.5]), level=95)
