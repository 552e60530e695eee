"""The bootstrap's statistics are the metrics, and the fast path is the slow one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calib.metrics import METRICS, interval_statistic, summarize
from calib.metrics.outcomes import Outcomes
from calib.stats import MeanStatistic, bootstrap_interval, paired_bootstrap


def runs(n=40, classes=3, n_runs=2, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n_runs, n, classes)) * 1.5
    logits[:, np.arange(n), labels] += 1
    return logits, np.broadcast_to(labels, (n_runs, n))


@pytest.mark.parametrize("name", METRICS)
def test_the_statistic_is_the_metric(name):
    logits, labels = runs()
    expected = summarize(torch.tensor(logits[0]), torch.tensor(labels[0]), n_bins=7)[name]
    assert interval_statistic(name, n_bins=7)(logits[0], labels[0]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_the_fast_path_gives_the_interval_of_the_slow_path(name):
    logits, labels = runs()
    statistic = interval_statistic(name, n_bins=7)
    assert isinstance(statistic, MeanStatistic) == METRICS[name].compared

    def one_by_one(z, y):
        p = Outcomes.from_logits(torch.tensor(z), torch.tensor(y))
        return float(METRICS[name].kind.value(p, 7))

    settings = {"groups": np.arange(40) // 3, "several_runs": True, "n_resamples": 6}
    slow = bootstrap_interval(one_by_one, logits, labels, **settings)
    fast = bootstrap_interval(statistic, logits, labels, **settings)
    for end in ("estimate", "low", "high"):
        assert getattr(fast, end) == pytest.approx(getattr(slow, end), abs=1e-12)


def test_the_difference_of_a_system_to_itself_is_nought():
    logits, labels = runs()
    interval = paired_bootstrap(
        interval_statistic("ece"), (logits, labels), (logits, labels), several_runs=True
    )
    assert (interval.estimate, interval.low, interval.high) == (0, 0, 0)


def test_unknown_metric_is_named():
    with pytest.raises(ValueError, match="Did you mean 'brier'"):
        interval_statistic("briar")
