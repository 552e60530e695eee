"""The profile of a training step: its parts are the step, and every operator is in the right one."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest
import step_profile
import torch


def event(name: str, microseconds: float, *children: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(name=name, cpu_time_total=microseconds, cpu_children=list(children))


def test_operators_are_counted_once_and_in_their_part() -> None:
    total: Counter[str] = Counter()
    product = event("_Product", 90, event("aten::contiguous", 5), event("mkl::_mkl_linear", 70))
    attention = event("aten::scaled_dot_product_attention", 20, event("aten::bmm", 15))
    joined = event("aten::cat", 3, event("aten::copy_", 2))
    reshaped = event("aten::linear", 9, event("aten::addmm", 7))
    wrapping = event("aten::checkpoint", 12, event("aten::silu", 4), event("aten::add", 1))
    step_profile._add(
        total, event("calib forward", 200, product, attention, joined, reshaped, wrapping), False
    )
    assert total == {
        "matrix products, forward": 79,
        "attention, forward": 20,
        "sums and copies": 9,
        "activation": 4,
    }
    node = event("autograd::engine::evaluate_function: _ProductBackward", 50, event("mkl::_mkl_linear", 40))
    step_profile._add(total, event("calib backward", 60, node), True)
    assert total["matrix products, backward"] == 40


@pytest.mark.parametrize("sets", [1, 2])
def test_the_parts_of_a_step_are_the_step(small, monkeypatch, sets: int) -> None:
    monkeypatch.setattr(step_profile, "SPEND", 0.0)
    backbone = small("clip")
    found = step_profile.measure(backbone, sets, n_ctx=4)
    assert list(found.parts) == list(step_profile.ROWS)
    shown = step_profile.table("clip", [found], peak=1e12)
    assert f"S = {sets}" in shown
    assert "1000 GFLOP/s" in shown
    timed = [part for part in step_profile.ROWS if part not in (step_profile.REST, step_profile.LIGHTNING)]
    assert all(found.parts[part] > 0 for part in timed)
    assert found.step == pytest.approx(sum(found.parts.values()))
    assert found.operations % sets == 0


def test_a_step_is_the_one_that_lightning_takes(small, monkeypatch) -> None:
    monkeypatch.setattr(step_profile, "BATCH", 4)  # of 16 images: an epoch of four steps

    def context(by_lightning: bool) -> torch.Tensor:
        learner = step_profile.PromptLearner(backbone, six, n_ctx=4, seed=1)
        torch.manual_seed(0)
        module, loader = step_profile.training(backbone, [learner])
        if by_lightning:
            step_profile.in_lightning(module, loader, 1)
        else:
            own = {name: value for name, value in step_profile.OPTIMIZER.items() if name != "name"}
            optimizer = torch.optim.SGD([learner.context], **{**own, "lr": 1e-5})  # the first epoch's
            for batch in loader:
                step_profile.bare(module, optimizer, batch)
        return learner.context.detach().clone()

    backbone = small("clip")
    six = ["covid", "a normal lung", "a lung", "covid lung", "normal", "a covid"]  # an epoch of three batches
    assert torch.equal(context(True), context(False))
