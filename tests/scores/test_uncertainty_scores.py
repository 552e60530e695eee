"""Scores from logits: released values, exact orders where probabilities saturate, fits. The table of all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import normalize

from calib.core.byname import tensors
from calib.metrics.failure import auroc
from calib.scores import (
    SCORES,
    LogisticScore,
    RelativeUncertainty,
    TemperatureMCP,
    doctor,
    energy,
    entropy,
    fit,
    fit_temperature,
    log_odds,
    logit_margin,
    logits_from_probs,
    margin,
    mcp,
    needs_same_classes,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "failure_scores.json").read_text())
FITTED = [name for name, row in SCORES.items() if isinstance(row, type)]
OF_IMAGES = [name for name in FITTED if "image_features" in tensors(SCORES[name]())]
OF_LOGITS = [name for name in SCORES if name not in OF_IMAGES]
DIM = 8


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def predictions(n=150, classes=3, seed=0, scale=2.0):
    """Return logits and labels drawn from their softmax."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def cases(n=150, classes=3, seed=0):
    """Return predictions with images that resemble others of their class, and the texts of the classes."""
    logits, labels = predictions(n, classes, seed)
    noise = torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    images = normalize(torch.eye(classes, DIM, dtype=torch.float64)[labels] + 0.3 * noise, dim=1)
    return SimpleNamespace(logits=logits, labels=labels, image_features=images)


def fitted(name, classes=3):
    return fit(name, cases(classes=classes, seed=7), text_features=torch.eye(classes, DIM))


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
    score = RelativeUncertainty().fit(double(case["train_logits"]), torch.tensor(case["train_labels"]))
    torch.testing.assert_close(score.matrix, double(case["D"]), rtol=0, atol=1e-6)
    scores = score(double(case["test_logits"]))
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
        torch.testing.assert_close(fit(name)(logits=logits), values, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(energy(logits, temperature=3.0), -3 * (logits / 3).logsumexp(1))
    score = TemperatureMCP()
    score.temperature = 3.0
    torch.testing.assert_close(score(logits), mcp(logits / 3))


def test_mcp_of_a_given_class():
    logits = torch.tensor([[math.log(6), math.log(3), 0.0], [0.0, 0.0, 0.0]])
    values = mcp(logits, torch.tensor([2, 1]))
    assert values.tolist() == pytest.approx([math.log(9), math.log(2)], abs=1e-6)  # p = 1/10 and 1/3
    assert values.dtype == torch.float64
    logits, _ = predictions()
    torch.testing.assert_close(mcp(logits, logits.argmax(1)), mcp(logits))
    assert torch.equal(mcp(logits, logits.argmax(1)), -log_odds(logits))
    for wrong, message in [
        (torch.zeros(3).long(), r"\(150,\) int64, one per row of logits, not \(3,\)"),
        (torch.zeros(150), "not .* torch.float32"),
        (torch.full((150,), 3), r"lie in 0\.\.2"),
        (torch.full((150,), -1), r"lie in 0\.\.2"),
    ]:
        with pytest.raises(ValueError, match=message):
            mcp(logits, wrong)


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


@pytest.mark.parametrize("name", OF_LOGITS)
def test_large_logits_do_not_become_ties(name):
    second = torch.linspace(0.0, 200.0, 401)  # the nearer the second class, the less certain
    logits = torch.stack([torch.full_like(second, 220.0), second, torch.zeros_like(second)], dim=1)
    assert (logits.softmax(1).max(1).values == 1).sum() > 300
    if name == "energy":
        assert (energy(logits, temperature=100.0).diff() < 0).all()  # a larger sum: less energy
        return
    score = fitted(name)
    if name == "rel_u":
        score.call.function.matrix = torch.ones(3, 3).fill_diagonal_(0)
    if name == "logistic":
        score.call.function.coefficients = torch.tensor([1.0, 0.0, 0.0])
    assert (score(logits=logits).diff() > 0).all()


@pytest.mark.parametrize("name", SCORES)
def test_shift_and_class_order_change_nothing(name):
    given, score = cases(40), fitted(name)
    logits, images = given.logits, given.image_features
    values = score(given)
    assert values.shape == (40,)
    assert values.dtype == torch.float64
    torch.testing.assert_close(score(logits=logits[:7], image_features=images[:7]), values[:7])
    shifted = score(given, logits=logits + torch.arange(40.0)[:, None])
    assert torch.allclose(shifted, values) == (name != "energy")
    if not needs_same_classes(name):
        torch.testing.assert_close(score(given, logits=logits[:, [2, 0, 1]]), values)


@pytest.mark.parametrize("name", sorted({*SCORES} - {"energy"}))
def test_log_probabilities_are_logits(name):
    given, score = cases(40), fitted(name)
    from_probs = score(given, logits=logits_from_probs(given.logits.softmax(1)))
    torch.testing.assert_close(from_probs, score(given))


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
    matrix = RelativeUncertainty().fit(logits, labels).matrix
    assert matrix.shape == (3, 3)
    assert matrix.norm().item() == pytest.approx(1)
    assert torch.equal(matrix, matrix.T)
    assert matrix[2].max() > 0


def test_rel_u_falls_back_to_gini():
    logits, labels = predictions(80)
    score = RelativeUncertainty(weight=0.0).fit(logits, labels)
    torch.testing.assert_close(score.matrix, torch.ones(3, 3).double().fill_diagonal_(0) / 6**0.5)
    gini = 1 - logits.softmax(1).square().sum(1)
    torch.testing.assert_close(score(logits), gini / 6**0.5)


def test_logistic_is_the_model_of_scikit_learn():
    logits, labels = predictions(300)
    wrong = logits.argmax(1) != labels
    features = torch.stack([mcp(logits), margin(logits), entropy(logits)], dim=1)
    standard = (features - features.mean(0)) / features.std(0, correction=0)
    model = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(standard.numpy(), wrong.numpy())
    ours = LogisticScore(strength=2.0).fit(logits, labels)(logits)
    torch.testing.assert_close(ours, torch.from_numpy(model.decision_function(standard.numpy())))
    assert float(auroc(ours, wrong)) > 0.6


@pytest.mark.parametrize("name", ["rel_u", "logistic"])
def test_fits_need_right_and_wrong_predictions(name):
    logits = torch.eye(3)
    with pytest.raises(ValueError, match="All 3 validation predictions are right"):
        fit(name, logits=logits, labels=torch.arange(3))
    with pytest.raises(ValueError, match="All 3 validation predictions are wrong"):
        fit(name, logits=logits, labels=torch.tensor([1, 2, 0]))


@pytest.mark.parametrize("name", OF_LOGITS)
def test_bad_logits(name):
    score = fitted(name)
    for logits, message in [
        (torch.tensor([[math.nan, 0.0, 0.0]]), "finite"),
        (torch.zeros(3), r"\(N, C\)"),
        (torch.zeros(0, 3), "empty"),
        (torch.zeros(4, 1), "at least 2 classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            score(logits=logits)


def test_bad_settings():
    logits, labels = predictions(20)
    with pytest.raises(ValueError, match="finite number above 0, got 0"):
        energy(logits, temperature=0)
    with pytest.raises(ValueError, match="fitted on 3 classes, and the logits have 2"):
        fitted("rel_u")(logits=logits[:, :2])
    with pytest.raises(ValueError, match="weight must lie"):
        RelativeUncertainty(weight=2.0)
    with pytest.raises(ValueError, match="strength must be above 0"):
        LogisticScore(strength=0.0)
    with pytest.raises(ValueError, match="below the number of classes"):
        fit_temperature(logits, labels + 3)


# The table


@pytest.mark.parametrize("name", SCORES)
def test_a_score_by_name_is_the_score_itself(name):
    seen, test, row = cases(seed=7), cases(20), SCORES[name]
    texts = torch.eye(3, DIM)
    score = row
    if name in FITTED:
        given = {**vars(seen), "text_features": texts}
        score = row().fit(**{key: given[key] for key in tensors(row().fit)})
    expected = score(**{key: value for key, value in vars(test).items() if key in tensors(score)})
    assert torch.equal(fit(name, seen, text_features=texts)(test), expected)
    assert torch.equal(fit(name, **vars(seen), text_features=texts)(**vars(test)), expected)


@pytest.mark.parametrize("name", FITTED)
def test_unfitted_raises(name):
    score, given = SCORES[name](), vars(cases(5))
    with pytest.raises(ValueError, match=rf"{type(score).__name__} is not fitted"):
        score(**{key: given[key] for key in tensors(score)})


def test_settings_reach_functions_and_classes():
    given = cases(40)
    assert torch.equal(
        fit("energy", settings={"temperature": 2.0})(given), energy(given.logits, temperature=2.0)
    )
    ours = fit("image_prototypes", cases(seed=7), settings={"weight": 0.0})(given)
    torch.testing.assert_close(ours, mcp(given.logits).sigmoid())


def test_of_several_views_the_plain_images_are_judged():
    given = cases(40)
    views = SimpleNamespace(logits=torch.zeros(2, 40, 3), plain=given)
    assert torch.equal(fit("rel_u", views)(views), fit("rel_u", given)(given))


def test_captions_can_use_what_does_not_compare_with_other_images():
    assert not any(needs_same_classes(name) for name in SCORES if name not in FITTED)
    assert all(needs_same_classes(name) for name in OF_IMAGES)
    assert needs_same_classes("rel_u")
    assert not needs_same_classes("temperature_mcp")


def test_dispatch_errors():
    given = cases(5)
    with pytest.raises(ValueError, match="Did you mean 'entropy'"):
        fit("entropi", given)
    with pytest.raises(ValueError, match="Did you mean 'temperature'"):
        fit("energy", settings={"temprature": 2.0})
    with pytest.raises(ValueError, match="Did you mean 'components'"):
        fit("class_gaussians", given, settings={"component": 2})
    with pytest.raises(ValueError, match="score 'mcp' needs logits; given: probs"):
        fit("mcp")(probs=given.logits)
    with pytest.raises(ValueError, match="fit of score 'rel_u' needs labels; given: logits"):
        fit("rel_u", logits=given.logits)
    with pytest.raises(ValueError, match="fit of score 'logit_scaling' needs text_features"):
        fit("logit_scaling", given)
