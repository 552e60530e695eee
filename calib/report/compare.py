"""Methods beside each other: means over seeds, and differences with paired intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from calib.metrics import METRICS, columns_of, interval_statistic
from calib.report.tables import Cell, Difference
from calib.stats import mean_sd, paired_bootstrap


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
    bootstrap = {"n_resamples": n_resamples, "level": level, "seed": seed}
    compared = [name for name in columns_of(METRICS) if METRICS[name].compared]
    differences: dict[str, dict[str, Difference]] = {}
    for name, runs in by_method.items():
        if name == baseline:
            continue
        ours, theirs = _paired(name, runs, baseline, by_method[baseline])
        differences[name] = {key: _difference(key, ours, theirs, n_bins, bootstrap) for key in compared}
    return differences


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
) -> tuple[list[Predicted], list[Predicted]]:
    """Return the runs of two methods that have a seed in common, in the order of the seeds."""
    seeds = sorted(method.keys() & reference.keys())
    if not seeds:
        raise ValueError(
            f"'{name}' (seeds {sorted(method)}) and '{baseline}' (seeds {sorted(reference)}) share no seed."
        )
    ours, theirs = ([runs[seed] for seed in seeds] for runs in (method, reference))
    if not all(each.same_images(theirs[0]) for each in [*ours, *theirs]):
        raise ValueError(
            f"'{name}' and '{baseline}' were not evaluated on the same images; they cannot be paired."
        )
    return ours, theirs


def _difference(
    metric: str,
    ours: Sequence[Predicted],
    theirs: Sequence[Predicted],
    n_bins: int,
    bootstrap: Mapping[str, Any],
) -> Difference:
    first = theirs[0]
    labels = np.broadcast_to(first.labels.numpy(), (len(theirs), len(first.labels)))  # (S, N)
    interval = paired_bootstrap(
        interval_statistic(metric, n_bins=n_bins),
        *((np.stack([run.logits.numpy() for run in runs]), labels) for runs in (ours, theirs)),  # (S, N, C)
        groups=first.groups,
        several_runs=True,
        kind=METRICS[metric].interval_kind,
        **bootstrap,
    )
    return Difference(interval.estimate, interval.low, interval.high, interval.level, len(ours))
