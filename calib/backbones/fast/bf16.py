"""Image towers in bfloat16: weights converted once, sums of products and of residuals in float32.

A bfloat16 product takes a half to a quarter of the time of a float32 one where the processor knows it
(AVX-512 BF16, AMX, a GPU). Autocast alone makes a frozen tower slower: it keeps converted weights only of
layers that are trained, and converts the others at every call. Here the layers' stand-ins hold converted
weights, and autocast does what is left to it: it decides, in any library's code, what is computed in which
type. Pixels, the residual sums of transformers and their norms stay float32.

A product of bfloat16 numbers is rounded where it ends, so that another order of summing, with another number
of threads or rows, moves it by 1e-3 and not by 1e-7. On a CPU images are therefore encoded in blocks of one
size, each by one thread, several side by side: a feature is the same whatever is encoded beside it, by any
number of threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from calib.backbones.fast import kernels
from calib.backbones.fast.blocks import QUICK, block_weights, clip_kinds, has_known_parts, is_known
from calib.backbones.fast.keeping import Kept
from calib.backbones.fast.kernels import TUNED_ROWS, Linear
from calib.backbones.fast.packing import attention
from calib.core.onethread import one_thread

BF16 = torch.bfloat16
BLOCK, LARGE_BLOCK = 4, 8  # images that one thread encodes at once; large where an image is few rows
FEW_ROWS = 128  # of the tokens of an image: products of 200 rows are slower than those of 400
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # in /proc/cpuinfo; the last is that of Arm's processors
logger = logging.getLogger(__name__)


class Bf16Linear:
    """A linear layer's `forward` in bfloat16.

    Args:
        layer: The layer, which keeps its weights.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self._made = Kept()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (..., out) bfloat16 for (..., in)."""
        weight, bias = self.layer.weight, self.layer.bias
        sources = [weight] if bias is None else [weight, bias]
        product: Linear = self._made.get(sources, lambda: bf16_product(weight, bias))
        return product(inputs)


class Bf16Conv:
    """A convolution's `_conv_forward` in bfloat16, like `Bf16Linear`; what its `forward` does besides stays.

    Args:
        layer: The convolution, which keeps its weights.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer = layer
        self._made = Kept()

    def __call__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return (B, out, H, W) bfloat16 for (B, in, H, W)."""
        sources = [weight] if bias is None else [weight, bias]
        narrow = self._made.get(sources, lambda: [each.detach().to(BF16) for each in sources])
        return nn.Conv2d._conv_forward(self.layer, inputs.to(BF16), *narrow, *([None] * (bias is None)))


class ExactConv:
    """A convolution's `_conv_forward` in float32, whatever is computed around it.

    Args:
        layer: The convolution, which keeps its weights.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer = layer

    def __call__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return (B, out, H, W) float32 for (B, in, H, W)."""
        with torch.autocast(inputs.device.type, enabled=False):
            return nn.Conv2d._conv_forward(self.layer, inputs.float(), weight, bias)


class Bf16Block:
    """A `forward` for CLIP's block: products in bfloat16, norms and the residual sum in float32.

    Args:
        block: The block, which keeps its weights.
    """

    def __init__(self, block: Any) -> None:
        self.block = block
        self._made = Kept()

    def __call__(self, x: Tensor, *others: Tensor | None, **named: Tensor | None) -> Tensor:
        """Return (B, L, E) for (B, L, E); what else the block's own `forward` takes is left to it."""
        block = self.block
        alone = all(other is None for other in (*others, *named.values()))
        if not (alone and block.attn.batch_first and has_known_parts(block)):
            return type(block).forward(block, x, *others, **named)
        inputs, out, mlp = self._made.get(block_weights(block), lambda: _products(block))
        query, key, value = inputs(block.ln_1(x)).chunk(3, dim=-1)
        x = x + out(attention(query, key, value, block.attn.num_heads))
        return x + mlp(block.ln_2(x))


def _products(block: Any) -> tuple[Linear, Linear, Linear]:
    """Return the products of a known block: query, key and value; behind the attention; the MLP."""
    attn, mlp = block.attn, block.mlp
    activation, gain = mlp.gelu, 1.0
    if type(activation) in clip_kinds().quick_gelu:  # one operation; its factors go into the weights
        activation, gain = F.silu, QUICK
    up = bf16_product(mlp.c_fc.weight * gain, mlp.c_fc.bias * gain)
    down = bf16_product(mlp.c_proj.weight / gain, mlp.c_proj.bias)
    inputs = bf16_product(attn.in_proj_weight, attn.in_proj_bias)
    out = bf16_product(attn.out_proj.weight, attn.out_proj.bias)
    return inputs, out, lambda x: down(activation(up(x)))


def bf16_product(weight: Tensor, bias: Tensor | None) -> Linear:
    """Return x -> x W^T + b in bfloat16, with sums in float32, for a W that is converted here once."""
    narrow = weight.detach().to(BF16)
    offset = None if bias is None else bias.detach().to(BF16)
    if weight.device.type == "cpu" and packs_bf16():
        packed = torch.ops.mkldnn._reorder_linear_weight(narrow.contiguous(), TUNED_ROWS)
        return partial(_packed, packed=packed, bias=offset)
    return lambda x: F.linear(x.to(BF16), narrow, offset)


def _packed(x: Tensor, *, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.to(BF16).contiguous(), packed, bias, "none", [], "")


@lru_cache(maxsize=1)
def packs_bf16() -> bool:
    """Return whether this PyTorch multiplies packed bfloat16 weights here, and rightly."""
    if not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator).to(BF16) for shape in ((9, 64), (32, 64), 32))
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, TUNED_ROWS)
        found = _packed(x, packed=packed, bias=bias)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return False  # not part of PyTorch's public interface: another release may lack these operators
    exact = F.linear(x.double(), weight.double(), bias.double())
    return bool((found.double() - exact).abs().max() <= 2**-7 * exact.abs().max())


def use_bf16(tower: nn.Module) -> None:
    """Let the layers of an image tower compute in bfloat16, in place; weights and names stay.

    The first convolution, which sees pixels, stays float32: pixels in bfloat16 would cost more of the
    features' exactness than all that follows.
    """
    _use_bf16(tower, next((each for each in tower.modules() if isinstance(each, nn.Conv2d)), None))


def _use_bf16(tower: nn.Module, first: nn.Module | None) -> None:
    for part in tower.children():
        if is_known(part):
            part.__dict__["forward"] = Bf16Block(part)
        elif type(part) is nn.Linear:
            part.__dict__["forward"] = Bf16Linear(part)
        elif isinstance(part, nn.Conv2d):
            part.__dict__["_conv_forward"] = ExactConv(part) if part is first else Bf16Conv(part)
        else:
            _use_bf16(part, first)


def block_of(tower: nn.Module, size: int) -> int:
    """Return how many images of a size one thread encodes at once: the tower alone decides.

    Args:
        tower: The image tower.
        size: Height of the images.
    """
    first = next((each for each in tower.modules() if isinstance(each, nn.Conv2d)), None)
    few = first is not None and (size // first.stride[0]) ** 2 < FEW_ROWS
    return LARGE_BLOCK if few else BLOCK


def encoded_in_bf16(encode: Callable[[Tensor], Tensor], images: Tensor, block_size: int = BLOCK) -> Tensor:
    """Return what a tower with `use_bf16` makes of images.

    Args:
        encode: The tower, (B, 3, H, W) -> (B, D).
        images: (N, 3, H, W), where the tower is.
        block_size: Images that one thread encodes at once on a CPU, from `block_of`.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: The device does not compute in bfloat16.
    """
    _say_if_slow(images.device.type)

    def one(block: Tensor) -> Tensor:
        with torch.no_grad(), in_bf16(block.device):  # of each thread its own
            return encode(block).float()

    if images.device.type != "cpu":
        return one(images)
    filled = torch.cat([images, images[-1:].expand(-len(images) % block_size, -1, -1, -1)])
    blocks = filled.split(block_size)
    threads = min(torch.get_num_threads(), len(blocks))
    with one_thread():  # also in the threads that start here
        if threads == 1:
            return torch.cat([one(block) for block in blocks])[: len(images)]
        with ThreadPoolExecutor(threads) as pool:
            return torch.cat(list(pool.map(one, blocks)))[: len(images)]


def in_bf16(device: torch.device) -> torch.autocast:
    """Return the context in which one thread computes in bfloat16.

    Raises:
        ValueError: The device does not compute in it.
    """
    try:
        return torch.autocast(device.type, dtype=BF16, cache_enabled=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"backbone.encode_precision=bf16 cannot be used on {device}: {error} "
            "Use backbone.encode_precision=fp32, or another device."
        ) from error


@lru_cache(maxsize=4)
def _say_if_slow(device: str) -> None:
    if bf16_is_fast(device) is False:
        logger.warning(
            "This %s has no instructions for bfloat16: backbone.encode_precision=bf16 works, and takes "
            "longer here than fp32.",
            "processor" if device == "cpu" else device,
        )


def bf16_is_fast(device: str = "cpu") -> bool | None:
    """Return whether a device has instructions for bfloat16. None: nobody knows."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    words = kernels._processor().split() if device == "cpu" else []
    return any(each in words for each in INSTRUCTIONS) if "flags" in words or "Features" in words else None
