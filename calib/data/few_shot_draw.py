"""Which images of every class are drawn, as rows of a table: by content, and no group on both sides."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain

from torch import Tensor

from calib.core.hashing import stable_hash

logger = logging.getLogger(__name__)


def pools_of(labels: Tensor, ids: Sequence[str], seed: int, n_classes: int) -> list[list[int]]:
    """Return the different images of every class in the order of the draw."""
    label_of = labels.tolist()
    labels_of: dict[str, set[int]] = defaultdict(set)
    for id_, label in zip(ids, label_of, strict=True):
        labels_of[id_].add(label)
    ambiguous = sum(len(found) > 1 for found in labels_of.values())
    if ambiguous:
        logger.warning(
            "%d images stand under more than one label; none of them is drawn as a shot.", ambiguous
        )
    pools: list[list[int]] = [[] for _ in range(n_classes)]
    seen: set[str] = set()
    for row in sorted(range(len(ids)), key=lambda row: (stable_hash(seed, ids[row]), row)):
        if ids[row] not in seen and len(labels_of[ids[row]]) == 1:
            pools[label_of[row]].append(row)
        seen.add(ids[row])
    return pools


def draw_rows_of(
    pools: Sequence[Sequence[int]], owner: Sequence[str], shots: int | None, val_shots: Sequence[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the training and the validation rows of every class, as many as there are."""
    both = list(zip(pools, val_shots, strict=True))
    if shots is None:  # validation first: training takes all the rest
        val = [_take(pool, owner, set(), count) for pool, count in both]
        return [_take(pool, owner, _owners(val, owner), None) for pool in pools], val
    reserved: set[str] = set().union(*(_reserved(pool, owner, shots, count) for pool, count in both))
    train = [_take(pool, owner, reserved, shots) for pool in pools]
    return train, [_take(pool, owner, _owners(train, owner), count) for pool, count in both]


def _owners(rows: Sequence[Sequence[int]], owner: Sequence[str]) -> set[str]:
    return {owner[row] for row in chain(*rows)}


def _take(pool: Sequence[int], owner: Sequence[str], avoid: set[str], count: int | None) -> list[int]:
    """Return the first rows outside some groups; every group gives one image before any gives a second."""
    turn: Counter[str] = Counter()
    order = []
    for position, row in enumerate(pool):
        if owner[row] not in avoid:
            order.append((turn[owner[row]], position, row))
            turn[owner[row]] += 1
    return [row for _, _, row in sorted(order)][:count]


def _reserved(pool: Sequence[int], owner: Sequence[str], shots: int, val_shots: int) -> set[str]:
    """Return a class's groups to keep back for validation: none while there is a group for every shot."""
    sizes = Counter(owner[row] for row in pool)  # in the order of the draw
    groups = list(sizes)
    if not val_shots or len(groups) >= shots + val_shots:
        return set()
    total = sum(sizes.values())
    reserved: list[str] = []
    for order in (groups, sorted(groups, key=sizes.__getitem__, reverse=True)):  # by draw, else the smallest
        count = max(1, len(order) * val_shots // (shots + val_shots))
        while count < len(order) and sum(sizes[group] for group in order[-count:]) < val_shots:
            count += 1
        reserved = order[-count:]
        if total - sum(sizes[group] for group in reserved) >= shots:
            break
    return set(reserved)


def draw_at_most(
    pools: Sequence[Sequence[int]], owner: Sequence[str], shots: int | None, val_shots: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the rows of every class, at most the numbers asked for; validation gives way to training."""
    left = [len(pool) - (1 if shots is None else shots) for pool in pools]
    wanted = [max(0, min(val_shots, rest)) for rest in left]
    train, val = draw_rows_of(pools, owner, shots, wanted)
    full = [len(pool) if shots is None else min(shots, len(pool)) for pool in pools]
    short = [shots is not None and len(rows) < number for rows, number in zip(train, full, strict=True)]
    empty = [not rows for rows in train]
    if any(short) or any(empty):  # groups kept back for validation
        gone = [a or b for a, b in zip(short, empty, strict=True)]
        train, val = draw_rows_of(
            pools, owner, shots, [0 if no else n for no, n in zip(gone, wanted, strict=True)]
        )
    return train, val
