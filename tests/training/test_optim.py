from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from calib.training.optim import lr_after_constant_warmup, make_optimizer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "schedule.json").read_text())


@pytest.mark.parametrize(("name", "warmup_lr"), [("warmup_1e-5", 1e-5), ("warmup_1e-3_medclip", 1e-3)])
def test_schedule_equals_the_official_one(name: str, warmup_lr: float) -> None:
    expected = GOLDEN["lr"][name]
    factors = [
        lr_after_constant_warmup(e, max_epochs=50, warmup_epochs=1, warmup_factor=warmup_lr / 0.002)
        for e in range(50)
    ]
    assert [0.002 * factor for factor in factors] == pytest.approx(expected, rel=1e-12)


def test_without_warmup_the_cosine_begins_at_once() -> None:
    assert lr_after_constant_warmup(0, max_epochs=10, warmup_epochs=0, warmup_factor=0.5) == 1.0
    assert lr_after_constant_warmup(5, max_epochs=10, warmup_epochs=0, warmup_factor=0.5) == pytest.approx(
        0.5
    )


def test_sgd_takes_a_step_with_momentum_and_decay() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer([parameter], name="sgd", lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(2):
        parameter.grad = torch.tensor([1.0])
        optimizer.step()
    # v1 = 1 + 0.5 = 1.5, x = 0.85; v2 = 0.9 * 1.5 + 1 + 0.425 = 2.775, x = 0.5725
    assert parameter.item() == pytest.approx(0.5725)


def test_unknown_optimizer() -> None:
    with pytest.raises(ValueError, match="Did you mean 'adamw'"):
        make_optimizer([torch.nn.Parameter(torch.ones(1))], name="adam", lr=0.1)
