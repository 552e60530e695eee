"""Items that other processes read ahead, in order; an error there is raised here as it was raised there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

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
