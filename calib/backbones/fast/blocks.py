"""The transformer block that CLIP's image and text towers are made of, as matrix products."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from calib.backbones.fast.kernels import Linear, PackedLinear, Products, passing
from calib.backbones.placing import untouched
from calib.backbones.towers.clip import Clip
from calib.backbones.towers.transformer import Block, Norm, QuickGelu, Transformer

QUICK = 1.702  # QuickGELU(x) = x * sigmoid(1.702 x) = SiLU(1.702 x) / 1.702


Kinds = tuple[type[nn.Module], ...]


class ClipKinds(NamedTuple):
    """Classes that towers of CLIP are made of: ours and, where it was imported, those of open_clip."""

    clip: Kinds = (Clip,)
    text: Kinds = ()
    transformer: Kinds = (Transformer,)
    block: Kinds = (Block,)
    quick_gelu: Kinds = (QuickGelu,)
    norms: Kinds = (nn.LayerNorm, Norm)


def clip_kinds() -> ClipKinds:
    """Return the classes there are now; open_clip takes seconds, and without it nothing is of its classes."""
    return _with_open_clip() if "open_clip.model" in sys.modules else ClipKinds()


@lru_cache(maxsize=1)
def _with_open_clip() -> ClipKinds:
    from open_clip import model, transformer

    ours = ClipKinds()
    return ClipKinds(
        clip=(*ours.clip, model.CLIP),
        text=(transformer.TextTransformer,),
        transformer=(*ours.transformer, transformer.Transformer),
        block=(*ours.block, transformer.ResidualAttentionBlock),
        quick_gelu=(*ours.quick_gelu, transformer.QuickGELU),
        norms=(*ours.norms, transformer.LayerNorm, transformer.LayerNormFp32),
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
    if type(activation) in clip_kinds().quick_gelu:  # one operation; its factors go into the weights
        activation, gain = F.silu, QUICK
    up = PackedLinear(lambda: (passing(torch.mul, mlp.c_fc.weight, gain), mlp.c_fc.bias * gain))
    down = PackedLinear(lambda: (passing(torch.div, mlp.c_proj.weight, gain), mlp.c_proj.bias))
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
    """Return whether a block is CLIP's plain one, all parts as they came: LN, attention, LN, MLP."""
    return untouched(block, *clip_kinds().block) and has_known_parts(block)


def has_known_parts(block: Any) -> bool:
    """Return whether the parts of a block of one of these classes are plain and as they came."""
    kinds, attention, mlp = clip_kinds(), block.attn, block.mlp
    scales = [getattr(block, name) for name in ("ls_1", "ls_2") if hasattr(block, name)]
    return (
        not hasattr(block, "ln_1_kv")
        and untouched(block.ln_1, *kinds.norms)
        and untouched(block.ln_2, *kinds.norms)
        and all(untouched(scale, nn.Identity) for scale in scales)
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
        and untouched(mlp.gelu, nn.GELU, *kinds.quick_gelu)
        and untouched(mlp.c_proj, nn.Linear)
    )
