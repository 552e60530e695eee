"""How the threads of a process share the machine with others: fast alone, not collapsing beside them.

Between two matrix products a thread of OpenMP either spins, which is fast, or sleeps, and waking it costs as
much as a product of the text tower: on two cores a training step at PLIP's size takes 35 ms with spinning
threads, 56 ms with sleeping ones, as much as with one thread. But spinning threads that outnumber the free
cores wait for each other: beside one busy process the same step takes 240 ms. So threads spin, for a bounded
time, and there are never more of them than cores that nobody else uses.

Nothing may import torch before `prepare_threads` was called: OpenMP and MKL read their settings once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from calib.core.errors import unknown_name

SETTING = "CALIB_THREADS"
CHOICES = ("auto", "fixed")
PERIOD = 0.5  # seconds between two looks at the machine
SPINS = 20_000  # of a waiting thread before it sleeps, some tenths of a millisecond
STAT = Path("/proc/stat")
IDLE, WAITING = 3, 4  # columns of a processor's line in it: time that nobody used


def prepare_threads() -> None:
    """Set what OpenMP, MKL and cuBLAS read once torch is imported, unless the user did; later, do nothing.

    With MKL's strict mode a product is the same to the last bit for every number of threads, so that this
    number may change while a run goes on. Where torch was imported before, as in a notebook, or on another
    kind of processor, the last digits differ (text features by some 1e-8); nothing in this package compares
    computed numbers more closely than rounding allows.

    Raises:
        ValueError: `CALIB_THREADS` is neither auto nor fixed.
    """
    setting = os.environ.get(SETTING, "auto")
    if setting not in CHOICES:
        raise unknown_name(SETTING, setting, CHOICES)
    if "torch" in sys.modules:
        return
    os.environ[SETTING] = setting
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        if setting == "auto" and STAT.is_file():
            os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by the first product on a GPU


@lru_cache(maxsize=1)
def thread_share() -> ThreadShare:
    """Return the one of this process; it does nothing where `prepare_threads` did not say so."""
    works = os.environ.get(SETTING) == "auto" and STAT.is_file()
    return ThreadShare(busy_seconds if works else None)


class ThreadShare:
    """Keeps the number of PyTorch's threads at that of the cores which no other process uses.

    Call `settle` often, in the thread that computes; between two looks at the machine it costs nothing. It
    never goes above the number of threads that was set when it was made. Results do not depend on it, see
    `prepare_threads`.

    Args:
        busy: Returns the seconds that the cores this process may use have worked so far, for anybody, and how
            many cores these are. None: `settle` does nothing.
        clock: Returns the time in seconds.
        own: Returns the seconds of work of this process so far, of all its threads.
    """

    def __init__(
        self,
        busy: Callable[[], tuple[float, int]] | None,
        clock: Callable[[], float] = time.monotonic,
        own: Callable[[], float] = time.process_time,
    ) -> None:
        import torch

        self._most = torch.get_num_threads()
        self._busy = busy if self._most > 1 else None
        self._clock, self._own = clock, own
        self._seen = (clock(), *busy()[:1], own()) if busy else (clock(), 0.0, 0.0)

    def settle(self) -> None:
        """Look at the machine, if the last look is long enough ago, and set the number of threads."""
        if self._busy is None or self._clock() - self._seen[0] < PERIOD:
            return
        import torch

        worked, cores = self._busy()
        seen = (self._clock(), worked, self._own())
        passed, busy, own = (now - before for now, before in zip(seen, self._seen, strict=True))
        self._seen = seen
        free = round(cores - max(0.0, busy - own) / passed)
        threads = min(self._most, max(1, free))
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)


def busy_seconds() -> tuple[float, int]:
    """Return the seconds that the cores this process may use have worked, for anybody, and their number.

    Time that a virtual machine did not get counts as work for others.
    """
    cores = os.sched_getaffinity(0) if sys.platform == "linux" else set()
    ticks = 0
    for line in STAT.read_text(encoding="ascii").splitlines():
        name, *times = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            used = [int(value) for value in times[:8]]  # those after it are parts of these
            ticks += sum(used) - used[IDLE] - used[WAITING]
    return ticks / os.sysconf("SC_CLK_TCK"), len(cores)
