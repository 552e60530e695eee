"""The table of failure metrics: the one place where one has its name, its function and its column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calib.metrics.columns import Column
from calib.metrics.failure.steps import (
    augrc_of_steps,
    aupr_error_of_steps,
    aurc_of_steps,
    auroc_of_steps,
    capture_of_steps,
    coverage_of_steps,
    eaurc_of_steps,
    fpr_of_steps,
    prr_of_steps,
    risk_of_steps,
)


@dataclass(frozen=True)
class FailureMetric:
    """A row of FAILURE_METRICS.

    Attributes:
        of_steps: The function: `calib.metrics.failure.steps.Steps` of R resamples, settings -> (R,).
        settings: What is fixed under this name.
        needs_failure: Whether it is undefined where no prediction is wrong.
        needs_success: Whether it is undefined where every prediction is wrong.
        higher_is_better: Whether more is better.
        column: Its column in tables; it then has intervals, and differences from the baseline. None: none.
        watched: Whether it is logged for the validation images of every epoch.
    """

    of_steps: Callable[..., np.ndarray]
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs_failure: bool = False
    needs_success: bool = False
    higher_is_better: bool = False
    column: Column | None = None
    watched: bool = False


# In the order of a summary; the order of columns is their own.
FAILURE_METRICS: dict[str, FailureMetric] = {
    "auroc": FailureMetric(
        auroc_of_steps,
        needs_failure=True,
        needs_success=True,
        higher_is_better=True,
        column=Column("AUROC %", order=1),
        watched=True,
    ),
    "aupr_error": FailureMetric(
        aupr_error_of_steps,
        needs_failure=True,
        higher_is_better=True,
        column=Column("AUPR-error %", order=6),
    ),
    "fpr95": FailureMetric(
        fpr_of_steps,
        {"tpr": 0.95},
        needs_failure=True,
        needs_success=True,
        column=Column("FPR95 %", order=2),
    ),
    "fpr95_nearest": FailureMetric(
        fpr_of_steps, {"tpr": 0.95, "method": "nearest"}, needs_failure=True, needs_success=True
    ),
    "aurc": FailureMetric(aurc_of_steps, column=Column("AURC %", decimals=2, order=3), watched=True),
    "eaurc": FailureMetric(eaurc_of_steps, column=Column("E-AURC %", decimals=2, order=4)),
    "augrc": FailureMetric(augrc_of_steps, column=Column("AUGRC %", decimals=2, order=5)),
}

# Those that are asked for with settings of one's own, and stand in no summary.
WITH_SETTINGS: dict[str, FailureMetric] = {
    "fpr_at_tpr": FailureMetric(fpr_of_steps, needs_failure=True, needs_success=True),
    "risk_at_coverage": FailureMetric(risk_of_steps),
    "coverage_at_risk": FailureMetric(coverage_of_steps),
    "prr": FailureMetric(prr_of_steps, needs_failure=True, needs_success=True, higher_is_better=True),
    "capture": FailureMetric(capture_of_steps, needs_failure=True, higher_is_better=True),
}
