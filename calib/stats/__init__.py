"""Statistics of results: intervals by the bootstrap, exact ones for shares, and tests."""

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
from calib.stats.delong import delong, delong_test
from calib.stats.joint import JointBootstrap, counted_intervals
from calib.stats.proportions import clopper_pearson, effective_size, proportion_interval
from calib.stats.tests import (
    Equivalence,
    RankCorrelation,
    adjusted_p,
    equivalence_test,
    mcnemar_exact,
    permutation_p,
    sign_flip_test,
    signed_ranks,
    spearman_test,
)


def __dir__() -> list[str]:
    return __all__


__all__ = offered(globals())
