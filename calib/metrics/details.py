"""Calibration in detail: what one number hides, for a report and not for a table or a bootstrap."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from calib.metrics.chance import null_ece_quantile
from calib.metrics.corp import classwise_parts, top_parts
from calib.metrics.outcomes import Outcomes
from calib.metrics.recalibration import intercept_of, recalibration_gains, slope_of


def summarize_calibration(logits: Tensor, labels: Tensor, *, n_bins: int = 10) -> dict[str, Any]:
    """Return the decompositions, the gain of recalibration, slope and intercept, by name.

    name                       what                                                      range     best
    null_ece_95                ECE that a calibrated model stays below in 95 of 100 sets [0, 1]
    brier_mcb, _dsc, _unc      the Brier score in parts, summed over classes             [0, 2]    0, high
    log_mcb, _dsc, _unc        the same of the sum of the classes' log scores            [0, inf)  0, high
    top_brier_mcb, _dsc, _unc  (confidence - correct)^2 in parts                         [0, 1]    0, high
    top_log_mcb, _dsc, _unc    the log score of the confidence in parts                  [0, inf)  0, high
    nll_gain, brier_gain       what cross-fitted recalibration takes off NLL and Brier   <= score  0
    slope, intercept           of a logistic regression of correct on logit(confidence)  any       1, 0

    They are those of `null_ece_quantile`, `classwise_corp_decomposition`, `corp_decomposition`,
    `recalibration_gain`, `calibration_slope` and `calibration_intercept`, computed from log-probabilities:
    where a confidence is 1 to the last bit of a double, the logits still say how near.

    Args:
        logits: (N, C), finite; the softmax is taken in float64.
        labels: (N,) class indices.
        n_bins: Number of bins of null_ece_95.

    Returns:
        Floats under these names, nan where undefined; undefined: {name: reason}, empty if all are defined.

    Raises:
        ValueError: If the inputs are not as above.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [3.0, 0.0], [0.0, 1.5], [2.5, 0.0]])
        >>> details = summarize_calibration(logits, torch.tensor([0, 1, 1, 0, 0, 0]))
        >>> {name: round(details[name], 3) for name in ("top_brier_mcb", "slope", "intercept", "nll_gain")}
        {'top_brier_mcb': 0.108, 'slope': 2.289, 'intercept': -0.939, 'nll_gain': -0.334}
    """
    return calibration_details(Outcomes.from_logits(logits, labels), n_bins=n_bins)


def calibration_details(p: Outcomes, *, n_bins: int = 10) -> dict[str, Any]:
    """Return `summarize_calibration` of predictions that were made from logits.

    Args:
        p: The predictions, with finite log-probabilities.
        n_bins: Number of bins of null_ece_95.
    """
    values: dict[str, Any] = {"null_ece_95": float(null_ece_quantile(p.confidence, n_bins=n_bins))}
    for prefix, parts in (("", classwise_parts(p)), ("top_", top_parts(p))):
        for score, each in parts.items():
            values |= {
                f"{prefix}{score}_{part}": float(getattr(each, part)) for part in ("mcb", "dsc", "unc")
            }
    values |= {f"{score}_gain": gain for score, gain in recalibration_gains(p.log_probs, p.labels).items()}
    log_odds = (p.log_probs.amax(dim=1) - p.log_rest).cpu().numpy()
    correct = p.correct.cpu().numpy()
    reasons: dict[str, str | None] = {}
    for name, fitted in (("slope", slope_of), ("intercept", intercept_of)):
        values[name], reasons[name] = fitted(log_odds, correct)
    for name in ("nll_gain", "brier_gain"):
        reasons[name] = "there are fewer samples than folds" if math.isnan(values[name]) else None
    return values | {"undefined": {name: reason for name, reason in reasons.items() if reason is not None}}
