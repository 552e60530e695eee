"""Image towers on the fastest exact kernel: stand-ins for the `forward` of their blocks and linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from calib.backbones.fast.blocks import block_weights, has_known_parts, is_known, packed_products
from calib.backbones.fast.keeping import Kept
from calib.backbones.fast.kernels import PackedLinear, can_pack
from calib.backbones.fast.packing import attention


class FrozenLinear:
    """A linear layer's `forward`: packed where `can_pack` says so, the layer's own otherwise.

    Args:
        layer: The layer, which keeps its weights.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self._packed = Kept()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        layer = self.layer
        weights = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        if inputs.dtype != torch.float32 or not can_pack(weights):
            return nn.Linear.forward(layer, inputs)
        return self._packed.get(weights, lambda: PackedLinear(lambda: (layer.weight, layer.bias)))(inputs)


class FrozenBlock:
    """A `forward` for CLIP's block, like `FrozenLinear`.

    Args:
        block: The block, which keeps its weights.
    """

    def __init__(self, block: Any) -> None:
        self.block = block
        self._packed = Kept()

    def __call__(self, x: Tensor, *others: Tensor | None, **named: Tensor | None) -> Tensor:
        """Return (B, L, E) for (B, L, E); what else the block's own `forward` takes is left to it."""
        block, weights = self.block, block_weights(self.block)
        alone = all(other is None for other in (*others, *named.values())) and x.dtype == torch.float32
        if not (alone and block.attn.batch_first and can_pack(weights) and has_known_parts(block)):
            return type(block).forward(block, x, *others, **named)
        product = self._packed.get(weights, lambda: packed_products(block))
        query, key, value = product.inputs(block.ln_1(x))
        x = x + product.out(attention(query, key, value, block.attn.num_heads))
        return x + product.mlp(block.ln_2(x))


def use_frozen_kernels(tower: nn.Module) -> None:
    """Let a frozen tower compute on the fastest exact kernel, in place; weights and names stay."""
    for part in tower.children():
        if is_known(part):
            part.__dict__["forward"] = FrozenBlock(part)
        elif type(part) is nn.Linear:
            part.__dict__["forward"] = FrozenLinear(part)
        else:
            use_frozen_kernels(part)
