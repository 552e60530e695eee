"""Which images are unlike those that were seen: distances by hand, leave-one-out, groups, records."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from calib.posthoc.familiarity import MEANS, Familiarity


def shots(n: int = 24, dim: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centres = torch.eye(dim)[labels] + 0.5
    return normalize(centres + 0.3 * torch.randn(n, dim, generator=generator), dim=1), labels


@pytest.mark.parametrize("together", [1, 2, 4])
def test_the_distances_and_the_threshold_are_those_of_a_plain_loop(together: int) -> None:
    features, labels = shots()
    owners = [row // together for row in range(24)]  # of two classes, and of all three
    found = Familiarity(false_alarms=0.2).fit(features, labels, owners=owners)
    apart = []
    for row in range(len(features)):
        rest = torch.tensor([owner != owners[row] for owner in owners])
        means = [features[rest & (labels == c)].double().mean(dim=0) for c in range(3)]
        apart.append(min(1 - float(features[row].double() @ m / m.norm()) for m in means))
    assert found.rank == 20  # ceil(0.8 * 25)
    assert found.threshold == pytest.approx(sorted(apart)[19], rel=1e-9)
    assert found.false_alarm_rate == pytest.approx(5 / 25)
    means = normalize(torch.stack([features[labels == c].mean(dim=0) for c in range(3)]), dim=1)
    expected = 1 - (features @ means.T).max(dim=1).values
    torch.testing.assert_close(found.distance(features).float(), expected, atol=1e-6, rtol=0)


def test_with_few_shots_the_rate_is_what_they_allow() -> None:
    features, labels = shots(12)
    assert Familiarity(0.05).fit(features, labels).false_alarm_rate == pytest.approx(1 / 13)
    assert "%, if they are of different patients)" in Familiarity(0.05).fit(features, labels).guarantee


def test_new_images_like_the_shots_are_seldom_marked_and_strange_ones_are() -> None:
    features, labels = shots(60)
    found = Familiarity(0.1).fit(features, labels)
    assert float(found(shots(600, seed=1)[0]).double().mean()) < 0.2
    strange = normalize(torch.randn(50, 16, generator=torch.Generator().manual_seed(2)), dim=1)
    assert bool(found(strange).all())


def test_a_group_is_judged_without_any_of_its_images() -> None:
    features, labels = shots()
    twins = torch.cat([features, features])
    alone = Familiarity().fit(twins, labels.repeat(2))
    together = Familiarity().fit(twins, labels.repeat(2), owners=[*range(24), *range(24)])
    assert (
        alone.threshold < together.threshold == pytest.approx(Familiarity().fit(features, labels).threshold)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_features": shots()[0] * 2}, "norm"),
        ({"image_features": shots()[0][:3], "labels": torch.tensor([0, 1, 2])}, "3 images say too little"),
        ({"labels": torch.tensor([0, 1])}, "one label per sample"),
        ({"owners": ["a"]}, "24 images and 1 owners"),
        ({"owners": ["a", None] * 12}, "Every image needs an owner"),
        ({"owners": ["a"] * 24}, "All 24 images are of one group"),
    ],
)
def test_what_says_nothing_is_refused(change: dict[str, Any], message: str) -> None:
    features, labels = shots()
    given = {"image_features": features, "labels": labels, **change}
    with pytest.raises(ValueError, match=message):
        Familiarity().fit(given.pop("image_features"), given.pop("labels"), **given)


def test_features_of_another_width_are_refused() -> None:
    found = Familiarity().fit(*shots())
    with pytest.raises(ValueError, match="width 16 of those that were seen, not 8"):
        found(normalize(torch.ones(2, 8), dim=1))
    with pytest.raises(ValueError, match="not fitted"):
        Familiarity()(torch.ones(1, 4))
    with pytest.raises(ValueError, match="false_alarms must be"):
        Familiarity(1.0)


def test_a_record_brings_it_back_bit_for_bit() -> None:
    features, labels = shots()
    found = Familiarity().fit(features, labels)
    again = Familiarity.from_record(found.to_record(), found.tensors(), width=16)
    assert torch.equal(again.distance(features), found.distance(features))
    assert again.to_record() == found.to_record()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 3}, "a distance from 0 to 2"),
        ({"threshold": "1"}, "a distance from 0 to 2"),
        ({"rank": 30}, "rank and shots"),
        ({"shots": 0}, "rank and shots"),
        ({"version": 9}, "version 9"),
        ({"name": "x"}, "has the keys"),
        ({"false_alarms": 0}, "false_alarms must be"),
    ],
)
def test_a_record_that_was_changed_is_refused(change: dict[str, Any], message: str) -> None:
    found = Familiarity().fit(*shots())
    record = {**copy.deepcopy(found.to_record()), **change}
    with pytest.raises(ValueError, match=message):
        Familiarity.from_record(record, found.tensors())
    for tensors in ({}, {MEANS: torch.ones(2, 4)}, {MEANS: torch.eye(3).half()}):
        with pytest.raises(ValueError, match="familiar"):
            Familiarity.from_record(found.to_record(), tensors)
    with pytest.raises(ValueError, match=r"must be \(C, 5\)"):
        Familiarity.from_record(found.to_record(), found.tensors(), width=5)
