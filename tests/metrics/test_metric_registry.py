"""The table of metrics and `summarize`: every metric under its one name, plain numbers, what is undefined."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import calib.metrics
from calib.commands.search.grid import CHOOSE_BY
from calib.commands.search.table import best_is_least
from calib.core.byname import tensors
from calib.metrics import METRICS, MeanOverSamples, WholeSet, metric_collection, summarize
from calib.metrics.outcomes import Outcomes

PUBLIC = {
    "ece": "expected_calibration_error",
    "mce": "maximum_calibration_error",
    "ace": "adaptive_calibration_error",
    "classwise_ece": "classwise_calibration_error",
    "kde_ece": "kde_calibration_error",
    "smooth_ece": "smooth_calibration_error",
    "brier": "brier_score",
    "nll": "negative_log_likelihood",
    "confidence": "mean_confidence",
}  # functions with longer names than their rows


def random_logits(n=50, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, classes, generator=generator), torch.randint(
        0, classes, (n,), generator=generator
    )


def test_names_are_the_same_everywhere():
    assert list(summarize(*random_logits())) == [*METRICS, "n", "n_bins", "per_class", "calibration"]
    assert set(metric_collection(3).keys()) == set(METRICS)


def test_values_are_plain_numbers_that_json_takes():
    summary = summarize(*random_logits(), class_names=["a", "b", "c"], n_bins=12)
    assert (summary["n"], summary["n_bins"]) == (50, 12)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert all(type(summary[name]) is float for name in METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_each_value_is_that_of_the_public_function(name):
    logits, labels = random_logits()
    function = getattr(calib.metrics, PUBLIC.get(name, name))
    given = {"logits": logits, **vars(Outcomes.from_logits(logits, labels))}
    expected = function(*(given[each] for each in tensors(function)))
    assert summarize(logits, labels)[name] == float(expected)  # to the last bit


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
        "smooth_ece": pytest.approx(1, abs=1e-9),
        "null_ece": 0,
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
    undefined = [name for name in METRICS if math.isnan(summary[name])]
    assert undefined == ["kde_ece"]
    assert [row["n"] for row in summary["per_class"]] == [0, 1, 0]


def test_every_direction_is_the_one_in_which_right_predictions_differ_from_bad_ones():
    labels = torch.tensor([1, 0, 2, 1])
    right = summarize(1000 * torch.eye(3)[labels], labels)
    wrong = summarize(1000 * torch.eye(3)[labels.roll(1)], labels)
    timid = summarize(torch.eye(3)[labels] / 1000, labels)
    for name, metric in METRICS.items():
        if metric.higher_is_better is not None:
            sign = 1 if metric.higher_is_better else -1
            assert sign * right[name] > min(sign * wrong[name], sign * timid[name]), name
    assert all(METRICS[name].higher_is_better is None for name in ("confidence", "confidence_gap"))


def test_sweeps_are_ordered_by_metrics_and_in_their_direction():
    least = {"nll": True, "brier": True, "ece": True, "accuracy": False}
    assert {name: best_is_least(name) for name in CHOOSE_BY} == least
    assert all(METRICS[name].compared and METRICS[name].column for name in CHOOSE_BY)


def test_what_is_biased_upwards_is_larger_in_small_samples():
    """A calibrated model: 200 sets of 30 samples against all of them at once."""
    generator = np.random.default_rng(0)  # whose draws no version of torch changes
    logits = 2 * torch.from_numpy(generator.normal(size=(6_000, 3)))
    labels = (logits + torch.from_numpy(generator.gumbel(size=(6_000, 3)))).argmax(dim=1)

    def measured(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        p = Outcomes.from_logits(logits, labels)
        return {name: float(metric.kind.value(p, 10)) for name, metric in METRICS.items()}

    whole = measured(logits, labels)
    parts = [measured(*part) for part in zip(logits.split(30), labels.split(30), strict=True)]
    for name, metric in METRICS.items():
        bias = sum(part[name] for part in parts) / len(parts) - whole[name]
        if name != "null_ece":  # it is that bias
            assert (bias > 0.02) == metric.biased_upwards, (name, bias)
    chance = sum(part["null_ece"] for part in parts) / len(parts)
    assert sum(part["ece"] for part in parts) / len(parts) == pytest.approx(chance, abs=0.005)


def test_a_function_of_unknown_tensors_is_refused():
    def of_logits(logit):
        return logit

    for kind in (MeanOverSamples, WholeSet):
        with pytest.raises(ValueError, match="Unknown tensor of a metric 'logit'"):
            kind(of_logits)
