"""Net benefit: what acting on a model's probabilities is worth, beside treating all and treating none."""

from __future__ import annotations

import torch
from torch import Tensor

from calib.core.checks import as_float64, check_confidence, check_tensor


def net_benefit(prob: Tensor, event: Tensor, thresholds: Tensor) -> Tensor:
    """Return the net benefit of acting wherever the probability reaches a threshold, (T,) float64.

    net benefit(t) = TP / N - FP / N * t / (1 - t)

    where acting on p >= t gives TP right and FP needless actions among N. Whoever acts at t holds a missed
    case to be (1 - t) / t times as bad as a needless action. A net benefit of 0.10 is worth as much as acting
    rightly in 10 of 100 cases and never needlessly. That of treating all is
    `net_benefit(torch.ones(N), event, thresholds)`, that of treating none is 0.

    Args:
        prob: (N,) in [0, 1], of the event.
        event: (N,) bool: whether it is there.
        thresholds: (T,) in (0, 1).

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> prob = torch.tensor([0.9, 0.6, 0.4, 0.1])
        >>> event = torch.tensor([True, False, True, False])
        >>> net_benefit(prob, event, torch.tensor([0.5, 0.25])).tolist()  # 1/4 - 1/4 * 1, 2/4 - 1/4 * 1/3
        [0.0, 0.4166666666666667]

    Source: Vickers and Elkin 2006, Medical Decision Making 26; as in the package `dcurves`.
    """
    check_confidence(prob)
    check_tensor(event, "event")
    check_tensor(thresholds, "thresholds")
    if event.shape != prob.shape or event.dtype != torch.bool:
        raise ValueError(f"event must be ({len(prob)},) bool: whether it is there, for each prob.")
    if thresholds.dim() != 1 or not bool(((thresholds > 0) & (thresholds < 1)).all()):
        raise ValueError("thresholds must be a list of numbers between 0 and 1, both excluded.")
    values = as_float64(prob)
    at = as_float64(thresholds).to(values.device)
    n = len(values)
    order = values.sort()
    events = as_float64(event)[order.indices].flip(0).cumsum(0)  # among the k largest
    acted = n - torch.searchsorted(order.values, at, right=False)  # p >= t
    padded = torch.cat([events.new_zeros(1), events])
    hits = padded[acted]
    return hits / n - (acted - hits) / n * at / (1 - at)
