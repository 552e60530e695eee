"""Failure metrics: released values, brute force over the orders of ties, scikit-learn, limits, bootstrap."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from calib.metrics.failure import (
    FAILURE_METRICS,
    augrc,
    aupr_error,
    aurc,
    auroc,
    coverage_at_risk,
    eaurc,
    failure_statistic,
    fpr_at_tpr,
    risk_at_coverage,
    risk_coverage_curve,
    summarize_failure,
    undefined_reason,
)
from calib.metrics.failure import statistic as failure_statistics
from calib.stats import bootstrap_interval, paired_bootstrap

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "failure_metrics.json").read_text())
SETTINGS = {"risk_at_coverage": {"coverage": 0.7}, "coverage_at_risk": {"risk": 0.3}}
ALL = {name: {} for name in FAILURE_METRICS} | SETTINGS


def ids(case):
    return case["name"]


def of_correct(scores, correct):
    return torch.tensor(scores, dtype=torch.float64), ~torch.tensor(correct, dtype=torch.bool)


def random_case(n=40, seed=0, *, levels=None, share=0.3):
    rng = np.random.default_rng(seed)
    failure = rng.random(n) < share
    failure[:2] = [True, False]
    scores = rng.normal(size=n) + failure
    if levels:
        scores = np.floor(scores * levels)
    return scores, failure


def tensors(scores, failure):
    return torch.from_numpy(scores), torch.from_numpy(failure)


# Released values


@pytest.mark.parametrize("case", GOLDEN["vilu"], ids=ids)
def test_vilu(case):
    uncertainty, failure = of_correct(
        [-x for x in case["pos"] + case["neg"]], [1] * len(case["pos"]) + [0] * len(case["neg"])
    )
    pairs = {"auroc": "auroc", "fpr95": "fpr95", "aupr_error": "aupr_err"}
    summary = summarize_failure(uncertainty, failure)
    for ours, theirs in pairs.items():
        if case["name"] == "no_failure" and ours == "aupr_error":
            assert case[theirs] == 0.0  # scikit-learn's answer when there is nothing to find
            assert math.isnan(summary[ours])
            continue
        assert summary[ours] == pytest.approx(float(case[theirs]), abs=1e-12, nan_ok=True)
    assert float(fpr_at_tpr(uncertainty, failure)) == pytest.approx(summary["fpr95"], nan_ok=True)


def test_vilu_cases_are_all_there():
    assert len(GOLDEN["vilu"]) == 13


def test_trustvlm_breaks_ties_by_the_row():
    case = GOLDEN["trustvlm"]
    scores, failure = of_correct(case["score"], case["correct"])
    summary = summarize_failure(-scores, failure)
    assert summary["auroc"] == pytest.approx(case["auroc"], abs=1e-12)
    assert summary["aupr_error"] == pytest.approx(case["aupr_err"], abs=1e-12)
    assert summary["fpr95_nearest"] == pytest.approx(case["fpr95_argmin|tpr-.95|"], abs=1e-12)
    ranks = torch.empty(len(scores))
    ranks[torch.argsort(-scores, stable=True)] = torch.arange(50.0)
    assert float(aurc(ranks, failure)) == pytest.approx(case["aurc"], abs=1e-12)
    assert float(eaurc(ranks, failure)) == pytest.approx(case["eaurc"], abs=1e-12)
    assert case["aurc"] == pytest.approx(0.348791, abs=1e-6)
    assert summary["aurc"] == pytest.approx(0.350258, abs=1e-6)  # ours, whatever the rows' order


@pytest.mark.parametrize("case", GOLDEN["fd_shifts"], ids=ids)
def test_fd_shifts(case):
    uncertainty, failure = of_correct(case["uncertainty"], case["correct"])
    assert float(aurc(uncertainty, failure)) == pytest.approx(case["tie_averaged"]["aurc"], abs=1e-12)
    assert float(augrc(uncertainty, failure)) == pytest.approx(case["tie_averaged"]["augrc"], abs=1e-12)
    if case["fd_shifts"]:
        assert float(augrc(uncertainty, failure)) == pytest.approx(case["fd_shifts"]["augrc"], abs=1e-12)
        assert float(auroc(uncertainty, failure)) == pytest.approx(case["sklearn"]["auroc_err"], abs=1e-12)
        aupr = case["sklearn"]["aupr_err"]
        assert float(aupr_error(uncertainty, failure)) == pytest.approx(aupr, abs=1e-12)
        best = case["fd_shifts"]["aurc"] - case["fd_shifts"]["eaurc"]
        ours = float(aurc(uncertainty, failure) - eaurc(uncertainty, failure))
        assert ours == pytest.approx(best, abs=1e-12)


# Independent implementations


@pytest.mark.parametrize("levels", [None, 2, 1])
@pytest.mark.parametrize("seed", range(4))
def test_agreement_with_scikit_learn(seed, levels):
    scores, failure = random_case(seed=seed, levels=levels)
    given = tensors(scores, failure)
    assert float(auroc(*given)) == pytest.approx(roc_auc_score(failure, scores), abs=1e-12)
    assert float(aupr_error(*given)) == pytest.approx(average_precision_score(failure, scores), abs=1e-12)
    for tpr in (0.5, 0.8, 0.95):
        fpr_list, tpr_list, _ = roc_curve(~failure, -scores)
        expected = np.interp(tpr, tpr_list, fpr_list)
        assert float(fpr_at_tpr(*given, tpr=tpr)) == pytest.approx(expected, abs=1e-12)
        fpr_list, tpr_list, _ = roc_curve(~failure, -scores, drop_intermediate=False)
        expected = fpr_list[np.argmin(np.abs(tpr_list - tpr))]
        assert float(fpr_at_tpr(*given, tpr=tpr, method="nearest")) == pytest.approx(expected, abs=1e-12)


def test_nearest_counts_the_points_scikit_learn_leaves_out():
    uncertainty = torch.arange(21.0)
    failure = uncertainty == 18  # 18 of 20 correct ones, the failure, the last two
    assert float(fpr_at_tpr(uncertainty, failure, method="nearest")) == 1.0
    fpr_list, tpr_list, _ = roc_curve(~failure.numpy(), -uncertainty.numpy())
    assert tpr_list.tolist() == [0.0, 0.05, 0.9, 0.9, 1.0]  # 0.95 is gone
    assert fpr_list[np.argmin(np.abs(tpr_list - 0.95))] == 0.0


def orders(scores):
    """Yield every order of the rows that sorts the scores."""
    groups = [np.flatnonzero(scores == value) for value in np.unique(scores)]
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield np.concatenate(parts)


@pytest.mark.parametrize("seed", range(5))
def test_ties_are_the_mean_over_all_orders(seed):
    rng = np.random.default_rng(seed)
    scores, failure = rng.integers(0, 3, 8).astype(float), rng.random(8) < 0.4
    risks, areas, at_half = [], [], []
    for order in orders(scores):
        wrong = failure[order].cumsum()
        risk = wrong / np.arange(1, 9)
        risks.append(risk.mean())
        areas.append((wrong.sum() - wrong[-1] / 2) / 64)
        at_half.append(risk[3])
    given = tensors(scores, failure)
    assert float(aurc(*given)) == pytest.approx(np.mean(risks), abs=1e-12)
    assert float(augrc(*given)) == pytest.approx(np.mean(areas), abs=1e-12)
    assert float(risk_at_coverage(*given, coverage=0.5)) == pytest.approx(np.mean(at_half), abs=1e-12)


# By hand, identities, invariances


def test_by_hand():
    u = torch.tensor([0.9, 0.1, 0.5, 0.3])
    failure = torch.tensor([True, False, False, True])  # accepted in the order right, wrong, right, wrong
    assert float(auroc(u, failure)) == pytest.approx(3 / 4)
    assert float(aupr_error(u, failure)) == pytest.approx((1 + 2 / 3) / 2)
    assert float(aurc(u, failure)) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert float(eaurc(u, failure)) == pytest.approx((4 / 3) / 4 - (0.5 + 0.5 * math.log(0.5)))
    assert float(augrc(u, failure)) == pytest.approx((0.0 + 0.5 + 1 + 1.5) / 16)
    assert float(fpr_at_tpr(u, failure)) == pytest.approx(0.5)
    curve = risk_coverage_curve(u, failure)
    assert curve.threshold.tolist() == pytest.approx([0.1, 0.3, 0.5, 0.9])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.failures.tolist() == [0, 0.25, 0.25, 0.5]
    assert float(coverage_at_risk(u, failure, risk=0.4)) == 0.75  # across the higher risk at 0.5
    assert float(coverage_at_risk(u, failure, risk=0.0)) == 0.25
    assert float(coverage_at_risk(-u, failure, risk=0.1)) == 0.0
    assert float(risk_at_coverage(u, failure, coverage=0.6)) == pytest.approx(1 / 3)


def test_coverage_times_n_is_not_rounded_up_by_float_noise():
    u, failure = torch.arange(100.0), torch.arange(100) == 7  # 0.07 * 100 = 7.000000000000001
    assert float(risk_at_coverage(u, failure, coverage=0.07)) == 0.0
    assert float(risk_at_coverage(u, failure, coverage=0.08)) == pytest.approx(1 / 8)


@pytest.mark.parametrize("levels", [None, 1])
def test_identities(levels):
    scores, failure = random_case(levels=levels)
    given, r = tensors(scores, failure), failure.mean()
    expected = (1 - float(auroc(*given))) * r * (1 - r) + r**2 / 2
    assert float(augrc(*given)) == pytest.approx(expected, abs=1e-12)
    risks = [float(risk_at_coverage(*given, coverage=i / 40)) for i in range(1, 41)]
    assert float(aurc(*given)) == pytest.approx(np.mean(risks), abs=1e-12)
    assert float(auroc(-given[0], given[1])) == pytest.approx(1 - float(auroc(*given)), abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_order_of_rows_and_increasing_functions_change_nothing(name):
    scores, failure = random_case(levels=2)
    statistic = failure_statistic(name, **ALL[name])
    order = np.random.default_rng(1).permutation(len(scores))
    assert statistic(scores[order], failure[order]) == statistic(scores, failure)
    assert statistic(1e6 * np.exp(scores) - 5, failure) == statistic(scores, failure)
    tripled = statistic(np.repeat(scores, 3), np.repeat(failure, 3))
    if name not in ("aurc", "eaurc", "risk_at_coverage"):  # those depend on N as well
        assert tripled == pytest.approx(statistic(scores, failure), abs=1e-12)


def test_perfect_and_useless_scores():
    failure = torch.arange(1000) >= 700
    best = summarize_failure(torch.arange(1000.0), failure)
    assert (best["auroc"], best["aupr_error"], best["fpr95"], best["fpr95_nearest"]) == (1, 1, 0, 0)
    assert best["eaurc"] == pytest.approx(0.3 / 2000, rel=0.2)  # the rest of the approximated optimum
    useless = summarize_failure(torch.zeros(1000), failure)
    assert useless["auroc"] == 0.5
    assert useless["fpr95"] == pytest.approx(0.95)
    assert useless["aupr_error"] == useless["aurc"] == pytest.approx(0.3)
    assert useless["augrc"] == pytest.approx(0.15)


def test_infinite_scores_are_scores():
    inf = math.inf
    u, failure = torch.tensor([-inf, -inf, 0.0, inf]), torch.tensor([False, True, False, True])
    assert float(auroc(u, failure)) == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert len(risk_coverage_curve(u, failure).risk) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_short_types_are_exact(dtype):
    u = torch.tensor([3, 1, 2, 4, 2], dtype=dtype)
    failure = torch.tensor([True, False, True, False, False])
    assert auroc(u, failure).dtype == torch.float64
    assert float(auroc(u, failure)) == pytest.approx(3.5 / 6)


# Undefined


@pytest.mark.parametrize(
    ("failure", "undefined", "reason"),
    [
        ([False] * 3, {"auroc", "aupr_error", "fpr95", "fpr95_nearest"}, "no prediction is wrong"),
        ([True] * 3, {"auroc", "fpr95", "fpr95_nearest"}, "every prediction is wrong"),
        ([], set(FAILURE_METRICS), "there are no samples"),
    ],
)
def test_undefined_is_nan_with_a_reason(failure, undefined, reason):
    summary = summarize_failure(torch.arange(float(len(failure))), torch.tensor(failure, dtype=torch.bool))
    assert summary["undefined"] == dict.fromkeys(undefined, reason)
    assert {name for name in FAILURE_METRICS if math.isnan(summary[name])} == undefined
    assert (summary["n"], summary["n_failures"]) == (len(failure), sum(failure))
    if failure:
        expected = (1.0, 0.0, 0.5) if failure[0] else (0.0, 0.0, 0.0)
        assert (summary["aurc"], summary["eaurc"], summary["augrc"]) == pytest.approx(expected, abs=1e-15)


def test_without_samples_everything_else_is_nan_too():
    nothing = torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    assert math.isnan(float(risk_at_coverage(*nothing, coverage=0.5)))
    assert math.isnan(float(coverage_at_risk(*nothing, risk=0.5)))
    assert len(risk_coverage_curve(*nothing).coverage) == 0
    assert undefined_reason("coverage_at_risk", nothing[1]) == "there are no samples"


@pytest.mark.parametrize(
    ("uncertainty", "failure", "message"),
    [
        (
            torch.tensor([0.1, math.nan, math.nan]),
            torch.ones(3) > 0,
            "NaN in 2 of 3 rows, the first is row 1",
        ),
        (torch.zeros(3), torch.ones(2) > 0, r"both be \(N,\), got \(3,\) and \(2,\)"),
        (torch.zeros(3, 1), torch.ones(3, 1) > 0, r"both be \(N,\)"),
        (torch.zeros(3), torch.ones(3), "failure must be bool"),
        (torch.zeros(3) > 0, torch.ones(3) > 0, "real numbers"),
    ],
)
def test_bad_input(uncertainty, failure, message):
    for metric in (auroc, aurc, fpr_at_tpr, summarize_failure, risk_coverage_curve):
        with pytest.raises(ValueError, match=message):
            metric(uncertainty, failure)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("aroc", {}, "Did you mean 'auroc'"),
        ("fpr95", {"tpr": 0.9}, "takes no settings"),
        ("fpr_at_tpr", {"trp": 0.9}, "Did you mean 'tpr'"),
        ("fpr_at_tpr", {"tpr": 95.0}, "tpr must lie between 0 and 1"),
        ("fpr_at_tpr", {"method": "nearst"}, "Did you mean 'nearest'"),
        ("risk_at_coverage", {}, "needs the settings coverage"),
        ("risk_at_coverage", {"coverage": 0.0}, "of no samples"),
        ("coverage_at_risk", {"risk": 5.0}, "not percent"),
    ],
)
def test_bad_settings(name, settings, message):
    with pytest.raises(ValueError, match=message):
        failure_statistic(name, **settings)


# Bootstrap


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("name", ALL)
def test_counts_are_repeated_rows(name, levels, monkeypatch):
    scores, failure = random_case(23, seed=3, levels=levels)
    statistic = failure_statistic(name, **ALL[name])
    counts = np.random.default_rng(4).integers(0, 4, (30, 23))
    counts[0], counts[1, failure], counts[2, ~failure] = 1, 0, 0  # the data; no failure; only failures
    rows = [np.repeat(np.arange(23), row) for row in counts]
    expected = [statistic(scores[index], failure[index]) for index in rows]
    np.testing.assert_allclose(statistic.of_counts(scores, failure)(counts), expected, atol=1e-12)
    assert math.isnan(expected[1]) == (undefined_reason(name, np.array([False])) is not None)
    monkeypatch.setattr(failure_statistics, "_BLOCK", 50)  # two resamples at a time
    np.testing.assert_allclose(statistic.of_counts(scores, failure)(counts), expected, atol=1e-12)


def test_intervals_of_several_runs_with_groups():
    cases = [random_case(120, seed=s) for s in range(3)]
    scores, failure = (np.stack(column) for column in zip(*cases, strict=True))
    groups = np.arange(120) // 3
    for name in FAILURE_METRICS:
        statistic = failure_statistic(name)
        interval = bootstrap_interval(
            statistic, scores, failure, groups=groups, several_runs=True, n_resamples=100, undefined="drop"
        )
        mean = np.mean([statistic(*case) for case in cases])
        assert interval.estimate == pytest.approx(mean, abs=1e-12)
        assert interval.low < interval.estimate < interval.high


def test_a_better_score_is_seen_as_better():
    scores, failure = random_case(300, seed=5)
    noisy = scores + 2 * np.random.default_rng(6).normal(size=300)
    gain = paired_bootstrap(failure_statistic("auroc"), (scores, failure), (noisy, failure), undefined="drop")
    assert gain.low > 0.02
    same = paired_bootstrap(
        failure_statistic("aurc"), (scores, failure), (np.exp(scores), failure), n_resamples=50
    )
    assert (same.low, same.high) == (0, 0)


def test_undefined_resamples_are_dropped_by_name():
    scores, failure = random_case(30, seed=1, share=0.0)  # one failure
    with pytest.raises(ValueError, match="not finite in"):
        bootstrap_interval(failure_statistic("auroc"), scores, failure, n_resamples=100)
    interval = bootstrap_interval(
        failure_statistic("auroc"), scores, failure, n_resamples=100, undefined="drop"
    )
    assert 40 < interval.n_resamples < 90
