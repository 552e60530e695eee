"""Differences of methods by seed and image, from plain tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calib.metrics import METRICS, columns_of, interval_statistic, summarize
from calib.report.compare import compare, over_seeds
from calib.stats import paired_bootstrap


@dataclass
class Plain:
    logits: Tensor
    labels: Tensor
    groups: list[str] | None = None
    images: str = "test"

    def same_images(self, other: Any) -> bool:
        return self.images == other.images


def methods(n: int = 40) -> dict[str, dict[int, Plain]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (n,), generator=generator)
    return {
        name: {
            seed: Plain(torch.randn(n, 3, generator=generator) + strength * torch.eye(3)[labels], labels)
            for seed in seeds
        }
        for name, strength, seeds in (("coop", 0.5, (1, 2, 3)), ("mine", 2.0, (2, 3, 4)))
    }


def test_differences_are_of_the_common_seeds_and_of_what_can_be_compared() -> None:
    given = methods()
    found = compare(given, baseline="coop", n_resamples=20)
    assert list(found) == ["mine"]
    assert list(found["mine"]) == [name for name in columns_of(METRICS) if METRICS[name].compared]
    for name, difference in found["mine"].items():
        means = [
            np.mean([summarize(run.logits, run.labels)[name] for run in (given[method][2], given[method][3])])
            for method in ("mine", "coop")
        ]
        assert difference.estimate == pytest.approx(means[0] - means[1], abs=1e-12), name
        assert difference.low <= difference.high
        assert (difference.seeds, difference.level) == (2, 0.95)
    assert found["mine"]["accuracy"].low > 0


def test_the_interval_is_the_one_that_suits_the_metric() -> None:
    given = {name: {2: runs[2]} for name, runs in methods().items()}
    found = compare(given, baseline="coop", n_resamples=50, level=0.8, seed=7)["mine"]
    for name, difference in found.items():
        ours, theirs = ((given[m][2].logits.numpy(), given[m][2].labels.numpy()) for m in ("mine", "coop"))
        ends = {
            kind: paired_bootstrap(
                interval_statistic(name), ours, theirs, n_resamples=50, level=0.8, seed=7, kind=kind
            ).low
            for kind in ("basic", "percentile")
        }
        assert ends["basic"] != ends["percentile"]
        kind = "basic" if METRICS[name].biased_upwards else "percentile"
        assert difference.low == pytest.approx(ends[kind], abs=1e-12), name


def test_what_cannot_be_paired_is_refused() -> None:
    given = methods()
    with pytest.raises(ValueError, match=r"'mine' \(seeds \[4\]\) and 'coop' .* share no seed"):
        compare({"coop": given["coop"], "mine": {4: given["mine"][4]}}, baseline="coop")
    given["mine"][3] = replace(given["mine"][3], images="others")
    with pytest.raises(ValueError, match="not evaluated on the same images"):
        compare(given, baseline="coop")


def test_over_seeds_by_hand() -> None:
    cell = over_seeds([0.5, 0.25, 0.75])
    assert (cell.value, cell.sd) == (0.5, 0.25)
    assert over_seeds([0.5]).sd is None
    assert over_seeds([0.5, float("nan")]).value is None
