"""Scores from logits: released values, exact orders where probabilities saturate, fits, dispatch by name."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from calib.metrics.failure import auroc
from calib.scores import (
    FITS,
    SCORES,
    doctor,
    energy,
    entropy,
    fit_logistic,
    fit_rel_u,
    fit_score,
    fit_temperature,
    logistic,
    logit_margin,
    logits_from_probs,
    margin,
    mcp,
    rel_u,
    score,
    temperature_mcp,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "failure_scores.json").read_text())
OF_PROBS = {"mcp", "entropy", "margin", "logit_margin", "doctor", "temperature_mcp", "rel_u", "logistic"}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def predictions(n=150, classes=3, seed=0, scale=2.0):
    """Return logits and labels drawn from their softmax."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def settings_of(name, classes=3):
    logits, labels = predictions(classes=classes, seed=7)
    return fit_score(name, logits=logits, labels=labels)


def by_name(name, logits):
    return score(name, settings_of(name, logits.shape[1]), logits=logits)


def test_vilu_scores():
    case = GOLDEN["vilu_scores"]
    probs = double(case["probs"])
    logits = logits_from_probs(probs / probs.sum(dim=1, keepdim=True))  # they are rounded to float32
    torch.testing.assert_close(1 - mcp(logits).sigmoid(), double(case["mcp"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(-doctor(logits), double(case["doctor"]), rtol=0, atol=1e-6)
    # The release adds 1e-6 to every probability inside the logarithm and to C.
    exact = -entropy(logits) / math.log(5)
    torch.testing.assert_close(exact, double(case["neg_entropy_normalised"]), rtol=0, atol=5e-6)
    official = (probs * (probs + 1e-6).log()).sum(1) / math.log(5 + 1e-6)
    torch.testing.assert_close(official, double(case["neg_entropy_normalised"]), rtol=0, atol=1e-6)
    plain = GOLDEN["vilu_softmax_entropy"]
    torch.testing.assert_close(entropy(double(plain["logits"])), double(plain["value"]), rtol=0, atol=1e-6)


def test_rel_u_release():
    case = GOLDEN["rel_u"]
    fitted = fit_rel_u(double(case["train_logits"]), torch.tensor(case["train_labels"]))
    torch.testing.assert_close(fitted["matrix"], double(case["D"]), rtol=0, atol=1e-6)
    scores = rel_u(double(case["test_logits"]), **fitted)
    torch.testing.assert_close(scores, double(case["scores"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_plain_formulas(classes):
    logits, _ = predictions(classes=classes)
    probs = logits.softmax(1)
    top = probs.sort(dim=1, descending=True).values
    expected = {
        "mcp": ((1 - top[:, 0]) / top[:, 0]).log(),
        "entropy": -(probs * probs.log()).sum(1),
        "margin": (1 - top[:, 0] + top[:, 1]).log(),
        "logit_margin": (top[:, 1] / top[:, 0]).log(),
        "energy": -logits.logsumexp(1),
        "doctor": 1 / probs.square().sum(1) - 1,
    }
    for name, values in expected.items():
        torch.testing.assert_close(score(name, logits=logits), values, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(energy(logits, temperature=3.0), -3 * (logits / 3).logsumexp(1))
    torch.testing.assert_close(temperature_mcp(logits, temperature=3.0), mcp(logits / 3))


def test_uniform_and_one_hot_limits():
    uniform, sure = torch.zeros(1, 4), torch.tensor([[300.0, 0.0, 0.0, 0.0]])
    assert mcp(uniform).item() == pytest.approx(math.log(3))
    assert entropy(uniform).item() == pytest.approx(math.log(4))
    assert (margin(uniform).item(), logit_margin(uniform).item()) == (pytest.approx(0), 0)
    assert doctor(uniform).item() == pytest.approx(3)
    assert mcp(sure).item() == pytest.approx(math.log(3) - 300)
    assert margin(sure).item() == pytest.approx(math.log(4) - 300)
    assert 0 < doctor(sure).item() < 1e-129
    assert entropy(sure).item() == pytest.approx(3 * math.exp(-300) * 301, rel=1e-12, abs=0)


@pytest.mark.parametrize("name", SCORES)
def test_large_logits_do_not_become_ties(name):
    second = torch.linspace(0.0, 200.0, 401)  # the nearer the second class, the less certain
    logits = torch.stack([torch.full_like(second, 220.0), second, torch.zeros_like(second)], dim=1)
    assert (logits.softmax(1).max(1).values == 1).sum() > 300
    if name == "energy":
        assert (energy(logits, temperature=100.0).diff() < 0).all()  # a larger sum: less energy
        return
    given = {"matrix": torch.ones(3, 3).fill_diagonal_(0)} if name == "rel_u" else settings_of(name)
    if name == "logistic":
        given["coefficients"] = (1.0, 0.0, 0.0)
    assert (score(name, given, logits=logits).diff() > 0).all()


@pytest.mark.parametrize("name", SCORES)
def test_shift_and_class_order_change_nothing(name):
    logits, _ = predictions(40)
    values = by_name(name, logits)
    assert values.shape == (40,)
    assert values.dtype == torch.float64
    torch.testing.assert_close(by_name(name, logits[:7]), values[:7])
    shifted = by_name(name, logits + torch.arange(40.0)[:, None])
    assert torch.allclose(shifted, values) == (name in OF_PROBS)
    if name != "rel_u":
        torch.testing.assert_close(by_name(name, logits[:, [2, 0, 1]]), values)


@pytest.mark.parametrize("name", sorted(OF_PROBS))
def test_log_probabilities_are_logits(name):
    logits, _ = predictions(40)
    given = settings_of(name)
    from_probs = score(name, given, logits=logits_from_probs(logits.softmax(1)))
    torch.testing.assert_close(from_probs, score(name, given, logits=logits))


def test_a_probability_of_zero_keeps_its_place():
    logits = logits_from_probs(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert logits.isfinite().all()
    assert mcp(logits)[0] < -700


def test_temperature_is_the_minimum_of_the_nll():
    logits, labels = predictions(400)
    temperature = fit_temperature(4 * logits, labels)["temperature"]
    assert temperature == pytest.approx(4, rel=0.15)  # they were drawn at 1

    def nll(value):
        return torch.nn.functional.cross_entropy(4 * logits / value, labels).item()

    assert nll(temperature) < min(nll(1.001 * temperature), nll(0.999 * temperature))
    assert fit_temperature(logits / 1e4, labels)["temperature"] == pytest.approx(temperature / 4e4)
    assert fit_temperature(logits + 1e3, labels)["temperature"] == pytest.approx(temperature / 4)


def test_temperature_without_a_minimum_raises():
    with pytest.raises(ValueError, match="Every validation prediction is right"):
        fit_temperature(torch.eye(3), torch.arange(3))
    with pytest.raises(ValueError, match="best temperature is infinite"):
        fit_temperature(torch.eye(3), torch.tensor([1, 2, 0]))
    with pytest.raises(ValueError, match="best temperature is infinite"):
        fit_temperature(torch.full((2, 3), 7.0), torch.tensor([2, 0]))


def test_rel_u_counts_the_last_of_an_odd_number_of_classes():
    logits, labels = predictions(80, classes=3)
    matrix = fit_rel_u(logits, labels)["matrix"]
    assert matrix.shape == (3, 3)
    assert matrix.norm().item() == pytest.approx(1)
    assert torch.equal(matrix, matrix.T)
    assert matrix[2].max() > 0


def test_rel_u_falls_back_to_gini():
    logits, labels = predictions(80)
    matrix = fit_rel_u(logits, labels, weight=0.0)["matrix"]
    torch.testing.assert_close(matrix, torch.ones(3, 3).double().fill_diagonal_(0) / 6**0.5)
    gini = 1 - logits.softmax(1).square().sum(1)
    torch.testing.assert_close(rel_u(logits, matrix=matrix), gini / 6**0.5)


def test_logistic_is_the_model_of_scikit_learn():
    logits, labels = predictions(300)
    wrong = logits.argmax(1) != labels
    features = torch.stack([mcp(logits), margin(logits), entropy(logits)], dim=1)
    standard = (features - features.mean(0)) / features.std(0, correction=0)
    model = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(standard.numpy(), wrong.numpy())
    ours = logistic(logits, **fit_logistic(logits, labels, strength=2.0))
    torch.testing.assert_close(ours, torch.from_numpy(model.decision_function(standard.numpy())))
    assert float(auroc(ours, wrong)) > 0.6


def test_fits_go_through_json():
    logits, labels = predictions(100)
    for name in ("temperature_mcp", "logistic"):
        fitted = fit_score(name, logits=logits, labels=labels)
        again = json.loads(json.dumps(fitted))
        assert torch.equal(score(name, again, logits=logits), score(name, fitted, logits=logits))


@pytest.mark.parametrize("name", ["rel_u", "logistic"])
def test_fits_need_right_and_wrong_predictions(name):
    logits = torch.eye(3)
    with pytest.raises(ValueError, match="All 3 validation predictions are right"):
        fit_score(name, logits=logits, labels=torch.arange(3))
    with pytest.raises(ValueError, match="All 3 validation predictions are wrong"):
        fit_score(name, logits=logits, labels=torch.tensor([1, 2, 0]))


@pytest.mark.parametrize("name", FITS)
def test_unfitted_raises(name):
    with pytest.raises(ValueError, match=rf"Score '{name}' is not fitted"):
        score(name, logits=torch.eye(3))


def test_dispatch_errors():
    logits = torch.eye(3)
    with pytest.raises(ValueError, match="Did you mean 'entropy'"):
        score("entropi", logits=logits)
    with pytest.raises(ValueError, match="Did you mean 'entropy'"):
        fit_score("entropi", logits=logits)
    with pytest.raises(ValueError, match="Did you mean 'temperature'"):
        score("energy", {"temprature": 2.0}, logits=logits)
    with pytest.raises(ValueError, match="needs logits; given: probs"):
        score("mcp", probs=logits)
    with pytest.raises(ValueError, match="needs labels"):
        fit_score("rel_u", logits=logits)


@pytest.mark.parametrize("name", SCORES)
def test_bad_logits(name):
    given = settings_of(name)
    for logits, message in [
        (torch.tensor([[math.nan, 0.0, 0.0]]), "finite"),
        (torch.zeros(3), r"\(N, C\)"),
        (torch.zeros(0, 3), "empty"),
        (torch.zeros(4, 1), "at least 2 classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            score(name, given, logits=logits)


def test_bad_settings():
    logits, labels = predictions(20)
    with pytest.raises(ValueError, match="finite number above 0, got 0"):
        energy(logits, temperature=0)
    with pytest.raises(ValueError, match=r"matrix must be \(3, 3\)"):
        rel_u(logits, matrix=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="3 numbers each"):
        logistic(logits, coefficients=(1.0,), centre=(0.0,) * 3, intercept=0.0)
    with pytest.raises(ValueError, match="weight must lie"):
        fit_rel_u(logits, labels, weight=2.0)
    with pytest.raises(ValueError, match="strength must be above 0"):
        fit_logistic(logits, labels, strength=0.0)
    with pytest.raises(ValueError, match="below the number of classes"):
        fit_temperature(logits, labels + 3)
