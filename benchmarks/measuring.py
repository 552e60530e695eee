"""What the benchmarks measure with: calls in turns, the kernel of frozen layers, durations as text."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from calib.backbones.fast.kernels import SETTING
from calib.processes.threads import STAT, busy_seconds

if TYPE_CHECKING:
    import torch

TURN = 0.3  # seconds


class Clocks(NamedTuple):
    """Medians of a call: seconds on the wall, and of this process's work, all threads."""

    wall: float
    cpu: float


def in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | None = None
) -> dict[str, Clocks]:
    """Return for each way the medians of its wall and CPU seconds; every round is in another order.

    A way is repeated within its turn until `TURN` seconds have passed: what the way before it left in the
    caches counts little then.

    Args:
        ways: What is measured.
        rounds: Turns of each.
        device: Where it computes. On a card the seconds are those between two of its events.
    """
    turn = _turn if device is None or device.type != "cuda" else partial(_turn_on_card, device=device)
    times: dict[str, list[Clocks]] = {way: [] for way in ways}
    draw = random.Random(0)
    for _ in range(rounds):
        for way in draw.sample(list(ways), len(ways)):
            times[way].append(turn(ways[way]))
    return {
        way: Clocks(*(statistics.median(clock) for clock in zip(*found, strict=True)))
        for way, found in times.items()
    }


class Machine(NamedTuple):
    """What a ratio is to be read with: the processor, and what its matrix products reach.

    Attributes:
        processor: Its name.
        threads: How many worked.
        plain: Operations per second of PyTorch's own product.
        packed: Those of the product with packed weights.
    """

    processor: str
    threads: int
    plain: float
    packed: float

    def __str__(self) -> str:
        plain, packed = (value / 1e9 for value in (self.plain, self.packed))
        speed = f"matrix products {plain:.0f} GFLOP/s, packed {packed:.0f}"
        return f"{self.processor}, {self.threads} threads: {speed}."

    def share(self, operations: float | None, seconds: float, *, plain: bool = False) -> str:
        """Return the share of the peak that so many operations in so many seconds are; empty: not counted.

        Args:
            operations: Of the matrix products that cannot be left out. None: they are not counted.
            seconds: How long they took, with all that is done besides.
            plain: Whether the peak is that of PyTorch's own product, instead of the larger one.
        """
        peak = self.plain if plain else max(self.plain, self.packed)
        return "" if operations is None else f"{operations / seconds / peak:.0%}"

    def below(self, table: str) -> str:
        """Return a table of ratios with the machine they were seen on below it."""
        return f"{table}\n\n{self}"


class Card(NamedTuple):
    """What numbers of a device are to be read with: its name, and what its matrix products reach.

    Attributes:
        name: Of the card; of a CPU that of the processor.
        driver: Its driver and the CUDA that PyTorch was built with; empty: none.
        memory: Bytes of a card; 0: not known.
        fp32: Operations per second of a product of float32, no TensorFloat-32.
        bf16: Those of a product of bfloat16.
    """

    name: str
    driver: str
    memory: int
    fp32: float
    bf16: float

    def __str__(self) -> str:
        fp32, bf16 = (f"{value / 1e12:.3g} TFLOP/s" for value in (self.fp32, self.bf16))
        memory = f", {self.memory / 2**30:.0f} GiB" if self.memory else ""
        driver = f", {self.driver}" if self.driver else ""
        return f"{self.name}{memory}{driver}: matrix products {fp32} in fp32 (no TF32), {bf16} in bf16."

    def share(
        self, operations: float | None, seconds: float, *, plain: bool = False, precision: str = "fp32"
    ) -> str:
        """Return the share of the peak of a precision; see `Machine.share`. A card has one kernel, plain."""
        peak = self.bf16 if precision == "bf16" else self.fp32
        return "" if operations is None else f"{operations / seconds / peak:.0%}"

    def below(self, table: str) -> str:
        """Return a table with the device it was measured on below it."""
        return f"{table}\n\n{self}"


def driver() -> str:
    """Return the version of the NVIDIA driver, as nvidia-smi says it; empty: it does not."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.split("\n")[0].strip()


def forget_device_peak(device: torch.device) -> None:
    """Let the peak memory of a device begin anew."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    else:
        forget_peak()


def device_peak(device: torch.device) -> float:
    """Return the peak memory (MB) of a card's tensors, elsewhere that of this process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    return own_peak()


def processor() -> str:
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", path.read_text()) if path.is_file() else []
    return names[0].strip() if names else platform.processor() or platform.machine()


def _turn(run: Callable[[], object]) -> Clocks:
    start, calls, passed = (time.perf_counter(), time.process_time()), 0, 0.0
    while passed < TURN:
        run()
        calls += 1
        passed = time.perf_counter() - start[0]
    return Clocks(passed / calls, (time.process_time() - start[1]) / calls)


def _turn_on_card(run: Callable[[], object], device: torch.device) -> Clocks:
    """Return the seconds of a call, many in a row: the host may be ahead of the card, as in training."""
    import torch

    with torch.cuda.device(device):
        calls = max(1, math.ceil(TURN / max(seconds(run, device), 1e-6)))
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start = time.process_time()
        first.record()
        for _ in range(calls):
            run()
        last.record()
        last.synchronize()
        return Clocks(first.elapsed_time(last) / 1000 / calls, (time.process_time() - start) / calls)


def finish(device: torch.device | None) -> None:
    """Wait for a card; elsewhere nothing is on its way."""
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device | None = None) -> float:
    """Return how long a call takes, with what it leaves to a card."""
    finish(device)
    start = time.perf_counter()
    run()
    finish(device)
    return time.perf_counter() - start


@contextlib.contextmanager
def kernel(setting: str) -> Iterator[None]:
    """Run a block with `CALIB_LINEAR` set."""
    before = os.environ.get(SETTING)
    os.environ[SETTING] = setting
    try:
        yield
    finally:
        os.environ.pop(SETTING)
        if before is not None:
            os.environ[SETTING] = before


def on_kernel(setting: str, run: Callable[[], object]) -> Callable[[], object]:
    """Return the call with `CALIB_LINEAR` set."""

    def call() -> object:
        with kernel(setting):
            return run()

    return call


def forget_peak() -> None:
    """Let the peak memory begin anew, without what making the data took. Linux only; else it is included."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def own_peak() -> float:
    """Return this process's peak resident memory (MB)."""
    status = Path("/proc/self/status")
    if status.is_file():  # the other number begins at the peak of the process that started this one
        return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1024**2 if sys.platform == "darwin" else 1024
    )


class Neighbours:
    """How busy other processes kept the cores since this was made: a benchmark's honesty."""

    def __init__(self) -> None:
        self._known = STAT.is_file()
        self._start = self._look()

    def __str__(self) -> str:
        if not self._known:
            return "It is not known what other processes did meanwhile."
        passed, busy, own = (now - then for now, then in zip(self._look(), self._start, strict=True))
        return f"Other processes used {max(0.0, busy - own) / passed:.2f} cores meanwhile."

    def _look(self) -> tuple[float, float, float]:
        return time.monotonic(), busy_seconds()[0] if self._known else 0.0, time.process_time()


def duration(value: float) -> str:
    """Return seconds as text.

    Example:
        >>> duration(0.00123), duration(0.0123), duration(95)
        ('1.2 ms', '12 ms', '95 s')
    """
    if value < 0.01:
        return f"{1000 * value:.1f} ms"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 60 else f"{value:.0f} s"
