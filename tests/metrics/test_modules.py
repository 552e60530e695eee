"""The torchmetrics classes: batches equal the whole, ranks can be pooled, float64 is kept."""

from __future__ import annotations

import pytest
import torch

from calib.metrics import (
    METRICS,
    CalibrationError,
    ClassScore,
    ClasswiseCalibrationError,
    SampleMean,
    SetCalibrationError,
    metric_collection,
    summarize,
)


def random_logits(n=83, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial((logits / 2).softmax(dim=1), 1, generator=generator).squeeze(1)


def single_metrics(classes=4, n_bins=7):
    return {
        "ece": CalibrationError(n_bins),
        "mce": CalibrationError(n_bins, "max"),
        "rmsce": CalibrationError(n_bins, "l2"),
        "classwise_ece": ClasswiseCalibrationError(classes, n_bins),
        "brier": SampleMean("brier"),
        "macro_f1": ClassScore(classes, "macro_f1"),
        "ace": SetCalibrationError("ace", n_bins),
        "kde_ece": SetCalibrationError("kde_ece"),
    }


@pytest.mark.parametrize("how", ["logits", "probs"])
@pytest.mark.parametrize("batch", [1, 5, 83])
def test_batches_give_the_summary_of_the_whole(how, batch):
    logits, labels = random_logits()
    metrics = metric_collection(num_classes=4, n_bins=7, prefix="test/")
    for part, answers in zip(logits.split(batch), labels.split(batch), strict=True):
        if how == "logits":
            metrics.update(logits=part, labels=answers)
        else:
            metrics.update(part.softmax(dim=1), answers)
    values, summary = metrics.compute(), summarize(logits, labels, n_bins=7)
    assert set(values) == {f"test/{name}" for name in METRICS}
    for name in METRICS:
        assert float(values[f"test/{name}"]) == pytest.approx(summary[name], abs=1e-12), name


def test_metrics_with_equal_first_batches_are_not_confused():
    """After one wrong sample accuracy and balanced accuracy have equal states; they must not share them."""
    metrics = metric_collection(num_classes=3)
    metrics.update(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([1]))
    metrics.update(torch.tensor([[0.5, 0.25, 0.25]] * 3), torch.tensor([0, 0, 0]))
    values = metrics.compute()
    assert float(values["accuracy"]) == 0.75
    assert float(values["balanced_accuracy"]) == 0.5


@pytest.mark.parametrize("name", single_metrics())
def test_two_halves_pool_to_the_whole(name):
    """What a distributed run does: each rank its half, then the declared reduction of every state."""
    logits, labels = random_logits()
    whole, left, right = (single_metrics()[name] for _ in range(3))
    whole.update(logits=logits, labels=labels)
    left.update(logits=logits[:30], labels=labels[:30])
    right.update(logits=logits[30:], labels=labels[30:])
    left.merge_state(right)
    assert float(left.compute()) == pytest.approx(float(whole.compute()), abs=1e-12)


@pytest.mark.parametrize("name", single_metrics())
def test_reset_forgets_and_forward_returns_the_batch(name):
    logits, labels = random_logits()
    metric, fresh = single_metrics()[name], single_metrics()[name]
    metric.update(logits=logits[:50], labels=labels[:50])
    of_batch = metric(logits=logits[50:], labels=labels[50:])
    fresh.update(logits=logits[50:], labels=labels[50:])
    assert float(of_batch) == pytest.approx(float(fresh.compute()), abs=1e-12)
    assert float(metric.compute()) != pytest.approx(float(of_batch), abs=1e-6)
    metric.reset()
    metric.update(logits=logits[50:], labels=labels[50:])
    assert float(metric.compute()) == pytest.approx(float(of_batch), abs=1e-12)


@pytest.mark.parametrize("name", single_metrics())
def test_states_stay_float64_whatever_the_module_is_cast_to(name):
    logits, labels = random_logits()
    metric, untouched = single_metrics()[name], single_metrics()[name]
    for each in (metric, untouched):
        each.update(logits=logits[:40], labels=labels[:40])
    metric.half().to(torch.bfloat16).float().to("cpu", torch.float32)
    for each in (metric, untouched):
        each.update(logits=logits[40:], labels=labels[40:])
    assert torch.equal(metric.compute(), untouched.compute())
    assert metric.compute().dtype == torch.float64


def test_a_device_without_float64_gets_float32_states():
    """MPS refuses float64; the move must then be made in float32 instead of failing."""

    def to_mps(tensor):
        if tensor.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return tensor

    metric = CalibrationError(5)
    metric.update(torch.tensor([[0.75, 0.25]]), torch.tensor([1]))
    metric._apply(to_mps)
    assert metric.counts.dtype == torch.float32
    metric.update(torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
    assert metric.counts.dtype == torch.float32
    assert float(metric.compute()) == 0.25


def test_states_are_small_sums():
    metric = CalibrationError(6)
    logits, labels = random_logits()
    metric.update(logits=logits, labels=labels)
    assert metric.counts.shape == metric.confidence_sums.shape == metric.correct_sums.shape == (6,)
    assert float(metric.counts.sum()) == 83
    classwise = ClasswiseCalibrationError(4, 6)
    classwise.update(logits=logits, labels=labels)
    assert classwise.counts.shape == (4, 6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_unusable_calls_raise():
    logits, labels = random_logits(n=6)
    metric = CalibrationError()
    with pytest.raises(ValueError, match="no sample, no metric"):
        metric.compute()
    with pytest.raises(ValueError, match=r"got \['labels'\]"):
        metric.update(labels=labels)
    with pytest.raises(ValueError, match=r"got \['probs', 'labels', 'logits'\]"):
        metric.update(logits.softmax(dim=1), labels, logits=logits)
    with pytest.raises(ValueError, match="Logits need a softmax"):
        metric.update(logits, labels)
    with pytest.raises(ValueError, match="num_classes=3, got scores with 4 columns"):
        ClassScore(3, "macro_f1").update(logits=logits, labels=labels)
    with pytest.raises(ValueError, match="num_classes=3, got scores with 4 columns"):
        ClasswiseCalibrationError(3).update(logits=logits, labels=labels)
    with pytest.raises(ValueError, match="Did you mean 'brier'"):
        SampleMean("briar")
    with pytest.raises(ValueError, match="Did you mean 'macro_f1'"):
        ClassScore(3, "macrof1")
    with pytest.raises(ValueError, match="Did you mean 'kde_ece'"):
        SetCalibrationError("kde")
    with pytest.raises(ValueError, match="Did you mean 'over'"):
        CalibrationError(10, "ovr")
    with pytest.raises(ValueError, match="n_bins"):
        CalibrationError(0)
