"""Choosing a calibrator by cross-validation, and choosing none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from toy_outputs import outputs

from calib.posthoc import CALIBRATORS, TemperatureScaling, VectorScaling, choose_calibrator
from calib.posthoc.choice import divide
from calib.posthoc.shares import class_weights


class Halved(TemperatureScaling):
    """Divides logits by 2, whatever it is fitted on."""

    def _fitted(self, *_: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"temperature": torch.tensor(2.0, dtype=torch.float64)}


NAMES = ["temperature", "temperature_prior", "svs", "isotonic"]


def test_the_winner_is_the_lowest_left_out_nll_and_is_fitted_on_all_rows() -> None:
    logits, labels = outputs(300)
    choice = choose_calibrator(logits, labels, candidates=NAMES, seed=1)
    assert [*choice.candidates] == ["none", *NAMES]
    assert choice.folds == 5
    values = {name: row.nll for name, row in choice.candidates.items()}
    assert choice.name == min(values, key=values.__getitem__) != "none"
    again = CALIBRATORS[choice.name]().fit(logits, labels)
    assert torch.equal(choice.calibrator(logits), again(logits))
    # the rows of one part, by hand
    row, parts = choice.candidates["temperature"], divide(labels, 5, seed=1)
    left = TemperatureScaling().fit(logits[parts != 2], labels[parts != 2])
    assert torch.equal(row.probs[parts == 2], left(logits[parts == 2]))
    losses = -row.probs.gather(1, labels[:, None]).log()[:, 0]
    before = -logits.double().log_softmax(1).gather(1, labels[:, None])[:, 0]
    assert row.nll == pytest.approx(float(losses.mean()))
    assert row.difference == pytest.approx(float((losses - before).mean()))
    assert row.standard_error == pytest.approx(float((losses - before).std()) / math.sqrt(300))


def test_calibrated_outputs_are_left_alone() -> None:
    logits, labels = outputs(400, seed=6, sharpness=1.0)
    choice = choose_calibrator(logits, labels, candidates=["matrix", "histogram", "isotonic"])
    assert choice.name == "none"
    assert choice.calibrator is None
    assert all(row.difference > 0 for name, row in choice.candidates.items() if name != "none")


def test_a_margin_asks_for_more_than_luck() -> None:
    generator = np.random.default_rng(2)  # whose draws no version of torch changes
    honest = torch.from_numpy(generator.normal(size=(60, 3)))
    labels = (honest + torch.from_numpy(generator.gumbel(size=(60, 3)))).argmax(dim=1)
    logits = 1.4 * honest
    plain = choose_calibrator(logits, labels, candidates=["temperature_prior"])
    row = plain.candidates["temperature_prior"]
    assert -2 * row.standard_error < row.difference < 0
    assert plain.name == "temperature_prior"
    assert choose_calibrator(logits, labels, candidates=["temperature_prior"], margin=2.0).name == "none"


def test_what_cannot_be_fitted_says_why_and_never_wins() -> None:
    logits = 3 * torch.eye(3).repeat(10, 1)
    choice = choose_calibrator(logits, logits.argmax(dim=1), candidates=["temperature", "ts_mix"])
    assert "is right" in choice.candidates["temperature"].problem
    assert choice.candidates["temperature"].nll is None
    assert choice.name == "ts_mix"
    certain = {"isotonic": CALIBRATORS["isotonic"](mix=False)}
    row = choose_calibrator(*outputs(40), candidates=certain).candidates["isotonic"]
    assert row.nll == math.inf  # a left-out row of a class that its curve calls impossible


def test_stated_shares_weigh_fits_and_judgements() -> None:
    """Balanced shots and an unbalanced clinic: without the shares the honest outputs look wrong."""
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(6000, 2, generator=generator) + torch.tensor([2.0, 0.0])
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    share = torch.bincount(labels) / 6000
    few = torch.cat([(labels == c).nonzero()[:300, 0] for c in range(2)])  # as many of each
    plain = choose_calibrator(honest[few], labels[few], candidates=["vector"])
    told = choose_calibrator(honest[few], labels[few], candidates=["vector"], shares=share)
    assert plain.name == "vector"
    assert told.candidates["none"].nll < plain.candidates["none"].nll
    offsets = [c.candidates["vector"].probs[:, 1].mean() for c in (plain, told)]
    assert float(offsets[0]) > 0.45  # believes in as many of both
    base = told.candidates["none"]
    weights = (share / 0.5)[labels[few]]
    losses = -honest[few].double().log_softmax(1).gather(1, labels[few][:, None])[:, 0]
    assert base.nll == pytest.approx(float((weights * losses).mean()), rel=1e-6)


def test_parts_are_stratified_and_groups_stay_together() -> None:
    labels = torch.tensor([0] * 20 + [1] * 10 + [2] * 3)
    parts = divide(labels, 5, seed=3)
    for c, counts in ((0, {4}), (1, {2}), (2, {0, 1})):
        assert set(torch.bincount(parts[labels == c], minlength=5).tolist()) == counts
    assert set(torch.bincount(parts).tolist()) <= {6, 7}
    assert torch.equal(parts, divide(labels, 5, seed=3))
    assert not torch.equal(parts, divide(labels, 5, seed=4))
    generator = np.random.default_rng(0)
    groups = [f"patient {i}" for i in generator.integers(0, 12, size=33)]
    parts = divide(labels, 4, groups=groups, seed=0).tolist()
    assert len(set(zip(groups, parts, strict=True))) == len(set(groups))
    assert set(parts) == {0, 1, 2, 3}


def test_errors_of_groups_count_groups_and_not_rows() -> None:
    logits, labels = outputs(40)
    twice, groups = (
        torch.arange(40).repeat_interleave(2),
        [str(i) for i in torch.arange(40).repeat_interleave(2)],
    )
    candidates = {"it": Halved()}
    once = choose_calibrator(logits, labels, candidates=candidates).candidates["it"]
    copied = choose_calibrator(logits[twice], labels[twice], candidates=candidates, groups=groups)
    assert copied.candidates["it"].standard_error == pytest.approx(once.standard_error, rel=1e-9)


def test_few_rows_have_fewer_parts_and_one_has_none() -> None:
    logits, labels = outputs(3)
    assert choose_calibrator(logits, labels, candidates=["temperature_prior"]).folds == 3
    with pytest.raises(ValueError, match="at least 2 rows"):
        choose_calibrator(logits[:1], labels[:1])
    with pytest.raises(ValueError, match="at least 2 rows"):
        choose_calibrator(logits, labels, groups=["a"] * 3)


def test_what_is_given_is_checked() -> None:
    logits, labels = outputs(30)
    for settings, message in (
        ({"candidates": ["temprature"]}, "Did you mean 'temperature'"),
        ({"candidates": []}, "at least one candidate"),
        ({"candidates": {"none": TemperatureScaling()}}, "'none' is judged anyway"),
        ({"candidates": {"mine": 3}}, "must be a Calibrator"),
        ({"folds": 1}, "folds must be a whole number of at least 2"),
        ({"margin": -1.0}, "margin must be"),
        ({"groups": ["a"]}, "30 names, one per row"),
        ({"groups": ["a", None] * 15}, "Every row needs a group"),
        ({"groups": ["a", math.nan] * 15}, "Every row needs a group"),
        ({"shares": [0.5, 0.4]}, "3 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_calibrator(logits, labels, **settings)
    spoilt = logits.clone()
    spoilt[0, 0] = math.nan
    with pytest.raises(ValueError, match="finite"):
        choose_calibrator(spoilt, labels)


def test_many_classes_leave_out_what_has_a_parameter_per_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 101, generator=generator)
    labels = torch.arange(12) % 4
    for classes, expected in (
        (101, ["temperature_prior", "svs"]),
        (100, ["temperature_prior", "svs", "sms"]),
    ):
        tried = choose_calibrator(logits[:, :classes], labels, folds=2).candidates
        assert [*tried] == ["none", *expected]
    assert {name for name, row in CALIBRATORS.items() if row.quadratic} == {"sms", "dirichlet", "matrix"}


def test_stated_shares_weigh_what_is_left_out_and_what_it_is_judged_by() -> None:
    logits, labels = outputs(90)
    shares, parts = [0.7, 0.2, 0.1], divide(labels, 5)
    choice = choose_calibrator(logits, labels, candidates=["vector"], shares=shares)
    weights = class_weights(labels, 3, shares)
    probs = torch.zeros(90, 3).double()
    for part in range(5):
        out = parts == part
        fitted = VectorScaling().fit_weighted(logits[~out], labels[~out], weights[~out])
        probs[out] = fitted(logits[out])
    found, own = choice.candidates["vector"], torch.arange(90)
    assert found.probs is not None
    assert torch.allclose(found.probs, probs, atol=1e-9)
    assert found.nll == pytest.approx(float(-(weights * probs[own, labels].log()).mean()))
