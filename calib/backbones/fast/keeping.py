"""Keeping what was made from tensors for as long as these are the same and unchanged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor


class Kept:
    """What was made from some tensors, found again while none of them is another or was changed in place.

    Of several threads that ask at once one makes it, and the others wait. Copies and pickles are empty: what
    is kept can be made again, and packed weights cannot be copied.

    Args:
        limit: How many things are kept; the one used longest ago goes first.
    """

    def __init__(self, limit: int = 1) -> None:
        self.limit = limit
        self._kept: dict[Hashable, tuple[Any, Any]] = {}
        self._lock = threading.RLock()

    def get(self, sources: Sequence[Tensor], make: Callable[[], Any], *, also: Hashable = None) -> Any:
        """Return what `make` returns for these tensors, or returned before.

        Args:
            sources: The tensors.
            make: Called when there is nothing for them yet; depends on nothing else but `also`.
            also: What else the result depends on.
        """
        if any(source.is_inference() for source in sources):
            return make()  # such tensors do not count their changes
        key = (also, *((id(source), source.data_ptr(), source._version) for source in sources))
        with self._lock:
            found = self._kept.pop(key, None)
            if found is None:
                with torch.inference_mode(False):  # to be used in training as well
                    # Tensors and storages are held, so that no others get their identity or address.
                    found = make(), [(source, source.detach()) for source in sources]
            self._kept[key] = found  # now the last one
            for oldest in list(self._kept)[: -self.limit]:
                self._kept.pop(oldest, None)
        return found[0]

    def __reduce__(self) -> tuple[type[Kept], tuple[int]]:
        return Kept, (self.limit,)
