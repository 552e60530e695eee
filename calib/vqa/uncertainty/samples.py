"""Uncertainty from several answers drawn to one question: do they agree?

`sample_clusters` are (N, S) whole numbers, equal where two answers of a row mean the same; `ABSENT` where a
row has no more. Answers to multiple-choice questions are compared by the option's id, so that the order of
the options may change from sample to sample; an answer that could not be read agrees with no other.
`sample_logprobs` are (N, S) sums of token log-probabilities, `sample_mean_logprobs` the same per token.
"""

from __future__ import annotations

import numpy as np

from calib.vqa.uncertainty.options import entropy_rows, softmax_rows

ABSENT = -1


def agreement(sample_clusters: np.ndarray) -> np.ndarray:
    """Return with how many of its row's samples each one agrees, itself included, (N, S); 0 for absent ones.

    Example:
        >>> agreement(np.array([[2, 0, 2, ABSENT]])).tolist()
        [[2, 1, 2, 0]]
    """
    counts = np.zeros(sample_clusters.shape, dtype=np.int64)
    for other in range(sample_clusters.shape[1]):
        counts += sample_clusters == sample_clusters[:, other, None]
    return np.where(sample_clusters == ABSENT, 0, counts)


def answer_entropy(sample_clusters: np.ndarray) -> np.ndarray:
    """Return the entropy of the shares of the different answers in nats, (N,).

    Example:
        >>> answer_entropy(np.array([[0, 0, 1, 1], [3, 3, 3, ABSENT]])).round(4).tolist()
        [0.6931, 0.0]

    Source: discrete semantic entropy, Farquhar et al. 2024, with options for clusters.
    """
    counts, n = _shares(sample_clusters)
    # sum_c p_c log p_c = (1 / n) sum over samples of log p_c(i); in one order, or rounding would break ties
    counts = np.sort(counts, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(counts > 0, np.log(counts / n[:, None]), 0.0)
        return np.where(n > 0, np.abs(logs.sum(axis=1) / n), np.nan)


def self_consistency(sample_clusters: np.ndarray) -> np.ndarray:
    """Return 1 - the share of the most frequent answer, (N,).

    Example:
        >>> self_consistency(np.array([[0, 0, 1, 0]])).tolist()
        [0.25]

    Source: Wang et al. 2023; LabelProb of LM-Polygraph.
    """
    counts, n = _shares(sample_clusters)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n > 0, 1 - counts.max(axis=1, initial=0) / n, np.nan)


def number_of_answers(sample_clusters: np.ndarray) -> np.ndarray:
    """Return the number of different answers, (N,).

    Example:
        >>> number_of_answers(np.array([[0, 2, 2, ABSENT]])).tolist()
        [2.0]

    Source: NumSemSets, Lin et al. 2024 (arXiv 2305.19187).
    """
    counts, n = _shares(sample_clusters)
    with np.errstate(divide="ignore"):
        return np.where(n > 0, np.where(counts > 0, 1 / counts, 0.0).sum(axis=1).round(), np.nan)


def radflag(sample_clusters: np.ndarray, greedy_cluster: np.ndarray) -> np.ndarray:
    """Return 1 - the share of samples that agree with the greedy answer, (N,).

    Args:
        sample_clusters: (N, S).
        greedy_cluster: (N,) the cluster of the answer itself; a negative one agrees with none.

    Example:
        >>> radflag(np.array([[0, 0, 1, 0]]), np.array([0])).tolist()
        [0.25]

    Source: RadFlag (Zhang et al. 2024) as in HEDGE (arXiv 2511.12693). Differs: theirs is the agreement
        itself, a confidence; here higher is more uncertain.
    """
    present = sample_clusters != ABSENT
    same = present & (sample_clusters == greedy_cluster[:, None]) & (greedy_cluster[:, None] >= 0)
    n = present.sum(axis=1)
    return np.where(n > 0, 1 - same.sum(axis=1) / np.maximum(n, 1), np.nan)


def mc_entropy(sample_logprobs: np.ndarray) -> np.ndarray:
    """Return the mean negative log-probability of the samples, (N,); of `sample_mean_logprobs`: normalised.

    Example:
        >>> mc_entropy(np.array([[-1.0, -2.0, np.nan]])).tolist()
        [1.5]

    Source: Malinin and Gales 2021.
    """
    n = (~np.isnan(sample_logprobs)).sum(axis=1)
    return np.where(n > 0, -np.nansum(sample_logprobs, axis=1) / np.maximum(n, 1), np.nan)


def mc_entropy_normalised(sample_mean_logprobs: np.ndarray) -> np.ndarray:
    """Return `mc_entropy` of log-probabilities per token, (N,).

    Example:
        >>> mc_entropy_normalised(np.array([[-0.5, -1.0]])).tolist()
        [0.75]

    Source: Malinin and Gales 2021; Kuhn et al. 2023.
    """
    return mc_entropy(sample_mean_logprobs)


def semantic_entropy_kuhn(sample_mean_logprobs: np.ndarray, sample_clusters: np.ndarray) -> np.ndarray:
    """Return minus the mean over clusters of log sum exp(l_i) - 5, (N,): the code released in 2023.

    Example:
        >>> semantic_entropy_kuhn(np.array([[0.0, 0.0]]), np.array([[0, 1]])).tolist()
        [5.0]

    Source: Kuhn, Gal and Farquhar 2023, released code: clusters weigh alike, 5 keeps the sign.
    """
    sums, first = _log_sums(sample_mean_logprobs, _of_known(sample_mean_logprobs, sample_clusters))
    count = first.sum(axis=1)
    total = np.where(first, sums - 5.0, 0.0).sum(axis=1)
    return np.where(count > 0, -total / np.maximum(count, 1), np.nan)


def semantic_entropy_rao(sample_mean_logprobs: np.ndarray, sample_clusters: np.ndarray) -> np.ndarray:
    """Return the entropy of clusters that weigh as the sum of their samples' exp(l_i), (N,), nats.

    Example:
        >>> semantic_entropy_rao(np.array([[0.0, 0.0]]), np.array([[0, 1]])).round(4).tolist()
        [0.6931]

    Source: Farquhar et al. 2024 (jlko/semantic_uncertainty), "sum-normalized-rao".
    """
    sums, first = _log_sums(sample_mean_logprobs, sample_clusters)
    probs = softmax_rows(np.where(first, sums, np.nan))
    return np.where(first.any(axis=1), entropy_rows(np.where(np.isnan(probs), 0.0, probs)), np.nan)


def semantic_entropy_discrete(sample_clusters: np.ndarray) -> np.ndarray:
    """Return the entropy of the shares of the clusters, (N,), nats: `answer_entropy` also of open answers.

    Example:
        >>> semantic_entropy_discrete(np.array([[0, 1]])).round(4).tolist()
        [0.6931]

    Source: Farquhar et al. 2024.
    """
    return answer_entropy(sample_clusters)


def semantic_entropy_polygraph(sample_logprobs: np.ndarray, sample_clusters: np.ndarray) -> np.ndarray:
    """Return minus the mean over samples of log sum exp(sums of their cluster), (N,): may be below 0.

    Example:
        >>> semantic_entropy_polygraph(np.array([[-1.0, -1.0]]), np.array([[0, 1]])).tolist()
        [1.0]

    Source: SemanticEntropy of LM-Polygraph 0.7.0: sums, not means per token, and not normalised.
    """
    sums, _ = _log_sums(sample_logprobs, _of_known(sample_logprobs, sample_clusters))
    return mc_entropy(sums)


def vase(
    sample_mean_logprobs: np.ndarray,
    sample_clusters: np.ndarray,
    noisy_mean_logprobs: np.ndarray,
    noisy_clusters: np.ndarray,
    *,
    alpha: float = 1.0,
) -> np.ndarray:
    """Return the entropy of softmax(p + alpha (p - q)), (N,), nats.

    p are the shares of the clusters as in `semantic_entropy_rao`, q those of answers to distorted images:
    what does not change with the image counts less.

    Args:
        sample_mean_logprobs: (N, S).
        sample_clusters: (N, S).
        noisy_mean_logprobs: (N, T).
        noisy_clusters: (N, T), in the numbers of `sample_clusters`.
        alpha: At least 0.

    Example:
        >>> one, two = np.zeros((1, 2)), np.array([[0, 1]])
        >>> vase(one, two, one, two).round(4).tolist()
        [0.6931]

    Source: VASE (arXiv 2503.20504) as in HEDGE e00b9c9. At alpha 0 it is not the semantic entropy: the
        softmax is taken of probabilities.
    """
    clusters = np.concatenate([sample_clusters, noisy_clusters], axis=1)
    clean = np.concatenate([sample_mean_logprobs, np.full(noisy_clusters.shape, np.nan)], axis=1)
    noisy = np.concatenate([np.full(sample_clusters.shape, np.nan), noisy_mean_logprobs], axis=1)
    first = _first(clusters)
    p, q = (
        np.nan_to_num(softmax_rows(np.where(first & (sums > -np.inf), sums, np.nan)))
        for sums in (_log_sums(values, clusters)[0] for values in (clean, noisy))
    )
    mixed = softmax_rows(np.where(first, p + alpha * (p - q), np.nan))
    known = ~np.isnan(sample_mean_logprobs).all(axis=1) & ~np.isnan(noisy_mean_logprobs).all(axis=1)
    return np.where(known, entropy_rows(np.where(np.isnan(mixed), 0.0, mixed)), np.nan)


def sentence_sar(sample_logprobs: np.ndarray, sample_similarity: np.ndarray) -> np.ndarray:
    """Return the mean of -log(p_i + sum_(j != i) g_ij p_j / 0.001), (N,): similar answers back each other.

    Args:
        sample_logprobs: (N, S), log p_i.
        sample_similarity: (N, S, S) in [0, 1], g; where none is known, 1 for the same option and 0 else.

    Example:
        >>> sentence_sar(np.array([[0.0, 0.0]]), np.eye(2)[None]).tolist()
        [0.0]

    Source: Duan et al. 2024 (arXiv 2307.01379), SentenceSAR; of -TokenSAR instead of log p_i it is SAR.
    """
    known = ~np.isnan(sample_logprobs)
    probs = np.where(known, np.exp(np.where(known, sample_logprobs, 0.0)), 0.0)
    others = np.einsum("nij,nj->ni", np.nan_to_num(sample_similarity), probs)
    others -= probs * np.nan_to_num(np.einsum("nii->ni", sample_similarity))
    with np.errstate(divide="ignore"):
        terms = np.where(known, -np.log(probs + others / 0.001), 0.0)
    n = known.sum(axis=1)
    return np.where(n > 0, terms.sum(axis=1) / np.maximum(n, 1), np.nan)


def sar(sample_token_sars: np.ndarray, sample_similarity: np.ndarray) -> np.ndarray:
    """Return `sentence_sar` with exp(-TokenSAR) in the place of the probabilities, (N,).

    Args:
        sample_token_sars: (N, S) TokenSAR of every sample.
        sample_similarity: (N, S, S).

    Example:
        >>> sar(np.array([[0.0, 0.0]]), np.eye(2)[None]).tolist()
        [0.0]

    Source: Duan et al. 2024, SAR.
    """
    return sentence_sar(-sample_token_sars, sample_similarity)


def _shares(clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return agreement(clusters), (clusters != ABSENT).sum(axis=1)


def _of_known(logprobs: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return clusters without the samples of unknown probability, which would be clusters of weight 0."""
    return np.where(np.isnan(logprobs), ABSENT, clusters)


def _first(clusters: np.ndarray) -> np.ndarray:
    """Return whether a sample is the first of its cluster, (N, S)."""
    found = np.zeros(clusters.shape, dtype=bool)
    for i in range(clusters.shape[1]):
        found[:, i] = (clusters[:, i] != ABSENT) & ~(clusters[:, :i] == clusters[:, i, None]).any(axis=1)
    return found


def _log_sums(logprobs: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log sum exp over each sample's cluster, (N, S), NaN for absent ones; and who is first of one."""
    known = ~np.isnan(logprobs)
    top = np.where(known, logprobs, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    weights = np.where(known, np.exp(np.where(known, logprobs, 0.0) - top), 0.0)
    sums = np.zeros(logprobs.shape)
    for other in range(logprobs.shape[1]):
        sums += (clusters == clusters[:, other, None]) * weights[:, other, None]
    with np.errstate(divide="ignore"):
        logs = np.where(clusters != ABSENT, np.log(sums) + top, np.nan)
    some = known.any(axis=1, keepdims=True)
    return np.where(some, logs, np.nan), _first(clusters) & some
