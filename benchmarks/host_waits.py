"""Counts what makes the host wait for a graphics card; on a CPU, where waiting cannot be seen, what would."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

aten = torch.ops.aten
# They hand a value, or a size that depends on values, to the host.
WAITING = {
    aten._local_scalar_dense,  # item(), int(), float(), bool(), if tensor:
    aten.nonzero,
    aten.equal,
    aten.masked_select,
    aten.unique_dim,
    aten._unique,
    aten._unique2,
    aten.unique_consecutive,
    aten.bincount,
    aten.repeat_interleave,
    aten.linalg_inv_ex,
    aten.lift_fresh,  # torch.tensor(...): numbers of the host, for whose way to the card it waits
}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # by a mask: how many rows?
# Methods that copy to the host; of a CPU tensor they are no operation.
TO_HOST = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__array__)
# What PyTorch and this project look at on a CPU only.
ON_A_CPU = ("one_hot(", "low, high = sizes", "int(predictions.min())", "bool(((labels == 0)")
CPU = torch.device("cpu")
SAID = "called a synchronizing CUDA operation"  # PyTorch, of a card
BY_MASK = (torch.bool, torch.uint8)


class HostWaits(TorchDispatchMode):
    """Writes down every operation for which the host would wait for a card, and the line that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        if packet in INDEXED:
            rows = [each for each in tree_iter(args[1]) if isinstance(each, torch.Tensor)]
            waits = any(each.dtype in BY_MASK for each in rows)
        else:
            waits = packet in WAITING
        if waits:
            self.found.append(f"{packet} at {_asking()}")
        return func(*args, **(kwargs or {}))


class _HostCalls(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in TO_HOST:
            self.found.append(f"{func.__name__} at {_asking()}")
        return func(*args, **(kwargs or {}))


@contextmanager
def host_waits(device: torch.device = CPU) -> Iterator[list[str]]:
    """Yield the list of what a block waits for, which is whole once the block is left.

    Args:
        device: A card is asked. Elsewhere every operation is looked at that would wait for one.
    """
    if device.type == "cuda":
        before, found = torch.cuda.get_sync_debug_mode(), []
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode(before)
                found += [f"{each.filename}:{each.lineno}" for each in said if SAID in str(each.message)]
        return
    with HostWaits() as mode, _HostCalls(mode.found):
        yield mode.found


def that_wait(found: list[str]) -> list[str]:
    """Return what was found, but for what is looked at on a CPU only, where it costs nothing."""
    return [each for each in found if not any(line in each for line in ON_A_CPU)]


def _asking() -> str:
    """Return the innermost line of this project, or of any other but torch's, that asked for it."""
    stack = traceback.extract_stack()
    frames = [each for each in stack if "/torch/" not in each.filename and each.filename != __file__]
    ours = [each for each in frames if "/calib/" in each.filename]
    at = (ours or frames)[-1]
    return f"{at.filename.rsplit('/calib/', 1)[-1]}:{at.lineno} {at.line}"
