"""In what an image tower computes: float32 on the fastest exact kernel, or bfloat16."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor, nn

from calib.backbones.fast.bf16 import block_of, encoded_in_bf16, use_bf16
from calib.backbones.fast.frozen import use_frozen_kernels
from calib.backbones.same import BF16, check_encode_precision

log = logging.getLogger(__name__)


def use_precision(precision: str, tower: nn.Module | None, *, name: str) -> None:
    """Let the layers of an image tower compute in a precision, in place; weights and names stay.

    Args:
        precision: One of `ENCODE_PRECISIONS`.
        tower: The image tower. None: nobody knows which it is, and it computes as it does.
        name: The backbone's, for messages.

    Raises:
        ValueError: The precision is unknown, or bf16 for a tower that nobody knows.
    """
    check_encode_precision(precision)
    if precision == BF16 and tower is not None:
        log.info("Images are encoded in bf16 (backbone.encode_precision).")
    if tower is not None:
        (use_bf16 if precision == BF16 else use_frozen_kernels)(tower)
    elif precision == BF16:
        raise ValueError(
            f"backbone.encode_precision=bf16 needs to know the image tower of {name}, and its class says "
            "none: let its property image_tower return the module, or take backbone.encode_precision=fp32."
        )


def encoded_in(
    precision: str, encode: Callable[[Tensor], Tensor], images: Tensor, tower: nn.Module | None
) -> Tensor:
    """Return what a tower that was given to `use_precision` makes of images, (N, D) for (N, 3, H, W).

    Args:
        precision: The one it was given with.
        encode: Calls the tower.
        images: (N, 3, H, W), where the tower is.
        tower: The tower, or None, as it was given.

    Raises:
        ValueError: The device does not compute in it.
    """
    if precision != BF16 or tower is None:
        return encode(images)
    return encoded_in_bf16(encode, images, block_of(tower, images.shape[-2]))
