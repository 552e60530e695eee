"""Uncertainty from the scores of the options: one pass, no sampling.

`option_scores` are (N, K) log-probabilities up to a constant of the row, NaN behind a row's last option;
`option_probs` their softmax. Of a row without scores every number is NaN.
"""

from __future__ import annotations

import numpy as np


def softmax_rows(scores: np.ndarray) -> np.ndarray:
    """Return the softmax over the options there are, (N, K); NaN behind the last, and where nothing is known.

    Args:
        scores: (N, K), NaN behind a row's last option; -inf is an option that cannot be.

    Example:
        >>> softmax_rows(np.array([[0.0, np.log(3.0), np.nan]])).round(6).tolist()
        [[0.25, 0.75, nan]]
    """
    listed = ~np.isnan(scores)
    top = np.where(listed, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.where(listed, np.exp(scores - np.where(np.isfinite(top), top, np.nan)), 0.0)
        probs = weights / weights.sum(axis=1, keepdims=True)
    return np.where(listed, probs, np.nan)


def option_msp(option_probs: np.ndarray) -> np.ndarray:
    """Return 1 - the largest probability, (N,).

    Example:
        >>> option_msp(np.array([[0.25, 0.75, np.nan]])).tolist()
        [0.25]

    Source: Hendrycks and Gimpel 2017.
    """
    return 1 - _ranked(option_probs)[:, 0]


def option_entropy(option_probs: np.ndarray) -> np.ndarray:
    """Return the entropy of the probabilities in nats, (N,).

    Example:
        >>> option_entropy(np.array([[0.5, 0.5, np.nan]])).round(4).tolist()
        [0.6931]
    """
    known = ~np.isnan(option_probs).all(axis=1)
    return np.where(known, entropy_rows(np.where(np.isnan(option_probs), 0.0, option_probs)), np.nan)


def option_entropy_normalised(option_probs: np.ndarray) -> np.ndarray:
    """Return the entropy divided by log K of the row, (N,) in [0, 1], where questions differ in options.

    Example:
        >>> option_entropy_normalised(np.array([[0.5, 0.5, np.nan]])).tolist()
        [1.0]
    """
    return option_entropy(option_probs) / np.log(np.maximum((~np.isnan(option_probs)).sum(axis=1), 2))


def option_margin(option_probs: np.ndarray) -> np.ndarray:
    """Return 1 - (largest - second largest probability), (N,).

    Example:
        >>> option_margin(np.array([[0.25, 0.75, np.nan]])).tolist()
        [0.5]
    """
    ranked = _ranked(option_probs)
    return 1 - (ranked[:, 0] - ranked[:, 1])


def option_log_ratio(option_scores: np.ndarray) -> np.ndarray:
    """Return the second largest score - the largest one, (N,): no rounding where a probability is nearly 1.

    Example:
        >>> option_log_ratio(np.array([[-1.0, -4.0, np.nan]])).tolist()
        [-3.0]
    """
    ranked = _ranked(option_scores)
    return ranked[:, 1] - ranked[:, 0]


def option_gini(option_probs: np.ndarray) -> np.ndarray:
    """Return 1 - the sum of the squared probabilities, (N,).

    Example:
        >>> option_gini(np.array([[0.5, 0.5, np.nan]])).tolist()
        [0.5]
    """
    known = ~np.isnan(option_probs).all(axis=1)
    return np.where(known, 1 - np.nansum(option_probs**2, axis=1), np.nan)


def best_distractor(option_scores: np.ndarray) -> np.ndarray:
    """Return the second largest score as it is, (N,): how strong the best rival of the answer is.

    Whether an answer collapses when its option is replaced by "None of the above" depends on this option by
    construction; a method that foresees collapse no better has seen nothing else. It is compared over
    questions, for which the scores must be raw ones.

    Example:
        >>> best_distractor(np.array([[-1.0, -4.0, np.nan]])).tolist()
        [-4.0]
    """
    return _ranked(option_scores)[:, 1]


def number_of_options(option_count: np.ndarray) -> np.ndarray:
    """Return 1 - 1 / K, (N,): how often a guess is wrong.

    Example:
        >>> number_of_options(np.array([2, 4])).tolist()
        [0.5, 0.75]
    """
    return 1 - 1 / option_count


def entropy_rows(probs: np.ndarray) -> np.ndarray:
    """Return the entropy of every row in nats, (N,), 0 log 0 being 0.

    Args:
        probs: (N, K).

    Example:
        >>> entropy_rows(np.array([[1.0, 0.0], [0.5, 0.5]])).round(4).tolist()
        [0.0, 0.6931]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probs > 0, -probs * np.log(probs), 0.0)
    found: np.ndarray = terms.sum(axis=1)
    return found


def _ranked(values: np.ndarray) -> np.ndarray:
    """Return the two largest numbers of every row, (N, 2); NaN in a row without any."""
    filled = np.where(np.isnan(values), -np.inf, values)
    if filled.shape[1] < 2:
        filled = np.pad(filled, ((0, 0), (0, 2 - filled.shape[1])), constant_values=-np.inf)
    top = -np.partition(-filled, 1, axis=1)[:, :2]
    known = ~np.isnan(values).all(axis=1)
    return np.where(known[:, None], top, np.nan)
