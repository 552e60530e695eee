"""Uncertainty from one written answer: its tokens, what the model says of its own confidence, P(True).

`token_logprobs` and `token_entropies` are (N, L), NaN behind an answer's last token.
"""

from __future__ import annotations

import numpy as np


def seq_nll(token_logprobs: np.ndarray) -> np.ndarray:
    """Return minus the log-probability of the whole answer, (N,).

    Example:
        >>> seq_nll(np.array([[-0.5, -1.0, np.nan]])).tolist()
        [1.5]

    Source: "GNLL" of Aichberger et al. 2024; MaximumSequenceProbability of LM-Polygraph.
    """
    return np.where(_known(token_logprobs), -np.nansum(token_logprobs, axis=1), np.nan)


def perplexity(token_logprobs: np.ndarray) -> np.ndarray:
    """Return the mean negative log-probability of the answer's tokens, (N,): the log of the perplexity.

    Example:
        >>> perplexity(np.array([[-0.5, -1.0, np.nan]])).tolist()
        [0.75]

    Source: Fomicheva et al. 2020.
    """
    return _mean(-token_logprobs)


def mean_token_entropy(token_entropies: np.ndarray) -> np.ndarray:
    """Return the mean entropy of the distributions the answer's tokens were chosen from, (N,), nats.

    Example:
        >>> mean_token_entropy(np.array([[0.5, 1.0, np.nan]])).tolist()
        [0.75]

    Source: Fomicheva et al. 2020.
    """
    return _mean(token_entropies)


def verbalised(verbalized_confidence: np.ndarray) -> np.ndarray:
    """Return 1 - the confidence that the model has put in words, (N,).

    Example:
        >>> verbalised(np.array([0.75])).tolist()
        [0.25]

    Source: Tian et al. 2023; Xiong et al. 2024.
    """
    return 1 - verbalized_confidence


def p_true(p_true_value: np.ndarray) -> np.ndarray:
    """Return 1 - P(True), (N,): asked whether its answer is true, how probable "True" is against "False".

    Example:
        >>> p_true(np.array([0.75])).tolist()
        [0.25]

    Source: Kadavath et al. 2022.
    """
    return 1 - p_true_value


def token_sar(token_logprobs: np.ndarray, token_similarity: np.ndarray) -> np.ndarray:
    """Return the negative log-probabilities of the tokens weighted by their relevance, (N,).

    sum_t -log p_t R_t / sum_t R_t, where R_t = 1 - similarity of the answer with and without token t

    Args:
        token_logprobs: (N, L).
        token_similarity: (N, L) in [0, 1], from a cross-encoder.

    Example:
        >>> token_sar(np.array([[-1.0, -2.0]]), np.array([[0.5, 1.0]])).tolist()
        [1.0]

    Source: Duan et al. 2024 (arXiv 2307.01379), TokenSAR.
    """
    relevance = 1 - token_similarity
    total = np.nansum(relevance, axis=1)
    weights = np.where(total[:, None] > 0, relevance / np.where(total > 0, total, 1.0)[:, None], np.nan)
    value = np.nansum(-token_logprobs * weights, axis=1)
    return np.where(_known(token_logprobs) & (total > 0), value, np.nan)


def _known(values: np.ndarray) -> np.ndarray:
    known: np.ndarray = ~np.isnan(values).all(axis=1)
    return known


def _mean(values: np.ndarray) -> np.ndarray:
    listed = ~np.isnan(values)
    count = listed.sum(axis=1)
    return np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)
