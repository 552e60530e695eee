"""Slope, intercept and gain of recalibration: known miscalibration, scikit-learn, what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from calib.metrics import (
    brier_score,
    calibration_intercept,
    calibration_slope,
    negative_log_likelihood,
    recalibration_gain,
    summarize_calibration,
)
from calib.metrics.newton import SoftmaxFit, left_out_fits, minimum, penalised
from calib.metrics.recalibration import intercept_of, recalibration_gains, slope_of


def drawn(n=2000, classes=3, seed=0):
    """Return calibrated logits and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]


def top(logits, labels):
    confidence, predictions = logits.softmax(dim=1).max(dim=1)
    return confidence, predictions == labels


def test_slope_is_that_of_scikit_learn():
    confidence, correct = top(*drawn(300))
    x = confidence.logit().numpy()[:, None]
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, correct.numpy())
    assert float(calibration_slope(confidence, correct)) == pytest.approx(float(fit.coef_[0, 0]), rel=1e-5)


def test_by_hand():
    confidence = torch.tensor([0.9] * 10 + [0.6] * 10, dtype=torch.float64)
    correct = torch.tensor([True] * 8 + [False] * 2 + [True] * 5 + [False] * 5)

    def logit(p):
        return math.log(p / (1 - p))

    slope = (logit(0.8) - logit(0.5)) / (logit(0.9) - logit(0.6))  # two points, a line through both
    assert float(calibration_slope(confidence, correct)) == pytest.approx(slope, abs=1e-9)
    a = float(calibration_intercept(confidence, correct))
    expected = sum(10 / (1 + math.exp(-a - logit(p))) for p in (0.9, 0.6))
    assert expected == pytest.approx(13, abs=1e-9)  # as many right ones as there are


def test_a_known_distortion_is_found():
    logits, labels = drawn(20_000, classes=2)  # of two classes the log-odds of the top label are the gap
    for factor in (0.5, 1.0, 2.0):
        slope = float(calibration_slope(*top(factor * logits, labels)))
        assert slope == pytest.approx(1 / factor, rel=0.05)
    confidence, correct = top(logits, labels)
    assert float(calibration_intercept(confidence, correct)) == pytest.approx(0, abs=0.05)
    low = (confidence.logit() - 0.7).sigmoid()
    assert float(calibration_intercept(low, correct)) == pytest.approx(0.7, abs=0.05)
    assert float(calibration_slope(low, correct)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("confidence", "correct", "slope", "intercept"),
    [
        ([0.9, 0.8], [True, True], "every prediction is right", "every prediction is right"),
        ([0.9, 0.8], [False, False], "every prediction is wrong", "every prediction is wrong"),
        ([0.8, 0.8], [True, False], "all confidences are equal", None),
        ([0.9, 0.8, 0.7], [True, True, False], "confidence separates right from wrong predictions", None),
        ([0.9, 0.8, 0.8], [False, True, False], "confidence separates right from wrong predictions", None),
        ([1.0, 0.8, 0.7, 0.6], [False, True, False, True], *["a prediction with confidence 1 is wrong"] * 2),
        ([0.0, 0.8, 0.7, 0.6], [True, True, False, True], *["a prediction with confidence 0 is wrong"] * 2),
        ([1.0, 1.0], [True, True], *["every confidence is 0 or 1"] * 2),
        ([0.9], [True], "every prediction is right", "every prediction is right"),
    ],
)
def test_what_is_undefined_is_nan_with_its_reason(confidence, correct, slope, intercept):
    confidence, correct = torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct)
    log_odds = confidence.logit().numpy()
    for function, of, reason in (
        (calibration_slope, slope_of, slope),
        (calibration_intercept, intercept_of, intercept),
    ):
        value, said = of(log_odds, correct.numpy())
        assert said == reason
        assert math.isnan(value) == (reason is not None)
        assert float(function(confidence, correct)) == pytest.approx(value, nan_ok=True)


def test_certain_and_right_changes_nothing():
    """The limit of ever higher confidences, not a logit clipped somewhere."""
    confidence, correct = top(*drawn(100))
    more = torch.cat([confidence, torch.ones(5, dtype=torch.float64)])
    right = torch.cat([correct, torch.ones(5, dtype=torch.bool)])
    for function in (calibration_slope, calibration_intercept):
        assert float(function(more, right)) == pytest.approx(float(function(confidence, correct)), abs=1e-9)
    log_odds = np.append(confidence.logit().numpy(), [1e4] * 5)  # as near to it as one likes
    assert slope_of(log_odds, right.numpy())[0] == pytest.approx(
        float(calibration_slope(more, right)), abs=1e-6
    )


def test_the_fit_is_the_minimum():
    logits, labels = drawn(80, classes=4)
    z = (2 * logits).log_softmax(dim=1).numpy()
    of = penalised([SoftmaxFit(z, labels.numpy())], np.array([1.0, 0, 0, 0, 0]))
    found = minimum(of, np.array([1.0, 0, 0, 0, 0]))
    theirs = minimize(lambda x: of(x)[:2], np.array([1.0, 0, 0, 0, 0]), jac=True, options={"gtol": 1e-9})
    assert found == pytest.approx(theirs.x, abs=1e-6)
    value, gradient, hessian = of(found + 0.3)
    steps = 1e-5 * np.eye(5)
    slopes = [(of(found + 0.3 + s)[0] - of(found + 0.3 - s)[0]) / 2e-5 for s in steps]
    curves = [(of(found + 0.3 + s)[1] - of(found + 0.3 - s)[1]) / 2e-5 for s in steps]
    assert value > of(found)[0]
    assert gradient == pytest.approx(np.array(slopes), abs=1e-5)
    assert hessian == pytest.approx(np.array(curves), abs=1e-5)


def test_the_fit_without_a_part_is_that_to_the_others_from_scratch():
    logits, labels = drawn(500, classes=4, seed=2)
    z, y = (3 * logits).log_softmax(dim=1).numpy(), labels.numpy()
    neutral = np.array([1.0, 0, 0, 0, 0])
    sizes = (np.arange(500) % 7).clip(max=4)  # parts of unequal size
    found = left_out_fits([SoftmaxFit(z[sizes == k], y[sizes == k]) for k in range(5)])
    for k, fit in enumerate(found):
        alone = minimum(penalised([SoftmaxFit(z[sizes != k], y[sizes != k])], neutral), neutral)
        assert fit == pytest.approx(alone, abs=1e-9)


@pytest.mark.parametrize("point", [[400.0, 500, -500], [-3.0, 1, 2], [1.0, 0.5, -0.5]])
def test_no_point_is_too_far_away_for_the_likelihood(point):
    z = torch.tensor([[3.0, -900], [0, 1], [-2, 2]]).double().log_softmax(dim=1)
    labels = torch.tensor([1, 0, 1])
    at = torch.tensor(point).double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(at[0] * z + at[1:], labels, reduction="sum")
    loss.backward()
    value, gradient, hessian = SoftmaxFit(z.numpy(), labels.numpy())(np.array(point))
    assert value == pytest.approx(loss.item(), rel=1e-12)
    assert gradient == pytest.approx(at.grad.numpy(), rel=1e-9, abs=1e-9)
    assert np.isfinite(hessian).all()


@pytest.mark.parametrize("score", ["nll", "brier"])
def test_the_gain_of_a_known_temperature_is_found_from_below(score):
    logits, labels = drawn(4000)
    measure = negative_log_likelihood if score == "nll" else (lambda z, y: brier_score(z.softmax(dim=1), y))
    truth = float(
        measure(3 * logits, labels) - measure(logits, labels)
    )  # the excess over the calibrated model
    found = float(recalibration_gain(3 * logits, labels, score=score))
    assert truth - 0.01 < found < truth + 0.002


def test_a_bias_is_found_and_a_calibrated_model_has_nothing_to_gain():
    logits, labels = drawn(4000)
    shifted = logits + torch.tensor([0.0, 1.0, -1.0])
    truth = float(negative_log_likelihood(shifted, labels) - negative_log_likelihood(logits, labels))
    assert float(recalibration_gain(shifted, labels)) == pytest.approx(truth, abs=0.01)
    gains = [float(recalibration_gain(*drawn(200, seed=seed))) for seed in range(20)]
    assert min(gains) > -0.03
    assert sum(gains) / 20 == pytest.approx(0, abs=0.01)
    assert sum(gains) < 0  # it costs what it learns of noise: a lower bound


def test_the_gain_does_not_depend_on_the_order_of_rows_or_on_a_shift_of_logits():
    logits, labels = drawn(60)
    logits = logits.round(decimals=0)  # with many ties
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    one = float(recalibration_gain(logits, labels))
    assert float(recalibration_gain(logits[order], labels[order])) == pytest.approx(one, abs=1e-12)
    assert float(recalibration_gain(logits + 7, labels)) == pytest.approx(one, abs=1e-9)


def test_separable_and_tiny_sets_stay_finite():
    labels = torch.arange(12) % 3
    perfect = recalibration_gains((50 * torch.eye(3).double()[labels]).log_softmax(dim=1), labels)
    assert perfect["nll"] == pytest.approx(0, abs=1e-9)
    hopeless = recalibration_gains((50 * torch.eye(3).double()[labels.roll(1)]).log_softmax(dim=1), labels)
    assert 40 < hopeless["nll"] < 50
    absent = recalibration_gain(torch.zeros(6, 3), torch.tensor([0, 0, 0, 1, 0, 0]))
    assert math.isfinite(float(absent))
    assert math.isnan(float(recalibration_gain(torch.zeros(4, 3), torch.tensor([0, 0, 0, 1]))))


def test_unusable_inputs_raise():
    logits, labels = drawn(10)
    with pytest.raises(ValueError, match="Did you mean 'brier'"):
        recalibration_gain(logits, labels, score="briar")
    with pytest.raises(ValueError, match="n_folds must be a whole number of at least 2"):
        recalibration_gain(logits, labels, n_folds=1)


def test_details_are_those_of_the_functions_and_say_what_is_undefined():
    from calib.metrics import classwise_corp_decomposition, corp_decomposition, null_ece_quantile

    logits, labels = drawn(200)
    details = summarize_calibration(logits, labels, n_bins=7)
    confidence, correct = top(logits, labels)
    expected = {
        "null_ece_95": null_ece_quantile(confidence, n_bins=7),
        "slope": calibration_slope(confidence, correct),
        "intercept": calibration_intercept(confidence, correct),
    }
    for score in ("nll", "brier"):
        expected[f"{score}_gain"] = recalibration_gain(logits, labels, score=score)
    for score in ("brier", "log"):
        of_top = corp_decomposition(confidence, correct, score=score)
        of_all = classwise_corp_decomposition(logits.softmax(dim=1), labels, score=score)
        for part in ("mcb", "dsc", "unc"):
            expected[f"top_{score}_{part}"], expected[f"{score}_{part}"] = (
                getattr(of_top, part),
                getattr(of_all, part),
            )
    assert details.pop("undefined") == {}
    assert details == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-9)

    few = summarize_calibration(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0]))
    assert few["undefined"] == {
        "slope": "every prediction is right",
        "intercept": "every prediction is right",
        "nll_gain": "there are fewer samples than folds",
        "brier_gain": "there are fewer samples than folds",
    }
    assert all(math.isnan(few[name]) for name in few["undefined"])
    assert all(
        math.isfinite(value) for name, value in few.items() if name not in [*few["undefined"], "undefined"]
    )


def test_saturated_logits_have_a_slope_where_doubles_have_none():
    logits = torch.tensor([[60.0, 0.0], [50.0, 0.0], [45.0, 0.0], [40.0, 0.0]])
    labels = torch.tensor([0, 1, 0, 1])
    assert math.isnan(float(calibration_slope(*top(logits.double(), labels))))
    assert 0 < summarize_calibration(logits, labels)["slope"] < 1
