"""Decisions in files: bound to what they were fitted for, and refused beside anything else."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from run_facts import decisions_of
from torch.nn.functional import normalize

from calib.failure.export import FailureHead
from calib.failure.vilu import ViLU
from calib.io.tensors import load_tensors, mark_of, save_tensors
from calib.posthoc import Decisions, Familiarity, PredictionSets, ReviewThreshold
from calib.prompts.export import Prompt
from calib.runs.decisions import keep_decisions

GENERATOR = torch.Generator().manual_seed(0)
TEXTS = normalize(torch.randn(3, 8, generator=GENERATOR), dim=1)
FEATURES = normalize(torch.randn(40, 8, generator=GENERATOR), dim=1)
LABELS = torch.arange(40) % 3
DOUBT = torch.linspace(0, 0.6, 60).double()
BACKBONE: dict[str, Any] = {"name": "toy", "weights": {"digest": "a" * 64}, "preprocessing": {}}


def prompt(**changes: Any) -> Prompt:
    return Prompt(
        **{"text_features": TEXTS, "class_names": ["a", "b", "c"], "logit_scale": 3.0} | changes,
        backbone=BACKBONE,
    )


def head() -> FailureHead:
    return FailureHead(ViLU(8, logit_scale=3.0), TEXTS, ["a", "b", "c"])


def review() -> ReviewThreshold:
    return ReviewThreshold(0.1).fit(DOUBT, DOUBT > 0.5)


def sets() -> PredictionSets:
    return PredictionSets(coverage=0.8).fit(prompt().logits(FEATURES).double().softmax(dim=1), LABELS)


def everything(export: Prompt | FailureHead) -> Decisions:
    return Decisions(
        review(), sets(), Familiarity().fit(FEATURES, LABELS), export.doubt_digest(), {"review": {"rows": 60}}
    )


@pytest.mark.parametrize("make", [prompt, head])
def test_they_lie_in_the_file_of_what_they_are_for(make: Any, tmp_path: Path) -> None:
    export = make()
    export = replace(export, decisions=everything(export))
    path = tmp_path / "x.safetensors"
    export.save(path, run="mark")
    found = type(export).load(path).decisions
    assert found is not None
    assert found.to_record() == export.decisions.to_record()
    assert torch.equal(found.familiarity.means, export.decisions.familiarity.means)
    assert mark_of(path) == "mark"


@pytest.mark.parametrize("make", [prompt, head])
def test_files_of_before_are_read(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    make().save(path)
    tensors, record = load_tensors(path, kind="prompt" if make is prompt else "failure")
    record.pop("decisions")
    save_tensors(path, tensors, {**record, "version": 2})
    assert type(make()).load(path).decisions is None


@pytest.mark.parametrize(
    "change",
    [
        {"logit_scale": 3.5},
        {"temperature": 2.0},
        {"text_features": TEXTS.flip(1)},
        {"class_names": ["a", "b", "d"]},
    ],
)
def test_beside_another_prompt_they_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    first = prompt()
    other = replace(first, **change, decisions=everything(first))
    with pytest.raises(ValueError, match="review and sets were fitted for another prompt or doubt"):
        other.save(tmp_path / "x.safetensors")
    replace(first, decisions=everything(first)).save(tmp_path / "x.safetensors")
    tensors, record = load_tensors(tmp_path / "x.safetensors", kind="prompt")
    parts = {key: value for key, value in change.items() if key in record}
    if "text_features" in change:
        tensors["text_features"] = change["text_features"]
    save_tensors(tmp_path / "x.safetensors", tensors, {**record, **parts})
    with pytest.raises(ValueError, match=r"x\.safetensors: its review and sets were fitted for another"):
        Prompt.load(tmp_path / "x.safetensors")


def test_beside_another_head_they_are_refused(tmp_path: Path) -> None:
    first, other = head(), head()
    with torch.no_grad():
        next(other.head.parameters()).add_(0.1)
    with pytest.raises(ValueError, match="calib review and calib sets"):
        replace(other, decisions=everything(first)).save(tmp_path / "x.safetensors")


def test_the_order_of_classes_does_not_name_another_doubt_but_sets_are_for_one() -> None:
    export = replace(prompt(), decisions=everything(prompt()))
    turned = export.in_order(["c", "a", "b"])
    assert turned.doubt_digest() == export.doubt_digest()
    assert turned.decisions is not None
    assert turned.decisions.sets is None
    assert turned.decisions.review is not None
    same = export.in_order(["a", "b", "c"]).decisions
    assert same is not None
    assert same.sets is not None


def test_a_bare_prompt_keeps_what_does_not_depend_on_confidences() -> None:
    bare = replace(prompt(), decisions=everything(prompt())).bare().decisions
    assert bare is not None
    assert (bare.review, bare.sets) == (None, None)
    assert bare.familiarity is not None


def test_what_is_unlike_is_never_accepted() -> None:
    held = everything(prompt())
    accepted, reasons = held.decide(torch.tensor([0.0, 0.0, 0.59]), torch.tensor([False, True, False]))
    assert accepted.tolist() == [True, False, False]
    assert reasons[0].startswith("doubt 0 is below")
    assert reasons[1] == "unlike the images seen"
    assert reasons[2].startswith("doubt 0.59 is not below")
    with pytest.raises(ValueError, match="no review threshold"):
        Decisions().decide(DOUBT)


def test_a_part_is_written_beside_the_others(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    replace(prompt(), decisions=Decisions(familiarity=Familiarity().fit(FEATURES, LABELS))).save(
        path, run="m"
    )
    with pytest.raises(ValueError, match="was replaced while this was fitted"):
        keep_decisions(path, {}, fitted_for="0" * 64, review=review())
    keep_decisions(path, {"review": {"rows": 60}}, review=review())
    keep_decisions(path, {"sets": {"rows": 40}}, sets=sets())
    found = decisions_of(path)
    assert found.review is not None
    assert found.sets is not None
    assert found.familiarity is not None
    assert found.about == {"review": {"rows": 60}, "sets": {"rows": 40}}
    assert mark_of(path) == "m"
    assert [each.name for each in tmp_path.iterdir()] == ["prompt.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "decisions have version 2"),
        ({"extra": 1}, "decisions must have the keys"),
        ({"about": []}, "a digest under doubt and a mapping under about"),
        ({"doubt": 5}, "a digest under doubt"),
        ({"doubt": None}, "were fitted for another prompt or doubt"),
        ({"review": {}}, "A record of a review threshold has the keys"),
        ({"sets": {}}, "prediction sets"),
        ({"familiarity": {}}, "A record of familiarity has the keys"),
    ],
)
def test_records_that_were_changed_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    export = prompt()
    replace(export, decisions=everything(export)).save(path)
    tensors, record = load_tensors(path, kind="prompt")
    save_tensors(path, tensors, {**record, "decisions": {**record["decisions"], **change}})
    with pytest.raises(ValueError, match=message) as raised:
        Prompt.load(path)
    assert str(path) in str(raised.value)


def test_an_export_stays_small(tmp_path: Path) -> None:
    """With 512 numbers a feature, nine classes, eight shots of each, and everything that is fitted."""
    generator = torch.Generator().manual_seed(1)
    texts = normalize(torch.randn(9, 512, generator=generator), dim=1)
    shots = normalize(torch.randn(72, 512, generator=generator), dim=1)
    names = [f"class {c}" for c in range(9)]
    export = prompt(text_features=texts, class_names=names, context=torch.randn(16, 512, generator=generator))
    path = tmp_path / "x.safetensors"
    export.save(path)
    before = path.stat().st_size
    many = torch.rand(5000, generator=generator).double()
    probs = export.logits(shots).double().softmax(dim=1)
    labels = torch.arange(72) % 9
    held = Decisions(
        ReviewThreshold(0.1).fit(many, many > 0.9),
        PredictionSets(coverage=0.8).fit(probs, labels),
        Familiarity().fit(shots, labels),
        export.doubt_digest(),
    )
    replace(export, decisions=held).save(path)
    assert path.stat().st_size - before < 25_000
    assert path.stat().st_size < 100_000
    assert math.isfinite(held.familiarity.threshold if held.familiarity else math.nan)
