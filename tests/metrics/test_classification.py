"""Accuracy and its kin, Brier score, likelihood and the table per class."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics as sklearn_metrics

from calib.metrics import (
    accuracy,
    balanced_accuracy,
    brier_score,
    expected_calibration_error,
    macro_f1,
    negative_log_likelihood,
    negative_log_likelihood_from_probs,
    per_class_table,
)


def random_predictions(n=90, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes - 1, (n,), generator=generator)  # the last class is absent


def test_accuracies_by_hand():
    labels, predictions = torch.tensor([0, 0, 0, 1, 1, 3]), torch.tensor([0, 0, 1, 1, 0, 2])
    assert float(accuracy(predictions, labels)) == pytest.approx(3 / 6)
    assert float(balanced_accuracy(predictions, labels)) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # 2 is predicted and absent, 3 present and never predicted: both count with F1 = 0
    assert float(macro_f1(predictions, labels)) == pytest.approx((4 / 6 + 2 / 4 + 0 + 0) / 4)


def test_a_class_neither_present_nor_predicted_changes_nothing():
    labels, predictions = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    for metric in (balanced_accuracy, macro_f1):
        assert float(metric(predictions, labels)) == float(metric(5 * predictions, 5 * labels))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_scikit_learn(seed):
    logits, labels = random_predictions(seed=seed)
    predictions, probs = logits.argmax(dim=1), logits.softmax(dim=1)
    assert 4 in predictions
    assert 4 not in labels
    reference = {
        accuracy: sklearn_metrics.accuracy_score(labels, predictions),
        balanced_accuracy: sklearn_metrics.balanced_accuracy_score(labels, predictions),
        macro_f1: sklearn_metrics.f1_score(labels, predictions, average="macro"),
    }
    for metric, expected in reference.items():
        assert float(metric(predictions, labels)) == pytest.approx(expected, abs=1e-12)
    nll = sklearn_metrics.log_loss(labels, probs.numpy(), labels=range(5))
    assert float(negative_log_likelihood(logits, labels)) == pytest.approx(nll, abs=1e-12)
    assert float(negative_log_likelihood_from_probs(probs, labels)) == pytest.approx(nll, abs=1e-12)


def test_brier_of_two_classes_is_twice_that_of_scikit_learn():
    logits, labels = random_predictions(classes=2)
    labels = (logits[:, 1] > logits[:, 0] + 1).long()
    probs = logits.softmax(dim=1)
    expected = 2 * sklearn_metrics.brier_score_loss(labels, probs[:, 1])
    assert float(brier_score(probs, labels)) == pytest.approx(expected, abs=1e-12)


def test_brier_limits():
    certain = torch.eye(3)
    assert float(brier_score(certain, torch.tensor([0, 1, 2]))) == 0
    assert float(brier_score(certain, torch.tensor([1, 2, 0]))) == 2
    assert float(brier_score(torch.full((4, 5), 0.2), torch.tensor([0, 1, 2, 3]))) == pytest.approx(0.8)


def test_likelihood_from_logits_stays_finite_where_probabilities_underflow():
    logits, labels = torch.tensor([[1000.0, 0.0, 0.0]]), torch.tensor([1])
    assert float(negative_log_likelihood(logits, labels)) == 1000
    assert float(negative_log_likelihood_from_probs(logits.softmax(dim=1), labels)) == math.inf


def test_likelihood_of_uniform_logits_is_log_c_and_a_shift_changes_nothing():
    labels = torch.tensor([0, 2, 4])
    assert float(negative_log_likelihood(torch.zeros(3, 5), labels)) == pytest.approx(math.log(5))
    logits, labels = random_predictions()
    shifted = negative_log_likelihood(logits + 7, labels)
    assert float(shifted) == pytest.approx(float(negative_log_likelihood(logits, labels)), abs=1e-12)


def test_table_by_hand_with_an_absent_and_a_never_predicted_class():
    probs = torch.tensor(
        [[0.75, 0.25, 0, 0], [0.5, 0.25, 0.25, 0], [0.25, 0.25, 0.5, 0]], dtype=torch.float64
    )
    rows = per_class_table(probs, torch.tensor([0, 1, 0]), class_names=["fat", "stroma", "lymph", "mucus"])
    assert [row["class"] for row in rows] == ["fat", "stroma", "lymph", "mucus"]
    fat, stroma, lymph, mucus = rows
    assert (fat["n"], fat["n_predicted"], fat["recall"], fat["precision"]) == (2, 2, 0.5, 0.5)
    assert (fat["confidence"], fat["ece"]) == (0.625, pytest.approx((0.25 + 0.5) / 2))
    assert (stroma["n"], stroma["n_predicted"], stroma["recall"], stroma["ece"]) == (1, 0, 0.0, 0.5)
    assert math.isnan(stroma["precision"])
    assert (lymph["n"], lymph["n_predicted"], lymph["precision"]) == (0, 1, 0.0)
    assert all(math.isnan(lymph[key]) for key in ("recall", "confidence", "ece"))
    assert all(math.isnan(mucus[key]) for key in ("recall", "precision", "confidence", "ece"))


def test_table_rows_are_the_metrics_of_each_class():
    logits, labels = random_predictions()
    probs = logits.softmax(dim=1)
    confidence, predictions = probs.max(dim=1)
    for c, row in enumerate(per_class_table(probs, labels, n_bins=6)[:4]):
        mine = labels == c
        ece = expected_calibration_error(confidence[mine], (predictions == labels)[mine], n_bins=6)
        assert row["ece"] == pytest.approx(float(ece), abs=1e-12)
        assert row["recall"] == pytest.approx(float((predictions[mine] == c).double().mean()))
    assert sum(row["n"] for row in per_class_table(probs, labels)) == len(labels)


def test_unusable_inputs_raise():
    probs, labels = torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="Expected 2 class names, one per column of probs, got 1"):
        per_class_table(probs, labels, class_names=["benign"])
    with pytest.raises(ValueError, match="below the number of classes, 2; got 2"):
        brier_score(probs, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="must not be negative"):
        brier_score(probs, torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="class indices"):
        brier_score(probs, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="2 samples but 1 labels"):
        brier_score(probs, labels[:1])
    with pytest.raises(ValueError, match=r"\(N, C\) floats"):
        brier_score(probs[0], labels)
    with pytest.raises(ValueError, match="finite"):
        negative_log_likelihood(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="no sample"):
        accuracy(labels[:0], labels[:0])
    with pytest.raises(ValueError, match="2 predictions, 1 labels"):
        accuracy(labels, labels[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_float_types_are_accepted_and_summed_in_float64(dtype):
    logits, labels = random_predictions(n=40)
    probs = logits.softmax(dim=1).to(dtype)
    assert brier_score(probs, labels).dtype == torch.float64
    assert float(brier_score(probs, labels)) == pytest.approx(
        float(brier_score(probs.double() / probs.double().sum(1, keepdim=True), labels)), abs=0.02
    )
