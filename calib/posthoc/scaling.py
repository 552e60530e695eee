"""Temperature scaling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from calib.core.checks import as_float64, check_labels, check_logits


def fit_temperature(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return {"temperature": T}, the T that minimises the NLL of logits / T.

    The NLL is convex in 1 / T; T is found by bisection of its derivative, to 12 digits.

    Args:
        logits: (N, C) of validation data, C at least 2, finite.
        labels: (N,) class indices.

    Raises:
        ValueError: An input is not as above, or there is no finite positive minimum: every prediction is
            right (T to 0), or the logits of the true classes are no higher than the others (T to infinity).

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]] * 4)  # three of four right: sigmoid(4 / T) = 3 / 4
        >>> fit_temperature(logits, torch.tensor([0, 0, 0, 1]))["temperature"]  # 4 / log 3
        3.640956906507805

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    """
    values, right = relative_logits(logits, labels)

    def slope(log_beta: float) -> float:  # of the NLL in beta = 1 / T
        probs = (values * math.exp(log_beta)).softmax(dim=1)
        return float(((probs * values).sum(dim=1) - right).mean())

    if slope(-math.inf) >= 0:
        raise ValueError(
            "The logits of the true classes are on average no higher than those of all classes: the best "
            "temperature is infinite. Are the labels those of these logits?"
        )
    if bool((right >= 0).all()):
        raise ValueError(
            "Every validation prediction is right: the likelihood grows without end as the temperature goes "
            "to 0. Fit on more samples, or use 'mcp'."
        )
    low, high = -1.0, 1.0
    while slope(low) > 0:
        low *= 2
    while slope(high) < 0:
        high *= 2
    while high - low > 1e-12 * max(1.0, abs(low)):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return {"temperature": math.exp(-(low + high) / 2)}


def scaled_logits(logits: Tensor, temperature: float) -> Tensor:
    """Return checked logits (N, C) divided by a temperature, float64."""
    check_logits(logits)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature!r}.")
    return as_float64(logits) / temperature


def relative_logits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return checked logits relative to their largest one, (N, C), and those of the true classes, (N,)."""
    check_logits(logits)
    check_labels(labels, logits)
    values = as_float64(logits)
    values = values - values.max(dim=1, keepdim=True).values
    return values, values.gather(1, labels.to(values.device, torch.int64)[:, None])[:, 0]
