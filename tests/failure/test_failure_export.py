from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from calib.failure.digests import prompt_digest, text_digest
from calib.failure.export import FailureHead
from calib.failure.vilu import ViLU
from calib.io.tensors import load_tensors, save_tensors
from calib.prompts.export import Prompt

N, C, D = 5, 3, 8
DESCRIPTION: dict[str, Any] = {
    "name": "toy",
    "weights": {"source": "here", "digest": "a" * 64},
    "preprocessing": {"image_size": 224},
    "architecture": {"layers": 2},
    "parity": {},
}


def unit(seed: int, rows: int) -> torch.Tensor:
    return normalize(torch.randn(rows, D, generator=torch.Generator().manual_seed(seed)), dim=1)


def prompt(**changes: Any) -> Prompt:
    given: dict[str, Any] = {
        "text_features": unit(1, C),
        "class_names": ["a", "b", "c"],
        "logit_scale": math.log(20.0),
        "backbone": DESCRIPTION,
    }
    return Prompt(**{**given, **changes})


def checkpoint(head: dict[str, Any] | None = None, **changes: Any) -> FailureHead:
    torch.manual_seed(0)
    vilu = ViLU(
        D, logit_scale=math.log(20.0), hidden=(7, 4), **({"residual": True} if head is None else head)
    )
    torch.nn.init.normal_(vilu.mlp[-1].weight)
    given: dict[str, Any] = {
        "head": vilu,
        "text_features": unit(1, C),
        "class_names": ["a", "b", "c"],
        "means": vilu.part_means(unit(3, 11), unit(1, C)),
        "backbone": DESCRIPTION,
        "prompt": prompt_digest(prompt()),
        "training": {"loss": "bce", "seed": 3},
    }
    return FailureHead(**{**given, **changes})


def backbone(embed_dim: int = D, **changes: Any) -> Any:
    description = {**DESCRIPTION, **changes}
    return SimpleNamespace(name=description["name"], embed_dim=embed_dim, describe=lambda: description)


@pytest.mark.parametrize(
    "head",
    [
        {"residual": True},
        {"keep_frozen": False, "n_iter_freeze_proj": 3, "concat": False, "activation": "leaky_relu"},
        {"use_attention": False, "use_predicted_caption": False},
    ],
    ids=str,
)
def test_everything_comes_back(tmp_path: Path, head: dict[str, Any]) -> None:
    path = tmp_path / "failure.safetensors"
    before = checkpoint(head)
    before.save(path)
    after = FailureHead.load(path)
    assert after.head.options == before.head.options
    assert after.head.logit_scale == before.head.logit_scale
    assert torch.equal(after.text_features, before.text_features)
    assert after.means.keys() == before.means.keys()
    for name in ("class_names", "backbone", "prompt", "training"):
        assert getattr(after, name) == getattr(before, name)
    images = unit(2, N)
    assert torch.equal(after.uncertainty(images), before.uncertainty(images))
    why, ours = after.explain(images), before.explain(images)
    for name, value in ours.contributions.items():
        assert torch.equal(why.contributions[name], value)


def test_a_loaded_head_can_be_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "failure.safetensors"
    checkpoint().save(path)
    head = FailureHead.load(path).head
    trainable = {name for name, p in head.named_parameters() if p.requires_grad}
    assert trainable == {name for name, p in checkpoint().head.named_parameters() if p.requires_grad}
    head(unit(2, N), unit(1, C)).sum().backward()
    assert head.mlp[0].weight.grad is not None


def test_uncertainty_is_the_sigmoid_of_the_heads_output() -> None:
    saved = checkpoint()
    images = unit(2, N)
    expected = saved.head(images, unit(1, C)).double().sigmoid()
    assert torch.allclose(saved.uncertainty(images), expected)
    assert saved.uncertainty(images).dtype == torch.float64
    picked = torch.tensor([0, 1, 2, 0, 1])
    assert torch.allclose(
        saved.uncertainty(images, picked), saved.head(images, unit(1, C), picked).double().sigmoid()
    )


def test_very_sure_images_keep_their_order() -> None:
    """At scale 100 the MCP of clear images is 1 in float32, and so is the sigmoid of their log-odds."""
    head = ViLU(D, logit_scale=math.log(100.0), hidden=(7, 4), residual=True)
    angles = torch.linspace(0, 0.5, N)
    images = torch.zeros(N, D)
    images[:, 0], images[:, 1] = angles.cos(), angles.sin()
    saved = FailureHead(head, torch.eye(C, D), ["a", "b", "c"])
    assert ((100 * images @ saved.text_features.T).softmax(1).max(1).values == 1).sum() >= 4
    assert (saved.uncertainty(images).diff() > 0).all()


def test_large_inputs_are_scored_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    saved, images, picked = checkpoint(), unit(2, N), torch.tensor([0, 1, 2, 0, 1])
    whole = saved.uncertainty(images, picked)
    monkeypatch.setattr("calib.failure.export.ROWS_AT_ONCE", 2)
    assert torch.allclose(saved.uncertainty(images, picked), whole, atol=1e-7)


def test_a_checkpoint_is_a_copy_and_leaves_training_alone() -> None:
    head = ViLU(D, logit_scale=3.0, hidden=(7, 4), keep_frozen=False).train()
    saved = FailureHead(head, unit(1, C), ["a", "b", "c"])
    before = saved.uncertainty(unit(2, N))
    assert head.training
    assert int(head.iteration_count) == 0
    torch.nn.init.normal_(head.mlp[0].weight)
    assert torch.equal(saved.uncertainty(unit(2, N)), before)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(N, 7), r"must be \(N, 8\) for this failure head, not \(5, 7\)"),
        (torch.zeros(D), r"must be \(N, 8\)"),
        (2 * torch.eye(N, D), r"unit norm; row 0 has norm 2 \(5 such rows of 5\)"),
        (
            torch.eye(N, D).index_fill(0, torch.tensor([1, 3]), math.nan),
            r"NaN or infinite values in rows 1, 3",
        ),
    ],
)
def test_bad_image_features_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint().uncertainty(images)
    with pytest.raises(ValueError, match=message):
        checkpoint().explain(images)


def test_its_own_prompt_and_backbone_are_accepted_and_temperature_does_not_matter() -> None:
    checkpoint().check_prompt(prompt())
    checkpoint().check_prompt(prompt(temperature=2.0))
    composed, decomposed = "b\u00e9nin", "be\u0301nin"  # one name in two Unicode forms
    checkpoint(class_names=[composed, "b", "c"]).check_prompt(prompt(class_names=[decomposed, "b", "c"]))
    checkpoint().check_backbone(backbone())
    assert prompt_digest(prompt()) == prompt_digest(prompt(temperature=2.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["a", "c", "b"]}, r"judges the classes a, b, c, and the prompt has a, c, b"),
        ({"text_features": unit(9, C)}, "trained with other text features"),
        (
            {"backbone": {**DESCRIPTION, "weights": {"digest": "b" * 64}}},
            r"weights a{12}, and the prompt.*b{12}",
        ),
    ],
)
def test_another_prompt_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint().check_prompt(prompt(**changes))
    if "backbone" not in changes:
        assert prompt_digest(prompt(**changes)) != prompt_digest(prompt())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 12}, "width 8, and toy makes 12"),
        ({"weights": {"source": "x", "digest": "b" * 64}}, r"for toy with weights a{12}.*b{12}"),
        ({"preprocessing": {"image_size": 336}}, r"preprocessing \{'image_size': 224\}.*336"),
        ({"architecture": {"layers": 3}}, "architecture"),
        ({"parity": {"x": True}}, "parity"),
        ({"encode_precision": "bf16"}, r"with backbone\.encode_precision fp32, and .* bf16"),
    ],
)
def test_another_backbone_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checkpoint().check_backbone(backbone(**changes))


def test_a_head_for_an_unknown_model_is_bound_by_its_text_features_and_width(tmp_path: Path) -> None:
    path = tmp_path / "failure.safetensors"
    checkpoint(backbone=None, prompt=None).save(path)
    saved = FailureHead.load(path)
    assert saved.backbone is None
    saved.check_text(unit(1, C))
    saved.check_backbone(backbone(weights={"digest": "b" * 64}))
    with pytest.raises(ValueError, match="width 8"):
        saved.check_backbone(backbone(embed_dim=12))
    with pytest.raises(ValueError, match="other text features"):
        saved.check_text(unit(1, C).flip(0))
    with pytest.raises(ValueError, match=r"text features \(3, 8\), those at hand are \(4, 8\)"):
        saved.check_text(unit(1, 4))


def test_text_features_that_rounding_sets_apart_are_the_same() -> None:
    """MKL rounds otherwise on another processor, and where torch was imported first: 2e-8 was seen."""
    noise = torch.rand(unit(1, C).shape, generator=torch.Generator().manual_seed(0)) - 0.5
    for size in (2.2e-8, 1e-6, 1.9e-5):
        near = unit(1, C) + size * noise
        assert text_digest(near) != text_digest(unit(1, C))
        checkpoint().check_text(near)
        checkpoint().check_prompt(prompt(text_features=near))
    checkpoint().check_text(unit(1, C).half().float().lerp(unit(1, C), 0.99))
    for other in (unit(1, C) + 1e-4 * noise, unit(1, C).half(), -unit(1, C), unit(1, C) * float("nan")):
        with pytest.raises(ValueError, match="other text features"):
            checkpoint().check_text(other)


def test_digests_see_shape_and_order() -> None:
    assert text_digest(unit(1, C)) == text_digest(unit(1, C).double())
    assert text_digest(torch.zeros(2, 6)) != text_digest(torch.zeros(3, 4))


def test_without_means_it_scores_but_does_not_explain(tmp_path: Path) -> None:
    path = tmp_path / "failure.safetensors"
    checkpoint(means={}).save(path)
    saved = FailureHead.load(path)
    assert saved.uncertainty(unit(2, N)).shape == (N,)
    with pytest.raises(ValueError, match="without training means"):
        saved.explain(unit(2, N))


def test_parts_that_do_not_fit_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"text_features must be \(2, 8\).*They are \(3, 8\)"):
        checkpoint(class_names=["a", "b"])


@pytest.mark.parametrize(
    ("tensors", "record", "message"),
    [
        ({}, {"class_names": ["a", "b"]}, r"text_features' must have shape \(2, 8\), not \(3, 8\)"),
        ({}, {"class_names": []}, "class_names must be a list"),
        ({}, {"version": 4}, "version 4"),
        ({}, {"logit_scale": None}, "logit_scale must be a number"),
        ({}, {"logit_scale": 100.0}, "log of the scale"),
        ({}, {"backbone": {"name": "x"}}, "lacks its name or its weights' digest"),
        ({}, {"prompt": 3}, "prompt must be a digest"),
        ({}, {"head": None}, "head must be a mapping"),
        ({}, {"head": {"dimm": 8}}, "Did you mean 'dim'"),
        ({}, {"head": {}}, "options of the head are not valid"),
        ({}, {"head": {"dim": 8, "hidden": "ab"}}, "options of the head are not valid"),
        ({}, {"head": {"dim": 8, "hidden": [7, 4]}}, r"mcp_scale \(\) is unexpected"),
        ({}, {"head": {"dim": 10**9, "hidden": [7, 4], "residual": True}}, r"\(7, 3000000000\) here"),
        ({}, {"text_digest": "x"}, "changed after saving"),
        ({"text_features": 2 * torch.eye(C, D)}, {}, "unit norm; row 0 has norm 2"),
        ({"text_features": torch.eye(C, D)}, {}, "changed after saving"),
        ({"text_features": torch.full((C, D), math.nan)}, {}, "NaN"),
        ({"head.mlp.0.bias": torch.full((7,), math.inf)}, {}, r"mlp\.0\.bias' holds NaN or infinite"),
        ({"head.mlp.0.bias": torch.zeros(6)}, {}, r"mlp\.0\.bias is \(6,\) in the file and \(7,\) here"),
        ({"head.extra": torch.zeros(6)}, {}, r"extra \(6,\) is unexpected"),
        ({"mean.image": torch.zeros(7)}, {}, r"mean\.image' must have shape \(8\), not \(7,\)"),
        ({"mean.other": torch.zeros(8)}, {}, "training means are"),
    ],
)
def test_damaged_exports_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], record: dict[str, Any], message: str
) -> None:
    path = tmp_path / "failure.safetensors"
    checkpoint().save(path)
    good_tensors, good_record = load_tensors(path, kind="failure")
    save_tensors(path, {**good_tensors, **tensors}, {**good_record, **record})
    with pytest.raises(ValueError, match=message) as error:
        FailureHead.load(path)
    assert "failure.safetensors" in str(error.value)


def test_a_record_with_a_hole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "failure.safetensors"
    checkpoint().save(path)
    tensors, record = load_tensors(path, kind="failure")
    del record["head"]
    save_tensors(path, tensors, record)
    with pytest.raises(ValueError, match="lacks head"):
        FailureHead.load(path)
    prompt().save(path)
    with pytest.raises(ValueError, match="not a calib failure file"):
        FailureHead.load(path)


def test_a_head_of_captions_is_given_its_candidates(tmp_path: Path) -> None:
    of_classes = checkpoint()
    saved = checkpoint(text_features=None, class_names=[], prompt=None)
    saved.save(tmp_path / "failure.safetensors")
    loaded = FailureHead.load(tmp_path / "failure.safetensors")
    assert loaded.text_features is None
    images, captions = unit(2, N), unit(1, C)
    expected = of_classes.uncertainty(images)
    assert torch.equal(loaded.uncertainty(images, text_features=captions), expected)
    why = loaded.explain(images, text_features=captions)
    assert torch.equal(why.weights, of_classes.explain(images).weights)
    with pytest.raises(ValueError, match="trained on captions: give text_features"):
        loaded.uncertainty(images)
    with pytest.raises(ValueError, match="has text features of its own"):
        of_classes.uncertainty(images, text_features=captions)
    with pytest.raises(ValueError, match="text_features must have unit norm"):
        loaded.uncertainty(images, text_features=2 * captions)
    with pytest.raises(ValueError, match="belongs to no prompt"):
        loaded.check_prompt(prompt())
    with pytest.raises(ValueError, match="no text features of its own"):
        loaded.check_text(captions)
    with pytest.raises(ValueError, match="needs their text_features"):
        checkpoint(text_features=None)
