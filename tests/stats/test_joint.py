"""The joint bootstrap is the bootstrap of one statistic after the other."""

from __future__ import annotations

import numpy as np
import pytest

from calib.metrics import interval_statistic
from calib.metrics.failure import failure_statistic, failures_of_counts
from calib.stats import (
    JointBootstrap,
    MeanStatistic,
    bootstrap_interval,
    counted_intervals,
    counted_resamples,
    paired_bootstrap,
    resampled_interval,
)

NAMES = ("accuracy", "ece", "nll", "macro_f1")


def systems(n: int = 90) -> tuple[dict[tuple[str, int], tuple[np.ndarray, np.ndarray]], list[str]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    found = {
        (name, seed): (rng.normal(size=(n, 3)) + strength * np.eye(3)[labels], labels)
        for name, strength in (("mine", 2.0), ("coop", 1.0))
        for seed in (1, 2, 5)
    }
    return found, [f"g{i // 4}" for i in range(n)]


def test_groups_of_one_sample_each_are_drawn_in_the_order_of_their_names() -> None:
    hits = np.arange(40.0)
    share = MeanStatistic(lambda hits: hits[:, None], lambda means: means[:, 0])
    how = {"groups": [f"patient {(7 * i) % 40:02}" for i in range(40)], "n_resamples": 60}
    found = JointBootstrap({"share": share}, {"a": (hits,)}, **how).interval("share", ["a"])
    assert vars(found) == pytest.approx(vars(bootstrap_interval(share, hits, **how)), abs=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
def test_it_equals_one_bootstrap_after_the_other(grouped: bool) -> None:
    given, groups = systems()
    how = {"groups": groups if grouped else None, "n_resamples": 150, "level": 0.9, "seed": 3}
    joint = JointBootstrap({name: interval_statistic(name) for name in NAMES}, given, **how)
    stacked = {
        name: tuple(np.stack([given[name, seed][part] for seed in (1, 2, 5)]) for part in (0, 1))
        for name in ("mine", "coop")
    }
    keys = {name: [(name, seed) for seed in (1, 2, 5)] for name in ("mine", "coop")}
    for name in NAMES:
        for kind in ("percentile", "basic"):
            single = bootstrap_interval(
                interval_statistic(name), *stacked["mine"], several_runs=True, kind=kind, **how
            )
            found = joint.interval(name, keys["mine"], kind=kind)
            assert vars(found) == pytest.approx(vars(single), abs=1e-12)
            pair = paired_bootstrap(
                interval_statistic(name),
                stacked["mine"],
                stacked["coop"],
                several_runs=True,
                kind=kind,
                **how,
            )
            found = joint.interval(name, keys["mine"], minus=keys["coop"], kind=kind)
            assert vars(found) == pytest.approx(vars(pair), abs=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
def test_failure_metrics_that_are_counted_together_are_those_of_one_by_one(grouped: bool) -> None:
    rng = np.random.default_rng(4)
    score, failure = rng.integers(0, 9, 60) / 9, rng.random(60) < 0.05
    failure[:1] = True
    groups = [f"g{i // 3}" for i in range(60)] if grouped else None
    names, how = ["auroc", "aurc", "fpr95"], {"groups": groups, "n_resamples": 200, "level": 0.9, "seed": 2}
    found = counted_intervals(failures_of_counts(names, score, failure), 60, **how)
    for name, each in zip(names, found, strict=True):
        alone = bootstrap_interval(failure_statistic(name), score, failure, undefined="drop", **how)
        assert each is not None
        assert vars(each) == pytest.approx(vars(alone), abs=1e-12)
    nothing = failures_of_counts(["auroc", "aurc"], score, np.zeros(60, dtype=bool))
    undefined, defined = counted_intervals(nothing, 60, **how)
    assert undefined is None
    assert defined is not None
    assert defined.high == 0


def test_differences_of_failure_metrics_on_the_same_resamples_are_those_of_pairs() -> None:
    rng = np.random.default_rng(5)
    scores, failure = rng.normal(size=(2, 60)), rng.random(60) < 0.1
    names, how = ["auroc", "aurc", "eaurc"], {"groups": [i // 2 for i in range(60)], "n_resamples": 100}
    done: list[int] = []
    of_counts = [failures_of_counts(names, each, failure) for each in scores]
    ours, theirs = counted_resamples(of_counts, 60, on_done=done.append, **how)
    assert done == sorted(done)
    assert done[-1] == len(ours) - 1  # all resamples; the first row is the data
    for at, name in enumerate(names):
        pair = ((scores[0], failure), (scores[1], failure))
        expected = paired_bootstrap(failure_statistic(name), *pair, undefined="drop", level=0.9, **how)
        assert resampled_interval(ours[:, at] - theirs[:, at], 0.9) == expected
    with pytest.raises(ValueError, match="at least 2 samples or groups"):
        counted_resamples([failures_of_counts(names, scores[0], failure)], 60, groups=["a"] * 60)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        resampled_interval(ours[:, 0], 1.0)


def test_what_cannot_be_resampled_is_refused() -> None:
    share = {"share": MeanStatistic(lambda x: x[:, None], lambda means: means[:, 0])}
    two = np.array([0.0, 1.0])
    with pytest.raises(ValueError, match="at least one statistic and one system"):
        JointBootstrap(share, {})
    with pytest.raises(ValueError, match=r"same samples, got \[2, 3\]"):
        JointBootstrap(share, {"a": (two,), "b": (np.ones(3),)})
    with pytest.raises(ValueError, match="at least 2 samples or groups"):
        JointBootstrap(share, {"a": (two,)}, groups=["g", "g"])
    joint = JointBootstrap(share, {"a": (two,), "b": (two,)}, n_resamples=5)
    with pytest.raises(ValueError, match="1 of one and 2 of the other"):
        joint.interval("share", ["a"], minus=["a", "b"])
