"""Steps with everything on a card that is not there: what is on the CPU by mistake, or waits, raises.

Losses alone: PyTorch's backward asks a card's driver. That it does not wait is seen in `test_host_waits`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_card import CARD, fake_card
from torch._subclasses.fake_tensor import DataDependentOutputException
from toy_steps import HEADS, failure_steps, first_batch, prompt_steps, segmentation_steps, stack_steps

from calib.backbones.base import Backbone

# With 2.6 some of these steps ask for a driver, and without one end the process.
pytest.importorskip("torch", minversion="2.7", reason="PyTorch 2.6 asks a pretended card's driver")
SLOW = pytest.mark.slow
KINDS = ["clip", *(pytest.param(kind, marks=SLOW) for kind in ("biomedclip", "medclip"))]
FAST = "of two models, with folds"
SIZES = {"clip": 64, "biomedclip": 160, "medclip": 32}


def rows_of(backbone: Backbone, learner: Any) -> Any:
    """Return what a tower makes of prompts once, from their values."""
    tower: Any = backbone._fast_tower
    return tower.prompts(learner.tokens, learner.positions, specific=learner.context.ndim == 3)


def keep_rows(backbone: Backbone, rows: Any, patch: pytest.MonkeyPatch) -> None:
    """Let a tower have made of its prompts what is on the card."""
    tower: Any = backbone._fast_tower
    patch.setattr(tower, "prompts", lambda *_, **__: rows)
    if hasattr(tower, "_has_causal_mask"):
        patch.setattr(tower, "_has_causal_mask", lambda: True)


def step_on_card(module: Any, batch: Any) -> None:
    loss = module.training_step(batch, 0)
    assert loss.device == CARD
    assert loss.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_a_prompt_stays_on_the_card(kind: str, small: Any) -> None:
    module, batches = prompt_steps(small(kind))
    batch, rows = first_batch(batches), rows_of(module.backbone, module.learner)
    with pytest.MonkeyPatch.context() as patch, fake_card(patch) as card:
        keep_rows(module.backbone, card.put(rows), patch)
        card.put(module)
        step_on_card(module, card.put(batch))


def test_a_step_of_prompts_and_folds_stays_on_the_card(small: Any) -> None:
    module, batches = stack_steps(small("clip"))
    batch, rows = next(iter(batches)), rows_of(module.backbone, module.prompts[0].learner)
    with pytest.MonkeyPatch.context() as patch, fake_card(patch) as card:
        keep_rows(module.backbone, card.put(rows), patch)
        card.put(module)
        step_on_card(module, card.put(batch))


@pytest.mark.parametrize("name", [FAST, *(pytest.param(each, marks=SLOW) for each in HEADS if each != FAST)])
def test_a_step_of_failure_heads_stays_on_the_card(name: str) -> None:
    module, batches = failure_steps(**HEADS[name])
    batch = module.on_before_batch_transfer(first_batch(batches), 0)
    with pytest.MonkeyPatch.context() as patch, fake_card(patch) as card:
        patch.setattr(type(module.head._counted), "read", lambda self, counter: 5)
        module.train()
        card.put(module)
        step_on_card(module, card.put(dict(batch)))


def test_a_step_of_segmentation_stays_on_the_card() -> None:
    module, batches = segmentation_steps()
    batch = first_batch(batches)
    with pytest.MonkeyPatch.context() as patch, fake_card(patch) as card:
        card.put(module)
        step_on_card(module, card.put(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_encoded_on_the_card(kind: str, small: Any) -> None:
    backbone = small(kind)
    images = torch.zeros(2, 3, SIZES[kind], SIZES[kind])
    with pytest.MonkeyPatch.context() as patch, fake_card(patch) as card:
        card.put(backbone)
        features = backbone.encode_image(card.mode.from_tensor(images))  # from the CPU
        assert (features.device, features.shape) == (CARD, (2, backbone.embed_dim))


def test_a_mistake_is_found() -> None:
    with pytest.MonkeyPatch.context() as patch, fake_card(patch) as card:
        there, here = card.put(torch.ones(3)), torch.ones(3)
        assert (there + 1).device == CARD
        with pytest.raises(RuntimeError, match=r"(two different|at least two) devices"):
            there + here
        with pytest.raises(DataDependentOutputException):
            there.sum().item()
