"""`summarize`: every metric under its one name, plain numbers, and what is undefined."""

from __future__ import annotations

import json
import math

import pytest
import torch

from calib.metrics import METRICS, metric_collection, summarize

NAMES = [
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "ece",
    "mce",
    "ace",
    "classwise_ece",
    "kde_ece",
    "brier",
    "nll",
    "confidence",
    "confidence_gap",
    "overconfidence",
    "underconfidence",
]


def random_logits(n=50, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, classes, generator=generator), torch.randint(
        0, classes, (n,), generator=generator
    )


def test_names_are_the_same_everywhere():
    assert list(METRICS) == NAMES
    assert list(summarize(*random_logits())) == [*NAMES, "n", "n_bins", "per_class"]
    assert set(metric_collection(3).keys()) == set(NAMES)


def test_values_are_plain_numbers_that_json_takes():
    summary = summarize(*random_logits(), class_names=["a", "b", "c"], n_bins=12)
    assert (summary["n"], summary["n_bins"]) == (50, 12)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert all(type(summary[name]) is float for name in NAMES)


def test_each_value_is_that_of_the_function_in_the_table_of_metrics():
    logits, labels = random_logits()
    probs = logits.double().softmax(dim=1)
    confidence, predictions = probs.max(dim=1)
    tensors = {
        "logits": logits,
        "labels": labels,
        "probs": probs,
        "confidence": confidence,
        "predictions": predictions,
        "correct": predictions == labels,
    }
    summary = summarize(logits, labels)
    for name, info in METRICS.items():
        takes = info.function.__code__.co_varnames[: info.function.__code__.co_argcount]
        assert summary[name] == pytest.approx(float(info.function(*(tensors[t] for t in takes))), abs=1e-12)


def test_by_hand():
    logits = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]], dtype=torch.float64).log()
    summary = summarize(logits, torch.tensor([0, 0, 1]))
    expected = {
        "accuracy": 1 / 3,
        "balanced_accuracy": (1 / 2 + 0) / 2,
        "macro_f1": (2 / 4 + 0) / 2,
        "ece": (0.2 + 0.6 + 0.7) / 3,
        "mce": 0.7,
        "brier": 2 * (0.2**2 + 0.6**2 + 0.7**2) / 3,
        "nll": -(math.log(0.8) + math.log(0.4) + math.log(0.3)) / 3,
        "confidence": 0.7,
        "confidence_gap": 0.7 - 1 / 3,
        "overconfidence": (0.6 + 0.7) / 3,
        "underconfidence": 0.2 / 3,
    }
    for name, value in expected.items():
        assert summary[name] == pytest.approx(value, abs=1e-12), name


def test_saturated_and_wrong_is_the_worst():
    logits = torch.tensor([[1000.0, 0.0, 0.0]] * 4)
    summary = summarize(logits, torch.tensor([1, 1, 2, 1]))
    worst = {
        "accuracy": 0,
        "ece": 1,
        "mce": 1,
        "ace": 1,
        "kde_ece": 1,
        "brier": 2,
        "nll": 1000,
        "overconfidence": 1,
    }
    assert {name: summary[name] for name in worst} == worst


def test_saturated_and_right_is_perfect():
    labels = torch.tensor([1, 0, 2, 1])
    summary = summarize(1000 * torch.eye(3)[labels], labels)
    assert summary["accuracy"] == summary["macro_f1"] == summary["balanced_accuracy"] == 1
    assert all(
        summary[name] == 0 for name in ("ece", "mce", "ace", "classwise_ece", "kde_ece", "brier", "nll")
    )


def test_one_sample_has_everything_but_neighbours():
    summary = summarize(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([1]))
    undefined = [name for name in NAMES if math.isnan(summary[name])]
    assert undefined == ["kde_ece"]
    assert [row["n"] for row in summary["per_class"]] == [0, 1, 0]


def test_directions():
    better = {name for name, info in METRICS.items() if info.higher_is_better}
    neither = {name for name, info in METRICS.items() if info.higher_is_better is None}
    assert better == {"accuracy", "balanced_accuracy", "macro_f1"}
    assert neither == {"confidence", "confidence_gap"}
