"""Two processes with unequal shares of a batch train a failure head as one process does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from calib.modules.failure_prediction import Cases, FailurePredictionModule
from calib.vilu import ViLU

C, D = 3, 8
SHARES = ([0, 1, 2, 3, 4, 5, 6], [7, 8])  # 7 and 2 of 9 images
LOSSES = [("bce", "adaptive"), ("bce", "balanced"), ("bce", "static"), ("tcp", "adaptive")]


def gradients(rows: list[int], loss: str, weighting: str, *, shared: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    texts = normalize(torch.randn(C, D, generator=generator), dim=1)
    images = normalize(torch.randn(9, D, generator=generator), dim=1)
    labels = (images @ texts.T).argmax(1)
    labels[[1, 2, 8]] = (labels[[1, 2, 8]] + 1) % C  # 5 right and 2 wrong in one share, 1 and 1 in the other
    data = Cases.of(images, labels, texts, logit_scale=math.log(20))
    torch.manual_seed(4)
    module = FailurePredictionModule(
        ViLU(D, logit_scale=math.log(20), hidden=(6,)),
        data.text_features,
        loss=loss,
        loss_settings={"weighting": weighting},
        optimizer={"name": "sgd", "lr": 0.1},
    )
    step = DistributedDataParallel(Step(module)) if shared else Step(module)
    step(data[(0, torch.tensor(rows))]).backward()
    return [p.grad for p in module.parameters() if p.grad is not None]


class Step(nn.Module):
    def __init__(self, module: FailurePredictionModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.module.training_step(batch, 0)


def process(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {f"{loss} {w}": gradients(SHARES[rank], loss, w, shared=True) for loss, w in LOSSES}
    distributed.destroy_process_group()
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_the_gradient_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(process, (str(tmp_path),), nprocs=2)
    by_rank = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for loss, weighting in LOSSES:
        whole = gradients(list(range(9)), loss, weighting, shared=False)
        for found in by_rank:
            shared = found[f"{loss} {weighting}"]
            assert len(shared) == len(whole) == 4
            for ours, one in zip(shared, whole, strict=True):
                torch.testing.assert_close(ours, one, atol=1e-7, rtol=1e-5)
