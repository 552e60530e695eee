"""The transformer block that open_clip's image and text towers are made of, as matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from calib.backbones.fast.kernels import Linear, PackedLinear, Products
from calib.backbones.placing import untouched

QUICK = 1.702  # QuickGELU(x) = x * sigmoid(1.702 x) = SiLU(1.702 x) / 1.702


class OpenClipKinds(NamedTuple):
    """Classes of open_clip, which takes seconds to import."""

    clip: type[nn.Module]
    text: type[nn.Module]
    transformer: type[nn.Module]
    block: type[nn.Module]
    quick_gelu: type[nn.Module]
    norms: tuple[type[nn.Module], ...]


@lru_cache(maxsize=1)
def open_clip_kinds() -> OpenClipKinds:
    """Return the classes, imported when first asked for."""
    from open_clip import model, transformer

    return OpenClipKinds(
        clip=model.CLIP,
        text=transformer.TextTransformer,
        transformer=transformer.Transformer,
        block=transformer.ResidualAttentionBlock,
        quick_gelu=transformer.QuickGELU,
        norms=(nn.LayerNorm, transformer.LayerNorm, transformer.LayerNormFp32),
    )


def block_weights(block: Any) -> tuple[Tensor, ...]:
    """Return the weights and biases of a known block's matrix products."""
    attention, up, down = block.attn, block.mlp.c_fc, block.mlp.c_proj
    inputs, out = (attention.in_proj_weight, attention.in_proj_bias), attention.out_proj
    return (*inputs, out.weight, out.bias, up.weight, up.bias, down.weight, down.bias)


def library_products(block: Any) -> Products:
    """Return the products of a known block as the library computes them."""

    def part(rows: slice) -> Linear:
        weight, bias = block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows]
        return partial(F.linear, weight=weight, bias=bias)

    return _products(block, part, block.attn.out_proj, block.mlp)


def packed_products(block: Any) -> Products:
    """Return the products of a known block on packed weights, see `can_pack`."""

    def part(rows: slice) -> Linear:
        return PackedLinear(lambda: (block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows]))

    mlp, activation, gain = block.mlp, block.mlp.gelu, 1.0
    if type(activation) is open_clip_kinds().quick_gelu:  # one operation; its factors go into the weights
        activation, gain = F.silu, QUICK
    up = PackedLinear(lambda: (mlp.c_fc.weight * gain, mlp.c_fc.bias * gain))
    down = PackedLinear(lambda: (mlp.c_proj.weight / gain, mlp.c_proj.bias))
    out = PackedLinear(lambda: (block.attn.out_proj.weight, block.attn.out_proj.bias))
    return _products(block, part, out, lambda x: down(activation(up(x))))


def _products(block: Any, part: Callable[[slice], Linear], out: Linear, mlp: Linear) -> Products:
    width = block.attn.embed_dim
    everything, query, rest = part(slice(None)), part(slice(0, width)), part(slice(width, None))
    return Products(
        inputs=lambda x: everything(x).chunk(3, dim=-1),
        query=query,
        key_value=lambda x: rest(x).chunk(2, dim=-1),
        out=out,
        mlp=mlp,
    )


def is_known(block: Any) -> bool:
    """Return whether a block is open_clip's plain one, all parts as they came: LN, attention, LN, MLP."""
    if type(block).__module__ != "open_clip.transformer":  # open_clip need not be imported to see it
        return False
    return untouched(block, open_clip_kinds().block) and has_known_parts(block)


def has_known_parts(block: Any) -> bool:
    """Return whether the parts of a `ResidualAttentionBlock` are plain and as they came."""
    kinds, attention, mlp = open_clip_kinds(), block.attn, block.mlp
    return (
        not hasattr(block, "ln_1_kv")
        and untouched(block.ln_1, *kinds.norms)
        and untouched(block.ln_2, *kinds.norms)
        and untouched(block.ls_1, nn.Identity)
        and untouched(block.ls_2, nn.Identity)
        and untouched(attention, nn.MultiheadAttention)
        and attention._qkv_same_embed_dim
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and attention.dropout == 0.0
        and not attention.add_zero_attn
        and untouched(attention.out_proj, NonDynamicallyQuantizableLinear)
        and untouched(mlp, nn.Sequential)
        and list(mlp._modules) == ["c_fc", "gelu", "c_proj"]
        and untouched(mlp.c_fc, nn.Linear)
        and mlp.c_fc.bias is not None
        and untouched(mlp.gelu, nn.GELU, kinds.quick_gelu)
        and untouched(mlp.c_proj, nn.Linear)
    )
