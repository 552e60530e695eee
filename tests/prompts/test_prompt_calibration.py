"""The calibration in a prompt's file: what it changes, what is refused; folds and prevalence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from calib.data.features import FeatureTable
from calib.data.mapping import OutputMapping
from calib.failure.digests import prompt_digest
from calib.io.tensors import load_tensors, save_tensors
from calib.posthoc import make_calibrator
from calib.posthoc.discriminant import LinearDiscriminant
from calib.prompts.calibration import Calibration
from calib.prompts.export import KIND, Prompt
from calib.prompts.shots import ShotSettings, calibrated, calibrated_like, folds_of, plans_of

NAMES = ["cat", "dog", "owl"]
EXPERTS = {"prompt": 0.2, "images": 0.05, "zero_shot": 0.4}


def prompt_of(**changes: Any) -> Prompt:
    backbone = {"name": "fake", "weights": {"digest": "d"}, "preprocessing": {}}
    given = {"class_names": list(NAMES), "logit_scale": 3.0, "backbone": backbone} | changes
    return Prompt(text_features=normalize(torch.eye(3, 6) + 0.1), **given)


def map_of(seed: int = 0, method: str = "experts") -> Calibration:
    generator = torch.Generator().manual_seed(seed)
    weights = EXPERTS if method == "experts" else {"prompt": 0.5}
    return Calibration(
        weight=torch.randn(3, 6, generator=generator),
        bias=torch.randn(3, generator=generator),
        method=method,
        weights=dict(weights),
        facts={"shots": 24},
    )


def table_of(labels: Tensor, groups: list[str] | None = None) -> FeatureTable:
    generator = torch.Generator().manual_seed(1)
    n = len(labels)
    features = normalize(torch.eye(3, 6)[labels] + 0.4 * torch.randn(n, 6, generator=generator), dim=1)
    ids = [f"{row:064x}" for row in range(n)]
    return FeatureTable(features, labels, ids, [f"{row}.png" for row in range(n)], groups)


def test_logits_are_those_of_the_map_and_the_bare_prompt_has_its_own() -> None:
    prompt = prompt_of(calibration=map_of())
    images = normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(2)), dim=1)
    expected = images @ map_of().weight.T + map_of().bias
    torch.testing.assert_close(prompt.logits(images), expected)
    torch.testing.assert_close(prompt.bare().logits(images), prompt_of().logits(images))


def test_it_comes_back_from_the_file_and_files_without_are_read(tmp_path: Path) -> None:
    prompt_of(calibration=map_of()).save(tmp_path / "p.safetensors")
    found = Prompt.load(tmp_path / "p.safetensors").calibration
    assert found is not None
    assert torch.equal(found.weight, map_of().weight)
    assert torch.equal(found.bias, map_of().bias)
    assert found.record() == map_of().record()
    prompt_of().save(tmp_path / "bare.safetensors")
    assert Prompt.load(tmp_path / "bare.safetensors").calibration is None
    tensors, record = load_tensors(tmp_path / "bare.safetensors", kind=KIND)
    old = {key: value for key, value in record.items() if key != "calibration"} | {"version": 1}
    save_tensors(tmp_path / "old.safetensors", tensors, old)
    assert Prompt.load(tmp_path / "old.safetensors").calibration is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "calibration.method must be one of scale, experts, prevalence"),
        ({"weights": {"prompt": 0.5}}, "calibration.weights must be of prompt, images, zero_shot"),
        ({"weights": EXPERTS | {"images": "much"}}, "calibration.weights must be finite numbers"),
        ({"tilt": [0.0]}, "calibration.tilt must be finite numbers by name"),
        ({"shrinkage": 0}, r"calibration.shrinkage must be in \(0, 1\]"),
        (None, "holds a calibration, and its record does not say of which method"),
    ],
)
def test_a_damaged_record_is_refused_by_name(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    prompt_of(calibration=map_of()).save(path)
    tensors, record = load_tensors(path, kind=KIND)
    changed = None if change is None else {**record["calibration"], **change}
    save_tensors(path, tensors, {**record, "calibration": changed})
    with pytest.raises(ValueError, match=message) as error:
        Prompt.load(path)
    assert "p.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("calibrated_weight", torch.zeros(3, 5), "calibrated_weight"),
        ("calibrated_bias", torch.full((3,), torch.nan), "calibrated_bias' holds NaN or infinite values"),
        ("calibrated_weight", torch.full((3, 6), 1e9), "larger than 1e"),
    ],
)
def test_a_map_that_no_prompt_has_is_refused(name: str, tensor: Tensor, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    prompt_of(calibration=map_of()).save(path)
    tensors, record = load_tensors(path, kind=KIND)
    save_tensors(path, {**tensors, name: tensor}, record)
    with pytest.raises(ValueError, match=message):
        Prompt.load(path)


def test_classes_in_another_order_take_their_rows_along() -> None:
    prompt = prompt_of(calibration=map_of())
    images = normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(3)), dim=1)
    turned = prompt.in_order(["owl", "cat", "dog"])
    torch.testing.assert_close(turned.logits(images), prompt.logits(images)[:, [2, 0, 1]])


def test_every_shot_is_seen_by_all_prompts_but_that_of_its_fold() -> None:
    labels = torch.arange(3).repeat_interleave(8)
    folds = folds_of(table_of(labels), ShotSettings(folds=4), NAMES)
    plans = plans_of(24, folds, seed=5)
    assert [len(plan.rows) for plan in plans] == [24, 18, 18, 18, 18]
    assert sorted(row for fold in folds for row in fold) == list(range(24))
    for fold, plan in zip(folds, plans[1:], strict=True):
        assert labels[fold].bincount().tolist() == [2, 2, 2]
        assert set(plan.rows).isdisjoint(fold)
    assert plans[0].seed == 5
    assert len({plan.seed for plan in plans}) == 5


def test_groups_stay_together_and_a_class_may_be_one_group() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    groups = ["a", "a", "b", "c", "d", "e", "f", "f", "f"]
    folds = folds_of(table_of(labels, groups), ShotSettings(folds=3), NAMES)
    where = {row: number for number, fold in enumerate(folds) for row in fold}
    assert where[0] == where[1]
    assert where[6] == where[7] == where[8]


def test_shots_of_one_group_cannot_be_divided() -> None:
    table = table_of(torch.tensor([0, 1, 2]), ["p"] * 3)
    with pytest.raises(ValueError, match=r"All 3 shots are of one group.*calibrate.method=none"):
        folds_of(table, ShotSettings(), NAMES)
    assert folds_of(table, ShotSettings(method="none"), NAMES) == []


def test_logits_left_out_come_from_the_prompt_of_the_fold() -> None:
    labels = torch.arange(3).repeat(4)
    table = table_of(labels)
    folds = folds_of(table, ShotSettings(folds=2), NAMES)
    texts = normalize(torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(4)), dim=2)
    _, found = calibrated(
        prompt_of(), texts, folds, table, prompt_of().text_features, ShotSettings(method="scale")
    )
    factor = found.weights["prompt"]
    for fold, text in zip(folds, texts, strict=True):
        expected = (
            factor * torch.tensor(3.0).double().exp() * table.image_features[fold].double() @ text.double().T
        )
        torch.testing.assert_close(found.logits[fold], expected)


def test_a_calibration_is_carried_to_a_prompt_of_fewer_shots() -> None:
    other = prompt_of(calibration=map_of())
    table = table_of(torch.arange(3).repeat(3))
    fixed = normalize(torch.eye(3, 6).flip(1) + 0.2, dim=1)
    carried = calibrated_like(other, prompt_of(), table, fixed).calibration
    assert carried is not None
    scale = torch.tensor(3.0).double().exp()
    images = LinearDiscriminant.fit(table.image_features, table.labels, 3)
    expected = 0.2 * scale * prompt_of().text_features.double() + 0.4 * scale * fixed.double()
    torch.testing.assert_close(carried.weight, (expected + 0.05 * images.weight).float())
    torch.testing.assert_close(carried.bias, (0.05 * images.bias).float())
    assert calibrated_like(prompt_of(), prompt_of(), table, fixed).calibration is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prevalence": {"cat": 0.5, "dog": 0.5}}, "says nothing of owl"),
        ({"prevalence": {"cat": 0.5, "dog": 0.3, "fox": 0.2}}, "Unknown class in calibrate.prevalence 'fox'"),
        ({"prevalence": {"cat": 0.5, "dog": 0.3, "owl": 0.3}}, "calibrate.prevalence: shares must sum to 1"),
        ({"prevalence": {"cat": 1.0, "dog": 0.0, "owl": 0.0}}, "calibrate.prevalence.dog must be above 0"),
        ({"prevalence": dict.fromkeys(NAMES, 1 / 3), "method": "none"}, "with calibrate.method=none"),
        ({"method": "best"}, "value of calibrate.method"),
        ({"folds": 1}, "calibrate.folds must be at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShotSettings(**given).check(NAMES)


def test_prevalence_is_by_name_in_any_order() -> None:
    shares = ShotSettings(prevalence={"owl": 0.2, "cat": 0.5, "dog": 0.3}).shares(NAMES)
    assert shares is not None
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.2])


def fitted(name: str, names: list[str] = NAMES) -> OutputMapping:
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(5)) * 4
    return OutputMapping(names, make_calibrator(name).fit(logits, torch.arange(40) % 3), {"rows": 40})


@pytest.mark.parametrize("name", ["temperature", "temperature_prior", "vector", "matrix"])
@pytest.mark.parametrize("calibration", [None, map_of()], ids=["bare", "experts"])
def test_a_calibrator_of_outputs_becomes_part_of_the_map(
    name: str, calibration: Calibration | None, tmp_path: Path
) -> None:
    prompt = prompt_of(calibration=calibration, temperature=2.0)
    images = normalize(torch.randn(7, 6, generator=torch.Generator().manual_seed(6)), dim=1)
    mapping = fitted(name)
    expected = mapping.calibrator(prompt.logits(images))
    prompt.mapped(mapping).save(tmp_path / "p.safetensors")
    found = Prompt.load(tmp_path / "p.safetensors")
    close = {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(found.logits(images).double().softmax(dim=1), expected, **close)
    assert torch.equal(found.bare().logits(images), prompt.bare().logits(images))
    assert found.calibration is not None
    assert [each.to_record() for each in found.calibration.mappings] == [mapping.to_record()]
    twice = found.mapped(mapping).in_order(["owl", "cat", "dog"])
    again = mapping.calibrator(found.logits(images))[:, [2, 0, 1]]
    torch.testing.assert_close(twice.logits(images).double().softmax(dim=1), again, **close)
    turned = prompt.in_order(["owl", "cat", "dog"]).mapped(mapping)  # the classes of a mapping have names
    torch.testing.assert_close(turned.logits(images).double().softmax(dim=1), expected[:, [2, 0, 1]], **close)


def test_what_is_no_linear_map_or_of_other_classes_is_refused(tmp_path: Path) -> None:
    for name in ("svs", "ts_mix", "isotonic"):
        with pytest.raises(ValueError, match=f"'{name}' is no linear map of logits"):
            prompt_of().mapped(fitted(name))
    with pytest.raises(ValueError, match="of the classes cat, dog, fox, and not of cat, dog, owl"):
        prompt_of().mapped(fitted("vector", ["cat", "dog", "fox"]))
    sure = make_calibrator("temperature_prior").fit(torch.tensor([[1.0, 0, 0]]), torch.tensor([0]))
    sure.parameters["temperature"] = torch.tensor(1e-9).double()
    with pytest.raises(ValueError, match="would make logits of 2e"):
        prompt_of().mapped(OutputMapping(NAMES, sure))
    path = tmp_path / "p.safetensors"
    prompt_of().mapped(fitted("vector")).save(path)
    tensors, record = load_tensors(path, kind=KIND)
    for change, message in (
        ([fitted("svs").to_record()], "'svs' is none"),
        ([fitted("vector", ["cat", "dog", "fox"]).to_record()], "calibration.mappings: The calibrator is of"),
        ([{"kind": "calibrator"}], "calibration.mappings must have version 1"),
        ([], "must be a list of calibrators"),
        ({}, "must be a list of calibrators"),
    ):
        calibration = {**record["calibration"], "mappings": change}
        save_tensors(path, tensors, {**record, "calibration": calibration})
        with pytest.raises(ValueError, match=message) as error:
            Prompt.load(path)
        assert "p.safetensors" in str(error.value)


def test_a_calibrator_of_outputs_is_carried_to_a_prompt_of_fewer_shots() -> None:
    table, mapping = table_of(torch.arange(3).repeat(3)), fitted("vector")
    fixed = normalize(torch.eye(3, 6).flip(1) + 0.2, dim=1)
    images = table.image_features
    whole = prompt_of(calibration=map_of())
    after = calibrated_like(whole.mapped(mapping), prompt_of(), table, fixed)
    expected = calibrated_like(whole, prompt_of(), table, fixed).mapped(mapping)
    torch.testing.assert_close(after.logits(images), expected.logits(images), atol=1e-4, rtol=1e-4)
    alone = calibrated_like(prompt_of().mapped(mapping), prompt_of(), table, fixed)
    torch.testing.assert_close(
        alone.logits(images), prompt_of().mapped(mapping).logits(images), atol=1e-4, rtol=1e-4
    )


def test_what_keeps_predictions_is_no_part_of_a_prompts_name() -> None:
    bare = prompt_of()
    same = bare.mapped(fitted("temperature"))
    assert same.calibration is not None
    assert same.calibration.keeps_predictions
    assert prompt_digest(same) == prompt_digest(bare)
    tilt = {"cat": 1.0, "dog": 0.0, "owl": 0.0}
    for other in (
        bare.mapped(fitted("vector")),
        prompt_of(calibration=map_of()),
        prompt_of(calibration=replace(map_of(method="scale"), tilt=tilt)),
    ):
        assert other.calibration is not None
        assert not other.calibration.keeps_predictions
        assert prompt_digest(other) != prompt_digest(bare)
