"""Effective robustness: does uncertainty rise where accuracy falls, and by as much?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from calib.stats import RankCorrelation, spearman_test

ENOUGH = 3  # corruptions, below which ranks say nothing


@dataclass(frozen=True)
class Effective:
    """How confidence moves with accuracy over corruptions and severities.

    Attributes:
        accuracy: Mean change of the accuracy, a fraction.
        confidence: Mean change of the mean confidence.
        followed: confidence / accuracy: 1 where the confidence falls by as much as the accuracy, 0 where it
            stays, below 0 where it rises. None: the accuracy does not fall.
        gap: Mean change of confidence - accuracy: how much overconfidence is gained.
        ranks: Rank correlation of the two changes within severities, with its permutation test over
            corruptions: do those that cost more accuracy lower the confidence more? None: there are fewer
            than three corruptions, or no change differs.
        cells: Corruptions times severities behind it.
    """

    accuracy: float
    confidence: float
    followed: float | None
    gap: float
    ranks: RankCorrelation | None
    cells: int

    def sentence(self) -> str:
        """Return what it says in plain words.

        Example:
            >>> effective_robustness({("blur", 1): (-0.2, 0.05)}).sentence().partition(". ")[2]
            'That is 25.0 points of overconfidence more.'
        """
        fell, moved, gap = -100 * self.accuracy, 100 * self.confidence, 100 * self.gap
        turned = f"confidence {'falls' if moved <= 0 else 'rises'} by {abs(moved):.1f}"
        if self.followed is None:
            return f"Accuracy does not fall ({-fell:+.1f} points); {turned}."
        word = (
            "follows"
            if self.followed >= 0.75
            else "follows in part"
            if self.followed >= 0.25
            else "does not follow"
        )
        ranks = ""
        if self.ranks is not None:
            ranks = (
                f" Do corruptions that cost more accuracy lower it more? Rank correlation within severities "
                f"{self.ranks.rho:+.2f}, p = {self.ranks.p:.2g}."
            )
        return (
            f"Confidence {word}: accuracy falls by {fell:.1f} points on average, and {turned}. That is "
            f"{abs(gap):.1f} points of overconfidence {'more' if gap >= 0 else 'less'}.{ranks}"
        )


def effective_robustness(
    changes: Mapping[tuple[str, int], tuple[float, float]], *, n_permutations: int = 9999, seed: int = 0
) -> Effective:
    """Return how the mean confidence moves with the accuracy under corruptions.

    Args:
        changes: (corruption, severity) to the changes of accuracy and of mean confidence against the images
            as they are.
        n_permutations: Of the test of ranks.
        seed: Of the permutations.

    Raises:
        ValueError: There is no change, or one is not finite.

    Example:
        >>> found = effective_robustness({("blur", 1): (-0.1, -0.05), ("noise", 1): (-0.3, -0.05)})
        >>> round(found.followed, 3), round(found.gap, 3), found.ranks
        (0.25, 0.15, None)
    """
    values = np.array(list(changes.values()), dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("Changes must be finite numbers under at least one corruption.")
    accuracy, confidence = values.mean(axis=0)
    names = sorted({name for name, _ in changes})
    severities = sorted({severity for _, severity in changes})
    grid = np.full((2, len(names), len(severities)), math.nan)
    for (name, severity), pair in changes.items():
        grid[:, names.index(name), severities.index(severity)] = pair
    ranks = None
    if len(names) >= ENOUGH:
        try:
            ranks = spearman_test(grid[0], grid[1], n_permutations=n_permutations, seed=seed)
        except ValueError:  # no column has values that differ
            ranks = None
    return Effective(
        accuracy=float(accuracy),
        confidence=float(confidence),
        followed=float(confidence / accuracy) if accuracy < -1e-12 else None,
        gap=float(confidence - accuracy),
        ranks=ranks,
        cells=len(changes),
    )
