"""Gaps between means of bins as losses: gradients in closed form, memory linear in the number of values.

The metrics' bins (`calib.core.binning`) check and count in float64; in training that would cost more than the
network. Here nothing waits for a device, NaN goes through to the loss, and what the gradient needs is kept as
one small whole number per value.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from calib.core.binning import sum_dtype

FAR = 1e4  # how far outside the outermost centres a soft weight reaches 0, in the release: hardly a slope
EMPTY_WEIGHT = 0.01  # a soft bin with less weight in it counts as empty, as in the release
MOST_BINS = 2**15 - 1  # bins are kept as int16


def binned_gaps(
    values: Tensor,
    targets: Tensor,
    *,
    n_bins: int,
    soft: bool = False,
    closed: Literal["left", "right"] = "right",
) -> Tensor:
    """Return the mean over non-empty bins of `|mean value - mean target|`, one number per row, (...,).

    `gap_m = sum_i w_im (v_i - t_i) / sum_i w_im`, and the result is the mean of `|gap_m|` over the bins with
    a value in them, each of the same weight. Hard bins: `w_im` is 1 in one bin and 0 elsewhere, and no
    gradient flows through it: `d/dv_i = sign(gap_m) / (n_m * M)` for M non-empty bins. Soft bins: `w_im`
    falls linearly from 1 at the centre of bin m to 0 at the centres of its neighbours (constant outside the
    outermost centres), so a value counts in two bins, and the gradient flows through the weights, too.

    Args:
        values: (..., N) in [0, 1], such as probabilities. The gradient flows to them.
        targets: (..., N) bool or numbers. No gradient flows to them.
        n_bins: Equally wide bins on [0, 1], from 1 to 32767.
        soft: Soft bins.
        closed: Which side of a hard bin belongs to it; "right": (e_m, e_m+1], and 0 to the first one.

    Returns:
        (...,), in [0, 1], in the dtype of the values.

    Raises:
        ValueError: `n_bins` is out of range, `closed` is unknown, shapes differ, or there are no values.

    Example:
        >>> values, targets = torch.tensor([0.1, 0.3, 0.9]), torch.tensor([0, 1, 1])
        >>> round(binned_gaps(values, targets, n_bins=2).item(), 4)  # |0.2 - 0.5| and |0.9 - 1|
        0.2
        >>> round(binned_gaps(values, targets, n_bins=2, soft=True).item(), 4)  # 0.3 is 0.9 low and 0.1 high
        0.2167
    """
    whole = isinstance(n_bins, int) and not isinstance(n_bins, bool)
    if not whole or not 1 <= n_bins <= MOST_BINS:
        raise ValueError(f"n_bins must be a whole number from 1 to {MOST_BINS}, got {n_bins!r}.")
    if closed not in ("left", "right"):
        raise ValueError(f"closed must be 'left' or 'right', got {closed!r}.")
    if values.shape != targets.shape or values.numel() == 0:
        shapes = f"{tuple(values.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"Values and targets must have the same shape and not be empty, got {shapes}.")
    numbers = targets.to(torch.uint8) if targets.dtype == torch.bool else targets  # torch subtracts no bools
    gaps: Tensor = (_SoftGaps if soft else _HardGaps).apply(values, numbers, n_bins, closed)
    return gaps


def hard_bins(values: Tensor, n_bins: int, closed: Literal["left", "right"] = "right") -> Tensor:
    """Return the hard bin of every value, int64, with the edges of the release.

    The edges are `linspace(0, 1 + eps, n_bins + 1)` in the dtype of the values, eps that of float32, so that
    a probability that lies on an edge falls where the release has it.

    Args:
        values: In [0, 1]; NaN is in one of the bins.
        n_bins: How many bins.
        closed: Which side of a bin belongs to it.

    Example:
        >>> hard_bins(torch.tensor([0.0, 0.5, 0.51, 1.0]), 2).tolist()
        [0, 0, 1, 1]
    """
    limits = _edges(values, n_bins)[1:].clone()
    limits[-1] = torch.inf
    # Never too high, and too low by one at most. A binary search (bucketize) would take much longer.
    bins = (values * (n_bins * (1 - 1e-6))).to(torch.int32).clamp_(0, n_bins - 1)
    limit = limits.index_select(0, bins.flatten()).view_as(values)
    return bins.add_(values > limit if closed == "right" else values >= limit).long()


def _mean_of_gaps(sums: Tensor, weights: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean absolute gap (...,), and per bin the gap and d(mean)/d(sum) where it has one."""
    filled = weights >= least
    n_filled = filled.sum(-1, keepdim=True)
    safe = weights.masked_fill(~filled, 1.0)
    gaps = (sums / safe).masked_fill(~filled, 0.0)  # NaN stays NaN in a filled bin
    slopes = (gaps.sign() / (safe * n_filled)).masked_fill(~filled, 0.0)
    return (gaps.abs() / n_filled).sum(-1), gaps, slopes


class _HardGaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, targets: Tensor, n_bins: int, closed: Any) -> Tensor:
        dtype = sum_dtype(values.device)
        bins = hard_bins(values, n_bins, closed)
        zeros = torch.zeros(*values.shape[:-1], n_bins, dtype=dtype, device=values.device)
        sums = zeros.scatter_add(-1, bins, (values - targets).to(dtype))
        counts = zeros.scatter_add_(
            -1, bins, torch.ones((), dtype=dtype, device=zeros.device).expand_as(bins)
        )
        gap, _, slopes = _mean_of_gaps(sums, counts, 1.0)
        ctx.save_for_backward(bins.to(torch.int16), slopes.to(values.dtype))
        return gap.to(values.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        bins, slopes = ctx.saved_tensors
        return (slopes * gradients[0].unsqueeze(-1)).gather(-1, bins.long()), None, None, None


class _SoftGaps(torch.autograd.Function):
    """Between two neighbouring centres both weights are linear in the value, and so is the gradient.

    Interval j lies between the centres of bins j - 1 and j; the first and the last one reach out to -FAR and
    FAR, where no bin is. In it the upper weight is `share = (v - start_j) / width_j`.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, targets: Tensor, n_bins: int, closed: Any) -> Tensor:
        dtype = sum_dtype(values.device)
        starts, widths = _intervals(n_bins, dtype, values.device)
        places = (values * n_bins + 0.5).to(torch.int32).clamp_(0, n_bins)
        flat = places.flatten()
        share = values.to(dtype) - starts.index_select(0, flat).view_as(values)
        share.div_(widths.index_select(0, flat).view_as(values))
        places = places.long()
        zeros = torch.zeros(*values.shape[:-1], n_bins + 1, dtype=dtype, device=values.device)
        one = torch.ones((), dtype=dtype, device=values.device).expand_as(values)
        difference = (values - targets).to(dtype)
        number, shares, total = (zeros.scatter_add(-1, places, each) for each in (one, share, difference))
        upper = zeros.scatter_add_(-1, places, share.mul_(difference))
        weights = (number - shares)[..., 1:] + shares[..., :-1]  # bin m: of intervals m + 1 and m
        sums = (total - upper)[..., 1:] + upper[..., :-1]
        gap, gaps, slopes = _mean_of_gaps(sums, weights, EMPTY_WEIGHT)
        # d/dv of sum_m slope_m w_m(v) (v - t - gap_m), slopes and gaps held, is constant + rate * (2 v - t)
        slopes, pulls = (pad(each, (1, 1)) for each in (slopes, slopes * gaps))
        rate = slopes.diff() / widths
        constant = slopes[..., :-1] - starts * rate - pulls.diff() / widths
        ctx.save_for_backward(values, targets, places.to(torch.int16), constant, rate)
        return gap.to(values.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        values, targets, places, constant, rate = ctx.saved_tensors
        places, outer = places.long(), gradients[0].unsqueeze(-1)
        slopes = (rate * outer).gather(-1, places).mul_((2 * values).sub_(targets))
        return slopes.add_((constant * outer).gather(-1, places)).to(values.dtype), None, None, None


def _intervals(n_bins: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return start and width of the n_bins + 1 intervals between the centres of soft bins."""
    edges = _edges(torch.empty(0, dtype=dtype, device=device), n_bins)
    starts = pad((edges[1:] + edges[:-1]) / 2, (1, 0), value=-FAR)
    return starts, pad(starts, (0, 1), value=FAR).diff()


def _edges(values: Tensor, n_bins: int) -> Tensor:
    end = 1 + torch.finfo(torch.float32).eps
    return torch.linspace(0, end, n_bins + 1, dtype=values.dtype, device=values.device)
