"""Metrics: functions of tensors, torchmetrics classes, and `summarize`, all under the same names.

Functions say what they take: (confidence, correct), (predictions, labels), (probs, labels) or (logits,
labels). They return a () float64 tensor; results are fractions, never percent. Tensors on MPS, which has no
float64, are computed on the CPU. Wrong shapes, types, ranges, NaN and empty inputs raise ValueError.
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
from calib.metrics.kde import kde_calibration_error, official_bandwidth, smoothed_accuracy
from calib.metrics.modular import (
    CalibrationError,
    ClassScore,
    ClasswiseCalibrationError,
    SampleMean,
    SetCalibrationError,
    metric_collection,
)
from calib.metrics.resampling import interval_statistic
from calib.metrics.scores import (
    accuracy,
    balanced_accuracy,
    brier_score,
    macro_f1,
    negative_log_likelihood,
    negative_log_likelihood_from_probs,
    per_class_table,
)
from calib.metrics.summary import METRICS, MetricInfo, summarize
