"""Uncertainty of a prediction from its logits alone, without anything to fit.

Logits of vision-language models are large (100 times a cosine), and in float32 1 - max p is exactly 0 for a
good part of the samples, which are then ties that no metric can order. So the scores here work with what is
left for the other classes in float64, S = sum_{c not top} exp(z_c - z_top): p_top = 1 / (1 + S), and nothing
rounds 1 - p_top to 0 unless S itself underflows, some 745 logits below the top.

All scores but `energy` depend on the probabilities only. Where there are only probabilities, their logarithms
are logits for them: see `logits_from_probs`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from calib.core.checks import as_float64, check_logits, check_probs, check_tensor
from calib.posthoc.scaling import scaled_logits


def mcp(logits: Tensor, predictions: Tensor | None = None) -> Tensor:
    """Return the log-odds of being wrong by the predicted probability, log((1 - p) / p), (N,).

    Orders the samples as 1 - max p (maximum class probability, also called MSP or MCM) does, without its
    ties: sigmoid(mcp) is 1 - max p.

    Args:
        logits: (N, C), C at least 2, finite.
        predictions: (N,) int64 in [0, C): the classes judged. None: those of the largest logits.

    Raises:
        ValueError: An input is not as above.

    Example:
        >>> mcp(torch.tensor([[0.0, 0.0], [100.0, 0.0], [110.0, 0.0]])).tolist()
        [0.0, -100.0, -110.0]
        >>> mcp(torch.tensor([[100.0, 0.0]]), torch.tensor([1])).tolist()
        [100.0]

    Source: Hendrycks and Gimpel 2017 (arXiv 1610.02136).
    Differs: log-odds instead of 1 - max p.
    """
    if predictions is None:
        return other_logits(logits).logsumexp(dim=1)
    check_logits(logits)
    check_tensor(predictions, "predictions")
    if predictions.shape != logits.shape[:1] or predictions.dtype != torch.int64:
        raise ValueError(
            f"predictions must be ({len(logits)},) int64, one per row of logits, not "
            f"{tuple(predictions.shape)} {predictions.dtype}."
        )
    if not 0 <= int(predictions.min()) <= int(predictions.max()) < logits.shape[1]:
        raise ValueError(f"predictions must lie in 0..{logits.shape[1] - 1}.")
    values = as_float64(logits)
    return -log_odds(values, predictions.to(values.device))


def log_odds(logits: Tensor, predictions: Tensor | None = None) -> Tensor:
    """Return the log-odds of the predicted class, `log(p / (1 - p)) = z[b, k] - logsumexp_{c != k} z[b, c]`.

    In the type of the logits and with their gradient, for what is trained; `mcp` is its negative in float64.

    Args:
        logits: (B, C), C at least 2.
        predictions: (B,) int64 in [0, C). None: the argmax.

    Returns:
        (B,), higher = more likely right.

    Raises:
        ValueError: There is one class only, whose probability is always 1.

    Example:
        >>> round(log_odds(torch.tensor([[math.log(3.0), 0.0]])).item(), 4)  # p = 3/4, odds 3
        1.0986
    """
    check_tensor(logits, "logits")
    if predictions is not None:
        check_tensor(predictions, "predictions")
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"Log-odds of a prediction need logits (B, C) with C >= 2, not {tuple(logits.shape)}."
        )
    picked = (logits.argmax(1) if predictions is None else predictions)[:, None]  # (B, 1)
    others = logits.scatter(1, picked, -math.inf)
    return logits.gather(1, picked).squeeze(1) - others.logsumexp(1)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the class probabilities in nats, -sum_c p_c log p_c, (N,) in [0, log C].

    Args:
        logits: (N, C), C at least 2, finite.

    Example:
        >>> entropy(torch.tensor([[0.0, 0.0], [100.0, 0.0]])).tolist()
        [0.6931471805599453, 3.757276735781045e-42]

    Source: Shannon 1948.
    Differs: ViLU (e4bf572) divides by log C and adds 1e-6 inside the logarithm, which moves values by up to
        1e-6 C / log C and makes a one-hot row slightly negative.
    """
    others = other_logits(logits)
    odds = others.exp()
    total = odds.sum(dim=1)
    return total.log1p() - (odds * others).sum(dim=1) / (1 + total)  # two terms of the same sign


def margin(logits: Tensor) -> Tensor:
    """Return log(1 - (p_1 - p_2)), p_1 and p_2 the two largest probabilities, (N,), at most 0.

    Orders the samples as the negative probability margin p_2 - p_1 does, without its ties.

    Args:
        logits: (N, C), C at least 2, finite.

    Example:
        >>> margin(torch.tensor([[0.0, 0.0], [100.0, 0.0]])).tolist()  # 2 classes: log(2 p_2)
        [0.0, -99.30685281944005]

    Source: Scheffer, Decomain, Wrobel 2001 (margin sampling).
    """
    others = other_logits(logits)
    rest = others.logsumexp(dim=1)  # 1 - p_1 and p_2, both times 1 + S, are S and exp of the largest
    return torch.logaddexp(rest, others.max(dim=1).values) - _log1p_exp(rest)


def logit_margin(logits: Tensor) -> Tensor:
    """Return the second largest logit minus the largest, log(p_2 / p_1), (N,), at most 0.

    Args:
        logits: (N, C), C at least 2, finite.

    Example:
        >>> logit_margin(torch.tensor([[3.0, 1.0, 0.0]])).tolist()
        [-2.0]
    """
    return other_logits(logits).max(dim=1).values


def energy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the free energy -T log sum_c exp(z_c / T), (N,).

    The score of Liu et al. was made for logits of a few units. On 100 times a cosine, T = 1 all but returns
    minus the largest logit; a temperature near the logit scale lets the other classes speak. It needs the
    logits themselves: on log-probabilities it is 0 at T = 1, whatever the sample.

    Args:
        logits: (N, C), C at least 2, finite.
        temperature: T > 0, in units of the logits.

    Raises:
        ValueError: The temperature is not positive, or the logits are not as above.

    Example:
        >>> energy(torch.tensor([[0.0, 0.0], [4.0, 0.0]])).tolist()
        [-0.6931471805599453, -4.0181499279178094]

    Source: Liu et al. 2020 (arXiv 2010.03759), equation 4.
    """
    return -temperature * scaled_logits(logits, temperature).logsumexp(dim=1)


def doctor(logits: Tensor) -> Tensor:
    """Return (1 - g) / g with g = sum_c p_c^2, (N,) in [0, C - 1].

    Args:
        logits: (N, C), C at least 2, finite.

    Example:
        >>> doctor(torch.tensor([[0.0, 0.0, 0.0], [50.0, 0.0, -50.0]])).tolist()
        [2.0, 3.8574996959278356e-22]

    Source: Granese et al. 2021 (arXiv 2106.02395), D_alpha; vilu/lib of github.com/ykrmm/ViLU e4bf572.
    """
    odds = other_logits(logits).exp()
    total, squares = odds.sum(dim=1), odds.square().sum(dim=1)
    # g = (1 + squares) / (1 + total)^2, so 1 - g has no difference of nearly equal numbers.
    return (2 * total + total.square() - squares) / (1 + squares)


def logits_from_probs(probs: Tensor) -> Tensor:
    """Return log p, float64, which are logits of these probabilities, (N, C).

    A probability of 0 becomes the smallest float64 above 0, so it keeps its place behind all others. What the
    probabilities have lost by rounding to 1 does not come back.

    Args:
        probs: (N, C) in [0, 1], rows sum to 1.

    Example:
        >>> logits_from_probs(torch.tensor([[0.5, 0.5]])).softmax(dim=1).tolist()
        [[0.5, 0.5]]
    """
    check_probs(probs)
    return as_float64(probs).clamp_min(torch.finfo(torch.float64).tiny).log()


def other_logits(logits: Tensor) -> Tensor:
    """Return the logits relative to the largest one, without that one, (N, C - 1) float64, at most 0."""
    check_logits(logits)
    values = as_float64(logits)
    top, where = values.max(dim=1, keepdim=True)
    kept = torch.ones_like(values, dtype=torch.bool).scatter_(1, where, False)
    return (values - top)[kept].view(len(values), -1)


def _log1p_exp(values: Tensor) -> Tensor:
    return torch.logaddexp(values, torch.zeros_like(values))
