"""Statistics of results: intervals by the bootstrap, exact bounds of shares, and tests."""

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
from calib.stats.bounds import (
    enough_accepted,
    fewest_cases,
    most_wrong,
    p_value,
    upper_bound,
)
from calib.stats.delong import delong, delong_test
from calib.stats.joint import JointBootstrap, counted_intervals, counted_resamples, resampled_interval
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
