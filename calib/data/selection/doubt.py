"""Shots chosen by the model's doubt, alone or together with how well an image stands for others."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata
from sklearn.covariance import ledoit_wolf

from calib.core.checks import check_whole
from calib.data.selection.pool import Picks, Pool
from calib.data.selection.spread import spherical_clusters


def entropy(pool: Pool, picks: Picks) -> None:
    """Choose the images whose class the model is least sure of, by the entropy of its probabilities."""
    probs = pool.probs()
    _by_doubt(pool, picks, _entropy(probs), probs)


def margin(pool: Pool, picks: Picks) -> None:
    """Choose the images whose two most probable classes are nearest to each other."""
    probs = pool.probs()
    ordered = np.sort(probs, axis=1)
    _by_doubt(pool, picks, 1 - (ordered[:, -1] - ordered[:, -2]), probs)


def dual(pool: Pool, picks: Picks, *, doubt_share: float = 0.5, clusters: int = 16) -> None:
    """Choose by doubt and representativeness together, from every cluster by its size.

        score = doubt_share u + (1 - doubt_share) r

    u is the entropy of the model's probabilities; r how close the image is to its own centroid on the unit
    sphere and how far from the nearest other one, cos(x, own) - max cos(x, others). Both are ranks within the
    pool, from 0 to 1, so that `doubt_share` means the same for any model. Clusters are those of spherical
    k-means; each gets labels in proportion to its size, those it has already counted in.

    Source: the scores and the clusters of ADAptation (MICCAI 2025), whose released code has neither the score
        nor its weight. Differs: no diffusion model, no features trained for it, ranks.

    Args:
        pool: The images.
        picks: What is chosen.
        doubt_share: From 0 to 1.
        clusters: How many, at least 1.
    """
    _dual(pool, picks, pool.features, doubt_share, clusters)


def aligned(pool: Pool, picks: Picks, *, doubt_share: float = 0.5, clusters: int = 16) -> None:
    """Choose like `dual`, after the pool's features were brought to mean and covariance of a source domain.

    That is the inexpensive counterpart of translating the images into the style of the domain the model is at
    home in, and no more: it moves and stretches the cloud of features, and knows nothing of anatomy.

    Source: correlation alignment, CORAL (Sun, Feng and Saenko 2016, AAAI), with the covariances shrunk as in
        Ledoit and Wolf 2004. Differs: ADAptation translates images by a diffusion model.

    Args:
        pool: The images; its `source` holds those of the source domain.
        picks: What is chosen.
        doubt_share: From 0 to 1.
        clusters: How many, at least 1.

    Raises:
        ValueError: There is no source, or a setting is not as above.
    """
    if pool.source is None:
        raise ValueError(
            "strategy=aligned needs images of the domain the model is at home in, which need no labels: "
            "source=FOLDER, or a data set's name. Without them: strategy=dual."
        )
    _dual(pool, picks, align(pool.features, pool.source), doubt_share, clusters)


def align(features: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Return features (N, D) moved and stretched to the mean and covariance of source features; unit norm.

        x' = (x - mu) S^(-1/2) S_s^(1/2) + mu_s,   then divided by its norm

    Args:
        features: (N, D) unit norm, N at least 2.
        source: (M, D) unit norm, M at least 2.

    Raises:
        ValueError: There are too few images, or they are of another width.

    Example:
        >>> turned = align(np.eye(3), np.eye(3)[:, ::-1])
        >>> bool(np.allclose(turned, np.eye(3)))
        True
    """
    if min(len(features), len(source)) < 2 or features.shape[1] != source.shape[1]:
        raise ValueError(
            f"Alignment needs at least two images on both sides, of one backbone: got {features.shape} and "
            f"{source.shape}."
        )
    moved = (features - features.mean(axis=0)) @ _power(ledoit_wolf(features)[0], -0.5)
    moved = moved @ _power(ledoit_wolf(source)[0], 0.5) + source.mean(axis=0)
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)


def _dual(pool: Pool, picks: Picks, features: np.ndarray, share: float, clusters: int) -> None:
    check_whole(1, clusters=clusters)
    if not 0 <= share <= 1:
        raise ValueError(f"doubt_share must be from 0 to 1, got {share}.")
    kinds = min(clusters, len(pool))
    cluster, centres = spherical_clusters(features, kinds, seed=picks.seed)
    cosines = features @ centres.T
    own = cosines[np.arange(len(pool)), cluster]
    cosines[np.arange(len(pool)), cluster] = -1.0
    apart = own - (cosines.max(axis=1) if kinds > 1 else 0.0)
    probs = pool.probs(features)
    doubt, central = _ranks(_entropy(probs)), _ranks(apart)
    scores = share * doubt + (1 - share) * central
    sizes = np.bincount(cluster, minlength=kinds)
    labels = np.bincount(cluster[pool.labelled], minlength=kinds)
    due = (len(pool.labelled) + picks.budget) * sizes / len(pool)
    while not picks.full:
        open_ = [c for c in range(kinds) if (picks.free & (cluster == c)).any()]
        if not open_:
            return
        chosen = max(open_, key=lambda c: (due[c] - labels[c], -c))  # the one that lacks most of its share
        row = picks.best(scores, cluster == chosen)
        assert row is not None
        words = (
            f"doubt {doubt[row]:.2f}, representative {central[row]:.2f} (ranks), of {sizes[chosen]} images"
        )
        picks.take(row, float(scores[row]), words, chosen)
        labels[chosen] += 1


def _by_doubt(pool: Pool, picks: Picks, doubt: np.ndarray, probs: np.ndarray) -> None:
    while not picks.full:
        row = picks.best(doubt)
        if row is None:
            return
        first, second = np.argsort(-probs[row], kind="stable")[:2]
        words = f"{pool.name(first)} {probs[row, first]:.2f}, {pool.name(second)} {probs[row, second]:.2f}"
        picks.take(row, float(doubt[row]), words)


def _entropy(probs: np.ndarray) -> np.ndarray:
    """Return the entropy (N,), 1 where all classes are as probable."""
    logs = np.log(np.maximum(probs, 1e-300))
    return np.asarray(-(probs * logs).sum(axis=1) / np.log(probs.shape[1]))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 0 to 1; ties share one."""
    return np.asarray((rankdata(values) - 1) / max(1, len(values) - 1))


def _power(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    floor = 1e-10 * max(float(values.max()), 1e-300)
    return np.asarray((vectors * np.maximum(values, floor) ** power) @ vectors.T)
