"""The torchmetrics classes: batches equal the whole, ranks can be pooled, float64 is kept."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch

from calib.metrics import (
    METRICS,
    CalibrationError,
    ClassScore,
    ClasswiseCalibrationError,
    SampleMean,
    SegmentationCalibration,
    SetCalibrationError,
    metric_collection,
    summarize,
)
from calib.metrics.modules import OfKind


def random_logits(n=83, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial((logits / 2).softmax(dim=1), 1, generator=generator).squeeze(1)


def single(name, classes=4, n_bins=7):
    return OfKind(METRICS[name].kind, classes, n_bins)


# The classes with names of their own, and which metric they are.
NAMED = [
    (lambda: CalibrationError(7), "ece"),
    (lambda: CalibrationError(7, "max"), "mce"),
    (lambda: CalibrationError(7, "over"), "overconfidence"),
    (lambda: CalibrationError(7, "under"), "underconfidence"),
    (lambda: ClasswiseCalibrationError(4, 7), "classwise_ece"),
    (lambda: SampleMean("brier"), "brier"),
    (lambda: ClassScore(4, "macro_f1"), "macro_f1"),
    (lambda: SetCalibrationError("ace", 7), "ace"),
    (lambda: SetCalibrationError("kde_ece"), "kde_ece"),
    (lambda: SetCalibrationError("null_ece", 7), "null_ece"),
]


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


@pytest.mark.parametrize(("make", "name"), NAMED, ids=lambda each: each if isinstance(each, str) else "")
def test_the_named_classes_are_the_metrics_of_the_table(make, name):
    logits, labels = random_logits()
    metric = make()
    for part, answers in zip(logits.split(11), labels.split(11), strict=True):
        metric.update(logits=part, labels=answers)
    assert float(metric.compute()) == pytest.approx(summarize(logits, labels, n_bins=7)[name], abs=1e-12)
    assert metric.higher_is_better == METRICS[name].higher_is_better
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(twin.compute(), metric.compute())


def test_rmsce_has_a_class_but_no_row():
    metric = CalibrationError(4, "l2")
    metric.update(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
    assert float(metric.compute()) == pytest.approx(((0.1**2 + 0.6**2) / 2) ** 0.5, abs=1e-7)


def test_metrics_that_keep_the_same_share_it():
    groups = {tuple(names) for names in metric_collection(3).compute_groups.values()}
    assert {tuple(sorted(names)) for names in groups if len(names) > 1} == {
        ("ece", "mce", "overconfidence", "underconfidence"),
        ("balanced_accuracy", "macro_f1"),
        ("ace", "kde_ece", "smooth_ece"),
    }


def test_metrics_with_equal_first_batches_are_not_confused():
    """After one wrong sample accuracy and balanced accuracy have equal states; they must not share them."""
    metrics = metric_collection(num_classes=3)
    metrics.update(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([1]))
    metrics.update(torch.tensor([[0.5, 0.25, 0.25]] * 3), torch.tensor([0, 0, 0]))
    values = metrics.compute()
    assert float(values["accuracy"]) == 0.75
    assert float(values["balanced_accuracy"]) == 0.5


@pytest.mark.parametrize("name", METRICS)
def test_two_halves_pool_to_the_whole(name):
    """What a distributed run does: each rank its half, then the declared reduction of every state."""
    logits, labels = random_logits()
    whole, left, right = (single(name) for _ in range(3))
    whole.update(logits=logits, labels=labels)
    left.update(logits=logits[:30], labels=labels[:30])
    right.update(logits=logits[30:], labels=labels[30:])
    left.merge_state(right)
    assert float(left.compute()) == pytest.approx(float(whole.compute()), abs=1e-12)


def segmented(n, **settings):
    metric = SegmentationCalibration(["rest", "a", "b"], n_bins=4, **settings)
    if n:
        draw = torch.Generator().manual_seed(0)
        probs = torch.randn(n, 3, 4, 5, generator=draw).softmax(dim=1)
        metric.update(probs, torch.randint(0, 3, (n, 4, 5), generator=draw))
    return metric


def classified(name, n, **settings):
    metric = OfKind(METRICS[name].kind, 4, 7, **settings)
    if n:
        logits, labels = random_logits(n)
        metric.update(logits=logits, labels=labels)
    return metric


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("name", [*METRICS, "segmentation"])
def test_a_process_without_a_sample_pools_as_others_do(name):
    """It sends rows of the type and width of the others' rows: gloo ends the process where they differ."""
    make = segmented if name == "segmentation" else functools.partial(classified, name)
    sent = []

    def of_one(tensor, group):
        sent.append(tensor)
        return [tensor]

    def gathered(tensor, group):
        theirs = sent.pop(0)
        assert (tensor.dtype, tensor.shape[1:], tensor.ndim) == (theirs.dtype, theirs.shape[1:], theirs.ndim)
        return [tensor, theirs]

    of_two = {"distributed_available_fn": lambda: True}
    expected = make(23, dist_sync_fn=of_one, **of_two).compute()
    found = make(0, dist_sync_fn=gathered, **of_two).compute()
    assert not sent
    assert found == expected or float(found) == pytest.approx(float(expected), abs=1e-15)
    with pytest.raises(ValueError, match="no sample, no metric"):
        make(0, dist_sync_fn=lambda tensor, group: [tensor, tensor], **of_two).compute()


@pytest.mark.parametrize("name", METRICS)
def test_reset_forgets_and_forward_returns_the_batch(name):
    logits, labels = random_logits()
    metric, fresh = single(name), single(name)
    metric.update(logits=logits[:50], labels=labels[:50])
    of_batch = metric(logits=logits[50:], labels=labels[50:])
    fresh.update(logits=logits[50:], labels=labels[50:])
    assert float(of_batch) == pytest.approx(float(fresh.compute()), abs=1e-12)
    assert float(metric.compute()) != pytest.approx(float(of_batch), abs=1e-6)
    metric.reset()
    metric.update(logits=logits[50:], labels=labels[50:])
    assert float(metric.compute()) == pytest.approx(float(of_batch), abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_states_stay_float64_whatever_the_module_is_cast_to(name):
    logits, labels = random_logits()
    metric, untouched = single(name), single(name)
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

    images = segmented(2)
    images._apply(to_mps)
    assert {state[0].dtype for state in (images.counts, images.prob_sums)} == {torch.float32}
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
