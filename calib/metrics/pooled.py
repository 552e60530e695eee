"""What all torchmetrics classes are: states keep their precision, and any process can pool them."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torchmetrics
from torch import Tensor

from calib.core.binning import sum_dtype

NO_SAMPLE = "compute() before any update(): no sample, no metric."


class Pooled(torchmetrics.Metric):
    """A metric whose states keep their precision, and that a process without a sample pools as others do."""

    is_differentiable: ClassVar[bool] = False
    full_state_update: ClassVar[bool] = False

    @abstractmethod
    def nothing(self) -> dict[str, Tensor]:
        """Return what is kept of no sample, (0, ...), of every state that is put side by side."""

    def sync(self, *arguments: Any, **settings: Any) -> None:
        """Pool the states over processes. One without a sample sends no rows of the type of the others' rows.

        torchmetrics would send (0,) float32, on which the communication of rows of another type breaks down.
        """
        for name, empty in self.nothing().items():
            state = getattr(self, name)
            if isinstance(state, list) and not state:
                state.append(self._as_state(empty))
        super().sync(*arguments, **settings)

    def _as_state(self, value: Tensor) -> Tensor:
        dtype = sum_dtype(self.device) if value.is_floating_point() else value.dtype
        return value.to(self.device, dtype)

    def _samples(self, name: str) -> int:
        """Return how many rows a state has that is put side by side."""
        state = getattr(self, name)
        return sum(map(len, state)) if isinstance(state, list) else len(state)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Move the states without rounding them; `.to("mps")` would refuse float64 otherwise."""

        @functools.wraps(fn)  # torchmetrics reads the name of fn
        def move(value: Tensor) -> Tensor:
            if value.dtype != torch.float64:
                return fn(value)
            try:
                device = fn(value).device
            except TypeError:  # a device without float64
                return fn(value.float())
            return value.to(device, sum_dtype(device))

        return super()._apply(move, exclude_state)
