"""Statistics of results: intervals by the bootstrap."""

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


def __dir__() -> list[str]:
    return __all__


__all__ = offered(globals())
