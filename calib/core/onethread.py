"""One thread for decompositions: LAPACK shares them among threads, and then rounds otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside, so that the last bit depends on no number of cores.

    Matrix products need it not: MKL's strict mode rounds them alike. Singular values, eigenvalues and
    inverses of the sizes met here take milliseconds.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
