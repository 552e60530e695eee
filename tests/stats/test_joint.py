"""The joint bootstrap is the bootstrap of one statistic after the other."""

from __future__ import annotations

import numpy as np
import pytest

from calib.metrics import interval_statistic
from calib.stats import JointBootstrap, MeanStatistic, bootstrap_interval, paired_bootstrap

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
