"""Which token rows a text tower has to compute for C prompts, and which of them see each other.

A packing lists every needed row once and knows the attention among them. A tower that takes its rows from a
packing need not know whether prompts share their beginning (`PromptTree`) or stand alone (`Sentences`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, takewhile

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

BRANCH = 128  # at most so many rows of a tree attend together: products with rows they do not see are wasted


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
class _Branch:
    """Rows `start` to `stop` of a tree; they see rows on their way from the root, and each other."""

    start: int
    stop: int
    way: Tensor  # (W,) rows before `start`
    sees: Tensor  # (stop - start, W + stop - start) bool
    ends: slice  # which of the pooled rows are here
    ends_see: Tensor  # their rows of `sees`


@dataclass(frozen=True)
class PromptTree(Packing):
    """The prompts of a causal tower as a tree of tokens: what several begin with is there once.

    Under a causal mask a token's state depends on the tokens before it only. So classes that begin alike
    share these states, with their gradients, and what follows the pooled token is left out.

    Args:
        branches: The rows in groups that attend together.
    """

    branches: tuple[_Branch, ...]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Return the attention of every row, (S, R, E) like the arguments."""
        queries = [(slice(branch.start, branch.stop), branch.sees) for branch in self.branches]
        return self._attend(query, key, value, heads, queries)

    def attend_ends(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Return the attention of the pooled rows, (S, P, E); `query` holds these rows only."""
        return self._attend(
            query, key, value, heads, [(branch.ends, branch.ends_see) for branch in self.branches]
        )

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, queries: Sequence[tuple[slice, Tensor]]
    ) -> Tensor:
        query, key, value = (_heads(part, heads) for part in (query, key, value))  # (S, H, R, E / H)
        found = [
            F.scaled_dot_product_attention(
                query[:, :, rows], _seen(key, branch), _seen(value, branch), attn_mask=sees
            )
            for branch, (rows, sees) in zip(self.branches, queries, strict=True)
            if rows.stop > rows.start
        ]
        return (found[0] if len(found) == 1 else torch.cat(found, dim=2)).transpose(1, 2).flatten(2)


def _heads(rows: Tensor, heads: int) -> Tensor:
    return rows.unflatten(-1, (heads, -1)).transpose(1, 2)  # (S, R, E) -> (S, H, R, E / H)


def _seen(part: Tensor, branch: _Branch) -> Tensor:
    own = part[:, :, branch.start : branch.stop]
    return own if len(branch.way) == 0 else torch.cat([part.index_select(2, branch.way), own], dim=2)


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
    rank = {leaf: index for index, leaf in enumerate(ends)}
    return PromptTree(
        classes=torch.tensor(classes, device=device),
        places=torch.tensor(places, device=device),
        ends=torch.tensor(ends, device=device),
        order=torch.tensor([rank[leaf] for leaf in leaves], device=device),
        branches=tuple(_branches(parents, ends, device)),
    )


def _branches(parents: Sequence[int], ends: Sequence[int], device: torch.device | None) -> list[_Branch]:
    """Cut the rows of a tree into groups of nearly equal size.

    A cut may be anywhere: what rows of a group see before the group is on the way to its first row.
    """
    n_rows = len(parents)
    n_groups = -(-n_rows // BRANCH)
    cuts = [n_rows * group // n_groups for group in range(n_groups + 1)]
    found = []
    for start, stop in pairwise(cuts):
        way: list[int] = []
        row = parents[start]
        while row >= 0:
            way.insert(0, row)
            row = parents[row]
        sees = torch.zeros(stop - start, len(way) + stop - start, dtype=torch.bool)
        for row in range(start, stop):
            parent = parents[row]
            if parent >= start:
                sees[row - start] = sees[parent - start]
            elif parent >= 0:
                sees[row - start, : way.index(parent) + 1] = True
            sees[row - start, len(way) + row - start] = True
        pooled = slice(bisect_left(ends, start), bisect_left(ends, stop))
        found.append(
            _Branch(
                start=start,
                stop=stop,
                way=torch.tensor(way, dtype=torch.int64, device=device),
                sees=sees.to(device),
                ends=pooled,
                ends_see=sees[[end - start for end in ends[pooled]]].to(device),
            )
        )
    return found


@dataclass(frozen=True)
class _Batch:
    """Sentences of equal length: rows `start` to `start + count * length`."""

    start: int
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
        sets, done, found = query.shape[0], 0, []
        for batch in self.batches:
            rows = batch.count * batch.length
            own = slice(batch.start, batch.start + rows)
            asking = slice(done, done + batch.count) if ends else own
            done += batch.count
            asks, keys, values = (
                _heads(part.unflatten(1, (batch.count, -1)).flatten(0, 1), heads)
                for part in (query[:, asking], key[:, own], value[:, own])
            )  # (S * count, H, length, E / H)
            sees = None if batch.sees is None else batch.sees.repeat(sets, 1, 1, 1)
            seen = F.scaled_dot_product_attention(asks, keys, values, attn_mask=sees)
            found.append(seen.transpose(1, 2).flatten(2).unflatten(0, (sets, -1)).flatten(1, 2))
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def sentences(mask: Tensor, *, keep_padding: bool = False) -> Sentences:
    """Return the rows of C padded sentences.

    Args:
        mask: (C, L) bool, True for tokens, which come first in each row.
        keep_padding: True keeps all rows, as a tower needs that pools padding as well; padding is not seen.
    """
    device, lengths = mask.device, mask.sum(dim=1).tolist()
    if keep_padding:
        groups = [(mask.shape[1], list(range(len(mask))))]
    else:
        by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
        groups = [(length, list(found)) for length, found in groupby(by_length, key=lengths.__getitem__)]
    batches: list[_Batch] = []
    classes: list[int] = []
    places: list[int] = []
    ends: list[int] = []
    for length, members in groups:
        hidden = keep_padding and not bool(mask.all())
        sees = mask[members][:, None, None] if hidden else None
        batches.append(_Batch(len(classes), len(members), length, sees))
        for member in members:
            ends.append(len(classes))
            classes += [member] * length
            places += range(length)
    members = [member for _, members in groups for member in members]
    return Sentences(
        classes=torch.tensor(classes, device=device),
        places=torch.tensor(places, device=device),
        ends=torch.tensor(ends, device=device),
        order=torch.tensor(members, device=device).argsort(),
        batches=tuple(batches),
    )
