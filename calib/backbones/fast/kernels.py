"""Linear layers with frozen weights, on the fastest exact kernel of this processor.

PyTorch's own float32 matrix product (MKL) uses half of the vector width of AMD's processors: it takes 2.2
times as long as that of oneDNN on Zen 5, 1.2 times on Zen 4. On Intel's it is the right one, but packs the
weights anew in every call, which takes a fifth of a product of some 70 to 300 rows. With packed weights
oneDNN and MKL are as exact as without. They differ in the last bit, and a run that was interrupted must go on
to the same numbers: so which one is used depends on the processor and on whether a gradient is wanted, never
on how fast either happens to be.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from calib.core.errors import unknown_name

SETTING = "CALIB_LINEAR"
AMD, INTEL = "AuthenticAMD", "GenuineIntel"
CHOICES = ("auto", "plain", "packed")
MAX_ERROR = 2e-6  # of the largest result, against float64
TUNED_ROWS = 128  # rows oneDNN's layout is chosen for; other numbers of rows work as well
MAPPED = 2**23  # numbers; malloc maps as much memory anew, and gives it back to the system when it is freed

_other_rows: ContextVar[bool] = ContextVar("_other_rows", default=False)

Linear = Callable[[Tensor], Tensor]


class Products(NamedTuple):
    """The matrix products of one transformer block; E is its width.

    Args:
        inputs: (..., E) -> query, key, value.
        query: The query alone.
        key_value: Key and value alone.
        out: Behind the attention.
        mlp: The two products with their activation.
    """

    inputs: Callable[[Tensor], Sequence[Tensor]]
    query: Linear
    key_value: Callable[[Tensor], Sequence[Tensor]]
    out: Linear
    mlp: Linear


class PackedLinear:
    """x -> x W^T + b with packed weights; gradients reach x only.

    Args:
        weights: Returns W (out, in) and b (out,) or None, float32 on the CPU; called when they are needed.
    """

    def __init__(self, weights: Callable[[], tuple[Tensor, Tensor | None]]) -> None:
        self._weights = weights
        self._packed: tuple[int, Linear] | None = None
        self._backward: PackedLinear | None = None

    @property
    def transposed(self) -> PackedLinear:
        """Return g -> g W. Its weights are packed at the first backward: evaluation does without."""
        if self._backward is None:
            self._backward = PackedLinear(lambda: (self._weights()[0].t(), None))
        return self._backward

    @torch.no_grad()
    def product(self, inputs: Tensor) -> Tensor:
        """Return the result without a graph."""
        inputs = inputs.contiguous()
        by_mkl = _library() == "mkl"
        rows = inputs.shape[:-1].numel() if by_mkl else TUNED_ROWS  # MKL packs for one number of rows
        packed = self._packed  # another thread may exchange it at any moment, for other rows or for none
        if packed is None or packed[0] != rows:
            self._packed = packed = None  # first, since there is memory for one
            with torch.inference_mode(False):
                packed = rows, (_pack_mkl if by_mkl else _pack_onednn)(*self._weights(), rows)
            self._packed = packed
        return packed[1](inputs)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        return _Product.apply(inputs, self)


def passing(operation: Callable[..., Tensor], weight: Tensor, factor: float) -> Tensor:
    """Return the operation's result in order, for a moment: in memory that leaves no hole where it was.

    What is packed stays, what it was packed from does not: of some megabytes each, between activations, that
    would cost half as much memory again as the packed weights.

    Args:
        operation: `torch.mul` or `torch.div`.
        weight: Float32 on the CPU.
        factor: Its second argument.
    """
    room = torch.empty(MAPPED + weight.numel())
    return operation(weight, factor, out=room[: weight.numel()].view(weight.shape))


def _in_order(weight: Tensor) -> Tensor:
    return weight if weight.is_contiguous() else passing(torch.mul, weight, 1.0)


def _pack_onednn(weight: Tensor, bias: Tensor | None, rows: int) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(_in_order(weight), rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _pack_mkl(weight: Tensor, bias: Tensor | None, rows: int) -> Linear:
    if rows == 0:
        return lambda x: F.linear(x, weight, bias)
    packed = torch.ops.mkl._mkl_reorder_linear_weight(_in_order(weight), rows)
    # Where the rows were others, this would be multiplied instead of the packed weights: it has their shape.
    never = weight.new_full((1, 1), torch.nan).expand(weight.shape)
    return lambda x: torch.ops.mkl._mkl_linear(x, packed, never, bias, rows)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer  # not in `setup_context`, for which PyTorch reads the signature at every call
        return layer.product(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.transposed(gradient), None


def can_pack(weights: Sequence[Tensor]) -> bool:
    """Return whether these weights may be packed now and it pays: frozen float32 on a CPU, no autocast.

    Nor while a graph is recorded (tracing, compiling): packed weights cannot be part of one. MKL packs for
    one number of rows, which pays where the same rows come in every step: where a gradient is wanted, and
    not within `other_rows`.
    """
    if torch.is_autocast_enabled("cpu") or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    for weight in weights:
        plain = weight.device.type == "cpu" and weight.dtype == torch.float32
        if not plain or weight.requires_grad or weight.is_inference():
            return False
    any_rows = _library() != "mkl" or (torch.is_grad_enabled() and not _other_rows.get())
    return packed_wanted() and any_rows


@contextmanager
def other_rows(are_other: bool = True) -> Iterator[None]:
    """Say of a block that its rows are not those of the other steps, so that MKL does not pack for them.

    Args:
        are_other: False: they are, and nothing changes.
    """
    before = _other_rows.set(are_other or _other_rows.get())
    try:
        yield
    finally:
        _other_rows.reset(before)


def packed_wanted() -> bool:
    """Return whether linear layers are packed: what `CALIB_LINEAR` says, else what suits the processor.

    Raises:
        ValueError: `CALIB_LINEAR` is none of auto, plain, packed.
    """
    setting = os.environ.get(SETTING, "auto")
    if setting not in CHOICES:
        raise unknown_name(SETTING, setting, CHOICES)
    return setting != "plain" and _works() and (setting == "packed" or _suits())


@lru_cache(maxsize=1)
def _works() -> bool:
    """Return whether packed weights work here and are exact."""
    if not torch.backends.mkldnn.is_available():
        return False
    inputs, weight, bias = _example()
    try:
        layer = PackedLinear(lambda: (weight, bias))
        found = layer.product(inputs)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return False  # not part of PyTorch's public interface: another release may lack these operators
    exact = F.linear(inputs.double(), weight.double(), bias.double())
    # False on e.g. a processor that was told to multiply in bfloat16.
    return bool((found - exact).abs().max() <= MAX_ERROR * exact.abs().max())


def _example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)  # the global one belongs to the run
    shapes = ((64, 512), (512, 512), (512,))
    inputs, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return inputs, weight, bias


@lru_cache(maxsize=1)
def _suits() -> bool:
    """Return whether it is known that packed weights are faster on this processor."""
    return torch.backends.mkl.is_available() and any(vendor in _processor() for vendor in (AMD, INTEL))


@lru_cache(maxsize=1)
def _library() -> str:
    """Return whose packed products are used: MKL keeps its best code for Intel's processors."""
    return "mkl" if torch.backends.mkl.is_available() and INTEL in _processor() else "onednn"


@lru_cache(maxsize=1)
def _processor() -> str:
    """Return the processor's description, with its vendor."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.is_file() else platform.processor()
