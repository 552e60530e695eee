"""Pairs of images and captions: who is compared with whom, and what counts as wrong."""

from __future__ import annotations

import math

import pytest
import torch
from lightning import Trainer
from torch.nn.functional import normalize

from calib.failure.captions import CaptionPairs, judge_captions
from calib.failure.module import FailurePredictionModule
from calib.failure.vilu import ViLU
from calib.losses.failure import failure_bce

N, D, SCALE = 23, 8, math.log(10)


def pairs(n: int = N, noise: float = 0.8) -> CaptionPairs:
    generator = torch.Generator().manual_seed(0)
    texts = normalize(torch.randn(n, D, generator=generator), dim=1)
    images = normalize(texts + noise * torch.randn(n, D, generator=generator) / math.sqrt(D), dim=1)
    return CaptionPairs(images, texts, SCALE, [f"id {i}" for i in range(n)])


def test_a_batch_is_judged_against_its_own_captions() -> None:
    data, index = pairs(), torch.tensor([4, 9, 2, 17, 11])
    batch = data[(0, index)]
    logits = 10 * data.image_features[index] @ data.text_features[index].T
    assert torch.allclose(batch["logits"], logits)
    assert torch.equal(batch["predictions"], logits.argmax(1))
    assert batch["labels"].tolist() == [0, 1, 2, 3, 4]
    wrong = batch["predictions"] != batch["labels"]
    assert torch.equal(wrong, logits.diagonal() < logits.max(1).values)


def test_a_copy_of_the_own_caption_is_right_wherever_it_stands() -> None:
    texts = torch.eye(3)[[0, 1, 0, 2]]
    images = torch.eye(3)[[1, 0, 0, 0]]
    _, predictions, labels = judge_captions(images, texts, torch.arange(4), logit_scale=SCALE)
    assert predictions.tolist() == [1, 0, 0, 0]
    assert (predictions != labels).tolist() == [True, True, False, True]
    assert labels[2] == 0  # its caption is at place 2, and a copy of it at 0
    cosines = images @ texts.T
    release = cosines.diagonal() < cosines.max(1).values  # how ViLU trains: a tie with the own one is right
    assert torch.equal(predictions != labels, release)


@pytest.mark.parametrize(("size", "blocks"), [(5, 5), (23, 1), (100, 1), (22, 2), (2, 12)])
def test_every_image_is_compared_with_as_many_captions_at_test(size: int, blocks: int) -> None:
    data = pairs()
    found = data.blocks(size)
    cases, count = found.cases, min(size, N)
    assert found.rows.shape == (blocks, count)
    assert cases.logits.shape == (1, N, count)
    assert sorted(found.rows.flatten().unique().tolist()) == list(range(N))
    assert int((cases.source == blocks - 1).sum()) == N - (blocks - 1) * count  # the last is filled up
    for row in range(N):
        members = found.rows[cases.source[row]].tolist()
        assert len(set(members)) == count
        assert members[cases.labels[row]] == row
        expected = 10 * data.text_features[members] @ data.image_features[row]
        assert torch.allclose(cases.logits[0, row], expected, atol=1e-5)
    assert torch.equal(cases.text_features, data.text_features[found.rows])


def test_the_candidates_do_not_depend_on_the_order_of_the_file() -> None:
    data, order = pairs(), torch.randperm(N, generator=torch.Generator().manual_seed(3))
    moved = CaptionPairs(
        data.image_features[order], data.text_features[order], SCALE, [data.ids[i] for i in order.tolist()]
    )
    first, second = data.blocks(5), moved.blocks(5)
    assert torch.equal(order[second.rows], first.rows)
    assert torch.equal(second.cases.failure, first.cases.failure[order])
    assert torch.allclose(second.cases.logits[0], first.cases.logits[0, order], atol=1e-5)


def test_training_equals_the_plain_loop() -> None:
    data = pairs()
    torch.manual_seed(0)
    trained = ViLU(D, logit_scale=SCALE, hidden=(6,), residual=True)
    torch.manual_seed(0)
    plain = ViLU(D, logit_scale=SCALE, hidden=(6,), residual=True)
    settings = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    module = FailurePredictionModule(trained, None, optimizer=settings, warmup_epochs=0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet).fit(
        module, data.batches(5, seed=1)
    )
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    loader, steps = data.batches(5, seed=1), 0
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * epoch / 2)) / 2
        loader.batch_sampler.set_epoch(epoch)
        for index in loader.batch_sampler:
            images, texts = data.image_features[index], data.text_features[index]
            wrong = (images @ texts.T).argmax(1) != torch.arange(len(index))
            optimizer.zero_grad()
            failure_bce(plain(images, texts), wrong).backward()
            optimizer.step()
            steps += 1
    assert steps == 2 * (N // 5)  # the last, smaller batch is left out
    for name, value in trained.state_dict().items():
        assert torch.allclose(value, plain.state_dict()[name], atol=1e-6), name
