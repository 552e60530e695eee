"""Calibration from the shots alone: what is recovered, what is left alone, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from calib.posthoc.shot_parts import ShotPriors, Shots
from calib.posthoc.shots import _Candidate, _choice, calibrate_from_shots, spread

World = tuple[Shots, Tensor, Tensor]


def world(n: int, *, factor: float, seed: int = 0, n_classes: int = 3, dim: int = 8) -> World:
    """Return shots whose labels follow softmax(z / factor), and the maps of the prompt and of zero-shot."""
    generator = torch.Generator().manual_seed(seed)
    weight = 8 * torch.randn(n_classes, dim, generator=generator).double()
    fixed = weight + torch.randn(n_classes, dim, generator=generator)
    features = normalize(torch.randn(n, dim, generator=generator).double(), dim=1)
    logits = features @ weight.T
    labels = torch.multinomial((logits / factor).softmax(dim=1), 1, generator=generator)[:, 0]
    labels[:n_classes] = torch.arange(n_classes)
    shots = Shots(features=features, labels=labels, logits=logits, zero_shot_logits=features @ fixed.T)
    return shots, weight, fixed


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_scale_recovers_a_known_over_or_underconfidence(factor: float) -> None:
    shots, weight, fixed = world(1000, factor=factor)
    found = calibrate_from_shots(shots, weight, fixed, method="scale")
    assert found.weights["prompt"] == pytest.approx(1 / factor, rel=0.15)
    torch.testing.assert_close(found.weight, found.weights["prompt"] * weight)
    assert not found.bias.any()


def test_scale_changes_no_prediction_and_the_map_gives_its_logits() -> None:
    shots, weight, fixed = world(24, factor=2.0)
    found = calibrate_from_shots(shots, weight, fixed, method="scale")
    assert torch.equal(found.logits.argmax(1), shots.logits.argmax(1))
    torch.testing.assert_close(shots.features @ found.weight.T + found.bias, found.logits)


def test_experts_use_the_images_where_the_texts_say_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    means = torch.eye(3, 10)[labels]
    features = normalize(means + 0.3 * torch.randn(60, 10, generator=generator), dim=1).double()
    noise = torch.randn(3, 10, generator=generator).double()
    shots = Shots(
        features=features, labels=labels, logits=features @ noise.T, zero_shot_logits=features @ noise.T
    )
    found = calibrate_from_shots(shots, noise, noise)
    fresh = torch.arange(300) % 3
    unseen = normalize(torch.eye(3, 10)[fresh] + 0.3 * torch.randn(300, 10, generator=generator), dim=1)
    right = (unseen.double() @ found.weight.T + found.bias).argmax(dim=1) == fresh
    assert found.method == "experts"
    assert float(right.double().mean()) > 0.95
    assert float(((unseen.double() @ noise.T).argmax(dim=1) == fresh).double().mean()) < 0.7


def test_what_the_shots_speak_against_is_not_applied() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    features = normalize(torch.randn(120, 6, generator=generator).double(), dim=1)  # say nothing
    sure = torch.nn.functional.one_hot(labels, 3).double() * 12  # the prompt is always right
    shots = Shots(
        features=features, labels=labels, logits=sure, zero_shot_logits=features @ torch.eye(6, 3).double()
    )
    found = calibrate_from_shots(shots, torch.eye(3, 6), torch.eye(3, 6))
    assert found.method == "none"
    assert found.weights == {"prompt": 1.0}
    assert found.nll["none"] < found.nll["experts"]
    asked = calibrate_from_shots(shots, torch.eye(3, 6), torch.eye(3, 6), method="experts")
    assert asked.method == "experts"


def test_the_likelihood_of_the_prompt_as_it_is() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]]).double()
    labels = torch.tensor([0, 0])
    shots = Shots(features=torch.eye(2).double(), labels=labels, logits=logits, zero_shot_logits=logits)
    found = calibrate_from_shots(shots, torch.eye(2), torch.eye(2), method="none")
    assert found.nll["none"] == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_one_shot_per_class_takes_the_medians_of_the_prior() -> None:
    features = normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    logits = 5 * torch.eye(3).double()
    shots = Shots(features=features, labels=torch.arange(3), logits=logits, zero_shot_logits=logits)
    found = calibrate_from_shots(shots, torch.randn(3, 6), torch.randn(3, 6))
    assert found.method == "experts"
    assert found.n == 0
    assert found.shares == pytest.approx({"prompt": 0.24, "images": 0.44, "zero_shot": 0.32})
    assert set(found.nll) == {"none", "scale"}  # nothing was left out to judge the experts by


def test_the_parts_of_the_map_are_the_experts() -> None:
    shots, weight, fixed = world(30, factor=1.0)
    found = calibrate_from_shots(shots, weight, fixed, method="experts")
    rest = found.weight - found.weights["prompt"] * weight - found.weights["zero_shot"] * fixed
    means = torch.stack([shots.features[shots.labels == c].mean(dim=0) for c in range(3)])
    expected = -found.weights["images"] * 0.5 * ((rest / found.weights["images"]) * means).sum(dim=1)
    torch.testing.assert_close(found.bias, expected)  # b_c = -mu_c' S^-1 mu_c / 2


def test_stated_shares_shift_the_logits_by_their_ratio() -> None:
    shots, weight, fixed = world(30, factor=1.0)
    there = shots.labels.bincount(minlength=3).double() / 30
    shares = torch.tensor([0.1, 0.3, 0.6])
    found = calibrate_from_shots(shots, weight, fixed, method="scale", shares=shares)
    torch.testing.assert_close(found.bias, (shares.double() / there).log())


def test_stated_shares_that_are_those_of_the_shots_change_nothing() -> None:
    shots, weight, fixed = world(30, factor=2.0)
    there = shots.labels.bincount(minlength=3).double() / 30
    with_shares = calibrate_from_shots(shots, weight, fixed, method="experts", shares=there)
    torch.testing.assert_close(
        with_shares.weight, calibrate_from_shots(shots, weight, fixed, method="experts").weight
    )


def test_images_of_one_group_are_left_out_together() -> None:
    shots, weight, fixed = world(12, factor=1.0)
    twins = {name: torch.cat([getattr(shots, name)] * 2) for name in ("features", "labels", "logits")}
    zero_shot = torch.cat([shots.zero_shot_logits] * 2)
    owners = [str(row) for row in range(12)] * 2
    apart = calibrate_from_shots(Shots(**twins, zero_shot_logits=zero_shot), weight, fixed, method="experts")
    together = calibrate_from_shots(
        Shots(**twins, zero_shot_logits=zero_shot, owners=owners), weight, fixed, method="experts"
    )
    assert apart.nll["experts"] < together.nll["experts"]  # each copy is told by its twin


def test_spread_leaves_out_what_is_not_known() -> None:
    assert spread(torch.tensor([[1.0, 3.0, torch.nan]])) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "best"}, "calibrate.method"),
        ({"shares": torch.tensor([0.5, 0.2, 0.2])}, "sum to 1"),
        ({"shares": torch.tensor([0.5, 0.5])}, "shares must be 3 numbers"),
        ({"shares": torch.tensor([1.0, 0.0, 0.0])}, "above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    shots, weight, fixed = world(9, factor=1.0)
    with pytest.raises(ValueError, match=message):
        calibrate_from_shots(shots, weight, fixed, **change)


def test_shots_without_a_number_are_refused() -> None:
    shots, _, _ = world(9, factor=1.0)
    broken = shots.logits.clone()
    broken[2, 1] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        Shots(
            features=shots.features,
            labels=shots.labels,
            logits=broken,
            zero_shot_logits=shots.zero_shot_logits,
        )
    with pytest.raises(ValueError, match="owners"):
        Shots(
            features=shots.features,
            labels=shots.labels,
            logits=shots.logits,
            zero_shot_logits=shots.logits,
            owners=["a"],
        )


def test_medians_are_of_the_three_experts() -> None:
    with pytest.raises(ValueError, match=r"calibrate.medians must be of .* not of prompt, text"):
        ShotPriors(medians={"prompt": 0.5, "text": 0.5})


@pytest.mark.parametrize(("worse", "chosen"), [(0.5, "experts"), (0.9, "none")])
def test_auto_is_left_where_the_shots_speak_against_it_by_three_standard_errors(
    worse: float, chosen: str
) -> None:
    away = torch.tensor([1.0, -1.0] * 8).double()  # 3 standard errors: 3 * 1.033 / 4 = 0.775
    rows, plain = torch.ones(16).double(), torch.full((16,), 2.0).double()
    calibration: Any = None
    found = {
        "none": _Candidate(calibration, plain, rows),
        "experts": _Candidate(calibration, plain + worse + away, rows),
    }
    assert _choice(found) == chosen
    pairs = [f"{row % 2} {row // 4}" for row in range(16)]  # two shots of a patient say the same: 1.134
    assert _choice(found, pairs) == "experts"
    assert _choice(found, [str(row) for row in range(16)]) == chosen
