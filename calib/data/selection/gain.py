"""Shots chosen by what their labels are expected to say about all other images: EPIG."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax, xlogy

from calib.core.checks import check_whole
from calib.core.hashing import stable_hash
from calib.data.selection.pool import Picks, Pool

CANDIDATES = 2048  # that are looked at in each step; of more images as many, drawn anew by content
AT_ONCE = 4_000_000  # joint probabilities held in memory


def epig(pool: Pool, picks: Picks, *, head_sd: float = 10.0, draws: int = 128, targets: int = 256) -> None:
    """Choose the image whose label is expected to say most about the classes of all others.

        EPIG(x) = E_x* I(y; y* | x, x*),   logits = model + V z,   V ~ N(0, head_sd^2 I) before any label

    The model's own logits are the mean of a Bayesian linear head on the centred image features z; after
    labels it is their Laplace approximation, with the curvature p_c (1 - p_c) of each class by itself. The
    mutual information is computed from `draws` of V and averaged over `targets` images of the pool. The
    curvature needs no label: after each choice the head is as sure as it will be once that label is there,
    so that the next image is one that says something else.

    Source: Bickford Smith et al. 2023 (AISTATS), expected predictive information gain, as for vision-language
        models in BayesVLM (Baumann et al. 2025). Differs: the posterior is over a head on the image features
        and not over the projections, so that no pretraining data are needed.

    Args:
        pool: The images.
        picks: What is chosen.
        head_sd: Standard deviation of what the head adds to a logit, before any label, above 0.
        draws: Of the head.
        targets: Images whose classes are to be known, drawn from the pool by content.

    Raises:
        ValueError: There is no model, or a setting is not as above.
    """
    check_whole(1, targets=targets)
    check_whole(2, draws=draws)
    if not (np.isfinite(head_sd) and head_sd > 0):
        raise ValueError(f"head_sd must be above 0, got {head_sd}.")
    inputs, logits = pool.inputs(), pool.logits()
    probs = softmax(logits, axis=1)
    generator = np.random.default_rng([picks.seed, 1])
    head = _Head(inputs, logits.shape[1], head_sd, draws, generator)
    for row in pool.labelled:
        head.learn(inputs[row], probs[row])
    ask = _drawn(pool, targets, f"targets {picks.seed}")
    while not picks.full:
        rows = np.flatnonzero(picks.free)
        if not len(rows):
            return
        if len(rows) > CANDIDATES:
            allowed = np.zeros(len(pool), dtype=bool)
            allowed[rows] = True
            order = _drawn(pool, len(pool), f"candidates {picks.seed} {len(picks.rows)}")
            rows = order[allowed[order]][:CANDIDATES]
        gains = _gain(
            softmax(logits[rows] + head.added(inputs[rows]), axis=2),
            softmax(logits[ask] + head.added(inputs[ask]), axis=2),
        )
        scores = np.full(len(pool), -np.inf)
        scores[rows] = gains
        row = picks.best(scores)
        assert row is not None
        picks.take(row, float(scores[row]), f"expected to say {scores[row]:.4f} nats about any other image")
        head.learn(inputs[row], probs[row])


class _Head:
    """Draws of a Bayesian linear head, and its covariance for each class, updated row by row."""

    def __init__(
        self, inputs: np.ndarray, classes: int, sd: float, draws: int, generator: np.random.Generator
    ) -> None:
        width = inputs.shape[1]
        self._generator = generator
        self._covariance = np.repeat(sd**2 * np.eye(width)[None], classes, axis=0)  # (C, D, D)
        self._draws = sd * generator.standard_normal((draws, classes, width))

    def added(self, inputs: np.ndarray) -> np.ndarray:
        """Return what each draw adds to the logits of inputs (N, D): (K, N, C)."""
        return np.einsum("nd,kcd->knc", inputs, self._draws, optimize=True)

    def learn(self, row: np.ndarray, probs: np.ndarray) -> None:
        """Be as sure as with the label of an input (D,) of which the model says probs (C,).

        By Matheron's rule a draw V becomes V - v (z V + noise) / (z' v + 1 / h), v the covariance times z.
        """
        for c, p in enumerate(probs):
            noise = 1 / max(p * (1 - p), 1e-6)
            toward = self._covariance[c] @ row
            size = float(row @ toward) + noise
            wobble = np.sqrt(noise) * self._generator.standard_normal(len(self._draws))
            self._draws[:, c] -= np.outer((self._draws[:, c] @ row + wobble) / size, toward)
            self._covariance[c] -= np.outer(toward, toward) / size


def _gain(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return the mean mutual information (N,) of classes of draws (K, N, C) and (K, T, C)."""
    draws, n, classes = here.shape
    n_there = there.shape[1]
    ours, theirs = here.mean(axis=0), there.mean(axis=0)
    apart = -xlogy(ours, ours).sum(axis=1) - xlogy(theirs, theirs).sum(axis=1).mean()
    other = there.transpose(1, 2, 0).reshape(n_there * classes, draws).T / draws
    gains = np.empty(n)
    step = max(1, AT_ONCE // (classes * n_there * classes))
    for start in range(0, n, step):
        part = here[:, start : start + step].transpose(1, 2, 0)
        joint = (part.reshape(-1, draws) @ other).reshape(len(part), -1)
        gains[start : start + step] = xlogy(joint, joint).sum(axis=1) / n_there
    return gains + apart


def _drawn(pool: Pool, count: int, salt: str) -> np.ndarray:
    """Return rows of a pool, as many as are asked for, in an order made of their content."""
    order = sorted(range(len(pool)), key=lambda row: stable_hash(salt, pool.ids[row]))
    return np.array(order[:count])
