"""Metrics of prediction sets: values by hand, edge cases, intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from calib.metrics import class_coverage_gap, class_coverages, set_coverage, set_size, summarize_sets
from calib.metrics.sets import chance_gap
from calib.stats import clopper_pearson

SETS = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.bool)
LABELS = torch.tensor([0, 1, 0, 2, 2])


def test_by_hand() -> None:
    found = summarize_sets(SETS, LABELS, coverage=0.9, class_names=["a", "b", "c"])
    assert found["coverage"] == pytest.approx(3 / 5) == float(set_coverage(SETS, LABELS))
    assert found["mean_size"] == pytest.approx(7 / 5) == float(set_size(SETS))
    assert (found["empty"], found["singletons"], found["full"]) == pytest.approx((0.2, 0.4, 0.2))
    assert found["singleton_accuracy"] == 0.5
    assert found["sizes"] == [1, 2, 1, 1]
    assert class_coverages(SETS, LABELS).tolist() == [0.5, 1.0, 0.5]
    gap = (0.4 + 0.1 + 0.4) / 3
    assert found["class_gap"] == pytest.approx(gap) == float(class_coverage_gap(SETS, LABELS, coverage=0.9))
    assert found["lowest_class_coverage"] == 0.5
    assert found["per_class"][2]["name"] == "c"
    assert found["per_class"][2]["mean_size"] == 2.0
    low, high = found["intervals"]["coverage"]
    exact = stats.binomtest(3, 5).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))


def test_a_class_without_cases_does_not_count() -> None:
    found = summarize_sets(SETS[:3], LABELS[:3], coverage=0.9)
    assert math.isnan(class_coverages(SETS[:3], LABELS[:3])[2])
    assert found["per_class"][2] == {
        "name": "class 2",
        "n": 0,
        "coverage": None,
        "mean_size": None,
        "low": 0.0,
        "high": 1.0,
    }
    assert found["class_gap"] == pytest.approx((0.4 + 0.1) / 2)
    assert found["lowest_class_coverage"] == 0.5
    empty = summarize_sets(torch.zeros(3, 2, dtype=torch.bool), torch.tensor([0, 1, 1]))
    assert empty["singleton_accuracy"] is None
    assert "class_gap" not in empty


def test_the_gap_by_chance_is_that_of_binomials() -> None:
    for n in (1, 7, 10, 60):
        k = np.arange(n + 1)
        direct = float((stats.binom.pmf(k, n, 0.9) * np.abs(k / n - 0.9)).sum())
        assert chance_gap(torch.zeros(n).long(), coverage=0.9) == pytest.approx(direct)


def test_groups_make_intervals_wider() -> None:
    generator = torch.Generator().manual_seed(0)
    hit = torch.rand(60, generator=generator) < 0.8
    sets = torch.stack([hit, ~hit], dim=1).repeat_interleave(5, dim=0)
    labels = torch.zeros(300).long()
    alone = summarize_sets(sets, labels)["intervals"]["coverage"]
    grouped = summarize_sets(sets, labels, groups=[i // 5 for i in range(300)])["intervals"]["coverage"]
    assert grouped[1] - grouped[0] > 1.6 * (alone[1] - alone[0])
    assert clopper_pearson(0, 10)[0] == 0.0
    assert clopper_pearson(10, 10)[1] == 1.0


def test_patients_who_are_all_covered_do_not_make_the_coverage_sure() -> None:
    sets = torch.tensor([[True, False]] * 30 + [[False, True]] * 10)
    labels = torch.tensor([0] * 30 + [1] * 10)
    found = summarize_sets(sets, labels, groups=[f"p{i % 10}" for i in range(40)])
    wanted = clopper_pearson(10, 10)
    assert found["intervals"]["coverage"] == pytest.approx((float(wanted[0]), 1.0))
    for row in found["per_class"]:  # all ten patients are among the cases of each class
        assert (row["low"], row["high"]) == pytest.approx((float(wanted[0]), 1.0))


def test_one_patient_or_one_case_has_no_interval_by_resampling() -> None:
    for sets, labels, groups in ((SETS, LABELS, ["a"] * 5), (SETS[:1], LABELS[:1], None)):
        found = summarize_sets(sets, labels, groups=groups)
        assert found["intervals"]["mean_size"] is None
        low, high = found["intervals"]["coverage"]
        assert low < 0.05
        assert high > 0.95
        assert (found["intervals"]["empty"] is None) == (groups is not None)


def test_what_are_no_sets_is_refused() -> None:
    for wrong in (SETS.int(), SETS[:0], SETS[:, :1], SETS[0]):
        with pytest.raises(ValueError, match="sets must be"):
            set_size(wrong)
    with pytest.raises(ValueError, match="one label per sample"):
        set_coverage(SETS, LABELS[:2])
    with pytest.raises(ValueError, match="coverage must be"):
        class_coverage_gap(SETS, LABELS, coverage=90)
    with pytest.raises(ValueError, match="2 class names"):
        summarize_sets(SETS, LABELS, class_names=["a", "b"])
