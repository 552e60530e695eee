"""BERT as a text tower, on the rows of `Sentences`: no padding, and no last-layer row that nobody pools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from calib.backbones.fast.keeping import Kept
from calib.backbones.fast.kernels import PackedLinear, Products, can_pack
from calib.backbones.fast.packing import Sentences, sentences
from calib.backbones.placing import place_context, untouched


class _Kinds(NamedTuple):
    """Classes of transformers, which takes seconds to import."""

    model: type[nn.Module]
    attentions: tuple[type[nn.Module], ...]
    parts: tuple[type[nn.Module], ...]
    activation: type[nn.Module]


@lru_cache(maxsize=1)
def _kinds() -> _Kinds:
    from transformers.activations import GELUActivation
    from transformers.models.bert import modeling_bert as bert

    names = ("BertSelfAttention", "BertSdpaSelfAttention")  # the second one until transformers 4.48
    parts = (
        bert.BertEmbeddings,
        bert.BertEncoder,
        bert.BertLayer,
        bert.BertAttention,
        bert.BertSelfOutput,
        bert.BertIntermediate,
        bert.BertOutput,
    )
    return _Kinds(
        model=bert.BertModel,
        attentions=tuple(getattr(bert, name) for name in names if hasattr(bert, name)),
        parts=parts,
        activation=GELUActivation,
    )


@dataclass(frozen=True)
class BertPrompts:
    """The rows that C prompts need of a BERT tower, and where the context goes.

    Args:
        rows: The rows.
        tokens: (C, T) token ids, T being the longest prompt's length.
        positions: (C, M) places of the context tokens.
    """

    rows: Sentences
    tokens: Tensor
    positions: Tensor


class BertTower:
    """The layers of a BERT; subclasses pool their rows.

    Args:
        text: The module around the BERT, which pools and projects.
        bert: The BERT.
        embed: Token ids (C, T) -> what the context is put into, (C, T, E).
        pad_id: Token id of padding.
        keep_padding: Whether padding is pooled as well.
    """

    def __init__(
        self,
        text: Any,
        bert: Any,
        *,
        embed: Callable[[Tensor], Tensor],
        pad_id: int,
        keep_padding: bool = False,
    ) -> None:
        self.text = text
        self.bert = bert
        self.embed = embed
        self.pad_id = pad_id
        self.keep_padding = keep_padding
        self._products = Kept()

    def is_known(self) -> bool:
        """Return whether the tower is built of the parts computed here, all of them as they came.

        Asked before every call, so that a part that was exchanged or hooked later is not passed over.
        """
        bert, kinds = self.bert, _kinds()
        return (
            untouched(bert, kinds.model)
            and not bert.training
            and not bert.config.is_decoder
            and getattr(bert.config, "position_embedding_type", "absolute") == "absolute"
            and untouched(bert.embeddings, *kinds.parts)
            and untouched(bert.embeddings.word_embeddings, nn.Embedding)
            and untouched(bert.encoder, *kinds.parts)
            and all(_is_known(layer, kinds) for layer in bert.encoder.layer)
        )

    def prompts(self, tokens: Tensor, positions: Tensor, *, specific: bool) -> BertPrompts:
        """Return the rows of C prompts.

        Args:
            tokens: (C, L).
            positions: (C, M) places of the context tokens.
            specific: Whether every class has a context of its own; the rows are the same.
        """
        mask = tokens != self.pad_id
        if not self.keep_padding:
            longest = int(mask.any(dim=0).nonzero().max()) + 1
            tokens, mask = tokens[:, :longest], mask[:, :longest]
        return BertPrompts(sentences(mask, keep_padding=self.keep_padding), tokens, positions)

    def encode(self, contexts: Tensor, prompts: BertPrompts) -> Tensor:
        """Return features (S, C, D), not normalised, for contexts (S, M, E) or (S, C, M, E)."""
        raise NotImplementedError

    def states(self, contexts: Tensor, prompts: BertPrompts) -> list[Tensor]:
        """Return the rows after the embedding and after each layer, (S, R, E) each."""
        found = [self._embedded(contexts, prompts)]
        for layer, product in self._layers():
            found.append(_through(layer, product, prompts.rows, found[-1]))
        return found

    def first_token(self, contexts: Tensor, prompts: BertPrompts) -> Tensor:
        """Return the state of each prompt's first token after the last layer, (S, C, E)."""
        rows, x = prompts.rows, self._embedded(contexts, prompts)
        *layers, (last, product) = self._layers()
        for layer in layers:
            x = _through(*layer, rows, x)
        # The last layer's other rows are asked for keys and values only.
        key, value = product.key_value(x)
        x = x.index_select(1, rows.ends)
        seen = rows.attend_ends(product.query(x), key, value, last.attention.self.num_attention_heads)
        return _behind_attention(last, product, seen, x).index_select(1, rows.order)

    def _embedded(self, contexts: Tensor, prompts: BertPrompts) -> Tensor:
        rows, tokens = prompts.rows, prompts.tokens
        placed = place_context(contexts, self.embed(tokens), prompts.positions)  # (S, C, T, E)
        padded = self.bert.embeddings(inputs_embeds=placed.flatten(0, 1))  # (S * C, T, E)
        needed = rows.classes * tokens.shape[1] + rows.places
        return padded.view(len(contexts), tokens.numel(), -1).index_select(1, needed)

    def _layers(self) -> list[tuple[Any, Products]]:
        layers = self.bert.encoder.layer
        weights = [
            weight for layer in layers for part in _linears(layer) for weight in (part.weight, part.bias)
        ]
        if not can_pack(weights):
            products = [_library_products(layer) for layer in layers]
        else:
            products = self._products.get(weights, lambda: [_packed_products(layer) for layer in layers])
        return list(zip(layers, products, strict=True))


class HfTextTower(BertTower):
    """The Hugging Face text tower of an open_clip model, when it is a BERT pooled at its first token.

    Args:
        text: open_clip's `HFTextEncoder`.
        embed: See `BertTower`.
    """

    def __init__(self, text: Any, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__(text, text.transformer, embed=embed, pad_id=text.config.pad_token_id)

    def is_known(self) -> bool:
        """Return whether `encode` computes this tower; see `BertTower`."""
        from open_clip.hf_model import ClsLastHiddenStatePooler, HFTextEncoder

        text = self.text
        return (
            untouched(text, HFTextEncoder)
            and not text.output_tokens
            and untouched(text.pooler, ClsLastHiddenStatePooler)
            and super().is_known()
        )

    def encode(self, contexts: Tensor, prompts: BertPrompts) -> Tensor:
        """Return features (S, C, D), not normalised, for contexts (S, M, E) or (S, C, M, E)."""
        return self.text.proj(self.first_token(contexts, prompts))


def _through(layer: Any, product: Products, rows: Sentences, x: Tensor) -> Tensor:
    query, key, value = product.inputs(x)
    seen = rows.attend(query, key, value, layer.attention.self.num_attention_heads)
    return _behind_attention(layer, product, seen, x)


def _behind_attention(layer: Any, product: Products, seen: Tensor, x: Tensor) -> Tensor:
    x = layer.attention.output.LayerNorm(product.out(seen) + x)
    return layer.output.LayerNorm(product.mlp(x) + x)


def _linears(layer: Any) -> tuple[nn.Linear, ...]:
    own = layer.attention.self
    return (
        own.query,
        own.key,
        own.value,
        layer.attention.output.dense,
        layer.intermediate.dense,
        layer.output.dense,
    )


def _library_products(layer: Any) -> Products:
    query, key, value, out, up, down = _linears(layer)
    activation = layer.intermediate.intermediate_act_fn
    return Products(
        inputs=lambda x: (query(x), key(x), value(x)),
        query=query,
        key_value=lambda x: (key(x), value(x)),
        out=out,
        mlp=lambda x: down(activation(up(x))),
    )


def _packed_products(layer: Any) -> Products:
    query, key, value, *rest = _linears(layer)
    three, one, two = _packed(query, key, value), _packed(query), _packed(key, value)
    out, up, down = (_packed(part) for part in rest)
    activation = layer.intermediate.intermediate_act_fn
    return Products(
        inputs=lambda x: three(x).chunk(3, dim=-1),
        query=one,
        key_value=lambda x: two(x).chunk(2, dim=-1),
        out=out,
        mlp=lambda x: down(activation(up(x))),
    )


def _packed(*parts: nn.Linear) -> PackedLinear:
    """Return one product for linear layers of the same input."""
    return PackedLinear(
        lambda: (torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
    )


def _is_known(layer: Any, kinds: _Kinds) -> bool:
    if not untouched(layer, *kinds.parts) or layer.add_cross_attention:
        return False
    attention = layer.attention
    containers = (attention, attention.output, layer.intermediate, layer.output)
    return (
        all(untouched(part, *kinds.parts) for part in containers)
        and untouched(attention.self, *kinds.attentions)
        and all(untouched(part, nn.Linear) for part in _linears(layer))
        and all(untouched(part.LayerNorm, nn.LayerNorm) for part in (attention.output, layer.output))
        and untouched(layer.intermediate.intermediate_act_fn, kinds.activation)
    )
