"""Losses of failure predictors, with the official values (numbers in tests/golden, see their `meta`)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calib.core.byname import settings, tensors
from calib.losses import LOSSES
from calib.losses.failure import (
    FAILURE_LOSSES,
    failure_bce,
    failure_weights,
    tcp_regression,
    tcp_target,
)

GOLDEN = Path(__file__).parents[1] / "golden"
ABOUT = json.loads((GOLDEN / "vilu_losses.json").read_text())
TENSORS = load_file(GOLDEN / "vilu_losses.safetensors")


def golden(name):
    return TENSORS[name].double() if TENSORS[name].is_floating_point() else TENSORS[name]


def official_failure(logits, labels, *, ties_fail):
    """Return which predictions are wrong; in ViLU's caption mode a tie with the label counts as right."""
    if ties_fail:
        return logits.argmax(1) != labels
    return logits.gather(1, labels[:, None]).squeeze(1) < logits.max(1).values


def replay(case):
    """Return our value, a mean, and its gradient by the official input, the logit of being right."""
    data = case["data"]
    right, probs, labels = (
        golden(f"{data}/input").requires_grad_(),
        golden(f"{data}/probs"),
        golden(f"{data}/labels"),
    )
    failure = official_failure(probs, labels, ties_fail=not case["batchwise_train"])
    options = {
        "weighting": {"static": "static", "adaptative": "adaptive"}[case["weighting_type"]],
        "weight": case["weight"],
    }
    entropy = 0.1 if case["loss"] == "mse_entropy" else 0.0
    if case["loss"] == "bce":
        value = failure_bce(-right, failure, **options)
    elif data == "batchwise_tie":  # one of its rows is no distribution (sum 2.6): no logits stand for it
        weights = failure_weights(failure, **options).double()
        value = (weights * (right.sigmoid() - tcp_target(probs, labels, entropy=entropy)) ** 2).mean()
    else:
        value = tcp_regression(-right, probs.log(), labels, failure, entropy=entropy, **options)
    (gradient,) = torch.autograd.grad(value, right)
    return value.detach(), gradient


def test_all_189_cases_are_there():
    assert len(ABOUT["cases"]) == 189
    assert "e4bf572" in ABOUT["meta"]["source"]


@pytest.mark.parametrize("case", ABOUT["cases"], ids=lambda case: f"{case['id']}-{case['data']}")
def test_values_and_gradients_are_the_official_ones(case):
    value, gradient = replay(case)
    # The release's entropy has log(p + 1e-6): up to 1.5e-6 per image, see the next test.
    tolerance = {"rtol": 1e-6, "atol": 2e-6 if case["loss"] == "mse_entropy" else 1e-6}
    rows = 1 if case["reduction"] == "mean" else len(gradient)  # "sum" and "none": the gradient of a sum
    official = golden(f"{case['id']}/value").sum() / rows
    torch.testing.assert_close(value, official, **tolerance)
    torch.testing.assert_close(gradient * rows, golden(f"{case['id']}/grad_input"), **tolerance)


def test_our_entropy_is_the_exact_one():
    case = next(c for c in ABOUT["cases"] if c["loss"] == "mse_entropy" and c["reduction"] == "none")
    right, probs, labels = (golden(f"{case['data']}/{name}") for name in ("input", "probs", "labels"))
    exact, lifted = (-(probs * (probs + eps).log()).sum(1) for eps in (0, 1e-6))
    plain = tcp_target(probs, labels)
    assert torch.allclose(tcp_target(probs, labels, entropy=0.1), plain + 0.1 * exact, atol=1e-12)
    official = (right.sigmoid() - plain - 0.1 * lifted) ** 2
    assert (official - golden(f"{case['id']}/value")).abs().max() < 1e-7
    assert 0 < (exact - lifted).abs().max() < 1e-5
    assert tcp_target(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), entropy=0.1).item() == 0  # 0 log 0 = 0


def test_adaptive_weights_are_the_official_ones():
    for accuracy, expected in ABOUT["adaptive_weight"].items():
        n_right = round(1000 * float(accuracy))
        failure = torch.arange(1000) >= n_right
        weights = failure_weights(failure)
        assert (weights[~failure] == 1).all()
        if expected == "inf":
            assert not failure.any()
        else:
            assert weights[-1].item() == pytest.approx(expected, abs=1e-5)


def test_bce_by_hand():
    logits = torch.tensor([0.0, math.log(3), -math.log(3), math.log(3), 0.0])  # risk 1/2 3/4 1/4 3/4 1/2
    failure = torch.tensor([False, True, True, False, False])
    terms = torch.tensor([1 / 2, 3 / 4, 1 / 4, 1 / 4, 1 / 2]).log().neg()
    for options, weight in (
        ({"weighting": "static"}, 1.0),
        ({"weighting": "static", "weight": 10.0}, 10.0),
        ({"weighting": "adaptive"}, -math.log(1 - 3 / 5)),
        ({"weighting": "balanced"}, 3 / 2),
        ({"weighting": "balanced", "max_weight": 1.25}, 1.25),
    ):
        weights = torch.tensor([1, weight, weight, 1, 1])
        assert failure_bce(logits, failure, **options).item() == pytest.approx(
            float((weights * terms).mean())
        )


def test_balanced_failures_weigh_as_much_as_the_rest():
    failure = torch.tensor([True, False, False, False, False])
    weights = failure_weights(failure, weighting="balanced")
    assert weights[failure].sum() == weights[~failure].sum()
    assert failure_weights(torch.tensor([True, True, False]), weighting="balanced")[0] == 0.5


def test_given_counts_stand_for_the_batch_of_all_processes():
    failure = torch.tensor([True, False, True])
    counts = torch.tensor([6, 2])
    assert failure_weights(failure, counts, weighting="balanced").tolist() == [3.0, 1.0, 3.0]
    assert failure_weights(failure, counts)[0].item() == pytest.approx(-math.log(0.25), rel=1e-6)
    shares = [failure, torch.tensor([False] * 5)]
    logits = [torch.tensor([0.3, -1.0, 2.0]), torch.linspace(-1, 1, 5)]
    parts = sum(len(z) * failure_bce(z, share, counts) for z, share in zip(logits, shares, strict=True))
    torch.testing.assert_close(parts / 8, failure_bce(torch.cat(logits), torch.cat(shares)))


def test_tcp_by_hand():
    failure_logits = torch.tensor([0.0, -math.log(3)])  # confidence 1/2 and 3/4
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -math.inf, -math.inf]])
    labels = torch.tensor([2, 1])
    failure = logits.argmax(1) != labels
    plain = ((1 / 4) ** 2 + (3 / 4 - 1 / 4) ** 2) / 2
    assert tcp_regression(failure_logits, logits, labels, failure).item() == pytest.approx(plain)
    entropies = math.log(4), -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    with_entropy = sum((d - 0.1 * h) ** 2 for d, h in zip((1 / 4, 1 / 2), entropies, strict=True)) / 2
    value = tcp_regression(failure_logits, logits, labels, failure, entropy=0.1)
    assert value.item() == pytest.approx(with_entropy, rel=1e-6)


def test_the_target_of_tcp_gets_no_gradient():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    failure_logits, labels = torch.zeros(5, requires_grad=True), torch.tensor([0, 1, 2, 0, 1])
    tcp_regression(failure_logits, logits, labels, logits.argmax(1) != labels, entropy=0.1).backward()
    assert logits.grad is None
    assert failure_logits.grad.abs().min() > 0


@pytest.mark.parametrize("weighting", ["static", "adaptive", "balanced"])
@pytest.mark.parametrize("wrong", [0, 5])
def test_one_kind_of_outcome_gives_finite_values(weighting, wrong):
    logits = torch.linspace(-2, 2, 5).requires_grad_()
    value = failure_bce(logits, torch.arange(5) < wrong, weighting=weighting)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    # Where nothing is right, adaptive weights switch the loss off: the release's rule.
    assert (value.item() == 0) == (weighting == "adaptive" and wrong == 5)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    value = failure_bce(logits, torch.tensor([True, False]), weighting="static")
    assert value.item() == 1e4
    value.backward()
    assert logits.grad.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("weighting", ["static", "adaptive", "balanced"])
def test_gradients(weighting):
    generator = torch.Generator().manual_seed(1)
    failure_logits = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    labels = logits.argmax(1)
    labels[1:3] = (labels[1:3] + 1) % 3
    failure = logits.argmax(1) != labels
    assert 0 < failure.sum() < 5
    assert torch.autograd.gradcheck(lambda z: failure_bce(z, failure, weighting=weighting), failure_logits)
    assert torch.autograd.gradcheck(
        lambda z: tcp_regression(z, logits, labels, failure, weighting=weighting, entropy=0.1), failure_logits
    )


def test_the_order_of_the_images_does_not_matter():
    generator = torch.Generator().manual_seed(1)
    z, logits = torch.randn(5, generator=generator), torch.randn(5, 3, generator=generator)
    labels, order = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([3, 1, 4, 0, 2])
    failure = logits.argmax(1) != labels
    torch.testing.assert_close(failure_bce(z, failure), failure_bce(z[order], failure[order]))
    torch.testing.assert_close(
        tcp_regression(z, logits, labels, failure),
        tcp_regression(z[order], logits[order], labels[order], failure[order]),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "adaptative"}, "Did you mean 'adaptive'"),
        ({"weight": -1.0}, "weight must be a finite number of at least 0, got -1"),
        ({"weight": math.inf}, "got inf"),
        ({"max_weight": 0.5}, "max_weight must be at least 1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        failure_bce(torch.zeros(5), torch.zeros(5, dtype=torch.bool), **options)


def test_bad_shapes_are_refused():
    failure = torch.zeros(5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"both be \(B,\), not \(4,\) and \(5,\)"):
        failure_bce(torch.zeros(4), failure)
    with pytest.raises(ValueError, match=r"both be \(B,\), not \(5, 1\)"):
        failure_bce(torch.zeros(5, 1), failure)
    with pytest.raises(ValueError, match="bool"):
        failure_bce(torch.zeros(5), torch.zeros(5))
    with pytest.raises(ValueError, match=r"\(0,\)"):
        failure_bce(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    with pytest.raises(ValueError, match="the 5 rows of failure"):
        tcp_regression(torch.zeros(5), torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64), failure)
    with pytest.raises(ValueError, match="entropy must be at least 0"):
        tcp_regression(
            torch.zeros(5), torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64), failure, entropy=-1.0
        )


def test_they_have_a_registry_of_their_own():
    assert FAILURE_LOSSES.keys() == {"bce", "tcp"}
    assert not FAILURE_LOSSES.keys() & LOSSES.keys()
    for loss in FAILURE_LOSSES.values():
        assert {"failure_logits", "failure"} <= tensors(loss).keys()
        assert {"weighting", "weight", "max_weight"} <= settings(loss).keys()
