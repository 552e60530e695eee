"""The stack of scores: weights that are not negative, P(wrong) that holds, ridges, records."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from calib.scores.stack import FEW, PRIOR_RIDGE, RIDGES, DoubtStack

NAMES = ["informative", "noise", "contrary"]


def simulated(
    n: int, seed: int = 0, base: float = -1.0, contrary: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores (n, 3), failures, and the true P(wrong): 1.5 of the first score, none of the second.

    The third is higher where a prediction is more likely right, by `contrary`.
    """
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, 3, generator=draw, dtype=torch.float64)
    truth = (base + 1.5 * scores[:, 0] - contrary * scores[:, 2]).sigmoid()
    failure = torch.rand(n, generator=draw, dtype=torch.float64) < truth
    return scores * torch.tensor([10.0, 0.1, 3.0]) + 5.0, failure, truth


def test_the_informative_score_gets_the_weight_and_none_is_negative() -> None:
    scores, failure, _ = simulated(2000)
    stack = DoubtStack(NAMES).fit(scores, failure)
    assert stack.how == "cross_validated"
    assert stack.weights[0] == pytest.approx(1.5, abs=0.15)  # per standard deviation, which was 1
    assert bool((stack.weights[1:] < 0.15).all())
    assert bool((stack.weights >= 0).all())
    assert stack.intercept == pytest.approx(-1.0, abs=0.15)
    scores, failure, _ = simulated(2000, contrary=1.0)
    assert DoubtStack(NAMES).fit(scores, failure).weights[2] == 0  # without bounds it would be -1


def test_p_wrong_is_calibrated_on_new_cases() -> None:
    """Small fits too: over 40 of them, the promised error rate is the real one, bin by bin."""
    told, real = np.zeros(5), np.zeros(5)
    counts = np.zeros(5)
    for seed in range(40):
        stack = DoubtStack(NAMES).fit(*simulated(60, seed)[:2])
        scores, failure, truth = simulated(500, 1000 + seed)
        probs = stack(scores).numpy()
        assert np.abs(probs - truth.numpy()).mean() < 0.2
        bins = np.minimum((5 * probs).astype(int), 4)
        told += np.bincount(bins, weights=probs, minlength=5)
        real += np.bincount(bins, weights=failure.double().numpy(), minlength=5)
        counts += np.bincount(bins, minlength=5)
    assert counts.min() > 500
    assert np.abs(told - real).sum() / counts.sum() < 0.03


def test_contributions_and_intercept_are_the_log_odds() -> None:
    scores, failure, _ = simulated(200)
    stack = DoubtStack(NAMES).fit(scores, failure)
    parts = stack.contributions(scores)
    assert parts.shape == (200, 3)
    assert torch.allclose(stack.intercept + parts.sum(1), stack(scores).logit(), atol=1e-10)
    assert torch.allclose(parts.mean(0), torch.zeros(3).double(), atol=1e-10)  # an average case has none
    more = scores + torch.tensor([1.0, 1.0, 1.0])
    assert bool((stack(more) >= stack(scores)).all())


def test_limits_of_the_ridge() -> None:
    scores, failure, _ = simulated(300)
    strong = DoubtStack(NAMES, ridges=[1e9]).fit(scores, failure)
    assert torch.allclose(strong.weights, torch.full((3,), 1 / 3).double(), atol=1e-5)
    two = scores[:, :2]
    weak = DoubtStack(NAMES[:2], ridges=[1e-9]).fit(two, failure)
    z = (two - weak.centre) / weak.spread
    error = weak(two) - failure.double()  # at an unpenalised minimum the residuals are orthogonal to z
    assert abs(float(error @ z[:, 0])) < 1e-3
    # The intercept: with the half case that is wrong and the half that is right, both at z = 0.
    assert float(error.sum()) + 1 / (1 + math.exp(-weak.intercept)) - 0.5 == pytest.approx(0, abs=1e-3)
    steps = [DoubtStack(NAMES, ridges=[r]).fit(scores, failure).weights[0] for r in (1e3, 1e2, 1e1, 1.0)]
    assert steps == sorted(steps)  # ever further from equal weights


def test_the_ridge_is_the_likeliest_on_cases_left_out() -> None:
    useless = torch.randn(400, 3, generator=torch.Generator().manual_seed(1)).double()
    by_chance = torch.rand(400, generator=torch.Generator().manual_seed(2)) < 0.3
    scores, failure, _ = simulated(400)
    assert DoubtStack(NAMES).fit(scores, failure).ridge < max(RIDGES)
    one = DoubtStack(NAMES, ridges=[0.01, 1e6]).fit(useless, by_chance)
    assert one.ridge == 0.01  # equal weights say more of these than nothing, and nothing is true
    assert bool((one.weights < 0.1).all())


def test_folds_of_the_ridge_can_be_given_and_matter() -> None:
    """Twins: with one of each pair in every fold, what is learned by heart seems to be true."""
    draw = torch.Generator().manual_seed(3)
    scores = torch.randn(20, 12, generator=draw).double().repeat(2, 1)
    failure = (torch.rand(20, generator=draw) < 0.5).repeat(2)
    names = [str(k) for k in range(12)]
    honest = torch.arange(20).repeat(2) % 5
    leaking = torch.arange(40) // 20
    grid = [0.01, 100.0]
    assert DoubtStack(names, ridges=grid).fit(scores, failure, folds=honest).ridge == 100.0
    assert DoubtStack(names, ridges=grid).fit(scores, failure, folds=leaking).ridge == 0.01


def test_with_few_wrong_cases_the_ridge_is_not_chosen_and_that_is_said() -> None:
    scores, failure, _ = simulated(60, base=-3.0)
    failure[:] = False
    failure[: FEW - 1] = True
    stack = DoubtStack(NAMES).fit(scores, failure)
    assert (stack.how, stack.ridge) == ("prior_ridge", PRIOR_RIDGE)
    assert f"with {FEW - 1} wrong ones the weights stay near those of the prior" in stack.sentence()
    failure = ~failure
    assert f"with {FEW - 1} right ones" in DoubtStack(NAMES).fit(scores, failure).sentence()
    failure[-1] = False
    assert DoubtStack(NAMES).fit(scores, failure).how == "cross_validated"


@pytest.mark.parametrize("wrong", [False, True])
def test_of_one_kind_only_all_parts_weigh_the_same(wrong: bool) -> None:
    scores = simulated(24)[0]
    stack = DoubtStack(NAMES).fit(scores, torch.full((24,), wrong))
    assert (stack.how, stack.ridge) == ("prior", math.inf)
    assert stack.weights.tolist() == [1 / 3] * 3
    share = 24.5 / 25 if wrong else 0.5 / 25
    assert float(stack(scores).mean()) == pytest.approx(share, abs=1e-9)
    assert f"= {share:.1%} on average" in stack.sentence()
    assert f"None of the 24 out-of-fold predictions is {'right' if wrong else 'wrong'}" in stack.sentence()


def test_weights_of_the_prior_are_where_the_ridge_draws_to() -> None:
    scores, failure, _ = simulated(100)
    prior = {"informative": 0.2, "contrary": 0.9}
    strong = DoubtStack(NAMES, prior=prior, ridges=[1e9]).fit(scores, failure)
    assert torch.allclose(strong.weights, torch.tensor([0.2, 0.0, 0.9]).double(), atol=1e-5)
    none = DoubtStack(NAMES, prior=prior).fit(scores, failure & False)
    assert none.weights.tolist() == [0.2, 0.0, 0.9]
    with pytest.raises(ValueError, match="prior weights must be finite numbers of at least 0"):
        DoubtStack(NAMES, prior={"noise": -1.0})


def test_one_case_and_scores_that_never_change() -> None:
    stack = DoubtStack(["a"]).fit(torch.tensor([[3.0]]), torch.tensor([True]))
    assert stack(torch.tensor([[3.0]])).item() == pytest.approx(0.75)  # (1 + 1/2) / (1 + 1)
    scores, failure, _ = simulated(100)
    scores[:, 1] = 7.0
    one = DoubtStack(NAMES).fit(scores, failure)
    assert one.spread[1] == 1
    assert bool(one(scores).isfinite().all())


def test_a_record_comes_back_and_a_changed_one_does_not() -> None:
    scores, failure, _ = simulated(100)
    for stack in (DoubtStack(NAMES).fit(scores, failure), DoubtStack(NAMES).fit(scores, failure & False)):
        again = DoubtStack.from_record(stack.to_record(), stack.tensors())
        assert torch.equal(again(scores), stack(scores))
        assert again.sentence() == stack.sentence()
    record, tensors = stack.to_record(), stack.tensors()
    for change, message in [
        ({"names": ["a", "b"]}, r"of a stack must be \(2,\)"),
        ({"names": ["a", "a", "b"]}, "different names"),
        ({"names": "abc"}, "list of names"),
        ({"rows": 3, "wrong": 4}, "wrong <= rows"),
        ({"how": "guess"}, "do not fit"),
        ({"ridge": 2.0}, "do not fit"),
        ({"how": "prior_ridge", "ridge": float("nan")}, "finite number above 0"),
        ({"more": 1}, "has the keys"),
    ]:
        with pytest.raises(ValueError, match=message):
            DoubtStack.from_record({**record, **change}, tensors)
    for change, message in [
        ({"weights": -tensors["weights"]}, "at least 0"),
        ({"spread": 0 * tensors["spread"]}, "above 0"),
        ({"centre": tensors["centre"] * math.nan}, "NaN"),
        ({"centre": tensors["centre"].float()}, "float64"),
        ({"other": tensors["centre"]}, "tensors of a stack"),
    ]:
        with pytest.raises(ValueError, match=message):
            DoubtStack.from_record(record, {**tensors, **change})


def test_bad_input_is_refused_by_name() -> None:
    scores, failure, _ = simulated(20)
    stack = DoubtStack(NAMES)
    with pytest.raises(ValueError, match="not fitted"):
        stack(scores)
    bad = scores.clone()
    bad[3, 1] = math.nan
    for given, fails, message in [
        (bad, failure, "those of noise are not"),
        (scores[:, :2], failure, r"must be \(N, 3\)"),
        (scores[:0], failure[:0], "empty"),
        (scores, failure.long(), r"must be \(20,\) bool"),
        (scores, failure[:5], r"must be \(20,\) bool"),
    ]:
        with pytest.raises(ValueError, match=message):
            stack.fit(given, fails)
    with pytest.raises(ValueError, match=r"folds must be \(20,\) int64"):
        stack.fit(scores, failure, folds=torch.zeros(3).long())
    for names, ridges in [([], RIDGES), (["a", "a"], RIDGES), (["a"], [0.0]), (["a"], [])]:
        with pytest.raises(ValueError, match=r"names|ridges"):
            DoubtStack(names, ridges=ridges)
