"""How well an uncertainty tells wrong predictions from right ones, whatever the uncertainty is.

Every metric takes (uncertainty, failure): any real numbers, higher = more likely wrong, and whether the
prediction is wrong. Only the order of the numbers counts, so an increasing function of the uncertainty gives
the same result; nothing here is taken for a probability. Ties are averaged or taken as one step, as each
metric says, so the order of the rows never matters.

Samples are accepted from the lowest uncertainty to the highest. Coverage is the accepted share of all
samples, selective risk the share of failures among the accepted.

What is undefined is NaN, never an exception, and `undefined_reason` says why: AUROC and FPR at a TPR need a
failure and a correct prediction, AUPR-error needs a failure, everything needs a sample. That includes the
empty set, on which the other metrics of this package raise: here a site without samples is a row of a table.
NaN scores raise.

The work is done by functions of counts per step (distinct uncertainty), which is what makes a bootstrap of
thousands of resamples a few array operations: see `failure_statistic`.
"""

from calib.metrics.failure.functions import (
    RiskCoverage,
    augrc,
    aupr_error,
    aurc,
    auroc,
    coverage_at_risk,
    eaurc,
    fpr_at_tpr,
    risk_at_coverage,
    risk_coverage_curve,
)
from calib.metrics.failure.registry import FAILURE_METRICS, FailureMetric
from calib.metrics.failure.statistic import (
    FailureStatistic,
    failure_statistic,
    failures_of_counts,
    summarize_failure,
    undefined_reason,
)
