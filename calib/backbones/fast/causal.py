"""The causal text towers of CLIP on the rows of a `PromptTree`: the same computation on fewer rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from calib.backbones.fast.blocks import (
    block_weights,
    clip_kinds,
    is_known,
    library_products,
    packed_products,
)
from calib.backbones.fast.keeping import Kept
from calib.backbones.fast.kernels import Products, can_pack
from calib.backbones.fast.packing import PromptTree, prompt_tree
from calib.backbones.placing import untouched

# Of each way of pooling, the place of the pooled token in rows (C, L); the highest id is the end mark.
POOLINGS: dict[str, Callable[[Tensor, int | None], Tensor]] = {
    "first": lambda tokens, _: torch.zeros_like(tokens[:, 0]),
    "last": lambda tokens, _: torch.full_like(tokens[:, 0], tokens.shape[1] - 1),
    "argmax": lambda tokens, _: tokens.argmax(dim=-1),
    "eos": lambda tokens, eos: tokens.eq(-1 if eos is None else eos).int().argmax(dim=-1),
}


@dataclass(frozen=True)
class CausalPrompts:
    """The rows that C prompts need of a causal tower, and where the context goes.

    Args:
        tree: The rows.
        tokens: (R,) their token ids.
        at: (K,) the rows that hold context tokens.
        slots: (K,) which context token each of them holds.
        owners: (K,) the class whose context it is, None where all classes share one.
    """

    tree: PromptTree
    tokens: Tensor
    at: Tensor
    slots: Tensor
    owners: Tensor | None


class CausalTower:
    """The causal text tower of a CLIP, ours or open_clip's.

    Args:
        text: The module that has `token_embedding`, `transformer`, `ln_final` and `text_projection`.
    """

    def __init__(self, text: Any) -> None:
        self.text = text
        self._products = Kept()
        self._causal = Kept()

    def is_known(self) -> bool:
        """Return whether the tower is built of the parts that `encode` computes, all of them as they came.

        Asked before every call, so that a part that was exchanged or hooked later is not passed over.
        """
        text, kinds = self.text, clip_kinds()
        if untouched(text, *kinds.text):
            usual = text.cls_emb is None and not text.use_pad_mask and not text.output_tokens
        else:
            usual = type(text) in kinds.clip  # never called itself, only its parts
        return (
            usual
            and self._pooling[0] in POOLINGS
            and self._has_causal_mask()
            and untouched(text.token_embedding, nn.Embedding)
            and untouched(text.transformer, *kinds.transformer)
            and not getattr(text.transformer, "grad_checkpointing", False)
            and all(is_known(block) for block in text.transformer.resblocks)
            and untouched(text.ln_final, *kinds.norms)
        )

    @property
    def _pooling(self) -> tuple[str, int | None]:
        prefix = "text_" if type(self.text) in clip_kinds().clip else ""
        return getattr(self.text, f"{prefix}pool_type"), getattr(self.text, f"{prefix}eos_id", None)

    def _has_causal_mask(self) -> bool:
        mask = self.text.attn_mask

        def look() -> bool:
            expected = torch.full_like(mask, float("-inf")).triu(1)
            return bool(torch.equal(mask, expected))

        return mask is not None and self._causal.get([mask], look)

    def prompts(self, tokens: Tensor, positions: Tensor, *, specific: bool) -> CausalPrompts:
        """Return the rows of C prompts.

        Args:
            tokens: (C, L).
            positions: (C, M) places of the context tokens.
            specific: Whether every class has a context of its own.
        """
        n_classes, n_ctx = positions.shape
        device = tokens.device
        pooling, eos = self._pooling
        pooled = POOLINGS[pooling](tokens, eos).tolist()
        # Context tokens get numbers below zero: one per slot, or one per class and slot.
        slots = torch.arange(n_ctx, device=device).expand_as(positions)
        owners = torch.arange(n_classes, device=device)[:, None].expand_as(positions)
        numbers = owners * n_ctx + slots if specific else slots
        labelled = tokens.scatter(1, positions, -1 - numbers)
        rows = [row[: stop + 1] for row, stop in zip(labelled.tolist(), pooled, strict=True)]
        tree = prompt_tree(rows, device)
        labels = labelled[tree.classes, tree.places]
        at = (labels < 0).nonzero()[:, 0]
        held = -1 - labels[at]
        return CausalPrompts(
            tree=tree,
            tokens=tokens[tree.classes, tree.places],
            at=at,
            slots=held % max(n_ctx, 1),
            owners=held // max(n_ctx, 1) if specific else None,
        )

    def encode(self, contexts: Tensor, prompts: CausalPrompts) -> Tensor:
        """Return the features of prompts, (S, C, D), not normalised.

        Args:
            contexts: (S, M, E), or (S, C, M, E) where each class has its own.
            prompts: Their rows.
        """
        text, tree = self.text, prompts.tree
        blocks, products = text.transformer.resblocks, self._choose_products()
        x = self._embed(contexts, prompts)  # (S, R, E)
        for block, product in zip(blocks[:-1], products[:-1], strict=True):
            query, key, value = product.inputs(block.ln_1(x))
            x = x + product.out(tree.attend(query, key, value, block.attn.num_heads))
            x = x + product.mlp(block.ln_2(x))
        # The last block's other rows are asked for keys and values only.
        block, product = blocks[-1], products[-1]
        normed = block.ln_1(x)
        query = product.query(normed.index_select(1, tree.ends))
        key, value = product.key_value(normed)
        seen = tree.attend_ends(query, key, value, block.attn.num_heads)
        x = x.index_select(1, tree.ends) + product.out(seen)
        x = x + product.mlp(block.ln_2(x))  # (S, P, E)
        return self._project(text.ln_final(x)).index_select(1, tree.order)

    def _embed(self, contexts: Tensor, prompts: CausalPrompts) -> Tensor:
        text, dtype = self.text, self.text.transformer.resblocks[0].mlp.c_fc.weight.dtype
        fixed = text.token_embedding(prompts.tokens)  # (R, E)
        if prompts.owners is None:
            held = contexts.index_select(1, prompts.slots)
        else:
            held = contexts[:, prompts.owners, prompts.slots]
        rows = fixed.expand(len(contexts), -1, -1).index_copy(1, prompts.at, held.to(fixed.dtype))
        return rows.to(dtype) + text.positional_embedding[prompts.tree.places].to(dtype)

    def _project(self, pooled: Tensor) -> Tensor:
        projection = self.text.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection

    def _choose_products(self) -> list[Products]:
        blocks = self.text.transformer.resblocks
        weights = [weight for block in blocks for weight in block_weights(block)]
        if not can_pack(weights):
            return [library_products(block) for block in blocks]
        return self._products.get(weights, lambda: [packed_products(block) for block in blocks])
