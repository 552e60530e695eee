"""The transformer of CLIP's towers, with the names of open_clip's weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class QuickGelu(nn.Module):
    """The activation of OpenAI's models, x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return x * torch.sigmoid(1.702 * x)


class Norm(nn.LayerNorm):
    """LayerNorm that gives back the type it was given, under autocast as well."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., E) for (..., E)."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and around a residual connection.

    Args:
        width: E.
        heads: Heads of the attention; they divide E.
        hidden: Width of the MLP.
        quick_gelu: Whether its activation is QuickGELU; GELU otherwise.
    """

    def __init__(self, width: int, heads: int, hidden: int, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = Norm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = Norm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, hidden))
        self.mlp.add_module("gelu", QuickGelu() if quick_gelu else nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(hidden, width))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Return (B, L, E) for (B, L, E); a mask (L, L) is added to the attention's logits."""
        normed, mask = self.ln_1(x), None if attn_mask is None else attn_mask.to(x.dtype)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Blocks one after the other.

    Args:
        width: E.
        heads: Heads of each attention.
        layers: How many blocks.
        mlp_ratio: Width of the MLPs as a multiple of E.
        quick_gelu: See `Block`.
    """

    def __init__(self, width: int, heads: int, layers: int, mlp_ratio: float, quick_gelu: bool) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.resblocks = nn.ModuleList(Block(width, heads, hidden, quick_gelu) for _ in range(layers))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Return (B, L, E) for (B, L, E)."""
        for block in self.resblocks:
            x = block(x, attn_mask=attn_mask)
        return x
