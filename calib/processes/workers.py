"""Several workers of one search: the same command once per device, each on trials of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from calib.processes.signals import PARENT

ENDING_SECONDS = 30  # between asking a worker to end and ending it


def run_workers(
    argv: Sequence[str], environments: Sequence[Mapping[str, str]], *, command: str = "tune"
) -> list[int]:
    """Run a command once per environment, wait for all, and return their exit statuses.

    What ends this process in an orderly way ends them as well.

    Args:
        argv: Arguments of one worker.
        environments: What each has in its environment beside this process's.
        command: The command, a row of `calib.commands.registry.COMMANDS`.
    """
    line = [sys.executable, "-m", "calib.cli", command, *argv]
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for extra in environments:
            workers.append(  # noqa: PERF401 (those begun so far must be known if this one fails)
                subprocess.Popen(line, env={**os.environ, **extra, PARENT: "1"}, stdout=subprocess.DEVNULL)
            )
        return [worker.wait() for worker in workers]
    except BaseException:  # also Preempted, what signals become
        _end(workers)
        raise


def environments_of(workers: int, devices: Sequence[str], *, cores: int) -> list[dict[str, str]]:
    """Return what each worker's environment says: its device, or its share of the processor's cores.

    Args:
        workers: How many.
        devices: The CUDA devices that may be used, as CUDA_VISIBLE_DEVICES names them; none: processors.
        cores: Cores that may be used.

    Raises:
        ValueError: There are fewer devices than workers: one trial per device.

    Example:
        >>> environments_of(2, ["0", "3"], cores=8)
        [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '3'}]
        >>> environments_of(2, [], cores=8)
        [{'OMP_NUM_THREADS': '4'}, {'OMP_NUM_THREADS': '4'}]
    """
    if not devices:
        return [{"OMP_NUM_THREADS": str(max(1, cores // workers))}] * workers
    if workers > len(devices):
        raise ValueError(
            f"A trial has a device to itself: workers={workers} is more than the {len(devices)} there are."
        )
    return [{"CUDA_VISIBLE_DEVICES": device} for device in devices[:workers]]


def usable_devices(trainer: Mapping[str, Any]) -> list[str]:
    """Return the CUDA devices that runs with these trainer settings would use, by the environment's names."""
    from calib.processes.devices import trains_on_cuda

    if not trains_on_cuda(trainer):
        return []
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [each.strip() for each in named.split(",")] if named else [str(number) for number in range(count)]
    return names[:count]  # a name that is no device hides those behind it


def usable_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + ENDING_SECONDS
    while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    for worker in workers:
        worker.kill()
        worker.wait()
