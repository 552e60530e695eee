"""Bins of many units (images, patients, sites, seeds): errors of each and of all, and how the units differ.

A pooled reliability diagram shows the mean of all units, under which overconfident and underconfident ones
can hide each other. Everything here starts from sums per unit and bin, (U, ..., M), as `calib.core.binning`
gives them: they are small, so that units can be added one by one, and the pixels need not be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from calib.core.binning import BinStatistics, bin_indices, bin_statistics, sum_by_bin
from calib.core.checks import as_float64, check_confidence
from calib.core.errors import unknown_name

BinError = Literal["ece", "ace", "mce"]
Pooling = Literal["counts", "official_v1", "official_v2"]


def bin_error(stats: BinStatistics, error: BinError) -> Tensor:
    """Return a calibration error of sums per bin, (...,), NaN where nothing was counted.

    With gap_m = mean value - mean target of bin m and n_m its count, over non-empty bins: "ece" is
    `sum_m n_m |gap_m| / sum_m n_m`, "ace" `mean_m |gap_m|` (every bin counts alike), "mce" `max_m |gap_m|`.

    Args:
        stats: Counts, sums of values, sums of targets, each (..., M).
        error: Which one.

    Raises:
        ValueError: The error is unknown.

    Example:
        >>> stats = BinStatistics(*torch.tensor([[3.0, 1.0, 0.0], [0.9, 0.6, 0.0], [0.0, 1.0, 0.0]]))
        >>> [round(bin_error(stats, name).item(), 3) for name in ("ece", "ace", "mce")]
        [0.325, 0.35, 0.4]

    Source: Barfoot et al., MICCAI 2024 (ECE, ACE and MCE of an image and class).
    """
    counts, value_sums, target_sums = stats
    gaps = (value_sums - target_sums).abs() / counts  # NaN in an empty bin
    if error == "ece":
        return (value_sums - target_sums).abs().sum(-1) / counts.sum(-1)
    if error == "ace":
        return gaps.nanmean(-1)
    if error == "mce":
        return gaps.masked_fill(counts == 0, -1.0).amax(-1).masked_fill((counts == 0).all(-1), torch.nan)
    raise unknown_name("error of bins", error, get_args(BinError))


def pooled_bins(stats: BinStatistics, pooling: Pooling = "counts") -> BinStatistics:
    """Return the bins of all units together, (..., M): the first axis is pooled.

    "counts" adds the sums, so that every pixel counts alike. The two releases take means of the units' means
    instead, whatever the units hold: "official_v1" of the values and of the targets, "official_v2" of the
    values only, so that its gap compares means over different weights. They are there to replay figures.

    Args:
        stats: Sums per unit and bin, each (U, ..., M).
        pooling: How.

    Raises:
        ValueError: The pooling is unknown.

    Example:
        >>> stats = BinStatistics(*torch.tensor([[[4.0], [1.0]], [[1.0], [0.5]], [[1.0], [1.0]]]))
        >>> for pooling in ("counts", "official_v1", "official_v2"):
        ...     counts, values, targets = pooled_bins(stats, pooling)
        ...     print(round((values / counts).item(), 3), round((targets / counts).item(), 3))
        0.3 0.4
        0.375 0.625
        0.375 0.4

    Source: cai4cai/ACE-DLIRIS 83d163c (v1), cai4cai/Average-Calibration-Losses 5ad8418 (v2).
    """
    counts, value_sums, target_sums = (each.sum(0) for each in stats)
    if pooling == "counts":
        return BinStatistics(counts, value_sums, target_sums)
    if pooling not in get_args(Pooling):
        raise unknown_name("pooling", pooling, get_args(Pooling))
    value_sums = (stats.value_sums / stats.counts).nanmean(0).nan_to_num(0.0) * counts
    if pooling == "official_v1":
        target_sums = (stats.target_sums / stats.counts).nanmean(0).nan_to_num(0.0) * counts
    return BinStatistics(counts, value_sums, target_sums)


def reliability_histogram(stats: BinStatistics, n_rows: int | None = None) -> Tensor:
    """Return how many units have which mean target in which bin, int64 (..., n_rows, M): rows from 0 up to 1.

    `H[r, m]` counts the units whose bin m is not empty and whose mean target there lies in the r-th of
    `n_rows` equal parts (from, to] of [0, 1]. Columns of calibrated units are narrow, on
    the diagonal.

    Args:
        stats: Sums per unit and bin, each (U, ..., M).
        n_rows: Rows. None: as many as bins.

    Raises:
        ValueError: There is no unit, or `n_rows` is below 1.

    Example:
        >>> counts, values, hits = [[4.0, 0.0]] * 2, [[1.0, 0.0]] * 2, [[1.0, 0.0], [4.0, 0.0]]
        >>> stats = BinStatistics(*torch.tensor([counts, values, hits]))
        >>> reliability_histogram(stats).tolist()  # bin 1: mean targets 1/4 and 1; bin 2 is empty
        [[1, 0], [1, 0]]

    Source: Barfoot et al., arXiv 2506.03942 (dataset reliability histogram; there rows from 1 down to 0).
    """
    counts, _, target_sums = stats
    if len(counts) == 0:
        raise ValueError("There is no unit to count.")
    means = (target_sums / counts).movedim(0, -1)  # (..., M, U)
    filled = ~means.isnan()
    rows = counts.shape[-1] if n_rows is None else n_rows
    found = means.nan_to_num(0.0).clamp(0, 1)  # rounding of sums
    weights = filled.to(found.dtype)
    table = bin_statistics(found, weights, rows, closed="right").target_sums  # (..., M, rows)
    return table.movedim(-1, -2).long()


def bins_by_unit(
    confidence: Tensor, correct: Tensor, units: Sequence[str], *, n_bins: int = 10
) -> tuple[list[str], BinStatistics]:
    """Return the names of the units, sorted, and their bins of confidence against correctness, each (U, M).

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        units: (N,) what each prediction belongs to: a patient, a site, a seed.
        n_bins: Equally wide bins on [0, 1].

    Raises:
        ValueError: The inputs are not as above.

    Example:
        >>> confidence, correct = torch.tensor([0.9, 0.8, 0.3]), torch.tensor([True, False, True])
        >>> names, stats = bins_by_unit(confidence, correct, ["site B", "site A", "site B"], n_bins=2)
        >>> names, stats.counts.tolist(), stats.target_sums.tolist()
        (['site A', 'site B'], [[0.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]])
    """
    check_confidence(confidence, correct)
    if len(units) != len(confidence):
        raise ValueError(f"Expected the unit of each of {len(confidence)} predictions, got {len(units)}.")
    names = sorted({str(unit) for unit in units})
    place = {name: number for number, name in enumerate(names)}
    of = torch.tensor([place[str(unit)] for unit in units])
    confidence, hits = as_float64(confidence).cpu(), as_float64(correct).cpu()
    cells = of * n_bins + bin_indices(confidence, n_bins)
    sums = sum_by_bin(cells, confidence, hits, len(names) * n_bins)
    return names, BinStatistics(*(each.view(len(names), n_bins) for each in sums))
