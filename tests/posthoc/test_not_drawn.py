"""What was fitted on shots that a strategy chose says so, wherever it is read; a random draw says nothing."""

from __future__ import annotations

import pytest
import torch

from calib.posthoc import Familiarity, FullConformal, PredictionSets, ReviewThreshold
from calib.posthoc.not_drawn import not_drawn, others_of, read_chosen
from calib.posthoc.shot_parts import Shots
from calib.posthoc.shots import calibrate_from_shots

SAID = "The shots were chosen by the strategy entropy, not drawn at random"


def test_prediction_sets_of_chosen_shots_say_so_also_from_their_record() -> None:
    probs = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]).double()
    labels = torch.tensor([0, 1, 1])
    for chosen in ({"entropy": 2, "random": 1}, ["entropy"]):
        sets = PredictionSets(coverage=0.5).fit(probs, labels, chosen=chosen)
        assert sets.guarantee.startswith(SAID)
        assert "what follows would be promised. At least 50 %" in sets.guarantee
        assert PredictionSets.from_record(sets.to_record()).guarantee == sets.guarantee
    plain = PredictionSets(coverage=0.5).fit(probs, labels, chosen={"random": 3})
    assert plain.guarantee == PredictionSets(coverage=0.5).fit(probs, labels).guarantee
    assert "chosen" not in plain.to_record()
    with pytest.raises(ValueError, match="must be names of strategies"):
        PredictionSets.from_record({**plain.to_record(), "chosen": "entropy"})


def test_a_review_threshold_of_chosen_shots_says_so_also_from_its_record() -> None:
    doubt, wrong = torch.arange(100).double() / 100, torch.arange(100) >= 80
    fitted = ReviewThreshold(0.1, 0.1).fit(doubt, wrong, chosen={"entropy": 100})
    assert fitted.guarantee.startswith(SAID)
    assert ReviewThreshold.from_record(fitted.to_record()).guarantee == fitted.guarantee
    again = fitted.fit(doubt, wrong)  # on others
    assert "chosen" not in again.to_record()
    assert again.guarantee.startswith("Of ")


def test_full_conformal_sets_of_chosen_shots_say_so() -> None:
    shots, labels = torch.eye(2).repeat(3, 1), torch.tensor([0, 1]).repeat(3)
    full = FullConformal(PredictionSets(coverage=0.5)).fit(
        shots, labels, torch.eye(2), 1.0, chosen={"entropy": 6}
    )
    assert full.guarantee.startswith(SAID)


def test_only_strategies_other_than_random_are_said() -> None:
    assert not_drawn(None) == not_drawn({}) == not_drawn({"random": 3}) == ""
    assert others_of({"dual": 1, "random": 2, "epig": 1}) == ("dual", "epig")
    assert read_chosen({"chosen": ["epig"]}) == ("epig",)
    with pytest.raises(ValueError, match="names of strategies"):
        read_chosen({"chosen": [3]})


def test_without_a_shot_of_some_class_one_factor_calibrates_and_what_needs_all_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(3, 5, generator=generator).double(), dim=1)
    features = torch.nn.functional.normalize(torch.randn(8, 5, generator=generator).double(), dim=1)
    labels = torch.tensor([0, 2] * 4)
    logits = 5 * features @ texts.T
    shots = Shots(features=features, labels=labels, logits=logits, zero_shot_logits=logits)
    found = calibrate_from_shots(shots, 5 * texts, 5 * texts)
    assert found.method in ("scale", "none")
    assert found.nll.keys() == {"none", "scale"}
    assert found.weight.shape == (3, 5)
    with pytest.raises(ValueError, match=r"calibrate\.method=experts needs a shot of every class.*none of 1"):
        calibrate_from_shots(shots, 5 * texts, 5 * texts, method="experts")
    with pytest.raises(ValueError, match=r"calibrate\.prevalence needs a shot of every class"):
        calibrate_from_shots(shots, 5 * texts, 5 * texts, shares=torch.full((3,), 1 / 3))


def test_what_is_unlike_chosen_shots_says_that_images_to_come_are_others_also_from_its_record() -> None:
    shots = torch.nn.functional.normalize(torch.tensor([[9.0, 1, 0], [8, 2, 0], [1, 9, 0], [2, 8, 1]]), dim=1)
    labels = torch.tensor([0, 0, 1, 1])
    seen = Familiarity().fit(shots, labels, chosen={"entropy": 4})
    assert "the shots were chosen (entropy), and images to come are not like them" in seen.guarantee
    back = Familiarity.from_record(seen.to_record(), seen.tensors())
    assert back.guarantee == seen.guarantee
    plain = Familiarity().fit(shots, labels, chosen={"random": 4})
    assert "chosen" not in plain.guarantee
    assert "chosen" not in plain.to_record()
