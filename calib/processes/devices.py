"""The devices that trainer settings ask for, of those that this machine has."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

CUDA = ("auto", "gpu", "cuda")  # accelerators that are CUDA devices where there are any


def quickest_device() -> torch.device:
    """Return where a command that trains nothing computes: a card where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trains_on_cuda(trainer: Mapping[str, Any]) -> bool:
    """Return whether these trainer settings train on CUDA devices here."""
    return trainer.get("accelerator", "auto") in CUDA and torch.cuda.is_available()


def devices_of(trainer: Mapping[str, Any]) -> list[torch.device]:
    """Return the devices of this machine that trainer settings ask for, one per process.

    Raises:
        ValueError: They are not here.
    """
    asked, devices = trainer.get("accelerator", "auto"), trainer.get("devices", 1)
    if "lightning" not in sys.modules and devices == 1 and asked == "auto" and not _has_accelerator():
        return [torch.device("cpu")]  # what is no training does without Lightning
    from lightning import Trainer  # takes seconds to import
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    try:
        strategy = Trainer(
            accelerator=asked, devices=devices, plugins=[LightningEnvironment()], **quiet
        ).strategy
        return list(getattr(strategy, "parallel_devices", None) or [strategy.root_device])
    except (MisconfigurationException, ModuleNotFoundError, ValueError, TypeError) as error:
        given = f"trainer.accelerator={asked}" + (f" with trainer.devices={devices}" if devices != 1 else "")
        raise ValueError(
            f"{given} cannot be used here: {' '.join(str(error).split())}{_advice(trainer)}"
        ) from error


def _advice(trainer: Mapping[str, Any]) -> str:
    """Return what to do where more CUDA devices are asked for than this process sees; else nothing."""
    if trainer.get("devices", 1) == 1 or not trains_on_cuda(trainer):
        return ""
    return (
        f" Each process trains on a GPU of its own, and sees those of all (here {torch.cuda.device_count()}: "
        "under srun, ask for GPUs per node, not per task). Lower trainer.devices, or set "
        "trainer.accelerator=cpu."
    )


def _has_accelerator() -> bool:
    """Return whether "auto" may mean something else than a CPU here."""
    return torch.cuda.is_available() or torch.backends.mps.is_available() or bool(find_spec("torch_xla"))
