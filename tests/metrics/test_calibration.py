"""Binned calibration errors: hand cases, edge cases, the official numbers, independent implementations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.preprocessing import KBinsDiscretizer
from torchmetrics.functional.classification import multiclass_calibration_error

from calib.metrics import (
    adaptive_calibration_error,
    classwise_calibration_error,
    confidence_gap,
    expected_calibration_error,
    maximum_calibration_error,
    mean_confidence,
    overconfidence,
    underconfidence,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}

samples = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.55, 0.7, 0.95, 1.0]), st.booleans()), min_size=1, max_size=30
)


def tensors(confidence, correct):
    return torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct, dtype=torch.bool)


def random_predictions(n=200, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    probs = (2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)).softmax(dim=1)
    labels = torch.multinomial(probs.sqrt(), 1, generator=generator).squeeze(1)
    confidence, predictions = probs.max(dim=1)
    return probs, labels, confidence, predictions == labels


def official(case):
    correct = [prediction == label for prediction, label in zip(case["pred"], case["label"], strict=True)]
    return tensors(case["conf"], correct)


def test_the_golden_file_is_the_official_one():
    assert GOLDEN["meta"]["source"] == "github.com/iabh1shekbasu/CalibPrompt c6ec13e"
    assert len(CASES) == 42


@pytest.mark.parametrize("name", CASES)
def test_official_variants_give_the_official_numbers(name):
    confidence, correct = official(CASES[name])
    functions = {
        "ece": lambda n: expected_calibration_error(confidence, correct, n_bins=n, official=True),
        "mce": lambda n: maximum_calibration_error(confidence, correct, n_bins=n, official=True),
        "ace": lambda n: adaptive_calibration_error(confidence, correct, n_bins=n, adaptive="official"),
        "ace_linear": lambda n: adaptive_calibration_error(
            confidence, correct, n_bins=n, adaptive="official_linear"
        ),
    }
    checked = 0
    for key, expected in CASES[name]["out"].items():
        metric, _, n_bins = key.partition("@")
        if metric in functions:
            assert float(functions[metric](int(n_bins))) == pytest.approx(expected, abs=1e-9), key
            checked += 1
    assert checked in (8, 18)


def test_ece_by_hand():
    confidence, correct = tensors([0.9, 0.8, 0.6, 0.55], [True, False, True, True])
    # bins [0.5, 0.75): 1.15 of 2; [0.75, 1]: 1.7 of 1
    assert float(expected_calibration_error(confidence, correct, n_bins=4)) == pytest.approx((0.85 + 0.7) / 4)
    assert float(maximum_calibration_error(confidence, correct, n_bins=4)) == pytest.approx(0.85 / 2)
    assert float(overconfidence(confidence, correct, n_bins=4)) == pytest.approx(0.7 / 4)
    assert float(underconfidence(confidence, correct, n_bins=4)) == pytest.approx(0.85 / 4)
    rmsce = expected_calibration_error(confidence, correct, n_bins=4, norm="l2")
    assert float(rmsce) == pytest.approx(np.sqrt((0.425**2 + 0.35**2) / 2))


def test_official_ece_is_blind_to_confidence_one_and_ours_is_not():
    """All wrong with confidence 1: the official ECE says 0."""
    confidence, correct = tensors([1.0] * 5, [False] * 5)
    assert float(expected_calibration_error(confidence, correct, official=True)) == 0
    assert float(expected_calibration_error(confidence, correct)) == 1
    assert CASES["K9_n60_all_one_wrong"]["out"]["ece@10"] == 0


def test_official_mce_is_weighted_and_ours_is_not():
    confidence, correct = tensors([0.95] * 9 + [0.65], [True] * 9 + [False])
    assert float(maximum_calibration_error(confidence, correct)) == pytest.approx(0.65)
    assert float(maximum_calibration_error(confidence, correct, official=True)) == pytest.approx(0.065)


@pytest.mark.parametrize(
    ("confidence", "correct", "ece", "mce"),
    [
        ([0.0, 0.0, 0.0], [False, False, False], 0.0, 0.0),
        ([0.0, 0.0], [True, True], 1.0, 1.0),
        ([1.0, 1.0, 1.0], [True, True, True], 0.0, 0.0),
        ([1.0, 0.25], [False, False], 0.625, 1.0),
        ([0.75], [True], 0.25, 0.25),
        ([0.75, 0.75, 0.75, 0.75], [True, True, True, False], 0.0, 0.0),
    ],
)
def test_edge_cases(confidence, correct, ece, mce):
    confidence, correct = tensors(confidence, correct)
    assert float(expected_calibration_error(confidence, correct)) == pytest.approx(ece, abs=1e-15)
    assert float(maximum_calibration_error(confidence, correct)) == pytest.approx(mce, abs=1e-15)
    adaptive = float(adaptive_calibration_error(confidence, correct, n_bins=1))
    assert adaptive == pytest.approx(abs(float(confidence_gap(confidence, correct))), abs=1e-15)


@given(samples, st.integers(1, 12))
def test_identities(rows, n_bins):
    confidence, correct = tensors(*zip(*rows, strict=True))
    ece = float(expected_calibration_error(confidence, correct, n_bins=n_bins))
    over = float(overconfidence(confidence, correct, n_bins=n_bins))
    under = float(underconfidence(confidence, correct, n_bins=n_bins))
    gap = float(confidence_gap(confidence, correct))
    rmsce = float(expected_calibration_error(confidence, correct, n_bins=n_bins, norm="l2"))
    assert over + under == pytest.approx(ece, abs=1e-12)
    assert over - under == pytest.approx(gap, abs=1e-12)
    assert abs(gap) - 1e-12 <= ece <= rmsce + 1e-12
    assert rmsce <= float(maximum_calibration_error(confidence, correct, n_bins=n_bins)) + 1e-12


@given(samples, st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows, n_bins, random):
    shuffled = random.sample(rows, len(rows))
    for metric in (expected_calibration_error, maximum_calibration_error, adaptive_calibration_error):
        one = metric(*tensors(*zip(*rows, strict=True)), n_bins=n_bins)
        other = metric(*tensors(*zip(*shuffled, strict=True)), n_bins=n_bins)
        assert float(one) == pytest.approx(float(other), abs=1e-12)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_agreement_with_torchmetrics(norm):
    probs, labels, confidence, correct = random_predictions()
    assert float(confidence.max()) < 1  # at exactly 1 torchmetrics opens a bin of its own
    theirs = multiclass_calibration_error(probs, labels, num_classes=4, n_bins=10, norm=norm)
    ours = expected_calibration_error(confidence, correct, norm=norm)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)


def test_largest_gap_agrees_with_scikit_learn():
    _, _, confidence, correct = random_predictions(seed=1)
    accuracy, mean = calibration_curve(correct.numpy(), confidence.numpy(), n_bins=10, strategy="uniform")
    expected = np.abs(accuracy - mean).max()
    assert float(maximum_calibration_error(confidence, correct)) == pytest.approx(expected, abs=1e-12)


def test_official_adaptive_bins_are_those_of_scikit_learn():
    pytest.importorskip("sklearn", minversion="1.7")  # the first that lets one choose the quantile
    _, _, confidence, correct = random_predictions(n=97, seed=2)
    column = confidence.numpy()[:, None]
    for variant, method in (("official", "averaged_inverted_cdf"), ("official_linear", "linear")):
        binner = KBinsDiscretizer(7, encode="ordinal", strategy="quantile", quantile_method=method)
        bins = binner.fit_transform(column)[:, 0]
        gaps = [
            (confidence - correct.double())[torch.from_numpy(bins == b)].sum().abs() for b in np.unique(bins)
        ]
        ours = adaptive_calibration_error(confidence, correct, n_bins=7, adaptive=variant)
        assert float(ours) == pytest.approx(float(sum(gaps)) / 97, abs=1e-12)


def test_adaptive_error_without_ties_is_that_of_equal_slices():
    _, _, confidence, correct = random_predictions(n=200, seed=3)
    order = confidence.argsort()
    gaps = (confidence - correct.double())[order].reshape(10, 20).sum(dim=1)
    ours = adaptive_calibration_error(confidence, correct, n_bins=10)
    assert float(ours) == pytest.approx(float(gaps.abs().sum()) / 200, abs=1e-12)


def test_classwise_error_is_the_mean_of_the_classes():
    probs, labels, _, _ = random_predictions(n=60, classes=3)
    each = [expected_calibration_error(probs[:, c], labels == c, n_bins=8) for c in range(3)]
    ours = classwise_calibration_error(probs, labels, n_bins=8)
    assert float(ours) == pytest.approx(float(sum(each)) / 3, abs=1e-12)


def test_classwise_error_counts_an_absent_class():
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    labels = torch.tensor([0, 1])  # frequencies 1/2, 1/2, 0
    assert float(classwise_calibration_error(probs, labels)) == pytest.approx((0 + 0.25 + 0.25) / 3)


def test_means_by_hand():
    confidence, correct = tensors([0.5, 0.75, 1.0], [True, False, False])
    assert float(mean_confidence(confidence)) == 0.75
    assert float(confidence_gap(confidence, correct)) == pytest.approx(0.75 - 1 / 3)


def test_sums_are_kept_in_float64():
    confidence = torch.full((300_000,), 0.7, dtype=torch.float32)
    correct = torch.ones(300_000, dtype=torch.bool)
    expected = 1 - float(torch.tensor(0.7))
    assert float(expected_calibration_error(confidence, correct)) == pytest.approx(expected, abs=1e-12)


def test_unusable_inputs_raise():
    confidence, correct = tensors([0.5, 0.75], [True, False])
    with pytest.raises(ValueError, match="must lie in"):
        expected_calibration_error(10 * confidence, correct)
    with pytest.raises(ValueError, match="without NaN"):
        expected_calibration_error(torch.tensor([0.5, float("nan")]), correct)
    with pytest.raises(ValueError, match="correct must be bool"):
        expected_calibration_error(confidence, correct.long())
    with pytest.raises(ValueError, match="as many values"):
        expected_calibration_error(confidence, correct[:1])
    with pytest.raises(ValueError, match="no sample"):
        expected_calibration_error(confidence[:0], correct[:0])
    with pytest.raises(ValueError, match="Did you mean 'max'"):
        expected_calibration_error(confidence, correct, norm="maxx")
    with pytest.raises(ValueError, match="official variant"):
        expected_calibration_error(confidence, correct, norm="l2", official=True)
    with pytest.raises(ValueError, match="Did you mean 'official_linear'"):
        adaptive_calibration_error(confidence, correct, adaptive="official_lin")
    with pytest.raises(ValueError, match="Logits need a softmax"):
        classwise_calibration_error(torch.tensor([[3.0, -1.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="sum to 1"):
        classwise_calibration_error(torch.tensor([[0.5, 0.25]]), torch.tensor([0]))
