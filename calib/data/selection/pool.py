"""The images among which shots are chosen, and what may still be chosen of them: copies and patients."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from calib.core.hashing import stable_hash
from calib.data.notices import ProgressLog

logger = logging.getLogger(__name__)
HEAD_SD = 3.0  # of the logits, before any label, of a head that learns beside the model's own


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool:
    """The images of a pool in the order of their content ids, each once: no file's name or place matters.

    Attributes:
        features: (N, D) float64 of unit norm.
        ids: N different content ids, sorted.
        weight: (C, D) of the model at hand, `logits = features @ weight.T + bias`. None: there is none.
        bias: (C,).
        groups: N names of what belongs together, such as patients. None: not known.
        labelled: (L,) rows that have a label already.
        labels: (L,) their class indices.
        learned: Whether the model has learned from these labels. False: doubts are those of a head that does.
        source: (M, D) unit norm: images of the domain the model is at home in. None: not known.
        class_names: C names, for the words. None: classes are numbers.
    """

    features: np.ndarray
    ids: list[str]
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    groups: list[str] | None = None
    labelled: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    learned: bool = False
    source: np.ndarray | None = None
    class_names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.features)

    def logits(self, features: np.ndarray | None = None) -> np.ndarray:
        """Return what the model says, (N, C), with what a head beside it has learned from the labels.

        Args:
            features: (N, D) of the pool's images as the model is to see them. None: as they are.

        Raises:
            ValueError: There is no model.
        """
        if self.weight is None or self.bias is None:
            raise ValueError(
                "This strategy needs a model: class names for zero-shot (data.class_names), or prompt=RUN."
            )
        seen = self.features if features is None else features
        plain = seen @ self.weight.T + self.bias
        if self.learned or not len(self.labelled):
            return plain
        return plain + head_of(plain, self.inputs(), self.labelled, self.labels, HEAD_SD)

    def probs(self, features: np.ndarray | None = None) -> np.ndarray:
        """Return the probabilities (N, C) of `logits`."""
        return np.asarray(softmax(self.logits(features), axis=1))

    def inputs(self) -> np.ndarray:
        """Return what a head on the images sees, (N, D): centred, of mean square 1."""
        centred = self.features - self.features.mean(axis=0)
        size = np.sqrt(np.square(centred).sum(axis=1).mean())
        return centred / size if size > 0 else centred

    def name(self, label: int) -> str:
        """Return what a class is called."""
        return f"class {label}" if self.class_names is None else str(self.class_names[label])


def head_of(
    logits: np.ndarray, inputs: np.ndarray, rows: np.ndarray, labels: np.ndarray, sd: float
) -> np.ndarray:
    """Return what a linear head adds to logits (N, C) after some labels: the most probable one.

        V = argmin  -sum_i log softmax(logits_i + V z_i)[y_i] + |V|^2 / (2 sd^2)

    Args:
        logits: (N, C) of the model it stands beside.
        inputs: (N, D) z.
        rows: (L,) which have labels.
        labels: (L,) class indices.
        sd: Of a weight before any label.
    """
    seen, start, classes = inputs[rows], logits[rows], logits.shape[1]
    true = np.eye(classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(classes, -1)
        logs = log_softmax(start + seen @ weight.T, axis=1)
        slope = (np.exp(logs) - true).T @ seen + weight / sd**2
        return float(-(true * logs).sum() + np.square(weight).sum() / (2 * sd**2)), slope.ravel()

    zero = np.zeros(classes * inputs.shape[1])
    found = minimize(loss, zero, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.asarray(inputs @ found.x.reshape(classes, -1).T)


class Picks:
    """What is chosen of a pool, one by one, and what may still be.

    Never chosen are images that have a label, images nearly the same as one that is chosen or has one, and
    those of a group that has given as many as it may.

    Args:
        pool: The images.
        budget: How many are to be chosen.
        per_group: How many a group may give, those that have a label included. None: any number.
        near: Cosine, around the mean of the pool, from which two images are nearly the same.
        seed: Of what is drawn.

    Attributes:
        free: (N,) bool, what may be chosen.
        rows: What is chosen, in order.
        scores: Of each; NaN where the strategy has none.
        clusters: Of each; None where the strategy has none.
        why: Why each, in words.
    """

    def __init__(
        self, pool: Pool, budget: int, *, per_group: int | None = None, near: float = 0.95, seed: int = 0
    ) -> None:
        self.pool, self.budget, self.seed = pool, budget, seed
        self._per_group = per_group
        self._near = min(near, 1 - 1e-9)  # a cosine with itself is 1 but for rounding
        self.free = np.ones(len(pool), dtype=bool)
        self.rows: list[int] = []
        self.scores: list[float] = []
        self.clusters: list[int | None] = []
        self.why: list[str] = []
        self._given: Counter[str] = Counter()
        self._progress = ProgressLog(logger, "choosing images", budget)
        centred = pool.inputs()
        self._around = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        for row in pool.labelled:
            self._close(int(row))

    @property
    def full(self) -> bool:
        """Whether the budget is spent."""
        return len(self.rows) >= self.budget

    def shuffled(self) -> list[int]:
        """Return all rows in an order that depends on the seed and the images alone."""
        return sorted(range(len(self.pool)), key=lambda row: stable_hash(self.seed, self.pool.ids[row]))

    def best(self, scores: np.ndarray, among: np.ndarray | None = None) -> int | None:
        """Return the free row with the highest score. None: there is none.

        Args:
            scores: (N,).
            among: (N,) bool, where to look. None: everywhere.
        """
        open_ = self.free if among is None else self.free & among
        if not open_.any():
            return None
        return int(np.where(open_, scores, -np.inf).argmax())

    def take(self, row: int, score: float, why: str, cluster: int | None = None) -> None:
        """Choose a row."""
        self.rows.append(row)
        self.scores.append(score)
        self.clusters.append(cluster)
        self.why.append(why)
        self._close(row)
        self._progress.update(len(self.rows))

    def _close(self, row: int) -> None:
        """Let nothing more be chosen that a row, chosen or labelled, stands for."""
        self.free[row] = False
        self.free &= self._around @ self._around[row] < self._near
        if self.pool.groups is None or self._per_group is None:
            return
        group = self.pool.groups[row]
        self._given[group] += 1
        if self._given[group] >= self._per_group:
            self.free &= np.array([other != group for other in self.pool.groups])
