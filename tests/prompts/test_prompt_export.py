from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from calib.io.tensors import load_tensors, save_tensors
from calib.prompts.export import Prompt

DESCRIPTION: dict[str, Any] = {
    "name": "toy",
    "weights": {"source": "here", "digest": "a" * 64},
    "preprocessing": {"image_size": 224},
    "architecture": {"layers": 2},
    "parity": {},
}


def prompt() -> Prompt:
    generator = torch.Generator().manual_seed(0)
    return Prompt(
        text_features=normalize(torch.randn(3, 8, generator=generator), dim=1),
        class_names=["a", "b", "c"],
        logit_scale=math.log(20.0),
        backbone=DESCRIPTION,
        context=torch.randn(4, 6, generator=generator),
        prompt={"n_ctx": 4},
        training={"method": "coop", "seed": 3},
    )


def backbone(**changes: Any) -> Any:
    description = {**DESCRIPTION, **changes}
    return SimpleNamespace(describe=lambda: description)


def test_everything_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    before = prompt()
    before.save(path)
    after = Prompt.load(path)
    assert torch.equal(after.text_features, before.text_features)
    assert after.context is not None
    assert before.context is not None
    assert torch.equal(after.context, before.context)
    for name in ("class_names", "logit_scale", "backbone", "prompt", "temperature", "training"):
        assert getattr(after, name) == getattr(before, name)


def test_logits_are_scaled_cosines_over_the_temperature() -> None:
    checkpoint = replace(prompt(), temperature=2.0)
    logits = checkpoint.logits(checkpoint.text_features)  # (3, 3)
    assert torch.allclose(logits.diagonal(), torch.full((3,), 10.0), atol=1e-5)
    expected = 10 * float(checkpoint.text_features[0] @ checkpoint.text_features[2])
    assert logits[0, 2].item() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match=r"must be \(N, 8\) for this prompt, not \(5, 7\)"):
        checkpoint.logits(torch.zeros(5, 7))


def test_features_without_unit_norm_are_refused_by_row() -> None:
    features = normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    prompt().logits(features.half())  # rounding is forgiven
    for wrong, message in (
        (3 * features[2], r"unit norm; row 2 has norm 3 \(1 such rows of 5\)\. Divide"),
        (torch.full((8,), math.nan), "NaN or infinite values in rows 2"),
    ):
        spoilt = features.clone()
        spoilt[2] = wrong
        with pytest.raises(ValueError, match=message):
            prompt().logits(spoilt)


def test_classes_can_be_put_in_the_order_of_the_data() -> None:
    one = replace(prompt(), context=torch.arange(3.0).reshape(3, 1, 1))  # one context per class
    turned = one.in_order(["c", "a", "b"])
    features = normalize(torch.randn(5, 8), dim=1)
    assert torch.equal(turned.logits(features), one.logits(features)[:, [2, 0, 1]])
    assert turned.context is not None
    assert turned.context.flatten().tolist() == [2.0, 0.0, 1.0]
    with pytest.raises(
        ValueError, match=r"knows the classes \['a', 'b', 'c'\], and the data have \['a', 'b'\]"
    ):
        one.in_order(["a", "b"])


def test_the_representation_is_short_enough_to_read() -> None:
    assert len(repr(prompt())) < 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"source": "x", "digest": "b" * 64}}, r"made for toy with weights a{12}.*weights b{12}"),
        ({"preprocessing": {"image_size": 336}}, r"preprocessing \{'image_size': 224\}.*336"),
        ({"architecture": {"layers": 3}}, "architecture"),
        ({"parity": {"x": True}}, "parity"),
        ({"encode_precision": "bf16"}, r"with backbone\.encode_precision fp32, and .* bf16"),
    ],
)
def test_another_backbone_is_refused(changes: dict[str, Any], message: str) -> None:
    prompt().check_backbone(backbone())
    with pytest.raises(ValueError, match=message):
        prompt().check_backbone(backbone(**changes))


@pytest.mark.parametrize(
    ("tensors", "record", "message"),
    [
        ({}, {"class_names": ["a", "b"]}, r"text_features' must have shape \(2, any\), not \(3, 8\)"),
        ({}, {"class_names": "abc"}, "class_names must be a list"),
        ({}, {"version": 4}, "version 4"),
        ({}, {"temperature": 0}, "temperature must be a positive number"),
        ({}, {"logit_scale": None}, "logit_scale must be a number"),
        ({}, {"backbone": {"name": "x"}}, "lacks 'weights'"),
        (
            {},
            {"backbone": {**DESCRIPTION, "encode_precision": 16}},
            "encode_precision must be a text, not 16",
        ),
        ({"text_features": 2 * torch.eye(3, 8)}, {}, "unit norm; row 0 has norm 2"),
        ({"text_features": torch.full((3, 8), math.nan)}, {}, "NaN"),
        ({"context": torch.full((4, 6), math.inf)}, {}, "NaN or infinite"),
    ],
)
def test_damaged_exports_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], record: dict[str, Any], message: str
) -> None:
    path = tmp_path / "prompt.safetensors"
    prompt().save(path)
    good_tensors, good_record = load_tensors(path, kind="prompt")
    save_tensors(path, {**good_tensors, **tensors}, {**good_record, **record})
    with pytest.raises(ValueError, match=message):
        Prompt.load(path)
