"""Which rows of a batch each model is judged on and each fold's head sees: found ahead of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from calib.core import ranks

ROWS = "rows"  # of a batch: where its `BatchRows` are


@dataclass(frozen=True)
class BatchRows:
    """Rows of a batch, by what they are of. On a GPU a step that looked for them would wait for their number.

    Attributes:
        models: Model to its rows (n,) int64, of those that images of the batch of all processes are of; a
            model may have none here.
        folds: Of each fold, the rows (n,) int64 that its head sees, and which of these are of each model.
    """

    models: dict[int, Tensor]
    folds: list[tuple[Tensor, dict[int, Tensor]]]

    def to(self, device: torch.device) -> BatchRows:
        """Return the same rows on a device; Lightning asks for it with the rest of a batch."""

        def moved(models: dict[int, Tensor]) -> dict[int, Tensor]:
            return {model: rows.to(device, non_blocking=True) for model, rows in models.items()}

        folds = [(rows.to(device, non_blocking=True), moved(models)) for rows, models in self.folds]
        return BatchRows(moved(self.models), folds)


def batch_rows(
    source: Tensor, index: Tensor | None, n_models: int, fold_of: Tensor | None, n_folds: int
) -> BatchRows:
    """Return the rows of a batch; with several processes, all of them ask at once.

    Args:
        source: (B,) int64, the model that each image was judged by.
        index: (B,) int64, the rows of the table. None: there are no folds.
        n_models: K.
        fold_of: (N,) int64, the fold of every row of the table; -1: of none.
        n_folds: Number of folds.

    Example:
        >>> found = batch_rows(torch.tensor([0, 1, 0]), torch.tensor([4, 0, 1]), 2, torch.arange(5) % 2, 2)
        >>> found.models[0].tolist(), [rows.tolist() for rows, _ in found.folds]
        ([0, 2], [[2], [0, 1]])
    """
    source, used = source.cpu(), [0]
    if n_models > 1:
        used = ranks.summed(source.bincount(minlength=n_models)).nonzero().flatten().tolist()
    folds = []
    if n_folds and index is not None and fold_of is not None:
        own = fold_of.cpu()[index.cpu()]
        for number in range(n_folds):
            rows = (own != number).nonzero().flatten()
            folds.append((rows, _of_models(source[rows], used)))
    return BatchRows(_of_models(source, used), folds)


def picked(batch: Mapping[str, Any], rows: Tensor) -> dict[str, Tensor]:
    """Return some rows of the tensors of a batch."""
    return {name: each.index_select(0, rows) for name, each in batch.items() if isinstance(each, Tensor)}


def _of_models(source: Tensor, models: list[int]) -> dict[int, Tensor]:
    return {model: (source == model).nonzero().flatten() for model in models}
