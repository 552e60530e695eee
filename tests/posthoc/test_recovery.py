"""Known miscalibrations are found again, and fits equal those of independent programs."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime, minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from calib.posthoc import (
    BetaCalibration,
    DirichletCalibration,
    HistogramBinning,
    IsotonicCalibration,
    MatrixScaling,
    PlattScaling,
    StructuredMatrixScaling,
    StructuredVectorScaling,
    TemperatureMix,
    TemperatureScaling,
    VectorScaling,
    fit_temperature,
)
from calib.posthoc.affine import affine_objective, fit_logistic
from calib.posthoc.linear import centred, log_chances


def drawn(honest: Tensor, seed: int = 0) -> Tensor:
    """Return labels (N,) that occur as often as the honest logits say."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(honest.softmax(dim=1), 1, generator=generator)[:, 0]


def normal(n: int, c: int, seed: int = 1, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n, c, generator=generator, dtype=torch.float64)


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose decision function is its input."""

    def __init__(self, classes: int) -> None:
        self.classes_ = np.arange(classes)

    def fit(self, x: np.ndarray, y: np.ndarray) -> Given:
        return self

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(axis=1)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def scikit_learn(method: str, inputs: Tensor, labels: Tensor, weights: Tensor | None = None) -> np.ndarray:
    model = CalibratedClassifierCV(FrozenEstimator(Given(inputs.shape[1])), method=method, ensemble=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a frozen estimator takes no weights, and need not
        model.fit(inputs.numpy(), labels.numpy(), None if weights is None else weights.numpy())
    return model.predict_proba(inputs.numpy())


SMALL = normal(90, 3, seed=4)
LABELS = drawn(SMALL / 2 + torch.tensor([0.5, 0.0, -0.5]), seed=4)
WEIGHTS = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)[LABELS]


def smallest(nll: object, size: int, start: np.ndarray | None = None) -> np.ndarray:
    """Return the minimum of a function written out here, by BFGS with numerical gradients."""
    start = np.zeros(size) if start is None else start
    return minimize(nll, start, method="BFGS", options={"gtol": 1e-7, "maxiter": 2000}).x


def test_temperature_is_found_again_and_equals_other_programs() -> None:
    honest = normal(8000, 4)
    found = TemperatureScaling().fit(3 * honest, drawn(honest)).parameters["temperature"]
    assert float(found) == pytest.approx(3, rel=0.04)  # standard error about 0.05
    ours = TemperatureScaling().fit(SMALL, LABELS)
    assert float(ours.parameters["temperature"]) == fit_temperature(SMALL, LABELS)["temperature"]
    weighted = TemperatureScaling().fit_weighted(SMALL, LABELS, WEIGHTS)
    assert not torch.allclose(weighted(SMALL), ours(SMALL), atol=1e-4)
    pytest.importorskip("sklearn", minversion="1.8")  # the first that has it
    assert np.allclose(ours(SMALL), scikit_learn("temperature", SMALL, LABELS), atol=1e-5)
    assert np.allclose(weighted(SMALL), scikit_learn("temperature", SMALL, LABELS, WEIGHTS), atol=1e-5)


@pytest.mark.parametrize("sd", [0.1, 0.7, 5.0])
@pytest.mark.parametrize("sharpness", [0.2, 6.0])
def test_a_prior_on_the_temperature_is_where_a_fine_grid_has_its_mode(sd: float, sharpness: float) -> None:
    logits = sharpness * SMALL
    found = TemperatureScaling(prior_sd=sd).fit(logits, LABELS).parameters["temperature"]
    grid = np.linspace(-4, 4, 4001)
    scores = [
        log_softmax(logits.numpy() * math.exp(u), axis=1)[range(90), LABELS.numpy()].sum()
        - u * u / (2 * sd**2)
        for u in grid
    ]
    assert -math.log(float(found)) == pytest.approx(grid[int(np.argmax(scores))], abs=2e-3)


def test_a_prior_holds_separable_rows_and_lets_go_of_many() -> None:
    eye = 5 * torch.eye(3).repeat(8, 1)
    right = eye.argmax(dim=1)
    tight, loose = (TemperatureScaling(prior_sd=sd).fit(eye, right)(eye).max() for sd in (0.1, 2.0))
    assert float(eye.softmax(dim=1).max()) < float(tight) < float(loose) < 1
    honest = normal(8000, 4)
    labels = drawn(honest)
    free, held = (TemperatureScaling(prior_sd=sd).fit(3 * honest, labels) for sd in (None, 0.7))
    assert float(held.parameters["temperature"]) == pytest.approx(
        float(free.parameters["temperature"]), rel=1e-3
    )


def test_ts_mix_is_the_temperature_and_then_the_mix() -> None:
    found = TemperatureMix().fit(SMALL, LABELS)
    temperature = fit_temperature(SMALL, LABELS)["temperature"]
    assert float(found.parameters["temperature"]) == pytest.approx(temperature, rel=1e-9)
    expected = (90 / 91) * softmax(SMALL.numpy() / temperature, axis=1) + 1 / (91 * 3)
    assert np.allclose(found(SMALL), expected, atol=1e-9)
    hopeless = TemperatureMix().fit(SMALL, SMALL.argmin(dim=1))  # 1 / T to 0
    assert np.allclose(hopeless(SMALL), 1 / 3, atol=1e-5)


def test_platt_is_found_again_and_equals_scikit_learn() -> None:
    difference = normal(8000, 1)
    honest = torch.cat([torch.zeros_like(difference), difference], dim=1)
    found = PlattScaling().fit(2 * honest + torch.tensor([0.0, 3.0]), drawn(honest))
    # honest = (z - 3) / 2; the class before it is its mirror image
    assert found.parameters["slopes"].tolist() == pytest.approx([0.5, 0.5], rel=0.08)
    assert found.parameters["offsets"].tolist() == pytest.approx([1.5, -1.5], rel=0.08)
    odds = torch.sub(*log_chances(SMALL))
    for weights in (torch.ones(90, dtype=torch.float64), WEIGHTS):
        ours = PlattScaling().fit_weighted(SMALL, LABELS, weights)(SMALL)
        assert np.allclose(ours, scikit_learn("sigmoid", odds, LABELS, weights), atol=1e-5)


def test_vector_scaling_is_found_again_and_equals_a_plain_minimiser() -> None:
    scales, offsets = torch.tensor([0.5, 1.0, 2.0]).double(), torch.tensor([1.0, 0.0, -1.0]).double()
    given = normal(8000, 3)
    honest = centred(given) * scales + offsets
    found = VectorScaling().fit(given, drawn(honest))
    assert torch.allclose(found.parameters["scales"], scales, atol=0.2)
    assert float((found(given) - honest.softmax(dim=1)).abs().mean()) < 0.015
    z, y = centred(SMALL).numpy(), LABELS.numpy()

    def nll(x: np.ndarray) -> float:
        prior = ((x[:3] - 1) ** 2).sum() + (x[3:] ** 2).sum()
        return -log_softmax(z * x[:3] + x[3:], axis=1)[range(90), y].sum() + prior / (2 * 2.0**2)

    expected = smallest(nll, 6)
    ours = VectorScaling(prior_sd=2.0).fit(SMALL, LABELS)
    assert ours.parameters["scales"].tolist() == pytest.approx(expected[:3].tolist(), abs=1e-4)
    assert ours.parameters["offsets"].tolist() == pytest.approx(expected[3:].tolist(), abs=1e-4)


def test_matrix_scaling_is_found_again_and_equals_logistic_regression() -> None:
    matrix = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 0.0], [0.0, -0.5, 2.0]]).double()
    given = normal(8000, 3)
    honest = centred(given) @ matrix.T + torch.tensor([0.0, 1.0, -1.0]).double()
    found = MatrixScaling().fit(given, drawn(honest))
    assert float((found(given) - honest.softmax(dim=1)).abs().mean()) < 0.015
    ours = MatrixScaling(prior_sd=None).fit(SMALL, LABELS)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10000).fit(
        centred(SMALL).numpy(), LABELS.numpy()
    )
    assert np.allclose(ours(SMALL), theirs.predict_proba(centred(SMALL).numpy()), atol=1e-4)


@pytest.mark.parametrize("kind", [VectorScaling, MatrixScaling])
def test_separable_rows_have_no_likeliest_scale_without_a_prior(kind: type[VectorScaling]) -> None:
    eye = 5 * torch.eye(3).repeat(4, 1)
    with pytest.raises(ValueError, match=r"separable.*prior"):
        kind(prior_sd=None).fit(eye, eye.argmax(dim=1))


@pytest.mark.parametrize(("kind", "strength"), [("svs", 1.0), ("svs", 3.0), ("sms", 1.0), ("sms", 0.2)])
def test_structured_scaling_minimises_what_the_paper_says(kind: str, strength: float) -> None:
    """The objective is written out here; n = 90, K = 3."""
    ours = (StructuredVectorScaling if kind == "svs" else StructuredMatrixScaling)(strength=strength)
    ours.fit_weighted(SMALL, LABELS, WEIGHTS)
    mix = TemperatureMix().fit_weighted(SMALL, LABELS, WEIGHTS)(SMALL)
    z, y, w = mix.log().numpy(), LABELS.numpy(), WEIGHTS.numpy()
    off = ~np.eye(3, dtype=bool)

    def loss(x: np.ndarray) -> float:
        v, b, m = x[:3], x[3:6], np.zeros((3, 3))
        if kind == "sms":
            m[off] = x[6:]
        logits = z + v * z + z @ m.T + b
        ce = -(w * log_softmax(logits, axis=1)[range(90), y]).mean()
        return ce + strength * (3 / 90 * (b @ b + v @ v) + 6 / 90 * (m**2).sum())

    x = smallest(loss, 12 if kind == "sms" else 6)
    matrix = np.diag(1 + x[:3])
    if kind == "sms":
        matrix[off] = x[6:]
    found = ours.parameters["matrix"] if kind == "sms" else ours.parameters["scales"].diag()
    assert np.allclose(found, matrix, atol=1e-4)
    assert np.allclose(ours.parameters["offsets"], x[3:6], atol=1e-4)
    assert np.allclose(ours(SMALL), softmax(z @ matrix.T + x[3:6], axis=1), atol=1e-4)


@pytest.mark.parametrize("kind", [StructuredVectorScaling, StructuredMatrixScaling, DirichletCalibration])
def test_affine_maps_of_log_probabilities_are_found_again(kind: type[StructuredVectorScaling]) -> None:
    log_p = normal(8000, 3).log_softmax(dim=1)
    honest = log_p * torch.tensor([0.5, 1.0, 1.5]).double() + torch.tensor([1.0, 0.0, -1.0]).double()
    found = kind().fit(log_p, drawn(honest))
    assert float((found(log_p) - honest.softmax(dim=1)).abs().mean()) < 0.015


def test_dirichlet_calibration_minimises_what_the_paper_says() -> None:
    log_p, y = SMALL.log_softmax(dim=1).numpy(), LABELS.numpy()
    off = ~np.eye(3, dtype=bool)

    def loss(x: np.ndarray) -> float:
        a, b = x[:9].reshape(3, 3), x[9:]
        ce = -log_softmax(log_p @ a.T + b, axis=1)[range(90), y].mean()
        weak = ((a.diagonal() - 1) ** 2).sum() / (2 * 90 * 10**2)
        return ce + 0.3 / 6 * (a[off] ** 2).sum() + 0.2 / 3 * (b @ b) + weak

    x = smallest(loss, 12, np.append(np.eye(3).ravel(), np.zeros(3)))
    ours = DirichletCalibration(off_diagonal=0.3, offset=0.2).fit(SMALL, LABELS)
    assert np.allclose(ours.parameters["matrix"].flatten(), x[:9], atol=1e-4)
    assert np.allclose(ours.parameters["offsets"], x[9:], atol=1e-4)
    free = DirichletCalibration(off_diagonal=0.0, offset=0.0).fit(SMALL, LABELS)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10000).fit(log_p, y)
    assert np.allclose(free(SMALL), theirs.predict_proba(log_p), atol=5e-3)  # the weak prior


def test_beta_calibration_is_found_again_and_equals_logistic_regression() -> None:
    difference = normal(8000, 1)
    given = torch.cat([torch.zeros_like(difference), difference], dim=1)
    log_p, log_rest = log_chances(given)
    scores = 0.5 * log_p[:, 1] - 2 * log_rest[:, 1] + 0.7
    honest = torch.stack([torch.zeros_like(scores), scores], dim=1)
    labels = drawn(honest)
    found = BetaCalibration().fit(given, labels)
    assert found.parameters["coefficients"][1].tolist() == pytest.approx([0.5, 2.0, 0.7], abs=0.3)
    assert found.parameters["coefficients"][0].tolist() == pytest.approx(
        found.parameters["coefficients"][1][[1, 0, 2]].mul(torch.tensor([1, 1, -1])).tolist(), abs=1e-4
    )
    columns = np.column_stack([log_p[:, 1], -log_rest[:, 1]])
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(columns, labels.numpy())
    assert np.allclose(found(given), theirs.predict_proba(columns), atol=1e-3)
    upside_down = BetaCalibration().fit(given, given.argmin(dim=1))
    assert upside_down.parameters["coefficients"][:, :2].tolist() == [[0.0, 0.0]] * 2  # held at the bounds


def test_isotonic_calibration_equals_scikit_learn_and_finds_a_square() -> None:
    for weights in (torch.ones(90, dtype=torch.float64), WEIGHTS):
        ours = IsotonicCalibration(mix=False).fit_weighted(SMALL, LABELS, weights)(SMALL)
        theirs = scikit_learn("isotonic", SMALL.softmax(dim=1), LABELS, weights)
        assert np.allclose(ours, theirs, atol=1e-9)
    difference = normal(8000, 1)
    given = torch.cat([torch.zeros_like(difference), difference], dim=1)
    square = given.softmax(dim=1)[:, 1] ** 2
    labels = drawn(torch.stack([1 - square, square], dim=1).log())
    for kind, tolerance in ((IsotonicCalibration(), 0.03), (HistogramBinning(n_bins=30), 0.04)):
        assert float((kind.fit(given, labels)(given)[:, 1] - square).abs().mean()) < tolerance


def test_histogram_bins_hold_equally_many_rows_and_ties_together() -> None:
    p = torch.tensor([0.9, 0.9, 0.9, 0.8, 0.7, 0.6, 0.2, 0.1], dtype=torch.float64)
    logits, labels = torch.stack([p, 1 - p], dim=1).log(), torch.tensor([0, 0, 1, 0, 0, 1, 1, 1])
    found = HistogramBinning(n_bins=2, mix=False).fit(logits, labels)
    # class 0: {.1 .2 .6 .7} has 1 of 4, {.8 .9 .9 .9} 3 of 4; class 1 is its mirror image
    assert found.parameters["y"].tolist() == [0.25, 0.75, 0.25, 0.75]
    assert found.parameters["x"].tolist() == pytest.approx([0, 0.75, 0, 0.25])
    probe = torch.tensor([0.76, 0.74, 0.0, 1.0], dtype=torch.float64)
    at = found(torch.stack([probe, 1 - probe], dim=1).clamp_min(1e-300).log())
    assert at[:, 0].tolist() == [0.75, 0.25, 0.25, 0.75]
    weighted = HistogramBinning(n_bins=1, mix=False).fit(logits, labels, shares=[0.9, 0.1])
    assert weighted(logits)[0].tolist() == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("off_diagonal", [None, 0.3])
def test_gradients_of_affine_fits_are_exact(off_diagonal: float | None) -> None:
    z, y, w = SMALL.numpy(), LABELS.numpy(), WEIGHTS.numpy()
    objective = affine_objective(z, y, w, diagonal=0.2, off_diagonal=off_diagonal, offset=0.1)
    x = np.random.default_rng(0).normal(size=6 if off_diagonal is None else 12)
    numerical = approx_fprime(x, lambda x: objective(x)[0], 1e-7)
    assert np.allclose(objective(x)[1], numerical, atol=1e-5)


def test_logistic_fits_stay_within_bounds_and_equal_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(300, 2)) * [1.0, 50.0]
    targets = (generator.random(300) < expit(features @ [1.0, -0.02] + 0.5)).astype(float)
    flat = {"centre": np.zeros(3), "sd": np.full(3, 1e6), "what": "it"}
    free = fit_logistic(features, targets, np.ones(300), **flat)
    theirs = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10000).fit(features, targets)
    assert free.tolist() == pytest.approx([*theirs.coef_[0], theirs.intercept_[0]], rel=1e-3)
    assert free[1] < 0
    bound = fit_logistic(features, targets, np.ones(300), lower=np.array([0, 0, -np.inf]), **flat)
    alone = LogisticRegression(C=np.inf, tol=1e-12).fit(features[:, :1], targets)
    assert bound.tolist() == pytest.approx([alone.coef_[0, 0], 0.0, alone.intercept_[0]], rel=1e-3)
