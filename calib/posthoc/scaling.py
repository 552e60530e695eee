"""Temperature scaling: by maximum likelihood, with a prior, and mixed with the uniform distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from calib.core.checks import as_float64, check_labels, check_logits
from calib.posthoc.calibrator import Calibrator
from calib.posthoc.records import Shape, check_positive

LARGEST_LOG_SCALE = 16.0  # of what has to end on separable rows: a scale of 9 million


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
    return {"temperature": math.exp(-_log_scale(values, right, None, advice="or use 'mcp'"))}


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


class TemperatureScaling(Calibrator):
    """softmax(z / T), with one T for all: by maximum likelihood, or with a lognormal prior.

    Minimised is sum_i w_i CE(z_i / T, y_i) + log(T)^2 / (2 prior_sd^2); the last term with a prior only.

    Args:
        prior_sd: Standard deviation of log T around 0, above 0. None: no prior; then rows that are all
            predicted rightly allow no fit.
        mix: See `Calibrator`.

    Attributes:
        parameters: temperature, ().

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]] * 4)  # three of four right: sigmoid(4 / T) = 3 / 4
        >>> calibrator = TemperatureScaling().fit(logits, torch.tensor([0, 0, 0, 1]))
        >>> calibrator(torch.tensor([[4.0, 0.0]])).round(decimals=6).tolist()
        [[0.75, 0.25]]

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    """

    name: ClassVar[str] = "temperature"
    keeps_argmax: ClassVar[bool] = True
    needs_two_classes: ClassVar[bool] = False

    def __init__(self, *, prior_sd: float | None = None, mix: bool = False) -> None:
        super().__init__(mix=mix)
        self.prior_sd = check_positive("prior_sd", prior_sd, none=True)

    def _fitted(self, values: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        values, right = relative_logits(values, labels)
        if self.prior_sd is None:
            log_scale = _log_scale(values, right, weights, advice="or with a prior ('temperature_prior')")
        else:
            log_scale = _log_scale_with_prior(values, right, weights, self.prior_sd)
        return {"temperature": torch.tensor(math.exp(-log_scale), dtype=torch.float64)}

    def _probs(self, values: Tensor) -> Tensor:
        values = values - values.max(dim=1, keepdim=True).values  # a tiny T makes no inf - inf of them
        return (values / self.parameters["temperature"]).softmax(dim=1)

    def _linear(self) -> tuple[Tensor, Tensor] | None:
        identity = torch.eye(self._require_fitted(), dtype=torch.float64)
        return identity / self.parameters["temperature"], torch.zeros(len(identity), dtype=torch.float64)

    def _shapes(self, classes: int) -> dict[str, Shape]:
        return {"temperature": ()}

    def _check(self, parameters: Mapping[str, Tensor]) -> None:
        check_positive("temperature", float(parameters["temperature"]))


class TemperatureWithPrior(TemperatureScaling):
    """`TemperatureScaling` with log T ~ N(0, 0.7^2), for few rows: it has a minimum whatever the rows are.

    On 8 images per class a temperature by maximum likelihood runs away where every row is right.

    Args:
        prior_sd: As there.
        mix: See `Calibrator`.

    Example:
        >>> calibrator = TemperatureWithPrior().fit(torch.tensor([[4.0, 0.0]]), torch.tensor([0]))  # right
        >>> round(calibrator.parameters["temperature"].item(), 4)
        0.9685
    """

    name: ClassVar[str] = "temperature_prior"

    def __init__(self, *, prior_sd: float | None = 0.7, mix: bool = False) -> None:
        super().__init__(prior_sd=prior_sd, mix=mix)


class TemperatureMix(TemperatureScaling):
    """(1 - 1 / (n + 1)) softmax(z / T) + 1 / ((n + 1) C): maximum likelihood, and what n rows cannot exclude.

    1 / T lies within exp(-16) and exp(16), so that there is a fit whatever the rows are.

    Example:
        >>> calibrator = TemperatureMix().fit(torch.tensor([[4.0, 0.0]] * 9), torch.tensor([0] * 9))
        >>> calibrator(torch.tensor([[4.0, 0.0]])).round(decimals=6).tolist()
        [[0.95, 0.05]]

    Source: Berta et al. 2025 (arXiv 2511.03685); dholzmueller/probmetrics 34123ba, "ts-mix".
    """

    name: ClassVar[str] = "ts_mix"

    def __init__(self) -> None:
        super().__init__(mix=True)

    def _fitted(self, values: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        return {
            "temperature": torch.tensor(bounded_temperature(values, labels, weights), dtype=torch.float64)
        }


def bounded_temperature(values: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Return the temperature of maximum likelihood with |log T| at most 16.

    Args:
        values: (N, C) logits.
        labels: (N,).
        weights: (N,).

    Example:
        >>> logits, labels = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
        >>> round(bounded_temperature(logits, labels, torch.ones(4)), 6)
        3.640957
    """
    slope = _slope(*relative_logits(values, labels), weights)
    low, high = -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE
    if slope(low) >= 0 or slope(high) <= 0:
        return math.exp(-low if slope(low) >= 0 else -high)
    return math.exp(-_bisected(slope, low, high))


def _slope(values: Tensor, right: Tensor, weights: Tensor | None) -> Callable[[float], float]:
    """Return the derivative of the mean NLL of logits b z by b, as a function of log b."""

    def slope(log_beta: float) -> float:
        probs = (values * math.exp(log_beta)).softmax(dim=1)
        rows = (probs * values).sum(dim=1) - right
        return float((rows if weights is None else rows * weights).mean())

    return slope


def _log_scale(values: Tensor, right: Tensor, weights: Tensor | None, *, advice: str) -> float:
    """Return log(1 / T) of maximum likelihood for relative logits."""
    slope = _slope(values, right, weights)
    if slope(-math.inf) >= 0:
        raise ValueError(
            "The logits of the true classes are on average no higher than those of all classes: the best "
            "temperature is infinite. Are the labels those of these logits?"
        )
    if bool((right >= 0).all()):
        raise ValueError(
            "Every validation prediction is right: the likelihood grows without end as the temperature goes "
            f"to 0. Fit on more samples, {advice}."
        )
    low, high = -1.0, 1.0
    while slope(low) > 0:
        low *= 2
    while slope(high) < 0:
        high *= 2
    return _bisected(slope, low, high)


def _bisected(slope: Callable[[float], float], low: float, high: float) -> float:
    while high - low > 1e-12 * max(1.0, abs(low)):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return (low + high) / 2


def _log_scale_with_prior(values: Tensor, right: Tensor, weights: Tensor, sd: float) -> float:
    """Return u = log(1 / T) where sum_i w_i NLL_i + u^2 / (2 sd^2) is smallest.

    In u the NLL need not be convex, but it falls from 0 to its one minimum; so the smallest value lies on
    that side of 0. A grid finds its neighbourhood.
    """
    from scipy.optimize import minimize_scalar  # slow to import and needed here only

    def value(u: float) -> float:
        nll = (values * math.exp(u)).logsumexp(dim=1) - right * math.exp(u)
        return float((weights * nll).sum()) + u * u / (2 * sd * sd)

    step = math.copysign(0.25, -_slope(values, right, weights)(0.0))
    points = [step * i for i in range(int(LARGEST_LOG_SCALE / 0.25) + 1)]
    best = min(points, key=value)
    ends = sorted((best - step, best + step))
    return float(minimize_scalar(value, bounds=ends, method="bounded", options={"xatol": 1e-10}).x)
