"""Class shares of where predictions are used: how much labelled rows count; what n rows cannot exclude."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SHARES_TOLERANCE = 1e-3  # by how much stated shares may miss 1: they are typed by hand


def class_weights(labels: Tensor, classes: int, shares: Sequence[float] | Tensor | None) -> Tensor:
    """Return how much each labelled row counts, (N,) float64 of mean 1: share[y] / (n_y / N).

    Args:
        labels: (N,) class indices.
        classes: C.
        shares: (C,) as for `check_shares`. None: every row counts 1.

    Raises:
        ValueError: The shares are not as above, or a class with a share above 0 has no row.

    Example:
        >>> class_weights(torch.tensor([0, 0, 1, 1]), 2, [0.75, 0.25]).tolist()
        [1.5, 1.5, 0.5, 0.5]
    """
    if shares is None:
        return torch.ones(len(labels), dtype=torch.float64)
    wanted = check_shares(shares, classes)
    labels = labels.cpu().to(torch.int64)
    counts = torch.bincount(labels, minlength=classes)
    missing = ((counts == 0) & (wanted > 0)).nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            f"Class {missing[0]} has a share of {float(wanted[missing[0]]):g} and no labelled row: nothing "
            "is known of it. Label some, or leave the shares out."
        )
    return (wanted * len(labels) / counts.clamp_min(1))[labels]


def check_shares(shares: Sequence[float] | Tensor, classes: int) -> Tensor:
    """Return class shares (C,) float64 that sum to 1 exactly; refuse what are none.

    Args:
        shares: One number for each class in [0, 1]. They may miss 1 by 1e-3, as numbers typed by hand do.
        classes: C.

    Raises:
        ValueError: They are not as above.

    Example:
        >>> check_shares([0.6, 0.4], 2).tolist()
        [0.6, 0.4]
    """
    values = torch.as_tensor(shares, dtype=torch.float64).detach().cpu()
    if values.shape != (classes,):
        raise ValueError(f"shares must be {classes} numbers, one per class, not {tuple(values.shape)}.")
    if not bool((values >= 0).all()):  # False for NaN too
        raise ValueError(f"shares must be at least 0, got {values.tolist()}.")
    total = float(values.sum())
    if not abs(total - 1) <= SHARES_TOLERANCE:
        raise ValueError(f"shares must sum to 1 (within {SHARES_TOLERANCE:g}), and they sum to {total:g}.")
    return values / total


def mixed(probs: Tensor, rows: int) -> Tensor:
    """Return (1 - 1 / (n + 1)) p + 1 / ((n + 1) C): no probability is 0 after n rows.

    Args:
        probs: (N, C), rows sum to 1.
        rows: n.

    Example:
        >>> mixed(torch.tensor([[1.0, 0.0]], dtype=torch.float64), 4).tolist()
        [[0.9, 0.1]]

    Source: Berta et al. 2025 (arXiv 2511.03685), ts-mix.
    """
    return probs * (1 - 1 / (rows + 1)) + 1 / ((rows + 1) * probs.shape[-1])
