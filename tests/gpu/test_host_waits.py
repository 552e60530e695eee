"""A training step never waits for a card: its values stay there until the epoch ends.

On a CPU waiting is counted by the operations that ask for values; on a card PyTorch itself raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from host_waits import host_waits, that_wait
from lightning import Callback, Trainer
from torch import Tensor
from toy_steps import HEADS, failure_steps, prompt_steps, segmentation_steps, stack_steps


class NeverWaits(Callback):
    """Lets no step after the first wait: what is made once is made there."""

    def __init__(self) -> None:
        self.steps, self.found = 0, []
        self._watch: Any = None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step:
            self.steps += 1
            self._watch = watched(module.device)
            self._seen = self._watch.__enter__()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        if self._watch is not None:  # else no later test could ask a card for anything
            self._watch.__exit__(None, None, None)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._watch is not None:
            self._watch.__exit__(None, None, None)
            self.found += that_wait(self._seen)
            self._watch = None


@contextmanager
def watched(device: torch.device) -> Iterator[list[str]]:
    """Yield what a block waits for; on a card it raises instead."""
    if device.type == "cuda":
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield []
        finally:
            torch.cuda.set_sync_debug_mode(before)
    else:
        with host_waits() as found:
            yield found


def waits_of(module: Any, batches: Any, accelerator: str, **settings: Any) -> tuple[int, list[str]]:
    never = NeverWaits()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "num_sanity_val_steps": 0, "accelerator": accelerator}
    trainer = Trainer(max_epochs=2, devices=1, callbacks=[never], **quiet, **settings)
    trainer.fit(module, batches)
    return never.steps, never.found


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
@pytest.mark.parametrize("made", [prompt_steps, stack_steps], ids=["a prompt", "prompts and folds"])
def test_a_step_of_prompts_never_waits(made: Any, precision: str, small: Any, accelerator: str) -> None:
    steps, found = waits_of(*made(small("clip")), accelerator, precision=precision)
    assert steps >= 3
    assert found == []


@pytest.mark.parametrize("name", HEADS)
def test_a_step_of_failure_heads_never_waits(name: str, accelerator: str) -> None:
    """Those of folds once asked, in every step and for every fold, how many images it leaves."""
    steps, found = waits_of(*failure_steps(**HEADS[name]), accelerator)
    assert steps >= 3
    assert found == []


def test_a_step_of_segmentation_never_waits(accelerator: str) -> None:
    steps, found = waits_of(*segmentation_steps(), accelerator)
    assert steps >= 2
    assert found == []


def test_what_waits_is_found() -> None:
    values = torch.arange(4.0, requires_grad=True)

    class Asking(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, given: Tensor) -> Tensor:
            return given * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * gradient.sum().item()

    asking = {
        "item": lambda: values.sum().item(),
        "if": lambda: bool((values > 1).any()),
        "mask": lambda: values[values > 1],
        "nonzero": lambda: (values > 1).nonzero(),
        "list": lambda: values.tolist(),
        "numpy": lambda: values.detach().numpy(),
        "tensor": lambda: values + torch.tensor(2.0),
        "unique": lambda: values.detach().unique(),
        "backward": lambda: Asking.apply(values).sum().backward(),
    }
    for name, ask in asking.items():
        with host_waits() as found:
            ask()
        assert found, name
        assert "test_host_waits.py" in found[0]
    some, others = torch.tensor([0, 2]), torch.tensor([1, 3])
    with host_waits() as found:
        (values[some] + values.index_select(0, others)).sum().backward()
    assert found == []
