"""Which token rows a text tower has to compute for C prompts, and which of them see each other.

A packing lists every needed row once and knows the attention among them. A tower that takes its rows from a
packing need not know whether prompts share their beginning (`PromptTree`) or stand alone (`Sentences`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby, pairwise, takewhile

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

BRANCH = 80  # most rows of a tree that attend together; products with rows they do not see are wasted


@dataclass(frozen=True)
class Packing:
    """Rows for C prompts.

    Args:
        classes: (R,) the class each row belongs to, or the first of those that share it.
        places: (R,) the row's place in the prompt of that class.
        ends: (P,) the rows that are pooled, ascending.
        order: (C,) index into `ends` for each class.
    """

    classes: Tensor
    places: Tensor
    ends: Tensor
    order: Tensor

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Return the attention of every row, (S, R, E) like the arguments."""
        raise NotImplementedError

    def attend_ends(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Return the attention of the pooled rows, (S, P, E); `query` holds these rows only."""
        raise NotImplementedError


@dataclass(frozen=True)
class PromptTree(Packing):
    """The prompts of a causal tower as a tree of tokens: what several begin with is there once.

    Under a causal mask a token's state depends on the tokens before it only. So classes that begin alike
    share these states, with their gradients, and what follows the pooled token is left out. The rows attend
    in groups of neighbours (branches), which see the rows on their way from the root and each other.

    Args:
        seen: (K,) the rows that each branch sees, branch by branch; None for one branch that sees all.
        sees: For each branch, which of these rows each of its rows sees, (rows, seen rows) bool.
        ends_see: The rows of `sees` that are pooled.
    """

    seen: Tensor | None
    sees: tuple[Tensor, ...]
    ends_see: tuple[Tensor, ...]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Return the attention of every row, (S, R, E) like the arguments."""
        return self._attend(query, key, value, heads, self.sees)

    def attend_ends(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Return the attention of the pooled rows, (S, P, E); `query` holds these rows only."""
        return self._attend(query, key, value, heads, self.ends_see)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, masks: Sequence[Tensor]
    ) -> Tensor:
        if self.seen is not None:
            key, value = key.index_select(1, self.seen), value.index_select(1, self.seen)
        askers = query.split([mask.shape[0] for mask in masks], dim=1)
        keys, values = (part.split([mask.shape[1] for mask in masks], dim=1) for part in (key, value))
        found = [
            attention(asker, seen_key, seen_value, heads, mask)
            for asker, seen_key, seen_value, mask in zip(askers, keys, values, masks, strict=True)
            if len(mask)
        ]
        return _joined(found)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Return the attention of (B, n, E) to (B, m, E), head by head; a mask is True for what is seen."""
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    with _same_each_time(query):
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return found.transpose(1, 2).flatten(2)


def _same_each_time(query: Tensor) -> AbstractContextManager[object]:
    """Return the context in which gradients are the same each time, where that is asked for.

    On a card, attention that saves memory adds them up in any order, and says so instead of obeying where
    deterministic algorithms are a wish (`warn_only`).
    """
    if not (query.is_cuda and torch.is_grad_enabled() and torch.are_deterministic_algorithms_enabled()):
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def prompt_tree(prompts: Sequence[Sequence[int]], device: torch.device | None = None) -> PromptTree:
    """Return the tree of C prompts.

    Args:
        prompts: For each class one number per token up to the pooled one; equal numbers at the same place
            after equal beginnings are the same token.
        device: Where its tensors are.

    Example:
        >>> tree = prompt_tree([[1, 5, 6, 2], [1, 5, 7, 8, 2], [1, 5, 6, 9, 2]])
        >>> tree.places.tolist(), tree.ends[tree.order].tolist()
        ([0, 1, 2, 3, 3, 4, 2, 3, 4], [3, 8, 5])
    """
    classes: list[int] = []
    places: list[int] = []
    parents: list[int] = []
    leaves = [0] * len(prompts)
    path: list[int] = []  # the rows of the prompt before
    before: Sequence[int] = ()
    # In sorted order a subtree's rows are neighbours, and a prompt shares most with the one before it.
    for index in sorted(range(len(prompts)), key=lambda index: tuple(prompts[index])):
        prompt = prompts[index]
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, prompt, strict=False)))
        del path[shared:]
        for place in range(shared, len(prompt)):
            parents.append(path[-1] if path else -1)
            path.append(len(classes))
            classes.append(index)
            places.append(place)
        leaves[index], before = path[-1], prompt
    ends = sorted(set(leaves))
    seen, sees, ends_see = _branches(parents, ends, device)
    rank = {leaf: index for index, leaf in enumerate(ends)}
    return PromptTree(
        classes=torch.tensor(classes, device=device),
        places=torch.tensor(places, device=device),
        ends=torch.tensor(ends, device=device),
        order=torch.tensor([rank[leaf] for leaf in leaves], device=device),
        seen=seen,
        sees=sees,
        ends_see=ends_see,
    )


def _branches(
    parents: Sequence[int], ends: Sequence[int], device: torch.device | None
) -> tuple[Tensor | None, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Cut a tree into branches of nearly equal size: `seen`, `sees` and `ends_see` of `PromptTree`.

    A cut may be anywhere: what a branch's rows see before it is on the way to its first row.
    """
    n_branches = -(-len(parents) // BRANCH)
    cuts = [len(parents) * branch // n_branches for branch in range(n_branches + 1)]
    seen: list[int] = []
    masks, ends_masks = [], []
    for start, stop in pairwise(cuts):
        way = _way(parents, start)
        mask = torch.zeros(stop - start, len(way) + stop - start, dtype=torch.bool)
        for row in range(start, stop):
            parent = parents[row]
            if parent >= start:
                mask[row - start] = mask[parent - start]
            elif parent >= 0:
                mask[row - start, : way.index(parent) + 1] = True
            mask[row - start, len(way) + row - start] = True
        seen += [*way, *range(start, stop)]
        masks.append(mask.to(device))
        ends_masks.append(masks[-1][[end - start for end in ends if start <= end < stop]])
    rows = torch.tensor(seen, device=device) if n_branches > 1 else None
    return rows, tuple(masks), tuple(ends_masks)


def _way(parents: Sequence[int], row: int) -> list[int]:
    """Return the rows from the root to a row, without it."""
    way: list[int] = []
    while (row := parents[row]) >= 0:
        way.insert(0, row)
    return way


@dataclass(frozen=True)
class _Batch:
    """Sentences of equal length, one after the other."""

    count: int
    length: int
    sees: Tensor | None  # (count, 1, 1, length) bool, None where every row sees all of its sentence


@dataclass(frozen=True)
class Sentences(Packing):
    """The prompts of a bidirectional tower without their padding; the first token of each is pooled.

    Args:
        batches: The sentences of each length.
    """

    batches: tuple[_Batch, ...]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Return the attention of every row, (S, R, E) like the arguments."""
        return self._attend(query, key, value, heads, ends=False)

    def attend_ends(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Return the attention of the pooled rows, (S, P, E); `query` holds these rows only."""
        return self._attend(query, key, value, heads, ends=True)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int, ends: bool) -> Tensor:
        rows = [batch.count * batch.length for batch in self.batches]
        asked = [batch.count for batch in self.batches] if ends else rows
        askers, keys, values = query.split(asked, dim=1), key.split(rows, dim=1), value.split(rows, dim=1)
        found = [
            _batched(batch, parts, heads)
            for batch, *parts in zip(self.batches, askers, keys, values, strict=True)
        ]
        return _joined(found)


def _batched(batch: _Batch, parts: Sequence[Tensor], heads: int) -> Tensor:
    sets = len(parts[0])
    query, key, value = (part.unflatten(1, (batch.count, -1)).flatten(0, 1) for part in parts)
    sees = None if batch.sees is None else batch.sees.repeat(sets, 1, 1, 1)
    return attention(query, key, value, heads, sees).unflatten(0, (sets, -1)).flatten(1, 2)


def sentences(mask: Tensor, *, keep_padding: bool = False) -> Sentences:
    """Return the rows of C padded sentences.

    Args:
        mask: (C, L) bool, True for tokens; the first of each row is one.
        keep_padding: True keeps all rows, as a tower needs that pools padding as well; padding is not seen.
    """
    device = mask.device
    kept = torch.ones_like(mask) if keep_padding else mask
    places = [row.nonzero()[:, 0] for row in kept]
    lengths = [len(row) for row in places]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches: list[_Batch] = []
    ends: list[int] = []
    done = 0
    for length, same in groupby(order, key=lengths.__getitem__):
        members = list(same)
        sees = None if kept[members].equal(mask[members]) else mask[members][:, None, None]
        batches.append(_Batch(len(members), length, sees))
        ends += range(done, done + length * len(members), length)
        done += length * len(members)
    rows = torch.tensor(order, device=device)
    return Sentences(
        classes=rows.repeat_interleave(torch.tensor([lengths[row] for row in order], device=device)),
        places=torch.cat([places[row] for row in order]),
        ends=torch.tensor(ends, device=device),
        order=rows.argsort(),
        batches=tuple(batches),
    )
