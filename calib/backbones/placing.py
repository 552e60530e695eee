"""Placing context tokens in a text tower that knows nothing of prompts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def replaced_output(embedding: nn.Embedding, embeddings: Tensor) -> Iterator[None]:
    """Run a block in which this thread's next call of `embedding` returns `embeddings`.

    Args:
        embedding: The token table of a text tower.
        embeddings: (C, L, E), what the tower shall see instead; may carry a graph.

    Raises:
        RuntimeError: The tower did not look its tokens up exactly once, so the features are not those of the
            prompts.
    """
    owner, used = threading.get_ident(), []

    def swap(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if threading.get_ident() != owner:
            return None  # another thread encodes its own texts with the same tower
        used.append(tuple(output.shape))
        return embeddings.to(output.dtype)

    handle = embedding.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()
    if used != [tuple(embeddings.shape)]:
        raise RuntimeError(
            f"The text tower looked tokens up {len(used)} times, with shapes {used}, instead of once with "
            f"{tuple(embeddings.shape)}: prompts cannot be placed in it."
        )


def check_context(context: Tensor, tokens: Tensor, positions: Tensor, width: int, sets: bool) -> Tensor:
    """Return the context of every set: (S, M, E) shared by the classes or (S, C, M, E); S = 1 without sets.

    Args:
        context: (M, E) or (C, M, E); with `sets` (S, M, E) or (S, C, M, E).
        tokens: (C, L).
        positions: (C, M) int64.
        width: E.
        sets: Whether the first dimension counts sets.

    Raises:
        ValueError: A shape does not fit.
    """
    n_classes, n_ctx = tokens.shape[0], positions.shape[-1]
    if positions.shape != (n_classes, n_ctx) or positions.dtype != torch.int64:
        raise ValueError(
            f"Expected positions of shape ({n_classes}, M) and type int64, "
            f"got {tuple(positions.shape)} {positions.dtype}."
        )
    batch = context if sets else context[None]
    shared, specific = (n_ctx, width), (n_classes, n_ctx, width)
    if batch.ndim not in (3, 4) or tuple(batch.shape[1:]) not in (shared, specific):
        front = "S, " if sets else ""
        raise ValueError(
            f"Expected a context of shape ({front}{n_ctx}, {width}) or ({front}{n_classes}, {n_ctx}, "
            f"{width}), got {tuple(context.shape)}."
        )
    return batch


def place_context(contexts: Tensor, fixed: Tensor, positions: Tensor) -> Tensor:
    """Return the embeddings of prompts with the context in its places: (S, C, L, E).

    Args:
        contexts: (S, M, E) or (S, C, M, E).
        fixed: (C, L, E), the embeddings of the other tokens.
        positions: (C, M) int64.
    """
    specific = contexts if contexts.ndim == 4 else contexts[:, None]
    index = positions[None, :, :, None].expand(len(contexts), -1, -1, fixed.shape[-1])
    values = specific.to(fixed.dtype).expand_as(index)
    return fixed.expand(len(contexts), -1, -1, -1).scatter(2, index, values)


# Transformers hangs hooks on layers whose output was once asked for; they record and change nothing.
RECORDERS = "transformers.utils.output_capturing"


def untouched(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Return whether a module is exactly one of these kinds, with nothing hooked to it or put in its way.

    Args:
        module: Part of a tower; None is not one of them.
        kinds: Classes; subclasses do not count, they may compute something else.
    """
    return type(module) in kinds and not (
        any(getattr(hook, "__module__", None) != RECORDERS for hook in module._forward_hooks.values())
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
