"""Bootstrap intervals: known cases, coverage, pairing, groups and runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calib.stats import Interval, MeanStatistic, bootstrap_interval, mean_sd, paired_bootstrap

MEAN = MeanStatistic(lambda x: x[:, None], lambda means: means[:, 0])


def mean(x):
    return float(x.mean())


def width(interval):
    return interval.high - interval.low


def test_interval_of_a_mean_is_the_normal_one():
    x = np.random.default_rng(0).normal(size=400)
    interval = bootstrap_interval(MEAN, x, n_resamples=4000)
    assert interval.estimate == pytest.approx(x.mean())
    half = 1.96 * x.std() / 20
    assert interval.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(x.mean() + half, abs=0.1 * half)
    assert (interval.level, interval.n_resamples) == (0.95, 4000)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        interval = bootstrap_interval(MEAN, rng.normal(size=60), n_resamples=300, level=0.9)
        hits += interval.low <= 0 <= interval.high
    assert 168 <= hits <= 192  # 180 expected, 4.2 sd either way


def test_both_paths_draw_the_same_resamples():
    x = np.random.default_rng(2).random(31)
    for groups in (None, np.arange(31) // 4):
        fast = bootstrap_interval(MEAN, x, groups=groups, n_resamples=50, seed=3)
        slow = bootstrap_interval(mean, x, groups=groups, n_resamples=50, seed=3)
        assert fast.low == pytest.approx(slow.low, abs=1e-14)
        assert fast.high == pytest.approx(slow.high, abs=1e-14)


def test_the_seed_decides():
    x = np.random.default_rng(3).random(50)
    assert bootstrap_interval(MEAN, x, seed=1) == bootstrap_interval(MEAN, x, seed=1)
    assert bootstrap_interval(MEAN, x, seed=1) != bootstrap_interval(MEAN, x, seed=2)


def test_pairing_narrows_the_difference_of_similar_systems():
    rng = np.random.default_rng(4)
    a = rng.normal(size=300)
    b = a - 0.1 + 0.01 * rng.normal(size=300)
    paired = paired_bootstrap(MEAN, a, b)
    assert paired.estimate == pytest.approx(a.mean() - b.mean())
    assert 0.09 < paired.low < paired.high < 0.11
    assert width(paired) < 0.1 * width(bootstrap_interval(MEAN, a))


def test_a_constant_shift_has_no_width():
    a = np.random.default_rng(5).random(20)
    interval = paired_bootstrap(MEAN, a + 0.25, a)
    assert interval.low == pytest.approx(0.25)
    assert interval.high == pytest.approx(0.25)


def test_groups_of_copies_count_as_one_sample():
    """Ten copies of each sample tell nothing new: the interval must be that of the originals."""
    x = np.random.default_rng(6).normal(size=40)
    copies, groups = np.repeat(x, 10), [f"slide {i}" for i in np.repeat(np.arange(40), 10)]
    original = bootstrap_interval(MEAN, x, n_resamples=4000)
    grouped = bootstrap_interval(MEAN, copies, groups=groups, n_resamples=4000)
    assert width(grouped) == pytest.approx(width(original), rel=0.1)
    assert width(bootstrap_interval(MEAN, copies)) < 0.5 * width(original)


def test_runs_are_resampled_too():
    """Runs that differ by a constant: the samples say nothing about the spread between them."""
    shift = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    x = np.broadcast_to(shift[:, None], (5, 30)) + 0.0
    interval = bootstrap_interval(MEAN, x, several_runs=True, n_resamples=4000)
    assert interval.estimate == pytest.approx(0)
    assert width(interval) == pytest.approx(2 * 1.96 * shift.std() / math.sqrt(5), rel=0.1)


def test_runs_of_two_systems_stay_paired():
    rng = np.random.default_rng(7)
    a = rng.normal(size=(6, 1)) + np.zeros((6, 25))
    interval = paired_bootstrap(MEAN, a + 0.5, a, several_runs=True)
    assert interval.low == pytest.approx(0.5)
    assert interval.high == pytest.approx(0.5)


def test_one_run_is_the_plain_bootstrap():
    x = np.random.default_rng(8).random(50)
    assert bootstrap_interval(MEAN, x[None], several_runs=True) == bootstrap_interval(MEAN, x)


def test_arrays_are_resampled_together():
    x = np.random.default_rng(9).random(30)
    interval = bootstrap_interval(lambda a, b: float(np.abs(a - b).max()), x, x.copy(), n_resamples=20)
    assert interval == Interval(0.0, 0.0, 0.0, 0.95, 20)


def test_basic_interval_is_the_percentile_one_mirrored_at_the_estimate():
    x = np.random.default_rng(10).random(30) ** 3
    percentile = bootstrap_interval(MEAN, x)
    basic = bootstrap_interval(MEAN, x, kind="basic")
    assert basic.low == pytest.approx(2 * percentile.estimate - percentile.high)
    assert basic.high == pytest.approx(2 * percentile.estimate - percentile.low)


def test_large_sets_go_in_chunks_without_changing_the_mean():
    x = np.random.default_rng(11).random(30_000)
    interval = bootstrap_interval(MEAN, x, n_resamples=400)  # 12 million counts: three chunks
    half = 1.96 * x.std() / math.sqrt(30_000)
    assert interval.n_resamples == 400
    assert width(interval) == pytest.approx(2 * half, rel=0.2)


def test_undefined_resamples_raise_or_are_counted_out():
    x = np.array([1.0] * 4 + [0.0])

    def share_needs_a_zero(values):
        return math.nan if values.all() else float(values.mean())

    with pytest.raises(ValueError, match="undefined='drop'"):
        bootstrap_interval(share_needs_a_zero, x, n_resamples=100)
    interval = bootstrap_interval(share_needs_a_zero, x, n_resamples=100, undefined="drop")
    assert 40 < interval.n_resamples < 90  # (4/5)^5 = 33 % of the resamples miss the zero
    assert interval.high < 1


def test_mean_and_sample_standard_deviation():
    assert mean_sd([0.5, 0.7]) == (pytest.approx(0.6), pytest.approx(0.2 / math.sqrt(2)))
    average, sd = mean_sd(np.array([0.25]))
    assert average == 0.25
    assert math.isnan(sd)


def test_unusable_inputs_raise():
    x = np.arange(6.0)
    with pytest.raises(ValueError, match="at least one number"):
        mean_sd([])
    with pytest.raises(ValueError, match="finite numbers"):
        mean_sd([0.5, math.nan])
    with pytest.raises(ValueError, match="at least one array"):
        bootstrap_interval(mean)
    with pytest.raises(ValueError, match="same N"):
        bootstrap_interval(mean, x, x[:4])
    with pytest.raises(ValueError, match="same S and N"):
        bootstrap_interval(mean, x, several_runs=True)
    with pytest.raises(ValueError, match="No samples"):
        bootstrap_interval(mean, x[:0])
    with pytest.raises(ValueError, match="at least 2 samples or groups"):
        bootstrap_interval(mean, x, groups=["one"] * 6)
    with pytest.raises(ValueError, match="6 samples but 2 groups"):
        bootstrap_interval(mean, x, groups=["a", "b"])
    with pytest.raises(ValueError, match="some have None"):
        bootstrap_interval(mean, x, groups=["a", "b", None, "c", "d", "e"])
    with pytest.raises(ValueError, match="same runs and samples"):
        paired_bootstrap(mean, x, x[:5])
    with pytest.raises(ValueError, match="n_resamples"):
        bootstrap_interval(mean, x, n_resamples=0)
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(mean, x, level=95)
    with pytest.raises(ValueError, match="'percentile' or 'basic'"):
        bootstrap_interval(mean, x, kind="bca")
    with pytest.raises(ValueError, match="'raise' or 'drop'"):
        bootstrap_interval(mean, x, undefined="ignore")
    with pytest.raises(ValueError, match="statistic of the data is nan"):
        bootstrap_interval(lambda values: math.nan, x)
