"""Metrics: functions of tensors, torchmetrics classes, and `summarize`, all under the same names.

Functions say what they take: (confidence, correct), (predictions, labels), (probs, labels) or (logits,
labels). They return a () float64 tensor; results are fractions, never percent. Tensors on MPS, which has no
float64, are computed on the CPU. Wrong shapes, types, ranges, NaN and empty inputs raise ValueError. The
failure metrics take (uncertainty, failure) and are NaN, with a reason, where there is nothing to compare.
"""

from __future__ import annotations

from calib.metrics.calibration import (
    adaptive_calibration_error,
    classwise_calibration_error,
    confidence_gap,
    expected_calibration_error,
    maximum_calibration_error,
    mean_confidence,
    overconfidence,
    underconfidence,
)
from calib.metrics.classification import (
    accuracy,
    balanced_accuracy,
    brier_score,
    macro_f1,
    negative_log_likelihood,
    negative_log_likelihood_from_probs,
    per_class_table,
)
from calib.metrics.failure import (
    FAILURE_METRICS,
    FailureStatistic,
    RiskCoverage,
    augrc,
    aupr_error,
    aurc,
    auroc,
    coverage_at_risk,
    eaurc,
    failure_statistic,
    fpr_at_tpr,
    risk_at_coverage,
    risk_coverage_curve,
    summarize_failure,
    undefined_reason,
)
from calib.metrics.kde import kde_calibration_error, official_bandwidth, smoothed_accuracy
from calib.metrics.modules import (
    CalibrationError,
    ClassScore,
    ClasswiseCalibrationError,
    SampleMean,
    SetCalibrationError,
    metric_collection,
)
from calib.metrics.registry import METRICS, MetricInfo, summarize
from calib.metrics.resampling import interval_statistic
