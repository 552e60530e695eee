"""Folds of a few labelled images: each is judged by what was learned without it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calib.data.task import Table


def make_folds(
    labels: Tensor,
    owner: Sequence[str],
    n_folds: int,
    class_names: Sequence[str],
    *,
    every_class: bool = True,
) -> list[list[int]]:
    """Return the rows of each fold: as many folds as asked for or as can be filled, classes spread evenly.

    Args:
        labels: (N,) class indices.
        owner: (N,) groups, which are never divided; the id of the image where groups are not known.
        n_folds: Folds wanted, at least 2.
        class_names: For messages.
        every_class: Whether a class must have an image left without any fold.

    Raises:
        ValueError: Without some fold a class would have no image left.

    Example:
        >>> make_folds(torch.tensor([0, 0, 0, 1, 1]), ["a", "a", "b", "c", "d"], 2, ["x", "y"])
        [[0, 1, 4], [2, 3]]
    """
    members: dict[str, list[int]] = {}
    for row, name in enumerate(owner):
        members.setdefault(name, []).append(row)
    n_folds = min(n_folds, len(members))
    folds: list[list[int]] = [[] for _ in range(n_folds)]
    counts = torch.zeros(n_folds, len(class_names), dtype=torch.int64)
    for rows in members.values():
        mine = labels[rows].bincount(minlength=len(class_names))
        fold = min(range(n_folds), key=lambda k: (int((counts[k] * mine).sum()), len(folds[k]), k))
        folds[fold] += rows
        counts[fold] += mine
    total = counts.sum(dim=0)
    for fold in range(n_folds) if every_class else ():
        for label in (counts[fold] == total).nonzero().flatten().tolist():
            if total[label]:
                raise ValueError(
                    f"Cross-fitting needs images of every class in two groups at least; all "
                    f"{total[label]} of class {label} ('{class_names[label]}') stay together."
                )
    return [sorted(rows) for rows in folds if rows]


def owners(table: Table) -> list[str]:
    """Return what must not be divided: the group of every image, or the image itself."""
    return list(table.ids) if table.groups is None else [str(group) for group in table.groups]
