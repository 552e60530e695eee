"""The processes of one job: which one this is, what its share is, and what all of them are told.

In a single process nothing here waits or communicates. With several, every function but `rank`, `world_size`
and `share` is called by all of them, in the same order.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")
P = ParamSpec("P")
_deciding: ContextVar[bool] = ContextVar("deciding", default=False)


def together() -> bool:
    """Return whether there is a group of processes, be it of one."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Return the number of this process; 0 is the one that decides and writes."""
    return distributed.get_rank() if together() else 0


def world_size() -> int:
    """Return the number of processes W."""
    return distributed.get_world_size() if together() else 1


def share(size: int, of: int | None = None, among: int | None = None) -> slice:
    """Return the part of `size` rows that belongs to a process: even, in order, none left out or repeated.

    Args:
        size: Number of rows.
        of: Which process. None: this one.
        among: Number of processes W. None: all there are.

    Example:
        >>> [share(5, of=each, among=3) for each in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    of, among = rank() if of is None else of, world_size() if among is None else among
    each, rest = divmod(size, among)
    start = of * each + min(of, rest)
    return slice(start, start + each + (of < rest))


def decided(decide: Callable[[], T]) -> T:
    """Return what `decide` returns in the first process, in all of them; an error there is raised in all.

    The others wait for it, so it is also the way to write: what it wrote is there for all when it returns.

    Args:
        decide: Called in the first process only. Returns something small.

    Raises:
        RuntimeError: It is called by another `decide`, where the others could not know of it: they would wait
            for ever. It is raised in a single process, too.
    """
    if _deciding.get():
        raise RuntimeError("What the first process decides cannot ask all processes to decide.")
    told: list[Any] = [None, None]  # what came out, the error
    own: Exception | None = None
    if rank() == 0:
        before = _deciding.set(True)
        try:
            told[0] = decide()
        except Exception as error:  # whatever it is, it is raised in all
            if world_size() == 1:
                raise
            told[1], own = _sent(error), error
        finally:
            _deciding.reset(before)
    if world_size() == 1:
        return told[0]
    distributed.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise own or told[1]
    return told[0]


def _sent(error: Exception) -> Exception:
    """Return an error as it can be told to other processes, which would wait for ever for one that cannot."""
    try:
        pickle.dumps(error)
        copy.copy(error)  # made anew as it is elsewhere, of its class and what that was given
    except Exception:  # of many types, as errors of others may hold anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def by_first(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that all processes call and the first one runs: see `decided`.

    For what reads or writes a folder. Such a function calls no other one of its kind.

    Example:
        >>> @by_first
        ... def count(folder: list) -> int:
        ...     return len(folder)
        >>> count(["a", "b"])
        2
    """

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        return decided(lambda: function(*args, **kwargs))

    return told


@contextmanager
def held(context: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Run a block in all processes while the first one is inside a context, such as the lock of a folder.

    Args:
        context: Returns the context; an error on entering is raised in all processes.
    """
    with ExitStack() as stack:
        decided(lambda: bool(stack.enter_context(context())))
        yield


def meet() -> None:
    """Wait for all processes to come here."""
    if world_size() > 1:
        distributed.barrier()


def summed(values: Tensor) -> Tensor:
    """Return the sum of all processes' values of one shape, without a graph."""
    total = values.detach().clone()
    if world_size() > 1:
        distributed.all_reduce(total)
    return total


def gathered(rows: Tensor) -> Tensor:
    """Return all processes' rows below each other, (N, ...), without a graph.

    Args:
        rows: (n, ...) of this process, n from 0; the rest of the shape is the same everywhere.
    """
    if world_size() == 1:
        return rows.detach()
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    sizes[rank()] = len(rows)
    counts = summed(sizes).tolist()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gathered_with_gradient(rows: Tensor) -> Tensor:
    """Return all processes' rows below each other; the gradient of each row comes from all processes.

    Backward adds up what the W processes want of a row. Where all compute the same loss L of the gathered
    rows, a process so gets W dL/drows for its own, and after the mean over processes that
    `DistributedDataParallel` takes, a parameter's gradient is dL/dparameter: that of one process.

    Args:
        rows: (n, ...) of this process, as `share` divides them.
    """
    return rows if world_size() == 1 else _Gathered.apply(rows)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        every = gathered(rows)
        ctx.own = share(len(every))
        return every

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient)[ctx.own]
