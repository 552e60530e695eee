"""Methods beside each other: means over seeds, and differences with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from calib.config import EvaluateRun
from calib.data.predictions import Predictions
from calib.metrics import interval_statistic
from calib.report.tables import COLUMNS, Cell, Difference
from calib.stats import mean_sd, paired_bootstrap

# Means of absolute values of noise: the percentile interval of such a metric is off by its bias, the basic
# ("mirrored") one much less; see calib.stats.
BIASED_UPWARDS = frozenset(
    {"ece", "mce", "ace", "classwise_ece", "kde_ece", "overconfidence", "underconfidence"}
)


# The table's metrics but the adaptive ECE, whose resamples cannot be shared and would take minutes.
COMPARED = [metric for _, metric, _ in COLUMNS if metric != "ace"]


def compare(
    by_method: Mapping[str, Mapping[int, Predictions]], config: EvaluateRun
) -> dict[str, dict[str, Difference]]:
    """Return every method's difference from the baseline, metric by metric, with paired bootstrap intervals.

    Runs are paired by seed and images by id: a resample draws the same seeds and the same images for both
    methods.

    Args:
        by_method: Method to seed to predictions.
        config: Baseline, level, resamples and seed of the bootstrap.

    Raises:
        ValueError: A method shares no seed with the baseline, or was evaluated on other images.
    """
    reference = by_method[str(config.baseline)]
    return {
        name: {metric: _difference(name, metric, seeds, reference, config) for metric in COMPARED}
        for name, seeds in by_method.items()
        if name != config.baseline
    }


def _difference(
    name: str,
    metric: str,
    method: Mapping[int, Predictions],
    reference: Mapping[int, Predictions],
    config: EvaluateRun,
) -> Difference:
    seeds = sorted(method.keys() & reference.keys())
    if not seeds:
        raise ValueError(
            f"'{name}' (seeds {sorted(method)}) and '{config.baseline}' (seeds {sorted(reference)}) share no "
            f"seed."
        )
    first = reference[seeds[0]]
    for each in [*(method[seed] for seed in seeds), *(reference[seed] for seed in seeds)]:
        if not each.same_images(first):
            raise ValueError(
                f"'{name}' and '{config.baseline}' were not evaluated on the same images; they cannot be "
                f"paired."
            )
    labels = np.broadcast_to(first.labels.numpy(), (len(seeds), len(first.labels)))  # (S, N)
    ours, theirs = (np.stack([runs[seed].logits.numpy() for seed in seeds]) for runs in (method, reference))
    interval = paired_bootstrap(
        interval_statistic(metric, n_bins=config.n_bins),
        (ours, labels),  # (S, N, C), (S, N)
        (theirs, labels),
        groups=first.groups,
        several_runs=True,
        n_resamples=config.n_resamples,
        level=config.level,
        kind="basic" if metric in BIASED_UPWARDS else "percentile",
        seed=config.seed,
    )
    return Difference(interval.estimate, interval.low, interval.high, interval.level, len(seeds))


def _over_seeds(seeds: Mapping[int, Mapping[str, Any]]) -> dict[str, Cell]:
    cells = {}
    for _, metric, _ in COLUMNS:
        mean, sd = mean_sd([values[metric] for values in seeds.values()])
        cells[metric] = Cell(mean, sd if len(seeds) > 1 else None)
    return cells
