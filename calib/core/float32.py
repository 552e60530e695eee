"""Float32 as such on graphics cards, too: a block without TensorFloat-32 in products and convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Run a block in which float32 on a CUDA device is not rounded to TensorFloat-32.

    PyTorch computes convolutions in it unless it is told otherwise, and matrix products where
    `torch.set_float32_matmul_precision("high")` was called: 10 bits of the mantissa instead of 23, features
    that are off by some 1e-3 instead of 1e-6. Those of one cache come from any device. What was set before is
    set again behind the block; elsewhere than on CUDA nothing is touched.

    Args:
        device: Where the block computes.

    Example:
        >>> with exact_float32(torch.device("cuda")):  # also where there is none
        ...     torch.get_float32_matmul_precision()
        'highest'
    """
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.backends.cuda.matmul, cast("Any", torch.backends.cudnn)
    by_name = hasattr(convolutions, "conv")  # since 2.9
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by name alone
        precision = None
    named = products.fp32_precision if by_name else None
    before = convolutions.conv.fp32_precision if by_name else convolutions.allow_tf32
    try:
        if precision is not None:
            torch.set_float32_matmul_precision("highest")
        if by_name:
            products.fp32_precision = convolutions.conv.fp32_precision = "ieee"
        else:
            convolutions.allow_tf32 = False
        yield
    finally:
        if precision is not None:
            torch.set_float32_matmul_precision(precision)
        if by_name:
            products.fp32_precision, convolutions.conv.fp32_precision = named, before
        else:
            convolutions.allow_tf32 = before
