"""Items read side by side or ahead, in order; an error elsewhere is raised here as it was raised there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader


class Source(Protocol):
    """Something that makes an item of a key."""

    def __getitem__(self, key: Any, /) -> Any:
        """Return the item."""


class _Caught:
    """A source that returns its errors: torch would wrap them in the text of a traceback."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.source[key]
        except (ValueError, OSError) as error:
            return error


def read_ahead(source: Source, keys: Sequence[Any], *, workers: int) -> Iterator[Any]:
    """Yield the items of keys, in their order.

    Args:
        source: Makes them; copied into every process.
        keys: What is asked for.
        workers: Processes that read ahead. 0: this one reads each item when it is asked for.

    Raises:
        ValueError: What the source raised, also in another process.
        OSError: Likewise.
    """
    if workers == 0:
        yield from (source[key] for key in keys)
        return
    # The keys are the sampler's items, and the source makes a whole item of one key.
    items = iter(DataLoader(_Caught(source), batch_size=None, sampler=keys, num_workers=workers))  # type: ignore[arg-type]
    failed = None
    for item in items:
        if isinstance(item, Exception):
            failed = item
            break
        yield item
    del items  # ends the processes now: as part of a traceback it would wait for them, five seconds for each
    if failed is not None:
        raise failed


def read_side_by_side(source: Source, keys: Sequence[Any], *, at_once: int) -> Iterator[Any]:
    """Yield the items of keys, in their order, read by as many threads as PyTorch computes with.

    Where the model computes on all cores, nothing is gained by reading while it does; but reading, too, can
    have all cores, between two batches. Pillow and NumPy let other threads work while they do.

    Args:
        source: Makes them; asked by several threads at once.
        keys: What is asked for.
        at_once: How many items are read before the first of them is handed out: the most that are held.

    Raises:
        ValueError: What the source raised, for the first key for which it did.
        OSError: Likewise.
    """
    most, caught = torch.get_num_threads(), _Caught(source)
    with ThreadPoolExecutor(max(most - 1, 1)) as others:  # starts none before it has work
        for start in range(0, len(keys), max(at_once, 1)):
            some = keys[start : start + max(at_once, 1)]
            threads = max(1, min(most, torch.get_num_threads(), len(some)))
            shares = [some[first::threads] for first in range(threads)]
            asked = [others.submit(_read, caught, share) for share in shares[1:]]
            parts = [_read(caught, shares[0]), *(each.result() for each in asked)]
            for number in range(len(some)):
                item = parts[number % threads][number // threads]
                if isinstance(item, Exception):
                    raise item
                yield item


def _read(caught: _Caught, keys: Sequence[Any]) -> list[Any]:
    return [caught[key] for key in keys]
