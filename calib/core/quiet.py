"""Warnings left out for a while, by one thread at a time: Python's own way of it is of the whole process."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_ONE = threading.RLock()


@contextmanager
def quiet(category: type[Warning] = Warning) -> Iterator[None]:
    """Leave out warnings inside; threads that want it at the same time wait for each other.

    `warnings.catch_warnings` puts back what it found. Of two threads inside, the one that leaves last would
    put back what the other had changed.

    Args:
        category: The warnings that are left out, with all kinds of them.

    Example:
        >>> with quiet(UserWarning):
        ...     warnings.warn("nobody reads this")
    """
    with _ONE, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
