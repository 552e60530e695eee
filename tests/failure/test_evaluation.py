"""Scores are judged beside the head: those of the table, and new ones of which nobody else knows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from calib.failure.cases import FailureCases
from calib.failure.evaluation import (
    ECE_OF_DOUBT,
    Judgements,
    add_intervals,
    ece_of_doubt,
    fit_scores,
    judge,
    metrics_of,
    score_names,
)
from calib.failure.export import FailureHead
from calib.failure.vilu import ViLU
from calib.metrics.calibration import expected_calibration_error
from calib.scores import SCORES, mcp, needs_same_classes
from calib.stats import bootstrap_interval

N, C, D = 40, 3, 8
SCALE = math.log(20.0)
TEXTS = normalize(torch.randn(C, D, generator=torch.Generator().manual_seed(9)), dim=1)


def cases(seed: int = 0, predictions: Tensor | None = None) -> FailureCases:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % C
    images = normalize(TEXTS[labels] + 0.6 * torch.randn(2, N, D, generator=generator), dim=2)
    return FailureCases.of(images, labels, TEXTS, logit_scale=SCALE, predictions=predictions)


def head() -> FailureHead:
    torch.manual_seed(0)
    return FailureHead(ViLU(D, logit_scale=SCALE, hidden=(4,)), TEXTS, ["a", "b", "c"])


def toy_gap(logits: Tensor, *, factor: float = 2.0) -> Tensor:
    return -factor * (logits.max(dim=1).values - logits.min(dim=1).values).double()


class ToyDistance:
    """Distance to the mean image, which is fitted."""

    same_classes = True

    def fit(self, image_features: Tensor, labels: Tensor) -> ToyDistance:
        self.mean = image_features[labels >= 0].mean(dim=0)
        return self

    def __call__(self, image_features: Tensor) -> Tensor:
        return (image_features - self.mean).norm(dim=1).double()


def test_a_new_score_is_one_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    known = list(SCORES)
    monkeypatch.setitem(SCORES, "toy_gap", toy_gap)
    monkeypatch.setitem(SCORES, "toy_distance", ToyDistance)
    names = score_names([])
    assert names == [*known, "toy_gap", "toy_distance"]
    seen, test = cases(0), cases(1)
    judged = judge(fit_scores(names, seen, TEXTS), test, head())
    assert list(judged.values) == [*names, "vilu"]
    assert judged.not_fitted == {}
    logits, images = test.logits[0], test.image_features[0]
    torch.testing.assert_close(
        judged.values["toy_gap"], 2 * (logits.min(1).values - logits.max(1).values).double()
    )
    expected = (images - seen.image_features[0].mean(0)).norm(dim=1).double()
    torch.testing.assert_close(judged.values["toy_distance"], expected)
    assert {0.0 <= row["auroc"] <= 1.0 for row in metrics_of(judged).values()} == {True}


def test_captions_leave_out_scores_of_classes_by_their_own_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "toy_distance", ToyDistance)
    monkeypatch.setitem(SCORES, "toy_gap", toy_gap)
    fitted = fit_scores(score_names([]), cases(), None)
    assert set(fitted.not_fitted) == {name for name in SCORES if needs_same_classes(name)}
    assert {"toy_gap", "mcp"} <= fitted.ready.keys()
    assert "captions are other ones" in fitted.not_fitted["toy_distance"]


def test_mcp_judges_the_class_that_was_predicted() -> None:
    picked = (cases(1).labels + 1) % C
    test = cases(1, picked.expand(2, N))
    judged = judge(fit_scores(["mcp"], cases(), TEXTS), test, head())
    probs = test.logits[0].double().softmax(dim=1).gather(1, picked[:, None])[:, 0]
    torch.testing.assert_close(judged.values["mcp"], ((1 - probs) / probs).log())
    assert not torch.allclose(judged.values["mcp"], mcp(test.logits[0]))
    assert bool(judged.failure.all())


def test_a_score_that_cannot_be_fitted_says_why() -> None:
    right = cases(0)
    right = FailureCases.of(right.image_features, right.logits[0].argmax(1), TEXTS, logit_scale=SCALE)
    fitted = fit_scores(["mcp", "temperature_mcp"], right, TEXTS)
    assert list(fitted.ready) == ["mcp"]
    assert "Every validation prediction is right" in fitted.not_fitted["temperature_mcp"]


def test_the_interval_of_the_ece_of_a_doubt_allows_for_noise() -> None:
    """A percentile interval of an ECE lies far above it, also where every P(wrong) is as it should be."""
    rng = np.random.default_rng(0)
    probs = rng.random(200)
    said = torch.from_numpy(probs)
    judged = Judgements({"mcp": said}, torch.from_numpy(rng.random(200) < probs), probs={"mcp": said})
    metrics = metrics_of(judged)
    add_intervals(metrics, judged, n_resamples=200, level=0.95)
    low, high = metrics["mcp"]["intervals"]["ece"]
    of_noise = bootstrap_interval(ECE_OF_DOUBT, probs, judged.failure.numpy(), n_resamples=200)
    assert low < 0.01 < 0.04 < of_noise.low
    assert low + of_noise.high == pytest.approx(high + of_noise.low) == 2 * metrics["mcp"]["ece"]


def test_the_ece_of_a_doubt_has_the_bins_of_every_ece_and_one_pass_for_all_resamples() -> None:
    rng = np.random.default_rng(0)
    probs = rng.integers(0, 11, 300) / 10  # 0.3 lies below the edge 0.30000000000000004
    wrong = rng.random(300) < probs
    ours = expected_calibration_error(torch.from_numpy(probs), torch.from_numpy(wrong), n_bins=10)
    assert ece_of_doubt(probs, wrong) == pytest.approx(float(ours), abs=1e-12)
    drawn = rng.integers(0, 300, 300)
    counts = np.bincount(drawn, minlength=300)[None]
    means = counts @ ECE_OF_DOUBT.columns(probs, wrong) / 300
    assert ECE_OF_DOUBT.finish(means)[0] == pytest.approx(ece_of_doubt(probs[drawn], wrong[drawn]), abs=1e-12)
