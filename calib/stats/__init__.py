"""Statistics of results: intervals by the bootstrap."""

from calib.stats.bootstrap import (
    CountedStatistic,
    Interval,
    MeanStatistic,
    Statistic,
    bootstrap_interval,
    mean_sd,
    paired_bootstrap,
)
