"""Bins and what falls into them: the only binning code of the project.

Calibration errors, mL1-ACE, histogram binning and reliability diagrams all ask the same two questions: which
bin does a value belong to, and what do the values and targets of each bin add up to. Bins are told apart by
their interior edges alone, so the outer bins are closed and a confidence of exactly 0 or 1 is counted like
any other.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor


class BinStatistics(NamedTuple):
    """What each bin holds; each tensor is (..., n_bins). Means are sums divided by counts."""

    counts: Tensor
    value_sums: Tensor
    target_sums: Tensor


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype in which sums are kept on a device: float64, or float32 on MPS, which has no float64.

    Args:
        device: Where the sums live.

    Example:
        >>> sum_dtype(torch.device("cpu"))
        torch.float64
    """
    return torch.float32 if device.type == "mps" else torch.float64


def bin_edges(n_bins: int) -> Tensor:
    """Return the n_bins + 1 edges of equally wide bins on [0, 1], float64.

    Args:
        n_bins: How many bins, at least 1.

    Raises:
        ValueError: If n_bins is not a positive whole number.

    Example:
        >>> bin_edges(4).tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if isinstance(n_bins, bool) or not isinstance(n_bins, (int, np.integer)) or n_bins < 1:
        raise ValueError(f"n_bins must be a whole number of at least 1, got {n_bins!r}.")
    # numpy's and torch's linspace differ in the last bit, which decides the bin of 0.3; other code uses
    # numpy's.
    return torch.from_numpy(np.linspace(0.0, 1.0, int(n_bins) + 1))


def bin_indices(
    values: Tensor,
    n_bins: int | None = None,
    *,
    edges: Tensor | None = None,
    closed: Literal["left", "right"] = "left",
) -> Tensor:
    """Return the bin of every value, int64, same shape as the values.

    index = number of interior edges that are <= value (closed="left") or < value (closed="right")

    Args:
        values: (..., N) in [0, 1], or within the outer edges if edges are given.
        n_bins: Number of equally wide bins on [0, 1]; None if edges are given.
        edges: (n_bins + 1,) increasing edges; None for equally wide bins.
        closed: Which side of a bin belongs to it: "left" is [e_m, e_m+1), "right" is (e_m, e_m+1]. The two
            outer edges always belong to the outer bins.

    Raises:
        ValueError: If there are no values, if a value is NaN or outside the outer edges, or if the bins are
            ill-defined.

    Example:
        >>> bin_indices(torch.tensor([0.0, 0.49, 0.5, 1.0]), 2).tolist()
        [0, 0, 1, 1]
        >>> bin_indices(torch.tensor([0.0, 0.49, 0.5, 1.0]), 2, closed="right").tolist()
        [0, 0, 0, 1]
    """
    edges = _edges(n_bins, edges)
    if closed not in ("left", "right"):
        raise ValueError(f"closed must be 'left' or 'right', got {closed!r}.")
    if values.numel() == 0:
        raise ValueError(f"Nothing to bin: values have shape {tuple(values.shape)}.")
    low, high = edges[0].item(), edges[-1].item()
    values = values.detach().to(sum_dtype(values.device))
    inside = (values >= low) & (values <= high)  # False for NaN too
    if not bool(inside.all()):
        first = values[~inside].flatten()[0].item()
        count = int((~inside).sum())
        raise ValueError(
            f"Values to bin must lie in [{low:g}, {high:g}]; {count} do not, the first is {first:g}."
        )
    interior = edges[1:-1].to(values)
    return torch.bucketize(values.contiguous(), interior, right=closed == "left")


def equal_mass_indices(values: Tensor, n_bins: int) -> Tensor:
    """Return the equal-mass bin of every value along the last axis, int64; tied values always share a bin.

    index_i = floor(n_bins * (below_i + equal_i / 2) / N)

    where below_i counts the values smaller than value i and equal_i those equal to it, itself included.
    Without ties the bin sizes differ by at most one. With ties the index depends on the values only, never on
    the order of the rows; a large group of ties may leave neighbouring bins empty.

    Args:
        values: (..., N), finite.
        n_bins: Number of bins, at least 1.

    Raises:
        ValueError: If there are no values, one is not finite, or n_bins is not a positive whole number.

    Example:
        >>> equal_mass_indices(torch.tensor([0.9, 0.6, 0.7, 0.8]), 2).tolist()
        [1, 0, 0, 1]
        >>> equal_mass_indices(torch.tensor([0.6, 1.0, 1.0, 1.0]), 2).tolist()
        [0, 1, 1, 1]
    """
    bin_edges(n_bins)  # refuses a bad n_bins with the same words
    if values.numel() == 0:
        raise ValueError(f"Nothing to bin: values have shape {tuple(values.shape)}.")
    if not bool(values.isfinite().all()):
        raise ValueError("Values to bin must be finite.")
    values = values.detach().contiguous()
    in_order = values.sort(dim=-1).values
    below = torch.searchsorted(in_order, values, right=False)
    up_to = torch.searchsorted(in_order, values, right=True)
    # 2 * below + equal = below + up_to. Whole numbers: no rounding decides a bin.
    return (below + up_to) * n_bins // (2 * values.shape[-1])


def sum_by_bin(indices: Tensor, values: Tensor, targets: Tensor, n_bins: int) -> BinStatistics:
    """Return counts, sums of values and sums of targets per bin for bins that are already known.

    Args:
        indices: (..., N) int64 in [0, n_bins).
        values: (..., N). Gradients flow from the sums to the values.
        targets: (..., N), bool or numbers.
        n_bins: Number of bins.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> values, targets = torch.tensor([0.5, 0.75, 1.0]), torch.tensor([0, 1, 0])
        >>> [column.tolist() for column in sum_by_bin(torch.tensor([0, 1, 1]), values, targets, 2)]
        [[1.0, 2.0], [0.5, 1.75], [0.0, 1.0]]
    """
    if not indices.shape == values.shape == targets.shape:
        shapes = [tuple(t.shape) for t in (indices, values, targets)]
        raise ValueError(f"Indices, values and targets must have the same shape, got {shapes}.")
    dtype = sum_dtype(values.device)
    zeros = torch.zeros(*values.shape[:-1], n_bins, dtype=dtype, device=values.device)
    columns = (torch.ones_like(values, dtype=dtype), values.to(dtype), targets.to(dtype))
    return BinStatistics(*(zeros.scatter_add(-1, indices, column) for column in columns))


def bin_statistics(
    values: Tensor,
    targets: Tensor,
    n_bins: int | None = None,
    *,
    edges: Tensor | None = None,
    closed: Literal["left", "right"] = "left",
) -> BinStatistics:
    """Return counts, sums of values and sums of targets per bin, each (..., n_bins).

    The sums are float64 (float32 on MPS). Those of two batches add up to those of the whole, so batches and
    processes can be pooled exactly.

    Args:
        values: (..., N) what decides the bin, e.g. confidences, in [0, 1]. Gradients flow through the sums,
            not through the choice of the bin.
        targets: (..., N) what is compared with the values, e.g. whether the prediction was correct.
        n_bins: Number of equally wide bins on [0, 1]; None if edges are given.
        edges: (n_bins + 1,) increasing edges; None for equally wide bins.
        closed: "left": bins [e_m, e_m+1), the last one closed; "right": bins (e_m, e_m+1], the first one
            closed.

    Raises:
        ValueError: If there are no values, if a value is NaN or outside the bins, or if shapes or bins are
            ill-defined.

    Example:
        >>> values, targets = torch.tensor([0.25, 0.75, 1.0]), torch.tensor([True, True, False])
        >>> [column.tolist() for column in bin_statistics(values, targets, 2)]
        [[1.0, 2.0], [0.25, 1.75], [1.0, 1.0]]
    """
    edges = _edges(n_bins, edges)
    return sum_by_bin(bin_indices(values, edges=edges, closed=closed), values, targets, len(edges) - 1)


def _edges(n_bins: int | None, edges: Tensor | None) -> Tensor:
    if (n_bins is None) == (edges is None):
        raise ValueError(f"Give either n_bins or edges, got n_bins={n_bins!r} and edges={edges!r}.")
    if edges is None:
        return bin_edges(n_bins)  # type: ignore[arg-type]
    if edges.ndim != 1 or len(edges) < 2 or not bool((edges.diff() > 0).all()):
        raise ValueError(f"Edges must be an increasing list of at least 2 numbers, got {edges.tolist()}.")
    return edges.detach()
