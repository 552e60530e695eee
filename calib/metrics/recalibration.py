"""Calibration by logistic recalibration: slope and intercept, and what recalibrating would gain.

Slope and intercept describe the top label: P(correct) = sigmoid(a + b logit(confidence)). A calibrated model
has b = 1 and a = 0; b < 1 says that confidences are too far from 1/2, too extreme. The gain is of whole
probabilities: how much lower NLL or Brier score are after a recalibration that was fitted on other samples of
the same set.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64, check_confidence, check_labels, check_logits, check_whole
from calib.core.errors import unknown_name
from calib.metrics.classification import brier_per_sample, nll_per_sample
from calib.metrics.newton import Convex, SoftmaxFit, left_out_fits, minimum

GainScore = Literal["nll", "brier"]
_STEPS = 100  # Newton needs about six


def calibration_slope(confidence: Tensor, correct: Tensor) -> Tensor:
    """Return the slope b of the logistic regression P(correct) = sigmoid(a + b logit(confidence)).

    1 is best; below 1 the confidences are too extreme, above 1 too timid, below 0 they mislead.

    A confidence of exactly 1 or 0 has an infinite logit and is not clipped. Where it is right (1 and correct,
    0 and wrong) the likelihood of any rising line is the same without the sample: it is left out. Where it is
    wrong, no rising line is possible and the slope is undefined.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.

    Returns:
        () float64, any number; nan where it is undefined: every prediction is right, or every one is wrong;
        all confidences are equal; confidence separates right from wrong; a prediction with confidence 1 is
        wrong.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> confidence = torch.tensor([0.9] * 4 + [0.6] * 5, dtype=torch.float64)
        >>> correct = torch.tensor([True, True, True, False] + [True, True, False, False, False])
        >>> # (logit 3/4 - logit 2/5) / (logit 9/10 - logit 6/10)
        >>> round(float(calibration_slope(confidence, correct)), 4)
        0.8394

    Source: Cox 1958 (Two further applications of a model for binary regression); Van Calster et al. 2016 (A
        calibration hierarchy for risk models), "weak calibration".
    """
    log_odds, hits = _checked(confidence, correct)
    return as_float64(confidence).new_tensor(slope_of(log_odds, hits)[0])


def calibration_intercept(confidence: Tensor, correct: Tensor) -> Tensor:
    """Return calibration in the large: the a of P(correct) = sigmoid(a + logit(confidence)).

    0 is best, below 0 the model is over-confident as a whole, above 0 under-confident; in log-odds, where
    `confidence_gap` is in probability. Confidences of exactly 0 and 1 are treated as by `calibration_slope`.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool.

    Returns:
        () float64, any number; nan where it is undefined: every prediction (but those of confidence 0 and 1)
        is right, or every one is wrong; a prediction with confidence 1 is wrong.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> confidence, correct = torch.full((4,), 0.9, dtype=torch.float64), torch.arange(4) > 0
        >>> round(float(calibration_intercept(confidence, correct)), 4)  # logit 3/4 - logit 9/10
        -1.0986

    Source: Cox 1958; Van Calster et al. 2016, "mean calibration".
    """
    log_odds, hits = _checked(confidence, correct)
    return as_float64(confidence).new_tensor(intercept_of(log_odds, hits)[0])


def slope_of(log_odds: np.ndarray, correct: np.ndarray) -> tuple[float, str | None]:
    """Return the slope on given log-odds of the confidence, or nan with the reason why it is undefined.

    Args:
        log_odds: (N,) log-odds, infinities included.
        correct: (N,) bool.

    Example:
        >>> slope_of(np.array([1.0, 2.0, 3.0]), np.array([False, False, True]))
        (nan, 'confidence separates right from wrong predictions')
    """
    x, y, reason = _finite(log_odds, correct)
    if reason is None and x.min() == x.max():
        reason = "all confidences are equal"
    if reason is None and (x[~y].max() <= x[y].min() or x[y].max() <= x[~y].min()):
        reason = "confidence separates right from wrong predictions"
    if reason is not None:
        return math.nan, reason
    centre, scale = x.mean(), x.std()
    design = np.stack([np.ones_like(x), (x - centre) / scale], axis=1)
    flat = np.array([_logit_of_mean(y), 0.0])  # nowhere is the likelihood of this start flat
    return float(minimum(_logistic(design, y), flat)[1] / scale), None


def intercept_of(log_odds: np.ndarray, correct: np.ndarray) -> tuple[float, str | None]:
    """Return the intercept on given log-odds of the confidence, or nan with the reason why it is undefined.

    Args:
        log_odds: (N,) log-odds, infinities included.
        correct: (N,) bool.

    Example:
        >>> intercept_of(np.array([1.0, 2.0]), np.array([True, True]))
        (nan, 'every prediction is right')
    """
    x, y, reason = _finite(log_odds, correct)
    if reason is not None:
        return math.nan, reason
    # The expected number of right ones, sum sigmoid(a + x), rises with a: Newton's steps, kept between two
    # ends.
    low, high = _logit_of_mean(y) - float(x.max()), _logit_of_mean(y) - float(x.min())
    a = (low + high) / 2
    for _ in range(_STEPS):
        p = np.exp(-np.logaddexp(0, -(a + x)))
        excess, slope = float(p.sum() - y.sum()), float((p * (1 - p)).sum())
        low, high = (low, a) if excess > 0 else (a, high)
        nearer = a - excess / slope if slope > 0 else math.inf
        nearer = nearer if low <= nearer <= high else (low + high) / 2
        if abs(nearer - a) <= 1e-12 * (1 + abs(a)):
            break
        a = nearer
    return a, None


def recalibration_gain(
    logits: Tensor, labels: Tensor, *, score: GainScore = "nll", n_folds: int = 5
) -> Tensor:
    """Return by how much cross-fitted recalibration lowers a score: a lower bound of its calibration error.

    The calibration error of a proper score is its excess over that of the best recalibration,
    E S(p) - min_g E S(g(p)). Any g that was fitted on other samples gives less than the minimum on average:
    unlike ECE, the gain does not grow by noise, and that of a calibrated model is about 0, on average a
    little below. g is refitted without each fold on the rest:

        g(p) = softmax(beta log p + b),   minimum over beta and b (C,) of
        sum_i NLL_i + ((beta - 1)^2 + |b|^2) / 2

    a temperature and a bias per class, drawn towards doing nothing as by one standard normal prior, which
    keeps the fit finite where labels are few or separable. It cannot see what it cannot mend, such as errors
    between two classes at high confidence only.

    Args:
        logits: (N, C), finite.
        labels: (N,) class indices.
        score: "nll" or "brier" (summed over classes). The fit minimises the NLL in both cases.
        n_folds: Folds, at least 2. Which sample is in which is drawn with a fixed seed after the samples were
            put in an order of their own, so that the order of the rows does not matter.

    Returns:
        () float64, in nats or Brier units, below 0 where recalibration does harm; nan for fewer samples than
        folds.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> logits = torch.from_numpy(generator.normal(size=(2000, 3)))
        >>> labels = (logits + torch.from_numpy(generator.gumbel(size=(2000, 3)))).argmax(dim=1)
        >>> [round(float(recalibration_gain(scale * logits, labels)), 2) for scale in (1, 3)]
        [-0.0, 0.32]

    Source: Berta, Holzmueller, Jordan and Bach 2025 (arXiv 2501.19195), section 3: calibration error as the
        gain of recalibration; Berta et al. 2026 (arXiv 2602.24230): with cross-validation, a lower bound.
    Differs: their maps are temperature scaling, isotonic regression or boosted trees.
    """
    if score not in get_args(GainScore):
        raise unknown_name("score", score, get_args(GainScore))
    check_logits(logits)
    check_labels(labels, logits)
    gains = recalibration_gains(as_float64(logits.detach()).log_softmax(dim=1), labels, n_folds=n_folds)
    return as_float64(logits[:0]).new_tensor(gains[score])


def recalibration_gains(log_probs: Tensor, labels: Tensor, *, n_folds: int = 5) -> dict[GainScore, float]:
    """Return `recalibration_gain` of both scores from one fit per fold, by name.

    Args:
        log_probs: (N, C) finite log-probabilities, float64.
        labels: (N,) class indices.
        n_folds: At least 2.

    Raises:
        ValueError: n_folds is not such a number.
    """
    check_whole(2, n_folds=n_folds)
    if len(labels) < n_folds:
        return {"nll": math.nan, "brier": math.nan}
    z, y = log_probs.cpu().numpy(), labels.cpu().numpy()
    # A sum over columns, row by row, tells different rows apart and is the same wherever a row stands.
    order = np.lexsort([y, (z * np.cos(np.arange(1, z.shape[1] + 1))).sum(axis=1)])
    fold = np.empty(len(y), dtype=np.int64)
    fold[order] = np.random.default_rng(0).permutation(len(y)) % n_folds
    better = np.empty_like(z)
    members = [np.flatnonzero(fold == k) for k in range(n_folds)]
    parts = [SoftmaxFit(z[rows], y[rows]) for rows in members]
    for rows, (beta, *bias) in zip(members, left_out_fits(parts), strict=True):
        better[rows] = beta * z[rows] + np.array(bias)
    before, after = log_probs.cpu(), torch.from_numpy(better).log_softmax(dim=1)
    target = labels.cpu()
    nll = (nll_per_sample(before, target) - nll_per_sample(after, target)).mean()
    brier = (brier_per_sample(before.exp(), target) - brier_per_sample(after.exp(), target)).mean()
    return {"nll": float(nll), "brier": float(brier)}


def _checked(confidence: Tensor, correct: Tensor) -> tuple[np.ndarray, np.ndarray]:
    check_confidence(confidence, correct)
    return as_float64(confidence.detach()).logit().cpu().numpy(), correct.cpu().numpy()


def _finite(log_odds: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Return the samples that say something about a rising line, and why there is none."""
    certain = np.isinf(log_odds)
    right = (log_odds > 0) == correct
    x, y = log_odds[~certain], correct[~certain]
    reason = None
    if (certain & ~right).any():
        reason = f"a prediction with confidence {int((log_odds[certain & ~right] > 0).any())} is wrong"
    elif not len(x):
        reason = "every confidence is 0 or 1"
    elif y.all():
        reason = "every prediction is right"
    elif not y.any():
        reason = "every prediction is wrong"
    return x, y, reason


def _logit_of_mean(y: np.ndarray) -> float:
    return math.log(y.sum() / (~y).sum())


def _logistic(design: np.ndarray, y: np.ndarray) -> Convex:
    """Return the negative log-likelihood of P(y) = sigmoid(design @ point)."""
    sign = np.where(y, 1.0, -1.0)

    def of(point: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        eta = design @ point
        value = float(np.logaddexp(0, -sign * eta).sum())
        p = np.exp(-np.logaddexp(0, -eta))
        weighted = design * (p * (1 - p))[:, None]
        return value, design.T @ (p - y), design.T @ weighted

    return of
