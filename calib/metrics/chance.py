"""What chance alone does to the bins of a perfectly calibrated model: its ECE, and bands for its accuracies.

Calibrated means: of the samples with confidence p a share p is right, correct_i ~ Bernoulli(confidence_i).
Then the number of right ones in a bin, S_b, is a sum of independent draws with mean mu_b = sum of confidences
and

    null ECE = E sum_b |S_b - mu_b| / N

is what a model without any fault scores at these confidences and this N: about sqrt(bins / N) / 3, so 0.03
for 545 samples. Nothing is drawn. The distribution of S_b is computed to rounding where its variance is at
most 25, from its characteristic function; above that it is the normal one with the Edgeworth terms of
skewness and kurtosis at the whole numbers, which errs by less than 1e-4 of the mean. The sum over bins is a
convolution. Samples are taken to be independent: where several images are of one patient, chance is larger.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from calib.core.binning import bin_edges, bin_indices
from calib.core.checks import as_float64, check_confidence

_EXACT = 25.0  # the variance up to which a distribution is computed exactly
_REACH = 10  # standard deviations on either side of the mean, beyond which there is next to nothing
_ROWS = 2**13  # samples whose factors of a characteristic function are held at once
_GRID = 4096  # steps of the sum over bins


def null_ece(confidence: Tensor, *, n_bins: int = 10) -> Tensor:
    """Return the ECE that a perfectly calibrated model with these confidences has on average, by chance.

    Args:
        confidence: (N,) in [0, 1].
        n_bins: Number of bins on [0, 1], as of the ECE it is compared with.

    Returns:
        () float64 in [0, 0.5]; 0 if every confidence is 0 or 1.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> round(float(null_ece(torch.tensor([0.75, 0.75]))), 4)  # 2 right: 9/16, 1: 6/16, 0: 1/16
        0.2812

    Source: Broecker and Smith 2007 (Increasing the reliability of reliability diagrams) and Vaicenavicius et
        al. 2019 (AISTATS), section 4, who draw such labels; here the mean of these draws is computed.
    """
    bins = [(chance, _distances(chance)) for _, chance in _chances(confidence, n_bins)]
    total = sum(float(chance.shares @ distance) for chance, distance in bins)
    return as_float64(confidence).new_tensor(total / len(confidence))


def null_ece_quantile(confidence: Tensor, *, n_bins: int = 10, level: float = 0.95) -> Tensor:
    """Return the ECE that a perfectly calibrated model stays below with probability `level`.

    An ECE above the quantile of 0.95 is evidence of miscalibration at the usual 5 %.

    Args:
        confidence: (N,) in [0, 1].
        n_bins: Number of bins on [0, 1].
        level: In (0, 1).

    Returns:
        () float64 in [0, 1], to about 1 % of the ECE's standard deviation.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> round(float(null_ece_quantile(torch.full((400,), 0.75))), 4)  # 300 +- 17 right ones
        0.0425

    Source: as `null_ece`.
    """
    _check_level(level)
    bins = [(chance.shares, _distances(chance)) for _, chance in _chances(confidence, n_bins)]
    longest = sum(float(distances.max()) for _, distances in bins)
    if longest == 0:
        return as_float64(confidence).new_zeros(())
    step = longest / (_GRID - 2 * len(bins) - 1)  # the sum fits into the grid: nothing wraps round
    spectrum = np.ones(_GRID // 2 + 1, dtype=np.complex128)
    for shares, distances in bins:
        place, part = np.divmod(distances / step, 1.0)  # shared by two steps, which keeps the mean
        index = place.astype(np.int64)
        mass = np.bincount(index, shares * (1 - part), _GRID) + np.bincount(index + 1, shares * part, _GRID)
        spectrum *= np.fft.rfft(mass)
    below = np.fft.irfft(spectrum, _GRID).cumsum()
    steps = int(np.searchsorted(below, level * below[-1]))
    return as_float64(confidence).new_tensor(min(steps * step / len(confidence), 1.0))


def consistency_band(confidence: Tensor, *, n_bins: int = 10, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Return between which accuracies each bin of a perfectly calibrated model lies with this probability.

    Per bin, not for all bins at once: of ten bins of a perfect model one leaves its 95 % band in 4 of 10
    pictures.

    Args:
        confidence: (N,) in [0, 1].
        n_bins: Number of bins on [0, 1].
        level: In (0, 1). At most (1 - level) / 2 lies beyond each end.

    Returns:
        Lower and upper ends, each (n_bins,) float64 in [0, 1], nan for bins without a sample.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> low, high = consistency_band(torch.full((100,), 0.75), n_bins=2)
        >>> [round(float(end[1]), 2) for end in (low, high)], bool(low[0].isnan())
        ([0.66, 0.83], True)

    Source: Broecker and Smith 2007, section 3 ("consistency bars"), given the counts of the bins.
    """
    _check_level(level)
    low, high = (torch.full((n_bins,), math.nan, dtype=torch.float64) for _ in range(2))
    for b, chance in _chances(confidence, n_bins):
        below = chance.shares.cumsum()
        ends = np.searchsorted(below, [(1 - level) / 2, (1 + level) / 2])
        ends = np.minimum(ends, len(below) - 1) + chance.lowest
        low[b], high[b] = (float(end) / chance.n for end in ends)
    device = as_float64(confidence).device
    return low.to(device), high.to(device)


class _Chance:
    """The distribution of the number of right ones among n samples that are calibrated.

    Attributes:
        n: Samples.
        mean: Their expected number, the sum of the confidences.
        lowest: The number that the first of the shares belongs to.
        shares: (K,) probabilities of lowest, lowest + 1, ..., that sum to 1.
    """

    def __init__(self, confidence: np.ndarray) -> None:
        self.n, self.mean = len(confidence), float(confidence.sum())
        open_ = confidence[(confidence > 0) & (confidence < 1)]
        certain = int((confidence == 1).sum())  # right in any case
        spread = open_ * (1 - open_)
        variance, mean = float(spread.sum()), float(open_.sum())
        reach = _REACH * (math.sqrt(variance) + 1)
        first, last = max(0, math.floor(mean - reach)), min(len(open_), math.ceil(mean + reach))
        if variance <= _EXACT:
            shares = _exact(open_, first, last - first + 1)
        else:
            skewness = float((spread * (1 - 2 * open_)).sum()) / variance**1.5
            kurtosis = float((spread * (1 - 6 * spread)).sum()) / variance**2
            shares = _edgeworth((np.arange(first, last + 1) - mean) / math.sqrt(variance), skewness, kurtosis)
        shares = shares.clip(min=0)
        self.lowest, self.shares = first + certain, shares / shares.sum()


def _exact(p: np.ndarray, first: int, size: int) -> np.ndarray:
    """Return the probabilities of first, ..., first + size - 1 successes of independent draws."""
    order = np.arange(size // 2 + 1)
    turns = np.exp(-2j * np.pi * order / size)
    spectrum = np.exp(2j * np.pi * (order * first % size) / size)  # counts from `first` on
    for start in range(0, len(p), _ROWS):
        spectrum = spectrum * (1 + p[start : start + _ROWS, None] * (turns - 1)).prod(axis=0)
    return np.fft.irfft(spectrum, size)


def _edgeworth(x: np.ndarray, skewness: float, kurtosis: float) -> np.ndarray:
    """Return the density at x standard deviations from the mean, but for a factor; it may fall below 0."""
    third, fourth = x**3 - 3 * x, x**4 - 6 * x**2 + 3  # Hermite polynomials
    sixth = x**6 - 15 * x**4 + 45 * x**2 - 15
    terms = 1 + skewness / 6 * third + kurtosis / 24 * fourth + skewness**2 / 72 * sixth
    return np.exp(-(x**2) / 2) * terms


def _chances(confidence: Tensor, n_bins: int) -> list[tuple[int, _Chance]]:
    """Return the bins that hold samples, each with its distribution."""
    check_confidence(confidence)
    bin_edges(n_bins)  # refuses a bad n_bins
    bins = bin_indices(confidence, n_bins).cpu().numpy()
    values = as_float64(confidence.detach()).cpu().numpy()
    return [(int(b), _Chance(values[bins == b])) for b in np.unique(bins)]


def _distances(chance: _Chance) -> np.ndarray:
    """Return |S - mu| of every number of right ones, (K,)."""
    return np.abs(chance.lowest + np.arange(len(chance.shares)) - chance.mean)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}.")
