"""CORP decompositions: hand cases, scikit-learn's isotonic regression, identities, ties, certain errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from calib.metrics import (
    brier_score,
    classwise_corp_decomposition,
    corp_decomposition,
    isotonic_recalibration,
)
from calib.metrics.corp import classwise_parts, top_parts
from calib.metrics.outcomes import Outcomes

samples = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.55, 0.7, 0.95, 1.0]), st.booleans()), min_size=1, max_size=30
)


def tensors(confidence, correct):
    return torch.tensor(confidence, dtype=torch.float64), torch.tensor(correct, dtype=torch.bool)


def drawn(n=300, classes=4, seed=0, sharpness=1.5):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return sharpness * logits, labels


def numbers(parts):
    return [float(part) for part in (parts.score, parts.mcb, parts.dsc, parts.unc)]


def entropy(f):
    return -sum(x * math.log(x) for x in (f, 1 - f) if x > 0)


def test_by_hand():
    confidence, correct = tensors([0.2, 0.4, 0.6, 0.8], [False, True, False, True])
    # Recalibrated: 0, 1/2, 1/2, 1. Overall frequency: 1/2.
    brier = (0.2**2 + 0.6**2 + 0.6**2 + 0.2**2) / 4
    assert numbers(corp_decomposition(confidence, correct)) == pytest.approx(
        [brier, brier - 1 / 8, 1 / 8, 1 / 4]
    )
    log = -(2 * math.log(0.8) + 2 * math.log(0.4)) / 4
    least, constant = math.log(2) / 2, math.log(2)
    expected = [log, log - least, constant - least, constant]
    assert numbers(corp_decomposition(confidence, correct, score="log")) == pytest.approx(expected)


@pytest.mark.parametrize("decimals", [16, 2, 1])
def test_the_recalibration_is_that_of_scikit_learn(decimals):
    """With fewer decimals there are ties, which scikit-learn pools as well."""
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(500, generator=generator, dtype=torch.float64).round(decimals=decimals)
    correct = torch.rand(500, generator=generator, dtype=torch.float64) < confidence**2
    ours = isotonic_recalibration(confidence, correct).numpy()
    theirs = (
        IsotonicRegression().fit(confidence.numpy(), correct.double().numpy()).predict(confidence.numpy())
    )
    assert ours == pytest.approx(theirs, abs=1e-12)
    least = ((ours - correct.numpy()) ** 2).mean()
    parts = corp_decomposition(confidence, correct)
    assert float(parts.score - parts.mcb) == pytest.approx(least, abs=1e-12)


def test_a_chain_of_violators_is_pooled_to_its_end():
    """Each step only starts to fall when the one after it was pooled."""
    blocks = [(k, 40) for k in range(1, 36)] + [(0, 3000)]  # rising shares k / 40, then nothing right
    confidence = np.repeat(np.arange(len(blocks)) / len(blocks), [n for _, n in blocks])
    correct = np.concatenate([np.arange(n) < k for k, n in blocks])
    ours = isotonic_recalibration(*tensors(confidence, correct)).numpy()
    assert ours == pytest.approx(IsotonicRegression().fit(confidence, correct).predict(confidence), abs=1e-12)


@given(samples, st.sampled_from(["brier", "log"]))
def test_identities(rows, score):
    confidence, correct = tensors(*zip(*rows, strict=True))
    parts = corp_decomposition(confidence, correct, score=score)
    f = float(correct.double().mean())
    assert float(parts.unc) == pytest.approx(f * (1 - f) if score == "brier" else entropy(f), abs=1e-12)
    assert -1e-12 <= float(parts.dsc) <= float(parts.unc) + 1e-12
    assert float(parts.mcb) >= 0
    if score == "brier":
        direct = float((confidence - correct.double()).square().mean())
    else:
        direct = -float(torch.where(correct, confidence.log(), (-confidence).log1p()).mean())
    assert float(parts.score) == pytest.approx(direct, abs=1e-12)  # inf where a certain forecast was wrong
    again = isotonic_recalibration(confidence, correct)  # recalibrated, nothing is left
    assert float(corp_decomposition(again, correct, score=score).mcb) == pytest.approx(0, abs=1e-12)


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    one, other = (corp_decomposition(*tensors(*zip(*each, strict=True))) for each in (rows, shuffled))
    assert numbers(one) == pytest.approx(numbers(other), abs=1e-12)


def test_an_increasing_function_of_the_forecast_changes_miscalibration_alone():
    confidence, correct = tensors(np.linspace(0.05, 0.95, 40), np.sin(np.arange(40) ** 2) < 0.3)
    one, other = corp_decomposition(confidence, correct), corp_decomposition(confidence**3, correct)
    assert (float(one.dsc), float(one.unc)) == (float(other.dsc), float(other.unc))
    assert float(one.mcb) != pytest.approx(float(other.mcb))


def test_certain_and_right_is_perfect_and_certain_and_wrong_is_infinitely_bad_in_logs():
    confidence, correct = tensors([1.0, 1.0, 0.0], [True, True, False])
    assert numbers(corp_decomposition(confidence, correct, score="log")) == pytest.approx(
        [0, 0, entropy(2 / 3), entropy(2 / 3)]
    )
    wrong = corp_decomposition(confidence, ~correct, score="log")
    assert float(wrong.score) == float(wrong.mcb) == math.inf
    assert numbers(wrong)[2:] == pytest.approx([0, entropy(1 / 3)])
    constant = corp_decomposition(*tensors([0.75, 0.9], [True, True]))
    assert numbers(constant)[2:] == [0, 0]


def test_classes_sum_to_the_brier_score():
    logits, labels = drawn()
    probs = logits.softmax(dim=1)
    parts = classwise_corp_decomposition(probs, labels)
    assert float(parts.score) == pytest.approx(float(brier_score(probs, labels)), abs=1e-12)
    each = [numbers(corp_decomposition(probs[:, c], labels == c, score="log")) for c in range(4)]
    summed = classwise_corp_decomposition(probs, labels, score="log")
    assert numbers(summed) == pytest.approx(np.sum(each, axis=0), abs=1e-12)


def test_log_probabilities_give_the_same_and_stay_finite_where_doubles_end():
    logits, labels = drawn()
    p = Outcomes.from_logits(logits, labels)
    for score in ("brier", "log"):
        top, classes = top_parts(p)[score], classwise_parts(p)[score]
        assert numbers(top) == pytest.approx(
            numbers(corp_decomposition(p.confidence, p.correct, score=score))
        )
        assert numbers(classes) == pytest.approx(
            numbers(classwise_corp_decomposition(p.probs, labels, score=score))
        )
    logits = torch.tensor([[90.0, 0.0], [60.0, 0.0], [50.0, 0.0], [1000.0, 0.0]])
    p = Outcomes.from_logits(logits, torch.tensor([0, 1, 0, 0]))
    assert p.confidence.tolist() == [1.0] * 4
    assert float(corp_decomposition(p.confidence, p.correct, score="log").score) == math.inf
    # The order is still known: 50 (right), 60 (wrong), 90, 1000 (right).
    assert numbers(top_parts(p)["log"]) == pytest.approx(
        [15, 15 - math.log(2) / 2, entropy(3 / 4) - math.log(2) / 2, entropy(3 / 4)]
    )
    assert float(classwise_parts(p)["log"].score) == pytest.approx(30)


def test_unusable_inputs_raise():
    confidence, correct = tensors([0.5, 0.75], [True, False])
    with pytest.raises(ValueError, match="Did you mean 'brier'"):
        corp_decomposition(confidence, correct, score="briar")
    with pytest.raises(ValueError, match="Did you mean 'log'"):
        classwise_corp_decomposition(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), score="logs")
    with pytest.raises(ValueError, match="must lie in"):
        isotonic_recalibration(10 * confidence, correct)
