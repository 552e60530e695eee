"""Reading `last.ckpt`: whole, unchanged, and without running anything in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.io.archives import check_archive

# What Lightning needs to go on; without one of them it would end in the middle of restoring.
NEEDED = (
    "epoch",
    "global_step",
    "loops",
    "lr_schedulers",
    "optimizer_states",
    "pytorch-lightning_version",
    "state_dict",
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a Lightning checkpoint, on the CPU.

    Args:
        path: The `.ckpt` file.

    Raises:
        pickle.UnpicklingError: It holds Python objects besides tensors and plain values; none was made.
        ValueError: Its bytes are not those that were written, or what a checkpoint needs is missing or not
            finite. The caller names the file.

    Other errors of torch on damaged files pass through.
    """
    check_archive(path)
    content = torch.load(path, weights_only=True, map_location="cpu")
    missing = [key for key in NEEDED if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    if not isinstance(content["epoch"], int) or content["epoch"] < 0:
        raise ValueError(f"its epoch is {content['epoch']!r}")
    state = content["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("its state_dict holds something besides tensors")
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(f"{broken[0]} holds NaN or infinite values")
    return dict(content)
