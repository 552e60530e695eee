"""Statistics of results: intervals by the bootstrap, and exact ones for shares."""

from calib.core.rooms import offered
from calib.stats.bootstrap import (
    CountedStatistic,
    Interval,
    MeanStatistic,
    Statistic,
    bootstrap_interval,
    mean_sd,
    paired_bootstrap,
)
from calib.stats.joint import JointBootstrap, counted_intervals
from calib.stats.proportions import clopper_pearson, effective_size, proportion_interval


def __dir__() -> list[str]:
    return __all__


__all__ = offered(globals())
