from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from calib.metrics import summarize_sets
from calib.stats import (
    bootstrap_interval,
    clopper_pearson,
    delong,
    effective_size,
    proportion_interval,
    sign_flip_test,
)
from calib.stats.groups import group_numbers


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (3, 20), (500, 545)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_exact_interval_is_that_of_scipy(hits: int, n: int, level: float) -> None:
    low, high = clopper_pearson(hits, n, level=level)
    exact = binomtest(hits, n).proportion_ci(level, method="exact")
    assert float(low) == pytest.approx(exact.low, abs=1e-10)
    assert float(high) == pytest.approx(exact.high, abs=1e-10)


def test_it_covers_at_least_as_often_as_it_says() -> None:
    rng, n = np.random.default_rng(0), 30
    for share in (0.02, 0.2, 0.5):
        low, high = clopper_pearson(rng.binomial(n, share, 4000), n, level=0.9)
        assert ((low <= share) & (share <= high)).mean() >= 0.9 - 0.015


def test_groups_of_copies_count_once_and_groups_of_one_as_samples() -> None:
    rng = np.random.default_rng(1)
    once = rng.random(200) < 0.3
    hits, groups = np.repeat(once, 4), np.repeat(np.arange(200), 4)
    assert effective_size(hits, groups) == pytest.approx(200, rel=0.02)  # copies add nothing
    assert effective_size(once, np.arange(200)) == pytest.approx(200, rel=0.01)
    assert effective_size(once, None) == 200
    independent = rng.random(800) < 0.3
    assert (
        effective_size(independent, groups) > 500
    )  # grouped by chance: nothing is lost but what chance does


def test_shares_from_groups_are_covered_as_often_as_it_says() -> None:
    """Patients of four images that are alike: an interval by images covers the truth in two of three sets."""
    rng, share = np.random.default_rng(2), 0.3
    held = {"groups": 0, "images": 0}
    for _ in range(400):
        patients = rng.beta(0.6, 1.4, 60)  # of mean 0.3
        hits = rng.random((60, 4)) < patients[:, None]
        for name, groups in (("groups", np.repeat(np.arange(60), 4)), ("images", None)):
            _, low, high = proportion_interval(hits.ravel(), groups)
            held[name] += low <= share <= high
    assert held["groups"] / 400 > 0.93
    assert held["images"] / 400 < 0.88


def test_where_all_are_hits_a_group_counts_as_one() -> None:
    groups = np.repeat(np.arange(10), 6)
    share, low, high = proportion_interval(np.ones(60, dtype=bool), groups)
    assert (share, high) == (1.0, 1.0)
    assert low == pytest.approx(float(clopper_pearson(10, 10)[0]))
    one = proportion_interval(np.array([True, False]), ["a", "a"])
    assert one[1] < 0.05  # one group says next to nothing
    assert one[2] > 0.95


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="hits from 0 to n"):
        clopper_pearson(3, 2)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        clopper_pearson(1, 2, level=1.0)
    with pytest.raises(ValueError, match="There are no samples"):
        effective_size(np.zeros(0, dtype=bool), None)
    with pytest.raises(ValueError, match="2 samples but 1 groups"):
        effective_size(np.array([True, False]), ["a"])


@pytest.mark.parametrize(
    "of",
    [
        lambda groups: proportion_interval(np.array([True, False, True]), groups),
        lambda groups: sign_flip_test(np.array([1.0, -1.0, 2.0]), groups),
        lambda groups: delong(np.array([[0.1], [0.4], [0.3]]), np.array([True, False, True]), groups),
        lambda groups: bootstrap_interval(np.mean, np.array([1.0, 2.0, 3.0]), groups=groups),
        lambda groups: summarize_sets(torch.eye(3) > 0, torch.arange(3), groups=groups),
    ],
)
def test_a_sample_without_a_group_is_told_of(of: Callable[[list[str | None]], object]) -> None:
    with pytest.raises(ValueError, match="Every sample needs a group, some have None"):
        of(["a", None, "b"])
    with pytest.raises(ValueError, match="one group per sample: 3 samples but 2 groups"):
        of(["a", "b"])


def test_missing_numbers_of_patients_are_no_patient() -> None:
    for groups in ([np.nan, 7.0, np.nan], np.array([np.nan, 7, np.nan], dtype=np.float32)):
        with pytest.raises(ValueError, match="None or NaN"):  # else the first and the last were one patient
            group_numbers(groups, 3)
    with pytest.raises(ValueError, match=r"names or numbers, one for each sample, not \(3, 2\)"):
        group_numbers([("site", 1), ("site", 2), ("site", 1)], 3)
