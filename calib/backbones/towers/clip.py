"""CLIP: a vision transformer or another image tower, beside a causal text tower, in open_clip's layout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from calib.backbones.towers.transformer import Norm, Transformer


class VisionTransformer(nn.Module):
    """CLIP's image tower: patches, a class token, blocks, a linear projection of the class token.

    Args:
        embed_dim: D.
        image_size: Height and width of the images.
        patch_size: Height and width of the patches.
        width: Width of the transformer.
        heads: Heads of each attention.
        layers: How many blocks.
        mlp_ratio: See `Transformer`.
        quick_gelu: See `Transformer`.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        heads: int,
        layers: int,
        mlp_ratio: float,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        self.image_size = (image_size, image_size)
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((image_size // patch_size) ** 2 + 1, width))
        self.ln_pre = Norm(width)
        self.transformer = Transformer(width, heads, layers, mlp_ratio, quick_gelu)
        self.ln_post = Norm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, D) for (B, 3, H, W)."""
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding.to(x.dtype)))
        return self.ln_post(x)[:, 0] @ self.proj


class Clip(nn.Module):
    """An image tower and CLIP's causal text tower; the text's feature is that of its highest token id.

    Args:
        visual: The image tower, (B, 3, H, W) -> (B, D).
        embed_dim: D.
        context_length: L.
        vocab_size: Rows of the token table.
        width: E, the width of the text tower.
        heads: Heads of each attention.
        layers: How many blocks.
        mlp_ratio: See `Transformer`.
        quick_gelu: See `Transformer`.
    """

    attn_mask: Tensor
    text_pool_type = "argmax"
    text_eos_id = None

    def __init__(
        self,
        visual: nn.Module,
        embed_dim: int,
        *,
        context_length: int,
        vocab_size: int,
        width: int,
        heads: int,
        layers: int,
        mlp_ratio: float,
        quick_gelu: bool,
    ) -> None:
        super().__init__()
        self.visual = visual
        self.transformer = Transformer(width, heads, layers, mlp_ratio, quick_gelu)
        # Not drawn: on the device "meta", where towers are built, that imports torch's compiler.
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(vocab_size, width), freeze=False)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.ln_final = Norm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))
        mask = torch.full((context_length, context_length), float("-inf"), device="cpu").triu(1)
        self.register_buffer("attn_mask", mask, persistent=False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return (B, D), not normalised, for (B, 3, H, W)."""
        features: Tensor = self.visual(images)
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return (C, D), not normalised, for (C, L)."""
        dtype = self.token_embedding.weight.dtype
        x = self.token_embedding(tokens).to(dtype) + self.positional_embedding.to(dtype)
        x = self.ln_final(self.transformer(x, attn_mask=self.attn_mask))
        return x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)] @ self.text_projection
