"""Heartbeats: a process of a job that hangs is noticed by its neighbour, which ends the job with the reason.

A thread of each process counts in the store they met in, and watches the count of the next one. A process
that works, however slowly, goes on counting; one that was stopped, or whose machine hangs, does not. Where
the first process keeps the store (under srun), the store hangs with it: what the others see is that it no
longer answers.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch import distributed

SETTING = "CALIB_SILENCE"  # seconds without a beat after which a job ends; 0: never
SILENCE = 600.0
PERIOD = 5.0  # seconds between two beats


class Heart:
    """The beats of one process, and what it has seen of the next one's.

    Silence is counted in beats of its own: where the whole job is stopped and goes on, nobody was silent.

    Args:
        store: Where all count.
        rank: The number of this process.
        world_size: How many there are.
        patience: So many beats of its own without one of the other are too many.
    """

    def __init__(self, store: Any, rank: int, world_size: int, patience: int) -> None:
        self._store, self._rank, self._patience = store, rank, patience
        self.watched = (rank + 1) % world_size
        self._beats, self._seen, self._silent = 0, b"", 0

    def beat(self) -> bool:
        """Count, look at the other's count, and return whether it has been silent for too long."""
        self._beats += 1
        self._store.set(f"beats of {self._rank}", str(self._beats))
        key = f"beats of {self.watched}"
        seen = self._store.get(key) if self._store.check([key]) else b""
        self._silent = self._silent + 1 if seen == self._seen else 0
        self._seen = seen
        return self._silent >= self._patience


class Store:
    """Whether the store answers, as another thread than the one that asks it can tell.

    Args:
        patience: So many looks without an answer in between are too many.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._answers, self._seen, self._silent = 0, 0, 0
        self.gone = False  # it has closed its connection: the job ends

    def answered(self) -> None:
        """Note that it has answered."""
        self._answers += 1

    def look(self) -> bool:
        """Return whether it has been silent for too long; called once per period."""
        self._silent = self._silent + 1 if self._answers == self._seen else 0
        self._seen = self._answers
        return self._silent >= self._patience and not self.gone


@contextlib.contextmanager
def watched(address: str, port: int, rank: int, world_size: int, *, keeper: int | None) -> Iterator[None]:
    """Beat while the block runs; where the next process hangs, say so and end this one, and so the job.

    A process that keeps the store is missed by all others; the one that watches it says so.

    Args:
        address: Machine of the store the processes met in.
        port: Its port there.
        rank: The number of this process.
        world_size: How many there are.
        keeper: The process that keeps the store. None: none of them, but what started them; it may be stopped
            and go on, and they do not mind.

    Raises:
        ValueError: `CALIB_SILENCE` is no number of seconds.
    """
    silence = silence_allowed()
    if not silence:
        yield
        return
    left = threading.Event()
    period = min(PERIOD, silence / 4)
    patience = max(2, round(silence / period))
    answers = Store(patience)

    def work() -> None:
        # A connection of its own: the process may wait in another one for as long as it likes. It breaks when
        # the job ends.
        with contextlib.suppress(RuntimeError):
            limit = timedelta(minutes=5, seconds=2 * silence)  # longer than silence is waited for
            store = distributed.TCPStore(address, port, is_master=False, timeout=limit)
            mine = distributed.PrefixStore("heartbeat", store)
            heart = Heart(mine, rank, world_size, patience)
            while not left.wait(period):
                silent = heart.beat()
                answers.answered()
                if silent and not left.is_set():
                    _end(heart.watched, world_size, silence)
        answers.gone = True

    def look(keeper: int) -> None:
        while not left.wait(period) and not answers.gone:
            if answers.look() and not left.is_set():
                if (rank + 1) % world_size != keeper:  # another one says so
                    left.wait(period)
                    os._exit(1)
                _end(keeper, world_size, silence)

    threading.Thread(target=work, daemon=True).start()
    if keeper is not None and keeper != rank:
        threading.Thread(target=look, args=(keeper,), daemon=True).start()
    try:
        yield
    finally:
        left.set()


def silence_allowed() -> float:
    """Return after how many seconds without a beat a job ends; 0: never.

    Raises:
        ValueError: `CALIB_SILENCE` is no number of seconds.
    """
    said = os.environ.get(SETTING, str(SILENCE))
    with contextlib.suppress(ValueError):
        if 0 <= float(said) < float("inf"):
            return float(said)
    raise ValueError(f"{SETTING} must be a number of seconds, or 0 to wait for ever, not {said!r}.")


def _end(rank: int, world_size: int, silence: float) -> None:
    sys.stderr.write(
        f"Process {rank} of {world_size} has hung for {silence:g} s ({SETTING}): it was stopped, or its "
        "machine no longer answers. The job ends; the same command goes on from the last finished epoch.\n"
    )
    sys.stderr.flush()
    os._exit(1)  # the main thread waits for the other one and cannot be asked
