"""Optimisers and the learning-rate schedule of few-shot prompt tuning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from calib.core.errors import unknown_name


def lr_after_constant_warmup(
    epoch: int, *, max_epochs: int, warmup_epochs: int, warmup_factor: float
) -> float:
    """Return the share of the learning rate used during an epoch.

    `warmup_factor` for `epoch < warmup_epochs`, then `(1 + cos(pi * (epoch - warmup_epochs) / max_epochs)) /
    2`. The cosine is as long as the whole run, so the last epochs are small and never zero.

    Args:
        epoch: Counted from 0.
        max_epochs: Length of the run.
        warmup_epochs: Epochs of constant warm-up.
        warmup_factor: Warm-up learning rate divided by the learning rate.

    Example:
        >>> factor = lr_after_constant_warmup(49, max_epochs=50, warmup_epochs=1, warmup_factor=0.005)
        >>> f"{0.002 * factor:.4e}"
        '7.8853e-06'

    Source: the schedule of CalibPrompt (github.com/iabh1shekbasu/CalibPrompt c6ec13e), which is Dassl's.
    """
    if epoch < warmup_epochs:
        return warmup_factor
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / max_epochs))


def constant_warmup(
    *, lr: float, warmup_epochs: int, warmup_lr: float, max_epochs: int
) -> Callable[[int], float]:
    """Return `lr_after_constant_warmup` as a function of the epoch, for torch's `LambdaLR`.

    Args:
        lr: Learning rate after the warm-up.
        warmup_epochs: Epochs at `warmup_lr`.
        warmup_lr: Learning rate of the warm-up.
        max_epochs: Length of the run.
    """

    def factor(epoch: int) -> float:  # not a partial, of which a checkpoint would hold more
        return lr_after_constant_warmup(
            epoch, max_epochs=max_epochs, warmup_epochs=warmup_epochs, warmup_factor=warmup_lr / lr
        )

    return factor


def lr_after_linear_warmup(epoch: int, *, max_epochs: int, warmup_epochs: int, start: float) -> float:
    """Return the share of the learning rate used during an epoch.

    `(start + (1 - start) * min(epoch / warmup_epochs, 1)) * (1 + cos(pi * epoch / max_epochs)) / 2`

    Args:
        epoch: Counted from 0.
        max_epochs: Length of the run.
        warmup_epochs: Epochs of the rise; 0 begins at the full rate.
        start: Share of the first epoch.

    Example:
        >>> round(lr_after_linear_warmup(5, max_epochs=10, warmup_epochs=5, start=0.1), 6)
        0.5

    Source: the chained schedulers of ViLU (github.com/ykrmm/ViLU e4bf572), with start 0.1 and 5 epochs.
    """
    risen = min(epoch / warmup_epochs, 1.0) if warmup_epochs else 1.0
    return (start + (1 - start) * risen) * 0.5 * (1 + math.cos(math.pi * epoch / max_epochs))


def clip_each(
    parts: Iterable[Iterable[nn.Parameter]], limit: float | None, algorithm: str | None = None
) -> None:
    """Clip the gradients of models that are trained side by side, those of each by themselves.

    Lightning would clip them together, and each would learn otherwise than alone.

    Args:
        parts: The parameters of each model.
        limit: `gradient_clip_val` of the trainer. None or 0: nothing is clipped.
        algorithm: `gradient_clip_algorithm`: "value", or "norm", which None means.
    """
    if not limit:
        return
    clip = nn.utils.clip_grad_value_ if algorithm == "value" else nn.utils.clip_grad_norm_
    for part in parts:
        clip(list(part), limit)


def make_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    *,
    name: str,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Return an SGD or AdamW optimiser.

    Args:
        parameters: What is trained; or groups with "params" and settings of their own.
        name: "sgd" or "adamw".
        lr: Learning rate.
        momentum: Of sgd; adamw does not use it.
        weight_decay: Of both.

    Raises:
        ValueError: Another name.
    """
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    if name == "adamw":
        optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
        given = [each for group in optimizer.param_groups for each in group["params"]]
        if all(each.device.type == "cpu" for each in given):  # one pass over the memory, which takes the time
            for group in optimizer.param_groups:
                group["fused"], group["foreach"] = True, False
        return optimizer
    raise unknown_name("optimiser", name, ["sgd", "adamw"])
