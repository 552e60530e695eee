"""Uncertainty from the graph of answers drawn to one question: how closely they hang together.

`sample_similarity` is (N, S, S) in [0, 1]: how much sample i entails sample j (or 1 - how much it contradicts
it, or the overlap of words); NaN where a row has no more samples. Where none is known, it is 1 for the same
option and 0 else.
"""

from __future__ import annotations

import numpy as np

_BLOCK = 20_000  # graphs taken apart at once


def degmat(sample_similarity: np.ndarray) -> np.ndarray:
    """Return the mean distance of two answers, trace(S I - D) / S^2, (N,); D are the degrees.

    Example:
        >>> degmat(np.ones((1, 3, 3))).tolist(), degmat(np.eye(2)[None]).tolist()
        ([0.0], [0.5])

    Source: Lin, Trivedi and Sun 2024 (arXiv 2305.19187), DegMat.
    """
    n = _sizes(sample_similarity)
    total = np.nansum(sample_similarity, axis=(1, 2))
    return np.where(n > 0, 1 - total / np.maximum(n, 1) ** 2, np.nan)


def eigv(sample_similarity: np.ndarray) -> np.ndarray:
    """Return the sum of max(0, 1 - eigenvalue) of the graph's Laplacian, (N,): a smooth number of clusters.

    L = I - D^-1/2 W D^-1/2, W = (A + A') / 2

    Example:
        >>> eigv(np.ones((1, 3, 3))).round(6).tolist(), eigv(np.eye(2)[None]).tolist()
        ([1.0], [2.0])

    Source: Lin, Trivedi and Sun 2024, EigV.
    """
    return _of_blocks(sample_similarity, lambda values, vectors: np.maximum(0, 1 - values).sum(axis=1))


def eccentricity(sample_similarity: np.ndarray) -> np.ndarray:
    """Return the norm of the centred eigenvectors with eigenvalues below 0.9, (N,).

    Example:
        >>> eccentricity(np.ones((1, 3, 3))).round(6).tolist()
        [0.0]

    Source: Lin, Trivedi and Sun 2024, Ecc.
    """

    def spread(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        centred = vectors - vectors.mean(axis=1, keepdims=True)
        squares = (centred**2).sum(axis=1)  # (n, S), per eigenvector
        return np.asarray(np.sqrt(np.where(values < 0.9, squares, 0.0).sum(axis=1)))

    return _of_blocks(sample_similarity, spread)


def _sizes(similarity: np.ndarray) -> np.ndarray:
    sizes: np.ndarray = (~np.isnan(np.einsum("nii->ni", similarity))).sum(axis=1)
    return sizes


def _of_blocks(similarity: np.ndarray, finish: object) -> np.ndarray:
    """Return finish(eigenvalues, eigenvectors) of all graphs, those of one size together."""
    sizes = _sizes(similarity)
    found = np.full(len(similarity), np.nan)
    for size in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero(sizes == size)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            graph = similarity[block][:, :size, :size]
            graph = (graph + graph.transpose(0, 2, 1)) / 2
            scale = 1 / np.sqrt(graph.sum(axis=2))
            laplacian = np.eye(size) - scale[:, :, None] * graph * scale[:, None, :]
            found[block] = finish(*np.linalg.eigh(laplacian))  # type: ignore[operator]
    return found
