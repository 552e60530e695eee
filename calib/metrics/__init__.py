"""Metrics: functions of tensors, torchmetrics classes, and `summarize`, all under the same names.

Functions say what they take: (confidence, correct), (predictions, labels), (probs, labels) or (logits,
labels). They return a () float64 tensor; results are fractions, never percent. Tensors on MPS, which has no
float64, are computed on the CPU. Wrong shapes, types, ranges, NaN and empty inputs raise ValueError. The
failure metrics take (uncertainty, failure) and are NaN, with a reason, where there is nothing to compare.

The torchmetrics classes are loaded when they are asked for; the rest needs torch only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from calib.core.rooms import offered
from calib.metrics.benefit import net_benefit
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
from calib.metrics.chance import consistency_band, null_ece, null_ece_quantile
from calib.metrics.classification import (
    accuracy,
    balanced_accuracy,
    brier_score,
    macro_f1,
    negative_log_likelihood,
    negative_log_likelihood_from_probs,
    per_class_table,
)
from calib.metrics.columns import Column, columns_of, needed_by
from calib.metrics.corp import (
    Decomposition,
    classwise_corp_decomposition,
    corp_decomposition,
    isotonic_recalibration,
)
from calib.metrics.details import summarize_calibration
from calib.metrics.failure import (
    FAILURE_METRICS,
    FailureMetric,
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
from calib.metrics.kinds import BinSums, ClassCounts, MeanOverSamples, WholeSet
from calib.metrics.recalibration import calibration_intercept, calibration_slope, recalibration_gain
from calib.metrics.registry import METRICS, Metric, interval_statistic, summarize
from calib.metrics.segmentation import (
    ImageSums,
    SegmentationSums,
    image_sums,
    per_class,
    per_image,
    summarize_segmentation,
)
from calib.metrics.sets import (
    class_coverage_gap,
    class_coverages,
    set_coverage,
    set_size,
    summarize_sets,
)
from calib.metrics.smooth import smooth_calibration_error
from calib.metrics.unit_bins import bin_error, bins_by_unit, pooled_bins, reliability_histogram

if TYPE_CHECKING:
    from calib.metrics.modules import (
        CalibrationError,
        ClassScore,
        ClasswiseCalibrationError,
        SampleMean,
        SegmentationCalibration,
        SetCalibrationError,
        metric_collection,
    )

_OF_TORCHMETRICS = (
    "CalibrationError",
    "ClassScore",
    "ClasswiseCalibrationError",
    "SampleMean",
    "SegmentationCalibration",
    "SetCalibrationError",
    "metric_collection",
)


def __getattr__(name: str) -> Any:
    if name not in _OF_TORCHMETRICS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("calib.metrics.modules"), name)


def __dir__() -> list[str]:
    return __all__


__all__ = offered(globals(), also=_OF_TORCHMETRICS)
