"""How strange each class would be for an image, from its probabilities: LAC, APS, RAPS; higher = stranger."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64

DECIMALS = 12  # sums of the same probabilities in another order are then equal
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64


def lac(probs: Tensor) -> Tensor:
    """Return 1 - p of every class, (N, C): the smallest sets on average, which may be empty.

    Args:
        probs: (N, C) float64.

    Example:
        >>> lac(torch.tensor([[0.75, 0.25]])).tolist()
        [[0.25, 0.75]]

    Source: Sadinle, Lei and Wasserman 2019 (JASA 114), "least ambiguous set-valued classifiers".
    """
    return 1 - probs


def aps(probs: Tensor) -> Tensor:
    """Return the sum of the probabilities that are at least that of the class, (N, C).

    Classes of equal probability have equal scores, whatever their order. By itself it leaves the sets of the
    surest images empty, whose largest probability is above the threshold; see `never_empty` of
    `PredictionSets`. The least probable class scores 1: of a model that often finds the true class least
    probable many sets are full, and "aps_randomized" or "lac" are smaller.

    Args:
        probs: (N, C) float64.

    Example:
        >>> aps(torch.tensor([[0.125, 0.625, 0.25]])).tolist()
        [[1.0, 0.625, 0.875]]

    Source: Romano, Sesia and Candès 2020 (NeurIPS), with u = 0.
    """
    return _sums(probs)[0]


def aps_randomized(probs: Tensor, noise: Tensor) -> Tensor:
    """Return the sum of the larger probabilities and a share 1 - u of those that equal the class's, (N, C).

    Args:
        probs: (N, C) float64.
        noise: (N,) u in [0, 1), one for each image (`row_noise`).

    Example:
        >>> aps_randomized(torch.tensor([[0.125, 0.625, 0.25]]), torch.tensor([0.5])).tolist()
        [[0.9375, 0.3125, 0.75]]

    Source: Romano, Sesia and Candès 2020 (NeurIPS).
    """
    upto, own, _ = _sums(probs)
    return upto - noise[:, None] * own


def raps(probs: Tensor, *, penalty: float = 0.01, free: int = 1) -> Tensor:
    """Return APS plus penalty * max(0, rank - free), (N, C): large sets become rare.

    The rank of a class counts the classes at least as probable. Penalty and free ranks are fixed before the
    calibration rows are seen: tuned on them, they void the guarantee.

    Args:
        probs: (N, C) float64.
        penalty: For every further class, at least 0.
        free: How many classes cost nothing, at least 0.

    Example:
        >>> raps(torch.tensor([[0.125, 0.625, 0.25]]), penalty=0.5).tolist()
        [[2.0, 0.625, 1.375]]

    Source: Angelopoulos, Bates, Jordan and Malik 2021 (ICLR), with u = 0.
    """
    upto, _, rank = _sums(probs)
    return upto + penalty * (rank - free).clamp_min(0)


def raps_randomized(probs: Tensor, noise: Tensor, *, penalty: float = 0.01, free: int = 1) -> Tensor:
    """Return randomised APS plus penalty * max(0, rank - free), (N, C); see `raps`.

    Args:
        probs: (N, C) float64.
        noise: (N,) u in [0, 1).
        penalty: As in `raps`.
        free: As in `raps`.

    Example:
        >>> raps_randomized(torch.tensor([[0.125, 0.625, 0.25]]), torch.tensor([0.5]), penalty=0.5).tolist()
        [[1.9375, 0.3125, 1.25]]
    """
    upto, own, rank = _sums(probs)
    return upto - noise[:, None] * own + penalty * (rank - free).clamp_min(0)


# Every score by name. Positional parameters are tensors, keyword-only ones settings of `PredictionSets`.
SETS: dict[str, Callable[..., Tensor]] = {
    "lac": lac,
    "aps": aps,
    "aps_randomized": aps_randomized,
    "raps": raps,
    "raps_randomized": raps_randomized,
}


def rounded(scores: Tensor) -> Tensor:
    """Return scores to 12 decimals: what is equal but for the order of a sum is equal.

    Args:
        scores: Any shape, float64.
    """
    return scores.round(decimals=DECIMALS)


def row_noise(probs: Tensor, seed: int = 0) -> Tensor:
    """Return u in [0, 1) for every row, (N,) float64: a hash of the row's probabilities and the seed.

    The same image has the same u in any batch, on any machine, and under any order of the classes. That it
    depends on the image voids nothing: the score stays one function of image and class.

    Args:
        probs: (N, C). Only what float32 holds of them counts.
        seed: Another seed, other numbers.

    Example:
        >>> rows = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.5, 0.5, 0.0]])
        >>> u = row_noise(rows)
        >>> bool(u[0] == u[1]), bool(u[0] == u[2])
        (True, False)
    """
    bits = probs.detach().cpu().float().sort(dim=1).values.numpy().view(np.uint32).astype(np.uint64)
    state = np.full(len(bits), np.uint64(seed % 2**64), dtype=np.uint64)
    for column in bits.T:  # one pass of SplitMix64 for each class
        state = (state ^ column) + np.uint64(_MIX[0])
        state = (state ^ (state >> np.uint64(30))) * np.uint64(_MIX[1])
        state = (state ^ (state >> np.uint64(27))) * np.uint64(_MIX[2])
        state = state ^ (state >> np.uint64(31))
    return torch.from_numpy((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _sums(probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each class what is as probable or more: sum, the part of equals, and number, all (N, C)."""
    values = as_float64(probs)
    ordered, order = values.sort(dim=1, descending=True, stable=True)
    sums, own = ordered.cumsum(dim=1), ordered
    place = torch.arange(values.shape[1], device=values.device).expand_as(order)
    ranks = place + 1
    equal = ordered[:, 1:] == ordered[:, :-1]
    if bool(equal.any()):  # sum and rank of the last of equals; and what they are together
        first, last = place.clone(), place.clone()
        first[:, 1:][equal] = 0
        first = first.cummax(dim=1).values
        last[:, :-1][equal] = values.shape[1]
        last = last.flip(1).cummin(dim=1).values.flip(1)
        sums, ranks = sums.gather(1, last), last + 1
        own = ordered * (last - first + 1)
    back = torch.empty_like(order).scatter_(1, order, place.contiguous())
    return sums.gather(1, back), own.gather(1, back), ranks.gather(1, back)
