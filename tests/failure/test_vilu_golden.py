"""The official head and its freeze counter (numbers in tests/golden, see their `meta`)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calib.failure.vilu import ViLU

GOLDEN = Path(__file__).parents[1] / "golden"
ABOUT = json.loads((GOLDEN / "vilu_attention.json").read_text())
TENSORS = load_file(GOLDEN / "vilu_attention.safetensors")


def official_head(name, kwargs, **options):
    """Return our head with the official options and weights."""
    head = ViLU(
        kwargs["visual_dim"],
        logit_scale=math.log(kwargs["logit_scale"]),
        hidden=kwargs["layers"][:-1],
        activation=kwargs.get("activation", "relu"),
        negative_slope=kwargs.get("negative_slope", 0.01),
        **{
            key: kwargs[key]
            for key in (
                "use_attention",
                "concat",
                "use_predicted_caption",
                "n_iter_freeze_proj",
                "keep_frozen",
            )
        },
        **options,
    )
    prefix = f"{name}/sd/"
    state = {
        key.removeprefix(prefix): value.clone() for key, value in TENSORS.items() if key.startswith(prefix)
    }
    assert head.state_dict().keys() == state.keys()  # the official names
    head.load_state_dict(state)
    return head.eval()


def golden(name, what):
    return TENSORS[f"{name}/{what}"]


def test_all_sixteen_settings_are_there():
    assert len(ABOUT["cases"]) == 16
    assert "e4bf572" in ABOUT["meta"]["source"]


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("case", ABOUT["cases"], ids=lambda case: case["id"])
def test_output_and_gradients_are_the_official_ones(case, double):
    name, kwargs = case["id"], case["kwargs"]
    dtype = torch.float64 if double else torch.float32
    head = official_head(name, kwargs, official_decay=True).to(dtype)
    v, t = (golden(name, key).clone().to(dtype).requires_grad_() for key in "vt")
    out = -head(v, t)
    out = out.sigmoid() if kwargs["use_sigmoid"] else out
    out.sum().backward()
    assert (out - golden(name, "out")[:, 0]).abs().max() < 1e-6
    names = {key.removeprefix(f"{name}/grad/") for key in TENSORS if key.startswith(f"{name}/grad/")}
    ours = {**dict(head.named_parameters()), "v": v, "t": t}
    assert names >= {"v", *dict(head.named_parameters())}
    for key in names:
        assert ours[key].grad is not None, key
        assert (ours[key].grad - golden(name, f"grad/{key}")).abs().max() < 1e-6, key


@pytest.mark.parametrize(
    "case", [case for case in ABOUT["cases"] if case["kwargs"]["use_attention"]], ids=lambda case: case["id"]
)
def test_attention_is_the_official_one(case):
    name = case["id"]
    head = official_head(name, case["kwargs"]).double()
    inputs = head.inputs(golden(name, "v").double(), golden(name, "t").double())
    assert head.projects == (case["stage"] == "after")
    assert torch.allclose(inputs.attention.sum(1), torch.ones(case["B"], dtype=torch.float64))
    # The stored float32 values are themselves up to 7.4e-7 away from the exact ones (scale 100).
    assert (inputs.attention @ inputs.keys - golden(name, "attn")).abs().max() < 1e-6


@pytest.mark.parametrize("case", ABOUT["cases"], ids=lambda case: case["id"])
def test_frozen_projections_are_skipped_with_the_same_result(case):
    name = case["id"]
    v, t = golden(name, "v"), golden(name, "t")
    skipping = official_head(name, case["kwargs"])
    computing = official_head(name, case["kwargs"], official_decay=True)
    ours, theirs = skipping(v, t), computing(v, t)
    assert torch.equal(ours, theirs)
    ours.sum().backward()
    theirs.sum().backward()
    for (key, mine), other in zip(skipping.named_parameters(), computing.parameters(), strict=True):
        if key.startswith("in_proj") and not skipping.projects:
            assert mine.grad is None  # the official gradient is an exact 0, which weight decay acts on
            assert other.grad is not None
            assert not other.grad.any()
        else:
            assert torch.equal(mine.grad, other.grad)


def test_the_projections_thaw_after_the_official_number_of_training_forwards():
    about = ABOUT["counter"]
    head = official_head("counter", about["kwargs"]).train()
    for count, expected in zip(
        about["iteration_count_after_each_forward"], golden("counter", "outs"), strict=True
    ):
        out = -head(golden("counter", "v"), golden("counter", "t"))
        assert int(head.iteration_count) == count
        assert head.projects == (count > 2)
        assert (out - expected[:, 0]).abs().max() < 1e-6
    head.eval()(golden("counter", "v"), golden("counter", "t"))
    assert int(head.iteration_count) == 5  # evaluation does not count


def test_equal_texts_share_the_attention_and_the_first_of_them_is_predicted():
    v, t = golden("tie", "v"), golden("tie", "t")
    assert torch.equal(t[1], t[2])
    head = ViLU(8, logit_scale=math.log(100))
    inputs = head.inputs(v, t)
    assert torch.equal(inputs.predictions, golden("tie", "topk_index")[:, 0])
    assert torch.equal(inputs.attention[:, 1], inputs.attention[:, 2])
    assert torch.equal(head.inputs(v, t[[1, 2, 3]]).predictions, torch.tensor([0, 2]))
