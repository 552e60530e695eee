"""Resamples of whole groups for images under two conditions: what is the same in both is drawn together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from calib.stats.bootstrap import draw_counts
from calib.stats.joint import known_ends

_BLOCK = 2_000_000  # counts worked on at once


class Draws:
    """How often each image is drawn in R resamples, on one side or on two.

    Groups (patients) are drawn as a whole, with replacement. Groups that both sides have are drawn once for
    both, so that the sides are paired by them; those of one side only are drawn among themselves. Two sides
    of the same images are paired image by image.

    Args:
        *sides: The group of every image of a side; one side, or two.
        n_resamples: R.
        level: Share of the resamples inside an interval, in (0, 1).
        seed: Of the draws.

    Raises:
        ValueError: A side is empty, there are fewer than two groups to draw from, or a setting is out of
            range.

    Example:
        >>> draws = Draws(["a", "a", "b"], ["b", "c"], n_resamples=4)
        >>> first, second = ([*draws.blocks(side)][1] for side in (0, 1))
        >>> first.shape, second.shape, bool((first[:, 2] == second[:, 0]).all())  # group b is on both sides
        ((4, 3), (4, 2), True)
    """

    def __init__(
        self, *sides: Sequence[str], n_resamples: int = 1000, level: float = 0.95, seed: int = 0
    ) -> None:
        if n_resamples < 1 or not 0 < level < 1:
            raise ValueError(
                f"n_resamples must be at least 1 and level between 0 and 1, got {n_resamples} and {level}."
            )
        if not all(map(len, sides)):
            raise ValueError("There are no images on one side: nothing can be compared.")
        self.n_resamples, self.level, self.seed = n_resamples, level, seed
        names = sorted({name for side in sides for name in side})
        if len(names) < 2:
            raise ValueError(
                "Intervals need at least 2 groups (patients) to draw from, and all images are of one."
            )
        number = {name: row for row, name in enumerate(names)}
        self._sides = [np.array([number[name] for name in side]) for side in sides]
        holds = [np.isin(np.arange(len(names)), side) for side in self._sides]
        kind = sum((held.astype(int) << place for place, held in enumerate(holds)), np.zeros(len(names), int))
        self._strata = [np.flatnonzero(kind == each) for each in np.unique(kind)]
        self._groups = len(names)

    def blocks(self, side: int = 0) -> Iterator[np.ndarray]:
        """Yield counts (B, n) of a side's images: first once each, then in the resamples; always the same."""
        index = self._sides[side]
        yield np.ones((1, len(index)))
        rng = np.random.default_rng(self.seed)
        rows = max(1, _BLOCK // max(self._groups, len(index), *map(len, self._sides)))
        for start in range(0, self.n_resamples, rows):
            times = min(rows, self.n_resamples - start)
            drawn = np.zeros((times, self._groups))
            for stratum in self._strata:
                drawn[:, stratum] = draw_counts(len(stratum), times, rng)
            yield drawn[:, index]

    def values(self, of_counts: Callable[[np.ndarray], np.ndarray], side: int = 0) -> np.ndarray:
        """Return numbers of the images as they are and of every resample, (1 + R, M).

        Args:
            of_counts: (B, n) counts -> (B, M).
            side: Which side's images they are of.
        """
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is the NaN that is wanted
            return np.concatenate([of_counts(block) for block in self.blocks(side)])

    def interval(
        self, values: np.ndarray, kind: Literal["percentile", "basic"] = "percentile"
    ) -> tuple[float, float]:
        """Return the interval of (1 + R,) values; NaN where more than half are undefined.

        Args:
            values: The number of the images as they are, and of every resample.
            kind: See `calib.stats.bootstrap_interval`.
        """
        return known_ends(values, self.level, kind=kind)
