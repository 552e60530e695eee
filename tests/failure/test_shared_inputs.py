"""Heads that are trained beside each other see a batch once, and learn what each would have learned of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

import calib.failure.module
from calib.failure.cases import FailureCases
from calib.failure.module import FailurePredictionModule
from calib.failure.shared_inputs import can_share
from calib.failure.vilu import ViLU

N, C, D = 21, 3, 6


def cases(models: int, calibrated: bool) -> FailureCases:
    parts = []
    for seed in range(models):
        generator = torch.Generator().manual_seed(seed)
        texts = normalize(torch.randn(C, D, generator=generator), dim=1)
        labels = torch.arange(N) % C
        images = normalize(texts[labels] + torch.randn(1, N, D, generator=generator), dim=2)
        part = FailureCases.of(images, labels, texts, logit_scale=math.log(20))
        parts.append(dataclasses.replace(part, logits=1.5 * part.logits + 0.1) if calibrated else part)
    joined = FailureCases.join(parts)
    return dataclasses.replace(joined, calibrated=calibrated)


def one_step(data: FailureCases, folds: int, **options: Any) -> tuple[FailurePredictionModule, torch.Tensor]:
    torch.manual_seed(4)
    heads = [ViLU(D, logit_scale=math.log(20), hidden=(5, 4), **options) for _ in range(1 + folds)]
    for head in heads:  # a residual head starts with a last layer of zeros, whose gradient is all there is
        torch.nn.init.normal_(head.mlp[-1].weight)
    module = FailurePredictionModule(
        heads[0],
        data.text_features,
        optimizer={"name": "sgd", "lr": 0.1},
        folds=heads[1:],
        fold_of=torch.arange(len(data)) % folds if folds else None,
    ).double()
    module.train()
    batch = data[(0, torch.randperm(len(data), generator=torch.Generator().manual_seed(1))[:17])]
    batch = {name: each.double() if each.is_floating_point() else each for name, each in batch.items()}
    loss = module.training_step(batch, 0)
    loss.backward()
    return module, loss


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("calibrated", [False, True], ids=["texts", "calibrated"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"residual": True},
        {"concat": False},
        {"use_attention": False},
        {"use_attention": False, "use_predicted_caption": False},
    ],
    ids=str,
)
def test_one_look_gives_the_losses_and_gradients_of_many(
    options: dict, calibrated: bool, models: int, monkeypatch
) -> None:
    data = cases(models, calibrated)
    ours, loss = one_step(data, 2, **options)
    monkeypatch.setattr(calib.failure.module, "can_share", lambda *given: False)
    theirs, expected = one_step(data, 2, **options)
    assert torch.allclose(loss, expected, atol=1e-12)
    for (name, our), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (our.grad is None) == (their.grad is None), name
        if our.grad is not None:
            assert torch.allclose(our.grad, their.grad, atol=1e-12), name
    assert int(ours.head.iteration_count) == int(theirs.head.iteration_count)


def test_a_head_alone_of_one_model_is_called_as_before(monkeypatch) -> None:
    monkeypatch.setattr(calib.failure.module, "shared_inputs", None)  # not asked
    one_step(cases(1, False), 0)


@pytest.mark.parametrize(
    "options",
    [{"keep_frozen": False}, {"official_decay": True}, {"keep_frozen": False, "n_iter_freeze_proj": 0}],
    ids=str,
)
def test_heads_that_see_a_batch_with_parameters_of_their_own_share_nothing(options: dict) -> None:
    data = cases(1, False)
    batch = data[(0, torch.arange(5))]
    assert not can_share(ViLU(D, logit_scale=1.0, **options), batch)
    plain = ViLU(D, logit_scale=1.0)
    assert can_share(plain, batch)
    assert not can_share(plain, {**batch, "text_features": data.text_features[0]})
    large = {name: each.expand(300, *each.shape[1:]) for name, each in data[(0, torch.arange(1))].items()}
    assert not can_share(plain, large)  # whose first layer is folded
