"""What every backbone offers: frozen image and text towers, with a door for prompt embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

from calib.backbones.fast.keeping import Kept
from calib.backbones.fast.precision import encoded_in, use_precision
from calib.backbones.fast.tower import FastTower
from calib.backbones.placing import check_context, place_context, replaced_output
from calib.backbones.preprocessing import Preprocessing
from calib.backbones.same import FP32, KnownDigest
from calib.backbones.tokenization import PromptTokenizer
from calib.core.checks import check_tensor
from calib.core.errors import unknown_name
from calib.core.float32 import exact_float32


class Backbone(nn.Module):
    """A frozen vision-language model: no gradient reaches its weights and it is always in evaluation mode.

    Subclasses say how their towers are called: `token_embedding`, `_image_features`, `_text_features`.

    Args:
        model: The two towers, with a parameter `logit_scale` (log scale).
        name: Name in messages and files, e.g. "plip".
        tokenizer: Its `vocab_size` must not exceed the token embedding table.
        preprocess: Turns a PIL image into an input of `encode_image`.
        architecture: JSON-able facts about the towers, for `describe()`; "embed_dim" is D.
        weights: Where the weights come from, for `describe()`.
        parity: Official quirks switched on by name; each must be in the class's `quirks`.
        encode_precision: In what the image tower computes: "fp32" or "bf16". Text is always float32.

    Attributes:
        build: The arguments of `calib.create_backbone` that make this backbone again, as plain JSON values.
            None: it was made otherwise.

    Raises:
        ValueError: The vocabulary is larger than the embedding table, a quirk or precision is unknown, or
            bf16 is asked of a class that does not say what its image tower is.
    """

    quirks: tuple[str, ...] = ()
    supports_positions: tuple[str, ...] = ("end",)

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        tokenizer: PromptTokenizer,
        preprocess: Preprocessing,
        architecture: Mapping[str, Any],
        weights: str,
        parity: Mapping[str, bool] | None = None,
        encode_precision: str = FP32,
    ) -> None:
        super().__init__()
        for quirk in parity or {}:
            if quirk not in self.quirks:
                raise unknown_name(f"parity switch of {name}", quirk, self.quirks)
        self.model = model
        self.name = name
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.architecture = dict(architecture)
        self.weights = weights
        self.build: dict[str, Any] | None = None
        self.parity = {quirk: bool((parity or {}).get(quirk, False)) for quirk in self.quirks}
        self.encode_precision = encode_precision
        self._digest = KnownDigest()
        self._fast_tower: FastTower | None = None
        self._prompts = Kept(limit=4)
        rows = self.token_embedding.num_embeddings
        if tokenizer.vocab_size > rows:
            raise ValueError(
                f"The vocabulary has {tokenizer.vocab_size} tokens, but the token embedding of {name} has "
                f"{rows} rows: it belongs to another model. Give its own with backbone.tokenizer."
            )
        self.requires_grad_(False)
        self.train()
        use_precision(encode_precision, self.image_tower, name=name)

    @property
    def image_tower(self) -> nn.Module | None:
        """Return the module whose layers encode images, for faster kernels. None: they stay as they are."""
        return None

    @property
    def token_embedding(self) -> nn.Embedding:
        """Return the text tower's table of token embeddings."""
        raise NotImplementedError

    @property
    def embed_dim(self) -> int:
        """Return D, the size of the joint space."""
        return int(self.architecture["embed_dim"])

    def _image_features(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def _text_features(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def token_width(self) -> int:
        """Return E, the size of a token embedding and of a context token."""
        return int(self.token_embedding.embedding_dim)

    @property
    def context_length(self) -> int:
        """Return L, the length of every row of tokens."""
        return self.tokenizer.context_length

    @property
    def max_pieces(self) -> int:
        """Return how many token ids fit between the start and end marks."""
        return self.tokenizer.max_pieces

    @property
    def start_length(self) -> int:
        """Return how many marks come first: piece i of `assemble(pieces)` is at `start_length + i`."""
        return len(self.tokenizer.start)

    @property
    def filler_id(self) -> int:
        """Return the token id that keeps a place for a context token."""
        return self.tokenizer.filler_id

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return self.token_embedding.weight.device

    @property
    def logit_scale(self) -> Tensor:
        """Return the frozen log scale of the logits, () float32."""
        scale = self.model.logit_scale
        assert isinstance(scale, Tensor)
        return scale.detach().float().reshape(())

    def train(self, mode: bool = True) -> Backbone:
        """Return self, in evaluation mode whatever `mode` says: dropout in a frozen tower is never wanted."""
        super().train(False)
        return self

    def tokenize(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Return the token rows of whole texts, (C, L) int64 on the CPU.

        Args:
            texts: C texts.
            truncate: True cuts off what does not fit.

        Raises:
            ValueError: A text does not fit; the message names it, its number of tokens and the limit.
        """
        return self.tokenizer(texts, truncate=truncate)

    def piece_ids(self, text: str) -> list[int]:
        """Return the token ids of a bare text, without marks and padding."""
        return self.tokenizer.encode(text)

    def assemble(self, pieces: Sequence[int]) -> Tensor:
        """Return the row (L,) int64 for bare ids: marks around them, padding behind.

        Raises:
            ValueError: More than `max_pieces` ids.
        """
        return self.tokenizer.assemble(pieces)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the unit-norm features of images, without a graph.

        Args:
            images: (B, 3, H, W), made by `preprocess`.

        Returns:
            (B, D) float32.

        Raises:
            ValueError: The shape is another.
        """
        check_tensor(images, "images")
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"Expected images of shape (B, 3, H, W), got {tuple(images.shape)}.")
        if not images.is_floating_point():
            raise ValueError(f"Expected images that `preprocess` has normalised, floats, not {images.dtype}.")
        encode, precision = self._image_features, self.encode_precision
        with torch.no_grad(), exact_float32(self.device):
            return _unit(encoded_in(precision, encode, images.to(self.device), self.image_tower))

    def token_embeddings(self, tokens: Tensor) -> Tensor:
        """Return the rows of the token table only, no positions and no norm: (C, L) -> (C, L, E)."""
        return self.token_embedding(tokens.to(self.device))

    def encode_text(self, tokens: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Return the unit-norm features of token rows.

        The tower runs unchanged; with `embeddings`, a forward hook puts them in the place of what its token
        embedding returns. Positions, masks, pooling and projection stay the library's.

        Args:
            tokens: (C, L) int64, L = `context_length`. With `embeddings` they still say where padding and the
                end are.
            embeddings: (C, L, E), may carry a graph. None uses the embeddings of `tokens`.

        Returns:
            (C, D) float32.

        Raises:
            ValueError: A shape or type does not fit.
        """
        self._check(tokens)
        tokens = tokens.to(self.device)
        if embeddings is None:
            return _unit(self._text_features(tokens))
        expected = (*tokens.shape, self.token_width)
        if tuple(embeddings.shape) != expected:
            raise ValueError(f"Expected embeddings of shape {expected}, got {tuple(embeddings.shape)}.")
        with replaced_output(self.token_embedding, embeddings):
            return _unit(self._text_features(tokens))

    def encode_sentences(self, tokens: Tensor) -> Tensor:
        """Return what `encode_text(tokens)` returns, only the rows that count if the tower is known.

        Args:
            tokens: (C, L) int64, L = `context_length`.

        Returns:
            (C, D) float32.

        Raises:
            ValueError: The shape or type does not fit.
        """
        if any(self.parity.values()):
            return self.encode_text(tokens)  # quirks of prompts do not concern whole texts
        nothing = torch.empty(0, self.token_width, device=self.device)
        return self.encode_prompts(nothing, tokens, tokens.new_empty(len(tokens), 0))

    def prompt_embeddings(self, tokens: Tensor) -> Tensor:
        """Return what `encode_prompts` puts the context into: (C, L) -> (C, L, E)."""
        return self.token_embeddings(tokens)

    def encode_prompts(
        self, context: Tensor, tokens: Tensor, positions: Tensor, *, sets: bool = False
    ) -> Tensor:
        """Return the unit-norm features of prompts with learned context tokens.

        `encode_text(tokens, E)` where E is the embedding of `tokens` with `context[m]` at `positions[c, m]`.
        A known tower computes only the rows that count; the result is that of `encode_prompts_by_hook`.

        Args:
            context: (M, E) shared by all classes or (C, M, E) one per class; with `sets`, one more dimension
                S in front.
            tokens: (C, L) int64; any ordinary id (`filler_id`) at the context positions.
            positions: (C, M) int64, the places of the context tokens in each row, all different.
            sets: True when `context` holds S sets of prompts, encoded side by side.

        Returns:
            (C, D) float32; (S, C, D) with `sets`.

        Raises:
            ValueError: A shape does not fit.
        """
        self._check(tokens)
        contexts = check_context(context, tokens, positions, self.token_width, sets).to(self.device)
        tower, specific = self._fast_tower, contexts.ndim == 4
        if tower is None or not tower.is_known():
            return self.encode_prompts_by_hook(context, tokens, positions, sets=sets)
        prompts = self._prompts.get(
            [tokens, positions],
            lambda: tower.prompts(tokens.to(self.device), positions.to(self.device), specific=specific),
            also=(specific, self.device),
        )
        features = _unit(tower.encode(contexts, prompts))  # (S, C, D)
        return features if sets else features[0]

    def encode_prompts_by_hook(
        self, context: Tensor, tokens: Tensor, positions: Tensor, *, sets: bool = False
    ) -> Tensor:
        """Return what `encode_prompts` returns, by the library's own tower over all L tokens of every class.

        The measure of the faster way, and the way of towers that have none. See `encode_prompts`.
        """
        self._check(tokens)
        contexts = check_context(context, tokens, positions, self.token_width, sets).to(self.device)
        tokens, positions = tokens.to(self.device), positions.to(self.device)
        embeddings = place_context(contexts, self.prompt_embeddings(tokens), positions)  # (S, C, L, E)
        features = self.encode_text(tokens.repeat(len(contexts), 1), embeddings.flatten(0, 1))  # (S * C, D)
        return features.view(len(contexts), len(tokens), -1) if sets else features

    @property
    def weights_digest(self) -> str:
        """Return the sha256 over names, types, shapes and bytes of all weights, in the order of their names.

        Computed once and again after any weight was changed in place or exchanged.
        """
        return self._digest.of(self._named_weights())

    def describe(self) -> dict[str, Any]:
        """Return what defines this backbone's features as plain JSON values.

        "encode_precision" is there where it is not fp32.
        """
        other = {} if self.encode_precision == FP32 else {"encode_precision": self.encode_precision}
        return {
            "name": self.name,
            "architecture": self.architecture,
            "token_width": self.token_width,
            "context_length": self.context_length,
            "parameters": sum(parameter.numel() for parameter in self.parameters()),
            "logit_scale": self.logit_scale.item(),
            "weights": {"source": self.weights, "digest": self.weights_digest},
            "tokenizer": self.tokenizer.describe(),
            "preprocessing": self.preprocess.to_dict(),
            "parity": dict(self.parity),
            **other,
        }

    def export_description(self) -> dict[str, Any]:
        """Return `describe()` and, where known, under "build" the arguments that make this backbone again."""
        return self.describe() if self.build is None else {**self.describe(), "build": dict(self.build)}

    def _named_weights(self) -> dict[str, Tensor]:
        """Return the weights themselves under names that do not depend on library versions."""
        return self.model.state_dict(keep_vars=True)

    def _check(self, tokens: Tensor) -> None:
        if tokens.ndim != 2 or tokens.shape[1] != self.context_length or tokens.dtype != torch.int64:
            raise ValueError(
                f"Expected tokens of shape (C, {self.context_length}) and type int64, "
                f"got {tuple(tokens.shape)} {tokens.dtype}. `tokenize` and `assemble` make such rows."
            )


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)  # float32 also under autocast
