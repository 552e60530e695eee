"""Methods beside each other: means over seeds, and differences with paired intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from calib.metrics import METRICS, columns_of, interval_statistic
from calib.report.tables import Cell, Difference
from calib.stats import Interval, JointBootstrap, MeanStatistic, mean_sd

ROUNDING = 1e-12  # of means over resamples


class Predicted(Protocol):
    """What a comparison needs of N predictions; `calib.data.predictions.Predictions` have it."""

    @property
    def logits(self) -> Tensor:
        """(N, C)."""

    @property
    def labels(self) -> Tensor:
        """(N,) class indices."""

    @property
    def groups(self) -> Sequence[str] | None:
        """N groups that are resampled as a whole. None: every image is one."""

    def same_images(self, other: Any) -> bool:
        """Return whether both are of the same images in the same order."""


def compare(
    by_method: Mapping[str, Mapping[int, Predicted]],
    *,
    baseline: str,
    n_bins: int = 10,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, Difference]]:
    """Return every method's difference from the baseline, metric by metric, with paired bootstrap intervals.

    Runs are paired by seed and images by id: a resample draws the same seeds and the same images for both
    methods. Compared are the metrics that have a column and share their resamples.

    Args:
        by_method: Method to seed to predictions.
        baseline: The method that the others are compared with.
        n_bins: Bins of the binned metrics.
        n_resamples: Bootstrap resamples.
        level: Coverage of the intervals, in (0, 1).
        seed: Of the bootstrap.

    Raises:
        ValueError: A method shares no seed with the baseline, or was evaluated on other images.
    """
    seeds = {
        name: _paired(name, runs, baseline, by_method[baseline])
        for name, runs in by_method.items()
        if name != baseline
    }
    if not seeds:
        return {}
    joint = joint_bootstrap(by_method, n_bins=n_bins, n_resamples=n_resamples, level=level, seed=seed)
    return {name: differences_of(joint, name, baseline, shared) for name, shared in seeds.items()}


def joint_bootstrap(
    by_method: Mapping[str, Mapping[int, Predicted]],
    *,
    n_bins: int = 10,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> JointBootstrap[tuple[str, int]]:
    """Return the metrics that are compared, of every method and seed, on the same resamples of the images.

    Args:
        by_method: Method to seed to predictions, all of the same images in the same order.
        n_bins: Bins of the binned metrics.
        n_resamples: Bootstrap resamples.
        level: Coverage of the intervals.
        seed: Of the bootstrap.

    Raises:
        ValueError: There is only one image, or one group of images.
    """
    first = next(iter(next(iter(by_method.values())).values()))
    return JointBootstrap(
        {name: _of_means(name, n_bins) for name in compared()},
        {
            (name, number): (each.logits.cpu().numpy(), each.labels.cpu().numpy())
            for name, runs in by_method.items()
            for number, each in runs.items()
        },
        groups=first.groups,
        n_resamples=n_resamples,
        level=level,
        seed=seed,
    )


def compared() -> list[str]:
    """Return the metrics that have a column and share their resamples, in the order of the columns."""
    return [name for name in columns_of(METRICS) if METRICS[name].compared]


def ends_of(interval: Interval | None) -> tuple[float, float] | None:
    """Return the ends of a bootstrap interval; None for one without width, which says nothing.

    Where all samples are alike (all right, none wrong) so is every resample, however few they are.

    Args:
        interval: From a bootstrap. None: there is none.

    Example:
        >>> ends_of(Interval(0.9, 0.84, 0.96, 0.95, 2000)), ends_of(Interval(1.0, 1.0, 1.0, 0.95, 2000))
        ((0.84, 0.96), None)
    """
    if interval is None or interval.high - interval.low <= ROUNDING:
        return None
    return interval.low, interval.high


def differences_of(
    joint: JointBootstrap[tuple[str, int]], method: str, baseline: str, seeds: Sequence[int]
) -> dict[str, Difference]:
    """Return a method's differences from the baseline, metric by metric, with paired intervals.

    Args:
        joint: From `joint_bootstrap`.
        method: One of its methods.
        baseline: Another.
        seeds: Which both have.
    """
    found = {}
    for name in compared():
        interval = joint.interval(
            name,
            [(method, seed) for seed in seeds],
            minus=[(baseline, seed) for seed in seeds],
            kind=METRICS[name].interval_kind,
        )
        found[name] = Difference(interval.estimate, interval.low, interval.high, interval.level, len(seeds))
    return found


def _of_means(name: str, n_bins: int) -> MeanStatistic:
    statistic = interval_statistic(name, n_bins=n_bins)
    assert isinstance(statistic, MeanStatistic)  # as those of all metrics whose resamples are shared
    return statistic


def over_seeds(values: Sequence[float | None]) -> Cell:
    """Return the mean over seeds and its spread; undefined where it is undefined for a seed.

    Args:
        values: A metric, one number per seed.

    Example:
        >>> over_seeds([0.25, 0.75]), over_seeds([0.5]), over_seeds([0.5, None])
        (Cell(value=0.5, sd=0.3535533905932738, interval=None), Cell(value=0.5, sd=None, interval=None), \
Cell(value=None, sd=None, interval=None))
    """
    defined = [value for value in values if value is not None and math.isfinite(value)]
    if len(defined) < len(values):
        return Cell(None)
    mean, sd = mean_sd(defined)
    return Cell(mean, sd if len(defined) > 1 else None)


def _paired(
    name: str, method: Mapping[int, Predicted], baseline: str, reference: Mapping[int, Predicted]
) -> list[int]:
    """Return the seeds that two methods have in common, in order."""
    seeds = sorted(method.keys() & reference.keys())
    if not seeds:
        raise ValueError(
            f"'{name}' (seeds {sorted(method)}) and '{baseline}' (seeds {sorted(reference)}) share no seed."
        )
    first = reference[seeds[0]]
    if not all(each.same_images(first) for seed in seeds for each in (method[seed], reference[seed])):
        raise ValueError(
            f"'{name}' and '{baseline}' were not evaluated on the same images; they cannot be paired."
        )
    return seeds
