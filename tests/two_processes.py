"""Running a function in two processes that form a group."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

# Imported once, in the process that the others are forked from: in each of them it would take seconds.
PRELOADED = [
    "torch.distributed",
    "lightning",
    "open_clip",
    "calib.prompts.module",
    "calib.failure.module",
    "calib.segmentation.module",
]


def in_two_processes(function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Return what `function(*arguments)` returns in each of two processes; each uses one thread.

    Args:
        function: A function of a module; returns tensors, numbers, strings, lists and dicts.
        folder: For the processes to meet in, empty.
        arguments: What can be pickled.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    given = (function, str(folder), arguments)
    torch.multiprocessing.start_processes(_process, given, nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _process(rank: int, function: Callable[..., Any], folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(function(*arguments), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
