"""What holds of every metric on any predictions: ties, extremes, absent classes and all."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from calib.metrics import FAILURE_METRICS, METRICS, failure_statistic, metric_collection, summarize

LOGITS = st.sampled_from([-40.0, -3.0, -1.0, 0.0, 0.25, 1.0, 1.0000001, 3.0, 40.0])  # with many ties
IN_UNIT = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "ece",
    "mce",
    "ace",
    "classwise_ece",
    "confidence",
    "smooth_ece",
)
RANKED = {
    "fpr_at_tpr": {"tpr": 0.95},
    "risk_at_coverage": {"coverage": 0.5},
    "coverage_at_risk": {"risk": 0.2},
}


@st.composite
def predictions(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Return logits (N, C) and labels (N,)."""
    n, c = draw(st.integers(2, 12)), draw(st.integers(2, 4))
    logits = draw(st.lists(st.lists(LOGITS, min_size=c, max_size=c), min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n))
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)


@st.composite
def judgements(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Return uncertainties (N,) with ties and failures (N,), both kinds among them."""
    n = draw(st.integers(2, 15))
    values = draw(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 0.5000001, 3.0, 1e9]), min_size=n, max_size=n))
    failure = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda f: 0 < sum(f) < len(f)))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(failure)


def flat(summary: dict) -> dict[str, float]:
    return {key: value for key, value in summary.items() if key in METRICS and value is not None}


@given(predictions(), st.randoms(use_true_random=False))
def test_the_order_of_images_changes_no_metric(given_: tuple[Tensor, Tensor], random) -> None:
    logits, labels = given_
    order = list(range(len(labels)))
    random.shuffle(order)
    one, other = flat(summarize(logits, labels)), flat(summarize(logits[order], labels[order]))
    assert one == pytest.approx(other, abs=1e-9, nan_ok=True)


@given(predictions())
def test_metrics_stay_in_their_range(given_: tuple[Tensor, Tensor]) -> None:
    values = flat(summarize(*given_))
    assert values.keys() >= set(IN_UNIT)
    for name in IN_UNIT:
        assert -1e-12 <= values[name] <= 1 + 1e-12, name
    assert 0 <= values["brier"] <= 2
    assert values["nll"] >= 0
    assert -1 <= values["confidence_gap"] <= 1
    assert values["confidence_gap"] == pytest.approx(values["confidence"] - values["accuracy"], abs=1e-9)
    assert abs(values["confidence_gap"]) <= values["ece"] + 1e-9  # the triangle inequality over bins
    assert values["ece"] <= values["mce"] + 1e-9
    assert abs(values["confidence_gap"]) <= values["smooth_ece"] + 1e-4  # and over the interval
    assert 0 <= values["null_ece"] <= 0.5


@given(predictions(), st.integers(1, 11))
def test_batches_give_the_whole(given_: tuple[Tensor, Tensor], first: int) -> None:
    logits, labels = given_
    collection = metric_collection(logits.shape[1])
    probs = logits.softmax(dim=1)
    for rows in (slice(0, first), slice(first, None)):
        if len(labels[rows]):
            collection.update(probs[rows], labels[rows])
    found = {name: float(value) for name, value in collection.compute().items()}
    whole = flat(summarize(logits, labels))
    shared = found.keys() & whole.keys()
    assert {"accuracy", "ece", "brier"} <= shared
    for name in shared:
        expected = (
            min(whole[name], -math.log(torch.finfo(torch.float64).tiny)) if name == "nll" else whole[name]
        )
        assert found[name] == pytest.approx(expected, rel=1e-6, abs=1e-9), name


@given(judgements(), st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", FAILURE_METRICS)
def test_only_the_order_of_scores_matters_and_ties_are_fair(name: str, given_: tuple, random) -> None:
    uncertainty, failure = (tensor.numpy() for tensor in given_)
    metric = failure_statistic(name, **RANKED.get(name, {}))
    value = metric(uncertainty, failure)
    order = list(range(len(failure)))
    random.shuffle(order)
    assert metric(uncertainty[order], failure[order]) == pytest.approx(value, abs=1e-12, nan_ok=True)
    ranks = torch.from_numpy(uncertainty).unique(return_inverse=True)[1].double().numpy()
    for rescaled in (ranks, 3 * ranks - 7, ranks**3):
        assert metric(rescaled, failure) == pytest.approx(value, abs=1e-12, nan_ok=True)
    assert -1e-12 <= value <= 1 + 1e-12


@given(judgements())
def test_turning_a_score_round_turns_its_auroc_round(given_: tuple) -> None:
    uncertainty, failure = (tensor.numpy() for tensor in given_)
    auroc = failure_statistic("auroc")
    assert auroc(-uncertainty, failure) == pytest.approx(1 - auroc(uncertainty, failure), abs=1e-12)
    assert auroc(failure.astype(float), failure) == 1
    assert auroc(0 * uncertainty, failure) == 0.5
