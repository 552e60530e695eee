"""A graphics card that is not there: PyTorch's fake tensors follow devices and shapes as a card would.

What mixes tensors of two devices, or wants a value on the host, raises. Nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

CARD = torch.device("cuda", 0)


class Card:
    """Puts things on a card that is not there.

    Args:
        mode: Of the fake tensors.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self._moved: dict[int, tuple[Any, Tensor]] = {}

    def put(self, thing: Any) -> Any:
        """Return tensors, and what holds them, on the card; modules are changed in place."""
        if isinstance(thing, Tensor):
            return self._tensor(thing)
        if isinstance(thing, nn.Module):
            for part in thing.modules():
                for held in (part._parameters, part._buffers):
                    held.update({name: self._tensor(each) for name, each in held.items() if each is not None})
            return thing
        if isinstance(thing, dict):
            return {key: self.put(each) for key, each in thing.items()}
        if isinstance(thing, list | tuple):
            return type(thing)(self.put(each) for each in thing)
        if is_dataclass(thing) and not isinstance(thing, type):
            return replace(
                thing, **{each.name: self.put(getattr(thing, each.name)) for each in fields(thing)}
            )
        return thing

    def _tensor(self, real: Tensor) -> Tensor:
        if isinstance(real, FakeTensor):
            return real.to(CARD)
        if id(real) not in self._moved:  # of a shared parameter there is one
            fake = self.mode.from_tensor(real, static_shapes=True).detach().to(CARD)
            if isinstance(real, nn.Parameter):
                fake = nn.Parameter(fake, requires_grad=real.requires_grad)
            self._moved[id(real)] = (real, fake)
        return self._moved[id(real)][1]


@contextmanager
def fake_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    """Run a block in which a card seems to be there."""
    monkeypatch.setattr(FakeTensor, "data_ptr", lambda self: id(self), raising=False)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        yield Card(mode)
