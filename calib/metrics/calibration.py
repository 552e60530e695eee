"""Calibration errors from bins: ECE and its kin, over- and underconfidence, adaptive and classwise ECE.

All of them start from sums per bin (`calib.core.binning`). With gap_b = (sum of confidences - number correct)
of bin b, n_b its count and N the number of samples:

    ECE = sum_b |gap_b| / N                     overconfidence  = sum_b max(gap_b, 0) / N
    RMSCE = sqrt(sum_b n_b / N (gap_b / n_b)^2)   underconfidence = sum_b max(-gap_b, 0) / N
    MCE = max over bins that hold a sample of |gap_b| / n_b

Hence ECE = overconfidence + underconfidence, and mean confidence - accuracy = overconfidence -
underconfidence. Bins are [e_b, e_b+1) with the last one closed. Empty bins add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from calib.core.binning import bin_indices, bin_statistics, equal_mass_indices, sum_by_bin
from calib.core.checks import as_float64, check_confidence, check_labels, check_probs
from calib.core.errors import unknown_name

Norm = Literal["l1", "l2", "max", "over", "under"]
Adaptive = Literal["equal_mass", "official", "official_linear"]


def error_from_sums(sums: Sequence[Tensor], norm: Norm = "l1") -> Tensor:
    """Return the calibration error of sums per bin, for many sets of sums at once.

    Args:
        sums: Counts (at least one in all), sums of confidences and sums of correct predictions per bin, each
            (..., n_bins), as from `calib.core.binning.bin_statistics`; all three may be divided by N.
        norm: "l1" ECE, "l2" RMSCE, "max" MCE, "over" overconfidence, "under" underconfidence (formulas
            above).

    Returns:
        (...) in [0, 1].

    Raises:
        ValueError: If the norm is unknown.

    Example:
        >>> sums = torch.tensor([[10.0, 10.0], [7.0, 9.0], [6.0, 10.0]])
        >>> error_from_sums(sums), error_from_sums(sums, "over"), error_from_sums(sums, "under")
        (tensor(0.1000), tensor(0.0500), tensor(0.0500))
    """
    counts, confidence_sums, correct_sums = sums
    gap_sums = confidence_sums - correct_sums
    total = counts.sum(dim=-1)
    if norm == "l1":
        return gap_sums.abs().sum(dim=-1) / total
    if norm == "over":
        return gap_sums.clamp(min=0).sum(dim=-1) / total
    if norm == "under":
        return (-gap_sums).clamp(min=0).sum(dim=-1) / total
    gaps = torch.where(counts > 0, gap_sums.abs() / counts, 0.0)  # an empty bin has no gap
    if norm == "max":
        return gaps.amax(dim=-1)
    if norm == "l2":
        return ((counts * gaps.square()).sum(dim=-1) / total).sqrt()
    raise unknown_name("norm", norm, get_args(Norm))


def expected_calibration_error(
    confidence: Tensor, correct: Tensor, *, n_bins: int = 10, norm: Norm = "l1", official: bool = False
) -> Tensor:
    """Return the calibration error over equally wide confidence bins; ECE unless another norm is asked for.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        n_bins: Number of bins on [0, 1].
        norm: "l1" ECE, "l2" RMSCE, "max" MCE, "over" overconfidence, "under" underconfidence.
        official: Reproduce the numbers of the official CalibPrompt code, for "l1" and "max" only. Its ECE
            counts a confidence of exactly 1.0 in the weight of the last bin but leaves it out of that bin's
            accuracy and mean confidence (a bin of nothing but 1.0 adds 0); its MCE is max_b |gap_b| / N, the
            largest term of the ECE.

    Returns:
        () float64 in [0, 1].

    Raises:
        ValueError: If the inputs are not as above, the norm is unknown or it has no official variant.

    Example:
        >>> confidence = torch.tensor([0.95, 1.0]); correct = torch.tensor([True, False])
        >>> round(float(expected_calibration_error(confidence, correct)), 4)
        0.475
        >>> round(float(expected_calibration_error(confidence, correct, official=True)), 4)
        0.05

    Source: Naeini et al. 2015 (ECE, MCE); Guo et al. 2017, eq. 3 and 5. Official:
        github.com/iabh1shekbasu/CalibPrompt c6ec13e, tools/metrics.py.
    Differs: confidence 1.0 belongs to the last bin, and the MCE is not weighted with the mass of the bin.
    """
    check_confidence(confidence, correct)
    confidence, hits = as_float64(confidence), as_float64(correct)
    stats = bin_statistics(confidence, hits, n_bins)
    if not official:
        return error_from_sums(stats, norm)
    if norm == "max":
        return ((stats.value_sums - stats.target_sums).abs() / len(confidence)).max()
    if norm != "l1":
        raise ValueError(f"Only the norms 'l1' and 'max' have an official variant, got {norm!r}.")
    below_one = confidence < 1
    if not bool(below_one.any()):
        return confidence.new_zeros(())
    inner = bin_statistics(confidence[below_one], hits[below_one], n_bins)
    gaps = torch.where(inner.counts > 0, (inner.value_sums - inner.target_sums).abs() / inner.counts, 0.0)
    return (stats.counts * gaps).sum() / len(confidence)


def maximum_calibration_error(
    confidence: Tensor, correct: Tensor, *, n_bins: int = 10, official: bool = False
) -> Tensor:
    """Return the MCE: the largest |mean confidence - accuracy| of a bin that holds a sample.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        n_bins: Number of bins on [0, 1].
        official: The official CalibPrompt number max_b n_b / N |gap|, see `expected_calibration_error`.

    Returns:
        () float64 in [0, 1].

    Example:
        >>> confidence = torch.tensor([0.85, 0.85, 0.85, 0.65])
        >>> correct = torch.tensor([True, True, True, False])
        >>> round(float(maximum_calibration_error(confidence, correct)), 4)
        0.65
        >>> round(float(maximum_calibration_error(confidence, correct, official=True)), 4)
        0.1625
    """
    return expected_calibration_error(confidence, correct, n_bins=n_bins, norm="max", official=official)


def overconfidence(confidence: Tensor, correct: Tensor, *, n_bins: int = 10) -> Tensor:
    """Return the part of the ECE from bins that are more confident than accurate: sum_b max(gap_b, 0) / N.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        n_bins: Number of bins on [0, 1].

    Returns:
        () float64 in [0, 1].

    Example:
        >>> round(float(overconfidence(torch.tensor([0.95, 0.55]), torch.tensor([False, True]))), 4)
        0.475

    Source: the positive half of the ECE. Differs: the "OE" of Thulasidasan et al. 2019 (On Mixup Training)
        multiplies each term with the mean confidence of the bin; without that factor over- and
        underconfidence add up to the ECE.
    """
    return expected_calibration_error(confidence, correct, n_bins=n_bins, norm="over")


def underconfidence(confidence: Tensor, correct: Tensor, *, n_bins: int = 10) -> Tensor:
    """Return the part of the ECE from bins that are less confident than accurate: sum_b max(-gap_b, 0) / N.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        n_bins: Number of bins on [0, 1].

    Returns:
        () float64 in [0, 1].

    Example:
        >>> round(float(underconfidence(torch.tensor([0.95, 0.55]), torch.tensor([False, True]))), 4)
        0.225
    """
    return expected_calibration_error(confidence, correct, n_bins=n_bins, norm="under")


def mean_confidence(confidence: Tensor) -> Tensor:
    """Return the mean confidence, () float64 in [0, 1].

    Args:
        confidence: (N,) in [0, 1].

    Example:
        >>> float(mean_confidence(torch.tensor([0.5, 1.0])))
        0.75
    """
    check_confidence(confidence)
    return as_float64(confidence).mean()


def confidence_gap(confidence: Tensor, correct: Tensor) -> Tensor:
    """Return mean confidence - accuracy, () float64 in [-1, 1]: positive when overconfident as a whole.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.

    Example:
        >>> float(confidence_gap(torch.tensor([0.5, 1.0]), torch.tensor([True, False])))
        0.25
    """
    check_confidence(confidence, correct)
    return (as_float64(confidence) - as_float64(correct)).mean()


def adaptive_calibration_error(
    confidence: Tensor, correct: Tensor, *, n_bins: int = 10, adaptive: Adaptive = "equal_mass"
) -> Tensor:
    """Return the ECE of the top label over bins that hold equally many samples.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        n_bins: Number of bins.
        adaptive: "equal_mass": bin = floor(n_bins * mid-rank / N), see
            `calib.core.binning.equal_mass_indices`; ties share a bin, the order of the rows does not matter.
            "official" and "official_linear" reproduce the official code, which cuts at the quantiles of
            scikit-learn's KBinsDiscretizer and drops bins narrower than 1e-8: with scikit-learn >= 1.9
            (averaged inverted CDF) and before (linear interpolation; the published numbers).

    Returns:
        () float64 in [0, 1].

    Raises:
        ValueError: If the inputs are not as above or the variant is unknown.

    Example:
        >>> confidence = torch.tensor([0.6, 0.7, 0.9, 0.9]); correct = torch.tensor([True, False, True, True])
        >>> round(float(adaptive_calibration_error(confidence, correct, n_bins=2)), 4)
        0.125

    Source: Nguyen and O'Connor 2015 (equal-mass bins). Official: AdaptiveECE in
        github.com/iabh1shekbasu/CalibPrompt c6ec13e, tools/metrics.py. Not the ACE of Nixon et al. 2019,
        which goes over all classes.
    Differs: the bins do not depend on a library's definition of a quantile.
    """
    check_confidence(confidence, correct)
    confidence = as_float64(confidence)
    if adaptive == "equal_mass":
        indices = equal_mass_indices(confidence, n_bins)
    elif adaptive in ("official", "official_linear"):
        indices = _quantile_indices(confidence, n_bins, linear=adaptive == "official_linear")
    else:
        raise unknown_name("adaptive binning", adaptive, get_args(Adaptive))
    return error_from_sums(sum_by_bin(indices, confidence, as_float64(correct), n_bins))


def classwise_calibration_error(probs: Tensor, labels: Tensor, *, n_bins: int = 10) -> Tensor:
    """Return the classwise ECE: the mean over all C classes of the ECE of probs[:, c] against labels == c.

    Args:
        probs: (N, C) in [0, 1], rows sum to 1.
        labels: (N,) class indices. A class without samples counts like any other: its frequency is 0.
        n_bins: Number of bins on [0, 1].

    Returns:
        () float64 in [0, 1].

    Example:
        >>> probs = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
        >>> round(float(classwise_calibration_error(probs, torch.tensor([0, 1]))), 4)
        0.25

    Source: Nixon et al. 2019 (static calibration error); Kull et al. 2019, section 2.
    """
    check_probs(probs)
    check_labels(labels, probs)
    return error_from_sums(classwise_statistics(probs, labels, n_bins)).mean()


def classwise_statistics(probs: Tensor, labels: Tensor, n_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts, probability sums and label counts per class and bin, each (C, n_bins) float64.

    Args:
        probs: (N, C) in [0, 1].
        labels: (N,) class indices.
        n_bins: Number of bins on [0, 1].

    Example:
        >>> counts, sums, hits = classwise_statistics(torch.tensor([[0.75, 0.25]]), torch.tensor([0]), 2)
        >>> counts.tolist(), hits.tolist()
        ([[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]])
    """
    probs = as_float64(probs)
    is_class = labels.to(probs.device) == torch.arange(probs.shape[1], device=probs.device)[:, None]  # (C, N)
    return bin_statistics(probs.T, is_class, n_bins)


def _quantile_indices(confidence: Tensor, n_bins: int, linear: bool) -> Tensor:
    """Return the bins of scikit-learn's quantile KBinsDiscretizer, without its subsampling of large sets."""
    levels = np.linspace(0, 100, n_bins + 1)
    method: Literal["linear", "averaged_inverted_cdf"] = "linear" if linear else "averaged_inverted_cdf"
    cuts = np.percentile(confidence.cpu().numpy(), levels, method=method)
    cuts = cuts[np.ediff1d(cuts, to_begin=np.inf) > 1e-8]
    edges = torch.from_numpy(np.concatenate([[0.0], cuts[1:-1], [1.0]]))
    # A cut at exactly 0 or 1 would make an outer bin of width nought: all its values lie on one side anyway.
    edges = torch.cat([edges[:1] - 1, edges[1:-1], edges[-1:] + 1])
    return bin_indices(confidence, edges=edges)
