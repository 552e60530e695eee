"""CORP: a score split into miscalibration, discrimination and uncertainty, by isotonic regression.

The best recalibration that keeps the order of the forecasts, yhat = isotonic regression of the outcomes on
the forecasts, is also the best for every proper score S at once. With S(constant) for the overall frequency:

    MCB = S(forecast) - S(yhat)     miscalibration: what recalibration would gain; 0 is best
    DSC = S(constant) - S(yhat)     discrimination: what the order of the forecasts is worth; more is better
    UNC = S(constant)               uncertainty: how hard the task is; no model's doing
    S(forecast) = MCB - DSC + UNC

Neither bins nor a bandwidth are chosen. MCB and DSC are never below 0, and both take some of the noise:
isotonic regression fits as many steps as the sample allows, so MCB of a calibrated model is above 0 in a
small one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64, check_confidence
from calib.core.errors import unknown_name
from calib.metrics.outcomes import Outcomes

Score = Literal["brier", "log"]


@dataclass(frozen=True)
class Decomposition:
    """A score in three parts, each () float64: score = mcb - dsc + unc.

    Attributes:
        score: The mean score of the forecasts, lower is better; inf for the log score of a certain error.
        mcb: Miscalibration, >= 0; inf where the score is.
        dsc: Discrimination, in [0, unc].
        unc: Uncertainty of the outcomes: f (1 - f) for "brier", the entropy of f in nats for "log", where f
            is their frequency; summed over classes where there are several.
    """

    score: Tensor
    mcb: Tensor
    dsc: Tensor
    unc: Tensor


def corp_decomposition(confidence: Tensor, correct: Tensor, *, score: Score = "brier") -> Decomposition:
    """Return the CORP decomposition of the top label's score: the confidence as a forecast of being right.

    brier: mean_i (confidence_i - correct_i)^2
    log:   mean_i -log(confidence_i if correct_i else 1 - confidence_i)

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.
        score: "brier" or "log" (natural logarithm).

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> confidence = torch.tensor([0.5, 0.75, 0.75, 1.0])
        >>> correct = torch.tensor([False, True, False, True])
        >>> parts = corp_decomposition(confidence, correct)
        >>> [float(part) for part in (parts.score, parts.mcb, parts.dsc, parts.unc)]
        [0.21875, 0.09375, 0.125, 0.25]

    Source: Dimitriadis, Gneiting and Jordan 2021 (PNAS 118, e2016191118), equations 3 to 6.
    """
    check_confidence(confidence, correct)
    _check_score(score)
    p, y = as_float64(confidence.detach()).cpu(), correct.cpu()
    steps = _pooled(p.numpy(), y.numpy())[1:]
    return _as_tensors(_split(*steps, score, _losses(p, p.log(), (-p).log1p(), y, score)), confidence)


def classwise_corp_decomposition(probs: Tensor, labels: Tensor, *, score: Score = "brier") -> Decomposition:
    """Return the sum over classes of the CORP decompositions of probs[:, c] as a forecast of labels == c.

    For "brier" the score is the Brier score of the whole, `calib.metrics.brier_score`. For "log" it is the
    sum of C logarithmic scores, one against the rest each, which is more than the NLL.

    Args:
        probs: (N, C) in [0, 1], rows sum to 1.
        labels: (N,) class indices.
        score: "brier" or "log" (natural logarithm).

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> probs, labels = torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1])
        >>> parts = classwise_corp_decomposition(probs, labels)
        >>> [float(part) for part in (parts.score, parts.mcb, parts.dsc, parts.unc)]
        [0.3125, 0.3125, 0.5, 0.5]

    Source: as `corp_decomposition`, applied to one class against the rest.
    """
    p = Outcomes.from_probs(probs, labels)
    _check_score(score)
    return classwise_parts(p, (score,))[score]


def isotonic_recalibration(confidence: Tensor, correct: Tensor) -> Tensor:
    """Return the accuracy at each confidence by isotonic regression, (N,) float64 in [0, 1].

    The least-squares fit among all functions of the confidence that never fall; equal confidences get equal
    values. It is the curve of a CORP reliability diagram.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> confidence = torch.tensor([0.5, 0.75, 0.75, 1.0])
        >>> correct = torch.tensor([False, True, False, True])
        >>> isotonic_recalibration(confidence, correct).tolist()
        [0.0, 0.5, 0.5, 1.0]

    Source: Ayer et al. 1955 (pool adjacent violators); Dimitriadis, Gneiting and Jordan 2021.
    """
    check_confidence(confidence, correct)
    p = as_float64(confidence.detach())
    order, hits, sizes = _pooled(p.cpu().numpy(), correct.cpu().numpy())
    fitted = np.empty(len(order))
    fitted[order] = np.repeat(hits / sizes, sizes)
    return torch.from_numpy(fitted).to(p.device)


def top_parts(p: Outcomes, scores: tuple[Score, ...] = get_args(Score)) -> dict[Score, Decomposition]:
    """Return the decompositions of the top label's scores, from log-probabilities: finite for finite logits.

    Args:
        p: The predictions.
        scores: Which.
    """
    logs = (p.log_probs.amax(dim=1), p.log_rest)
    confidence, log_p, log_q, y = (tensor.cpu() for tensor in (p.confidence, *logs, p.correct))
    steps = _pooled((log_p - log_q).numpy(), y.numpy())[1:]  # the confidence may be 1 to the last bit
    losses = {score: _losses(confidence, log_p, log_q, y, score) for score in scores}
    return {score: _as_tensors(_split(*steps, score, loss), p.probs) for score, loss in losses.items()}


def classwise_parts(p: Outcomes, scores: tuple[Score, ...] = get_args(Score)) -> dict[Score, Decomposition]:
    """Return the sums over classes of the decompositions, from log-probabilities: finite for finite logits.

    Args:
        p: The predictions.
        scores: Which.
    """
    log_q = torch.log1p(-p.probs)
    top = p.predictions[:, None]
    log_q.scatter_(1, top, p.log_rest[:, None])  # 1 - p would cancel where p is near 1
    probs, log_p, log_q, labels = (tensor.cpu() for tensor in (p.probs, p.log_probs, log_q, p.labels))
    odds = (log_p - log_q).T.contiguous().numpy()
    sums = {score: np.zeros(3) for score in scores}
    for c in range(probs.shape[1]):
        y = labels == c
        steps = _pooled(odds[c], y.numpy())[1:]
        for score in scores:
            loss = _losses(probs[:, c], log_p[:, c], log_q[:, c], y, score)
            sums[score] += _split(*steps, score, loss)
    return {score: _as_tensors(total, p.probs) for score, total in sums.items()}


def _losses(p: Tensor, log_p: Tensor, log_q: Tensor, y: Tensor, score: Score) -> float:
    """Return the mean score of forecasts p of outcomes y, with the logarithms of p and 1 - p."""
    if score == "brier":
        return float((p - y.double()).square().mean())
    return float(-torch.where(y, log_p, log_q).mean())


def _split(hits: np.ndarray, sizes: np.ndarray, score: Score, loss: float) -> np.ndarray:
    """Return MCB, DSC and UNC of a mean loss, from the steps of the isotonic regression."""
    n = sizes.sum()
    recalibrated = float((sizes * _expected(hits / sizes, score)).sum() / n)
    uncertainty = float(_expected(hits.sum() / n, score))
    return np.array([max(loss - recalibrated, 0.0), max(uncertainty - recalibrated, 0.0), uncertainty])


def _expected(f: np.ndarray | float, score: Score) -> np.ndarray:
    """Return the expected score of a forecast f of outcomes with frequency f; 0 log 0 = 0."""
    if score == "brier":
        return np.asarray(f * (1 - f))
    both = np.stack([np.asarray(f, dtype=np.float64), 1 - np.asarray(f, dtype=np.float64)])
    return 0.0 - (both * np.log(np.where(both > 0, both, 1.0))).sum(axis=0)


def _pooled(key: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the order of the forecasts, and hits and sizes of the steps of isotonic regression on them.

    Pool adjacent violators, a whole run of neighbours that do not rise at a time: whatever the order in which
    violators are pooled, the result is the same. Counts are whole numbers, so that ties are ties.
    """
    order = key.argsort()  # the order of ties does not matter
    ranked = key[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # ties are one step
    sizes = np.diff(starts, append=len(key))
    hits = np.add.reduceat(y[order].astype(np.int64), starts)
    while True:
        rises = hits[1:] * sizes[:-1] > hits[:-1] * sizes[1:]
        if rises.all():
            return order, hits, sizes
        starts = np.flatnonzero(np.concatenate([[True], rises]))
        hits, sizes = np.add.reduceat(hits, starts), np.add.reduceat(sizes, starts)


def _as_tensors(parts: np.ndarray, like: Tensor) -> Decomposition:
    mcb, dsc, unc = torch.from_numpy(parts).to(as_float64(like[:0]).device)
    return Decomposition(mcb - dsc + unc, mcb, dsc, unc)


def _check_score(score: str) -> None:
    if score not in get_args(Score):
        raise unknown_name("score", score, get_args(Score))
