"""Shots chosen by what images look like alone: at random, far apart, or typical of their kind."""

from __future__ import annotations

from collections import Counter

import numpy as np
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.neighbors import NearestNeighbors

from calib.core.checks import check_whole
from calib.data.selection.pool import Picks, Pool

SMALLEST = 5  # images of a cluster that counts as a kind of image, and not as a few strange ones
MOST_CLUSTERS = 500


def random(pool: Pool, picks: Picks) -> None:
    """Choose at random, by seed and content: the only choice after which shots are like new images."""
    for row in picks.shuffled():
        if picks.full:
            return
        if picks.free[row]:
            picks.take(row, float("nan"), "drawn at random")


def k_centre(pool: Pool, picks: Picks) -> None:
    """Choose the image that is farthest from all that are chosen, again and again; the first at random.

    Source: the greedy 2-approximation of k-centre (Gonzalez 1985), as core-set selection in Sener and
        Savarese 2018 (ICLR).
    """
    nearest = np.full(len(pool), 2.0)  # cosine distance to the nearest that is chosen or labelled
    for row in pool.labelled:
        nearest = np.minimum(nearest, 1 - pool.features @ pool.features[row])
    first = not len(pool.labelled)
    while not picks.full:
        row = next((r for r in picks.shuffled() if picks.free[r]), None) if first else picks.best(nearest)
        if row is None:
            return
        why = "the first, drawn at random" if first else f"farthest from the others: {nearest[row]:.3f}"
        picks.take(row, float(nearest[row]), why)
        nearest = np.minimum(nearest, 1 - pool.features @ pool.features[row])
        first = False


def typicality(pool: Pool, picks: Picks, *, neighbours: int = 20) -> None:
    """Choose the most typical image of each of as many clusters as there will be labels.

    Typicality is 1 / the mean distance to the nearest `neighbours` images of the cluster, of half the cluster
    at most. Clusters with the fewest labels come first, larger ones before smaller ones, and those of fewer
    than 5 images last.

    Source: TypiClust of Hacohen, Dekel and Weinshall 2022 (ICML), on frozen features instead of
        self-supervised ones.

    Args:
        pool: The images.
        picks: What is chosen.
        neighbours: At least 1.
    """
    check_whole(1, neighbours=neighbours)
    wanted = min(len(pool.labelled) + picks.budget, MOST_CLUSTERS, len(pool))
    model = KMeans(wanted, n_init=4, random_state=picks.seed % 2**32).fit(pool.features)
    clusters = model.labels_
    sizes = Counter(clusters.tolist())
    typical = np.zeros(len(pool))
    for cluster, size in sizes.items():
        rows = np.flatnonzero(clusters == cluster)
        if size == 1:
            continue
        count = 1 + min(neighbours, size // 2)  # itself included
        close = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(pool.features[rows])
        near = close.kneighbors(pool.features[rows])[0][:, 1:]
        typical[rows] = 1 / (near.mean(axis=1) + 1e-5)
    labels = Counter(clusters[pool.labelled].tolist())
    while not picks.full:
        open_ = set(clusters[picks.free].tolist())
        if not open_:
            return
        cluster = min(open_, key=lambda c: (sizes[c] < SMALLEST, labels[c], -sizes[c], c))
        row = picks.best(typical, clusters == cluster)
        assert row is not None
        words = f"most typical of {sizes[cluster]} alike images"
        picks.take(row, float(typical[row]), words, cluster)
        labels[cluster] += 1


def spherical_clusters(
    features: np.ndarray, n_clusters: int, *, seed: int, starts: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster (N,) of each image and the centroids (K, D) of unit norm: k-means by cosine.

    Args:
        features: (N, D) unit norm.
        n_clusters: K, at most N.
        seed: Of the starts.
        starts: Of which the one with the highest sum of cosines is kept.

    Source: Dhillon and Modha 2001 (Machine Learning 42), started by k-means++.
    """
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for start in range(starts):
        centres, _ = kmeans_plusplus(features, n_clusters, random_state=(seed + 7919 * start) % 2**32)
        centres = _unit(centres)
        clusters = np.full(len(features), -1)
        for _ in range(100):
            cosines = features @ centres.T
            new = cosines.argmax(axis=1)
            if (new == clusters).all():
                break
            clusters = new
            sums = np.zeros_like(centres)
            np.add.at(sums, clusters, features)
            empty = np.bincount(clusters, minlength=n_clusters) == 0
            centres = np.where(empty[:, None], centres, _unit(sums))
        total = float(cosines.max(axis=1).sum())
        if best is None or total > best[0] + 1e-9:
            best = (total, clusters, centres)
    assert best is not None
    return best[1], best[2]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
