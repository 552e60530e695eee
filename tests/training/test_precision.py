"""Gradient accumulation and bf16: the same training up to what they promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.functional import normalize

from calib.backbones.base import Backbone
from calib.data import FeatureTable, FewShotDataModule
from calib.failure.cases import FailureCases
from calib.failure.module import FailurePredictionModule
from calib.failure.vilu import ViLU
from calib.losses import Objective
from calib.prompts.learner import PromptLearner
from calib.prompts.module import PromptTuningModule
from calib.prompts.zero_shot import zero_shot_features

NAMES = ["covid", "normal", "lung opacity"]


def table(dim: int) -> FeatureTable:
    generator = torch.Generator().manual_seed(3)
    features = normalize(torch.randn(12, dim, generator=generator), dim=-1)
    ids = [f"{row:064x}" for row in range(12)]
    return FeatureTable(features, torch.arange(12) % 3, ids, ids)


def fit(module: Any, data: Any, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"num_sanity_val_steps": 0, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", **quiet, **settings)
    trainer.fit(module, *data)
    return trainer


def prompt_module(clip: Backbone, losses: dict[str, Any]) -> PromptTuningModule:
    return PromptTuningModule(
        clip,
        PromptLearner(clip, NAMES, n_ctx=3, init_std=0.5, seed=1),
        Objective(losses),
        zero_shot_features(clip, NAMES, "a {}."),
        optimizer={"name": "sgd", "lr": 0.05},
        warmup_epochs=0,
    )


class Watched(Objective):
    """Writes down the types of what it is given and returns."""

    def __init__(self, losses: dict[str, Any]) -> None:
        super().__init__(losses)
        self.types: set[torch.dtype] = set()

    def __call__(self, **tensors: Tensor | None) -> dict[str, Tensor]:
        values = super().__call__(**tensors)
        given = [tensor for tensor in tensors.values() if tensor is not None and tensor.is_floating_point()]
        self.types |= {tensor.dtype for tensor in (*given, *values.values())}
        self.autocast = torch.is_autocast_enabled("cpu")
        return values


def test_accumulating_two_halves_is_the_mean_of_their_gradients(small: Any) -> None:
    clip = small("clip")
    losses = {"ce": {}, "smac": {"alpha": 0.05}, "as": {"weight": 0.5}}
    data = FewShotDataModule(table(clip.embed_dim), batch_size=6, seed=5)
    module = prompt_module(clip, losses)
    trainer = fit(module, [data], max_epochs=1, accumulate_grad_batches=2)
    assert trainer.global_step == 1
    by_hand = prompt_module(clip, losses)
    before = by_hand.learner.context.detach().clone()
    for batch in data.train_dataloader():  # batch statistics are those of each half
        (by_hand.training_step(batch, 0) / 2).backward()
    expected = before - 0.05 * by_hand.learner.context.grad
    assert not torch.allclose(before, expected, atol=1e-3)
    torch.testing.assert_close(module.learner.context.detach(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "biomedclip", "medclip"])
def test_bf16_trains_a_prompt_with_losses_in_float32(small: Any, kind: str) -> None:
    backbone = small(kind)
    losses = {"ce": {}, "smac": {"alpha": 0.05}, "as": {}, "mmce": {}}
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        module = prompt_module(backbone, losses)
        module.step.objective = Watched(losses)
        data = FewShotDataModule(table(backbone.embed_dim), table(backbone.embed_dim), batch_size=5, seed=5)
        trainer = fit(module, [data], max_epochs=2, precision=precision)
        assert module.step.objective.types == {torch.float32}
        assert not module.step.objective.autocast
        assert module.learner.context.isfinite().all()
        found[precision] = float(trainer.callback_metrics["train/total"])
    assert found["bf16-mixed"] != found["32-true"]  # the text tower does run in bf16
    assert found["bf16-mixed"] == pytest.approx(found["32-true"], rel=0.05)


def test_bf16_trains_a_failure_head_with_its_loss_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = normalize(torch.randn(3, 8, generator=generator), dim=1)
    images = normalize(torch.randn(20, 8, generator=generator), dim=1)
    data = FailureCases.of(images, torch.arange(20) % 3, texts, logit_scale=3.0)
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(4)
        head = ViLU(8, logit_scale=3.0, hidden=(6,))
        optimizer = {"name": "sgd", "lr": 0.1}
        module = FailurePredictionModule(head, data.text_features, optimizer=optimizer)
        seen: list[torch.dtype] = []
        loss = module.loss
        module.loss = lambda loss=loss, seen=seen, **given: (  # type: ignore[assignment]
            seen.append(given["failure_logits"].dtype) or loss(**given)
        )
        settings = {"max_epochs": 3, "precision": precision, "accumulate_grad_batches": 2}
        trainer = fit(module, [data.batches(6, seed=1), data.batches(9)], **settings)
        assert set(seen) == {torch.float32}
        assert trainer.global_step == 3 * 2  # four batches an epoch
        found[precision] = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert found["bf16-mixed"]["train/bce"] == pytest.approx(found["32-true"]["train/bce"], rel=0.05)
    assert found["bf16-mixed"]["val/auroc"] == pytest.approx(found["32-true"]["val/auroc"], abs=0.05)
