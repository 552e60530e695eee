"""Tests: values by hand and by scipy, clusters, ranks over columns, many p-values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as theirs

from calib.metrics.failure import failure_statistic
from calib.stats import (
    adjusted_p,
    delong,
    delong_test,
    equivalence_test,
    mcnemar_exact,
    permutation_p,
    sign_flip_test,
    signed_ranks,
    spearman_test,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "vqa_metrics.json").read_text())["cases"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_failure_metrics_with_ties_averaged(case: dict) -> None:
    uncertainty, failure = np.array(case["uncertainty"]), ~np.array(case["correct"], dtype=bool)
    known = case["reference"]
    ours = {
        "auroc_err": failure_statistic("auroc"),
        "aurc_discrete_tieavg": failure_statistic("aurc"),
        "augrc_trapz_tieavg": failure_statistic("augrc"),
        "prr_1_tieavg": failure_statistic("prr"),
        "prr_05_tieavg": failure_statistic("prr", max_rejection=0.5),
    }
    for name, statistic in ours.items():
        value = statistic(uncertainty, failure)
        assert np.isnan(value) if known[name] is None else value == pytest.approx(known[name], abs=1e-12), (
            name
        )
    if known["delong_auc_se"]:
        auroc, covariance = delong(uncertainty[:, None], failure)
        assert auroc[0] == pytest.approx(known["delong_auc_se"][0])
        error = np.sqrt(covariance[0, 0])
        assert (
            np.isnan(error)
            if known["delong_auc_se"][1] is None
            else error == pytest.approx(known["delong_auc_se"][1])
        )


def test_capture_by_hand() -> None:
    uncertainty, failure = np.array([1.0, 2.0, 3.0, 3.0]), np.array([True, False, False, True])
    assert failure_statistic("capture", budget=0.25)(uncertainty, failure) == 0.25  # one of the tied two
    assert failure_statistic("capture", budget=0.5)(uncertainty, failure) == 0.5
    assert failure_statistic("capture", budget=1.0)(uncertainty, failure) == 1.0
    with pytest.raises(ValueError, match="budget must lie in"):
        failure_statistic("capture", budget=20.0)


def _of_clusters(uncertainty: np.ndarray, failure: np.ndarray, groups: np.ndarray) -> float:
    """Return the variance of an AUROC by Obuchowski's sums, written out (1997, Biometrics 53)."""
    x, y, mine = uncertainty[failure, 0], uncertainty[~failure, 0], groups[failure]
    beats = (x[:, None] > y).astype(float)
    m, n, theta = len(x), len(y), beats.mean()
    s10 = s01 = s11 = 0.0
    for g in np.unique(groups):
        a = (beats.mean(axis=1)[mine == g] - theta).sum()
        b = (beats.mean(axis=0)[groups[~failure] == g] - theta).sum()
        s10, s01, s11 = s10 + a * a, s01 + b * b, s11 + a * b
    i, i10, i01 = (len(np.unique(some)) for some in (groups, mine, groups[~failure]))
    s10, s01, s11 = i10 / (i10 - 1) / m * s10, i01 / (i01 - 1) / n * s01, i / (i - 1) * s11
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def test_delong_of_clusters_of_one_and_of_copies() -> None:
    rng = np.random.default_rng(0)
    failure = rng.random(200) < 0.4
    uncertainty = rng.normal(size=(200, 2)) + failure[:, None]
    auroc, covariance = delong(uncertainty, failure)
    singly = delong(uncertainty, failure, np.arange(200))[1]
    assert singly == pytest.approx(covariance, rel=1e-12)  # DeLong's own case
    twice = [np.repeat(each, 2, axis=0) for each in (uncertainty, failure)]
    assert delong(*twice, np.repeat(np.arange(200), 2))[1] == pytest.approx(singly, rel=1e-9)
    assert np.isnan(delong(uncertainty, failure, ["a"] * 200)[1]).all()  # one patient has no variance
    of_two = np.where(failure, "a", np.arange(200).astype(str))
    assert np.isnan(delong(uncertainty, failure, of_two)[1]).all()  # nor have failures that are all of one
    few = np.where(failure, np.cumsum(failure) % 2, 2 + np.arange(200))  # all failures are of two patients
    assert delong(uncertainty, failure, few)[1][0, 0] == pytest.approx(
        _of_clusters(uncertainty, failure, few)
    )
    z, p = delong_test(auroc, covariance)
    assert p == pytest.approx(2 * theirs.norm.sf(abs(z)))


def test_mcnemar() -> None:
    assert mcnemar_exact(26, 1) == pytest.approx(4.172325134277344e-07)
    assert mcnemar_exact(3, 3) == 1.0
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 2)


def test_signs_are_flipped_the_same_in_any_unit() -> None:
    differences = np.random.default_rng(0).choice([0.1, -0.1, 0.2, -0.2], size=60)  # sums have many ties
    assert len({sign_flip_test(differences * unit, n_permutations=999) for unit in (1e-13, 1, 1e9 / 7)}) == 1


def test_signs_of_clusters_are_flipped_together() -> None:
    differences = np.repeat([1.0, 1.0, 1.0, -1.0], 20)
    singly, together = sign_flip_test(differences), sign_flip_test(differences, np.repeat(np.arange(4), 20))
    assert singly < 0.001
    assert together == pytest.approx(
        10 / 16, abs=0.03
    )  # of 16 ways to flip four signs, 10 add up to 2 or more
    assert sign_flip_test(np.zeros(5), n_permutations=99) == 1.0


def test_equivalence() -> None:
    values = np.random.default_rng(1).normal(0.02, 1.0, 400)
    found = equivalence_test(values, 0.2)
    low, high = (theirs.ttest_1samp(values, m, alternative=a) for m, a in ((-0.2, "greater"), (0.2, "less")))
    assert found.p == pytest.approx(max(low.pvalue, high.pvalue), rel=1e-6)
    assert found.equivalent == (found.low > -0.2 and found.high < 0.2)
    copies = equivalence_test(np.repeat(values, 3), 0.2, np.repeat(np.arange(400), 3))
    assert (copies.p, copies.n_clusters) == (pytest.approx(found.p), 400)
    assert equivalence_test(values, 0.01).equivalent is False  # no difference found is not no difference
    for margin, groups, told in (
        (0.0, None, "margin must be above 0"),
        (0.1, [0] * 400, "at least 2 clusters"),
    ):
        with pytest.raises(ValueError, match=told):
            equivalence_test(values, margin, groups)


def test_signed_ranks() -> None:
    values = np.array([0.0, 3.0, -1.0, 2.0, 5.0, -4.0])
    p, effect = signed_ranks(values)
    assert p == pytest.approx(theirs.wilcoxon(values).pvalue)
    assert effect == pytest.approx((10 - 5) / 15)
    assert signed_ranks(np.zeros(4)) == (1.0, 0.0)


def test_ranks_within_columns_exchange_whole_rows() -> None:
    rng = np.random.default_rng(2)
    skill = np.arange(8.0)
    accuracy = np.stack([skill, skill + 100], axis=1)  # the second column is easier: that says nothing
    found = spearman_test(accuracy, accuracy + rng.normal(0, 0.1, (8, 2)))
    assert (found.rho, found.n, found.columns) == (1.0, 8, 2)
    assert found.p < 0.002
    shuffled = rng.permutation(skill)
    one = spearman_test(skill, shuffled, n_permutations=4999)
    known = theirs.spearmanr(skill, shuffled)
    assert one.rho == pytest.approx(known.statistic)
    assert one.p == pytest.approx(known.pvalue, abs=0.05)  # theirs is an approximation
    missing = accuracy.copy()
    missing[0, 1] = np.nan
    assert spearman_test(missing, accuracy).rho == 1.0
    with pytest.raises(ValueError, match="no rank correlation"):
        spearman_test(np.ones(5), np.arange(5.0))


def test_missing_cells_do_not_make_the_test_of_ranks_reject_more() -> None:
    rng = np.random.default_rng(5)
    p = []
    for seed in range(200):
        skill = rng.normal(size=(8, 1))  # what is good in one column is good in others
        accuracy = skill + 0.3 * rng.normal(size=(8, 8))
        auroc = rng.normal(size=(8, 1)) + 0.3 * rng.normal(size=(8, 8))
        auroc[rng.random((8, 8)) < 0.4] = np.nan
        p.append(spearman_test(accuracy, auroc, n_permutations=99, seed=seed).p)
    assert abs(np.mean(np.array(p) <= 0.05) - 0.05) < 0.046  # 3 standard errors of 200 draws


def test_many_p_values() -> None:
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    assert adjusted_p(p, "holm") == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    known = theirs.false_discovery_control(p[~np.isnan(p)])
    assert adjusted_p(p, "bh")[~np.isnan(p)] == pytest.approx(known)
    with pytest.raises(ValueError, match="between 0 and 1"):
        adjusted_p([1.2])
    with pytest.raises(ValueError, match="'holm' or 'bh'"):
        adjusted_p([0.2], "bonferroni")  # type: ignore[arg-type]


def test_permutation_p_is_never_zero() -> None:
    assert permutation_p(5.0, np.zeros(99)) == 0.01
    assert permutation_p(0.3, np.array([0.1 + 0.2])) == 1.0  # equal but for rounding
    with pytest.raises(ValueError, match="at least one finite"):
        permutation_p(0.5, np.array([]))


@pytest.mark.parametrize(
    ("n", "share", "half"), [(100, 0.5, 0.103), (400, 0.8, 0.065), (400, 0.95, 0.116), (1600, 0.2, 0.032)]
)
def test_delong_is_as_wide_as_another_program_finds(n: int, share: float, half: float) -> None:
    """Half the width of an interval of an AUROC of 0.69, by the number of cases and the share that fails."""
    rng = np.random.default_rng(7)
    widths = []
    for _ in range(30):
        failure = np.arange(n) < round(share * n)
        uncertainty = rng.normal(size=n) + 0.7 * failure
        widths.append(1.96 * np.sqrt(delong(uncertainty[:, None], failure)[1][0, 0]))
    assert np.mean(widths) == pytest.approx(half, rel=0.06)
