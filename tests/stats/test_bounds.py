"""Exact bounds of a share: against the quantiles of other programs, and at their limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from calib.stats.bounds import enough_accepted, fewest_cases, most_wrong, p_value, upper_bound


def test_they_are_those_of_clopper_and_pearson() -> None:
    wrong, n = np.array([0, 1, 7, 40]), np.array([10, 45, 60, 300])
    theirs = [
        stats.binomtest(int(k), int(m)).proportion_ci(0.8, "exact").high
        for k, m in zip(wrong, n, strict=True)
    ]
    np.testing.assert_allclose(upper_bound(wrong, n, 0.1), theirs, rtol=1e-12)
    np.testing.assert_allclose(p_value(wrong, n, 0.07), stats.binom.cdf(wrong, n, 0.07), rtol=1e-12)


def test_nothing_seen_says_nothing_and_all_wrong_is_bounded_by_one() -> None:
    assert upper_bound(0, 0, 0.1) == 1
    assert upper_bound(5, 5, 0.1) == 1
    assert p_value(0, 0, 0.1) == 1


def test_the_bound_passes_where_the_test_does() -> None:
    n = np.arange(1, 400)
    for wrong in (0, 3, 11):
        sizes = n[n >= wrong]
        tested = p_value(wrong, sizes, 0.08) <= 0.05
        assert np.array_equal(tested, upper_bound(wrong, sizes, 0.05) <= 0.08)
        assert tested.any()


def test_the_fewest_cases_pass_and_one_fewer_do_not() -> None:
    for share, delta in ((0.1, 0.1), (0.05, 0.05), (0.5, 0.5)):
        n = fewest_cases(share, delta)
        assert p_value(0, n, share) <= delta < p_value(0, n - 1, share)
        assert most_wrong(n, share, delta) == 0
        assert most_wrong(n - 1, share, delta) == -1


def test_as_many_may_be_wrong_as_pass_the_test() -> None:
    n = np.array([45, 300, 5000])
    allowed = most_wrong(n, 0.05, 0.1)
    assert (p_value(allowed, n, 0.05) <= 0.1).all()
    assert (p_value(allowed + 1, n, 0.05) > 0.1).all()


def test_what_is_needed_has_the_chance_it_was_asked_for() -> None:
    m = enough_accepted(0.02, 0.05, 0.1)
    assert m is not None
    chance = stats.binom.cdf(most_wrong(m, 0.05, 0.1), m, 0.02)
    assert 0.8 <= chance < 0.88
    assert enough_accepted(0.06, 0.05, 0.1) is None
    assert enough_accepted(0.0, 0.05, 0.1) == fewest_cases(0.05, 0.1)


@pytest.mark.parametrize(("wrong", "n"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(wrong: int, n: int) -> None:
    with pytest.raises(ValueError, match="from 0 to n can be wrong"):
        upper_bound(wrong, n, 0.1)
    with pytest.raises(ValueError, match="whole numbers"):
        p_value(np.array([0.5]), n, 0.1)


@pytest.mark.parametrize("delta", [0, 1, -0.1, 1.5, float("nan"), True, "0.1"])
def test_a_delta_out_of_range_is_refused(delta: object) -> None:
    with pytest.raises(ValueError, match="delta must be a number above 0 and below 1"):
        upper_bound(0, 5, delta)  # type: ignore[arg-type]
