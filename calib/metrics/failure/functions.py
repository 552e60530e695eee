"""Failure metrics as functions of (uncertainty, failure); see `calib.metrics.failure`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from calib.metrics.failure.statistic import as_arrays, failure_statistic, result_device
from calib.metrics.failure.steps import Ranking


def auroc(uncertainty: Tensor, failure: Tensor) -> Tensor:
    """Return the area under the ROC curve, failure being the positive class, () float64 in [0, 1].

    P(u_failure > u_correct) + P(u_failure = u_correct) / 2, over all pairs of a failure and a correct one

    Args:
        uncertainty: (N,) real numbers, infinities included; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        1 if every failure is more uncertain than every correct prediction, 0.5 if the score says nothing; NaN
        without a failure or without a correct prediction.

    Raises:
        ValueError: A shape or a type is not as above, or an uncertainty is NaN.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True]))
        tensor(0.8750, dtype=torch.float64)
    """
    return _value("auroc", uncertainty, failure)


def aupr_error(uncertainty: Tensor, failure: Tensor) -> Tensor:
    """Return the average precision of finding failures, () float64 in [0, 1].

    sum over distinct uncertainties t of (failures at t / all failures) * (share of failures where u >= t)

    Ties are one step, as in scikit-learn. A score that says nothing gives the share of failures, so the value
    cannot be compared between models of different accuracy.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        NaN without a failure; 1 if every prediction is wrong.

    Example:
        >>> aupr_error(torch.tensor([0.1, 0.4, 0.5, 0.9]), torch.tensor([False, True, False, True]))
        tensor(0.8333, dtype=torch.float64)

    Source: average_precision_score(failure, uncertainty) of scikit-learn, as ViLU calls it ("aupr_err").
    Differs: without a failure scikit-learn and ViLU say 0, here it is NaN: there was nothing to find.
    """
    return _value("aupr_error", uncertainty, failure)


def fpr_at_tpr(
    uncertainty: Tensor,
    failure: Tensor,
    *,
    tpr: float = 0.95,
    method: Literal["interpolated", "nearest"] = "interpolated",
) -> Tensor:
    """Return the share of failures accepted where a share `tpr` of the correct predictions is, () float64.

    The positive class is CORRECT and its score is -uncertainty, as in ViLU and TrustVLM: TPR = accepted share
    of the correct predictions, FPR = accepted share of the failures. (AUROC does not change when the classes
    swap, FPR95 does.) Lower is better.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.
        tpr: In (0, 1); 0.95 makes it the FPR95.
        method: "interpolated": on the straight lines between the points of the ROC curve; where the curve has
            the TPR at several FPRs, the largest of them. "nearest": the FPR of the point whose TPR is
            nearest, of several the one with the lowest TPR and FPR.

    Returns:
        NaN without a failure or without a correct prediction. If all uncertainties are equal, `tpr` when
        interpolated.

    Raises:
        ValueError: A setting or an input is not as above.

    Example:
        >>> uncertainty = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        >>> failure = torch.tensor([False, False, True, False, True, True])
        >>> fpr_at_tpr(uncertainty, failure)
        tensor(0.3333, dtype=torch.float64)

    Source: "interpolated": get_fpr95 of github.com/ykrmm/ViLU e4bf572. "nearest":
        github.com/EPFL-IMOS/TrustVLM 0a0caa6, TrustVLM.py.
    Differs: TrustVLM takes the nearest of the points that scikit-learn keeps by default, which leaves out
        those inside straight parts of the curve, so that the nearest one left can be far away; here all
        points count.
    """
    return _value("fpr_at_tpr", uncertainty, failure, tpr=tpr, method=method)


def aurc(uncertainty: Tensor, failure: Tensor) -> Tensor:
    """Return the area under the risk-coverage curve, () float64 in [0, 1]; lower is better.

    mean over i = 1..N of (failures among the i least uncertain) / i

    Ties: the expected value over random orders of equally uncertain samples. It depends on the share of
    failures, which is its value for a score that says nothing.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        0 without a failure, 1 if every prediction is wrong; NaN without samples.

    Example:
        >>> aurc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([False, False, True, False]))
        tensor(0.1458, dtype=torch.float64)

    Source: Geifman, Uziel, El-Yaniv 2019 (arXiv 1805.08206), section 3.
    Differs: common code, TrustVLM's among it, leaves ties in the order of the rows and prints the value times
        1000.
    """
    return _value("aurc", uncertainty, failure)


def eaurc(uncertainty: Tensor, failure: Tensor) -> Tensor:
    """Return the AURC in excess of the best possible one, () float64; lower is better.

    aurc - (r + (1 - r) log(1 - r)), r = share of failures

    The subtracted term is the AURC of a perfect order for N to infinity, as everyone subtracts it; with N
    samples a perfect order keeps a rest of the size of r / (2 N).

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        0 without a failure or if every prediction is wrong; NaN without samples.

    Example:
        >>> eaurc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([False, False, True, False]))
        tensor(0.1116, dtype=torch.float64)

    Source: Geifman, Uziel, El-Yaniv 2019 (arXiv 1805.08206), section 3 and its approximation of the optimum.
    """
    return _value("eaurc", uncertainty, failure)


def augrc(uncertainty: Tensor, failure: Tensor) -> Tensor:
    """Return the area under the generalized risk-coverage curve, () float64 in [0, 0.5]; lower is better.

    integral over the coverage of (accepted failures / N), by trapezoids
    = (1 - auroc) r (1 - r) + r^2 / 2, r = share of failures

    The average probability that a sample is wrong and accepted. Unlike the AURC it weighs every failure
    alike, however few samples are accepted. Ties: a straight line, which is the expected value over random
    orders of equally uncertain samples.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        0 without a failure, 0.5 if every prediction is wrong; NaN without samples.

    Example:
        >>> augrc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([False, False, True, False]))
        tensor(0.0938, dtype=torch.float64)

    Source: Traub et al. 2024 (arXiv 2407.01032), section 3; values as github.com/IML-DKFZ/fd-shifts c4467ae
        before its factor 1000.
    """
    return _value("augrc", uncertainty, failure)


def risk_at_coverage(uncertainty: Tensor, failure: Tensor, *, coverage: float) -> Tensor:
    """Return the expected share of failures among the ceil(coverage N) least uncertain samples, () float64.

    Ties are broken at random: the expected value over the orders of equally uncertain samples. The mean over
    coverage = 1/N, 2/N, ... 1 is the AURC.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.
        coverage: Share of the samples to accept, in (0, 1].

    Example:
        >>> u, failure = torch.tensor([0.1, 0.2, 0.2, 0.4]), torch.tensor([False, False, True, False])
        >>> risk_at_coverage(u, failure, coverage=0.5)  # the second sample is a failure half of the time
        tensor(0.2500, dtype=torch.float64)
    """
    return _value("risk_at_coverage", uncertainty, failure, coverage=coverage)


def coverage_at_risk(uncertainty: Tensor, failure: Tensor, *, risk: float) -> Tensor:
    """Return the largest coverage at which the selective risk is at most `risk`, () float64 in [0, 1].

    Equally uncertain samples are accepted together or not at all, so that a threshold on the uncertainty
    reaches the coverage: see `risk_coverage_curve`. It is the best threshold in hindsight, which flatters a
    small set: a description, not a promise about new samples.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.
        risk: Share of failures among the accepted that is tolerated, in [0, 1].

    Returns:
        0 if no threshold keeps the risk.

    Example:
        >>> u, failure = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([False, True, False, False])
        >>> coverage_at_risk(u, failure, risk=0.3)  # risks: 0, 1/2, 1/3, 1/4
        tensor(1., dtype=torch.float64)
    """
    return _value("coverage_at_risk", uncertainty, failure, risk=risk)


@dataclass(frozen=True)
class RiskCoverage:
    """The points of a risk-coverage curve, one per distinct uncertainty, lowest first.

    Attributes:
        threshold: (G,) samples of at most this uncertainty are accepted.
        coverage: (G,) accepted share of all samples, rising to 1.
        risk: (G,) share of failures among the accepted.
        failures: (G,) accepted failures as a share of all samples: the generalized risk.
    """

    threshold: Tensor
    coverage: Tensor
    risk: Tensor
    failures: Tensor


def risk_coverage_curve(uncertainty: Tensor, failure: Tensor) -> RiskCoverage:
    """Return selective risk and coverage at every distinct uncertainty; float64.

    Equally uncertain samples are one step: the points are those a threshold on the uncertainty can reach.

    Args:
        uncertainty: (N,) real numbers; higher = more likely wrong.
        failure: (N,) bool, the prediction is wrong.

    Returns:
        G points, G the number of distinct uncertainties; no points without samples.

    Example:
        >>> curve = risk_coverage_curve(torch.tensor([0.2, 0.1, 0.2, 0.7]), torch.tensor([1, 0, 0, 1]).bool())
        >>> curve.coverage.tolist(), [round(risk, 4) for risk in curve.risk.tolist()]
        ([0.25, 0.75, 1.0], [0.0, 0.3333, 0.5])
    """
    scores, failures = as_arrays(uncertainty, failure)
    if len(scores) == 0:
        return RiskCoverage(*(torch.zeros(0, dtype=torch.float64) for _ in range(4)))
    ranking = Ranking.of(scores, failures)
    steps = ranking.steps(np.ones((1, len(scores))))
    accepted, wrong = steps.accepted[0], steps.accepted_failures[0]
    columns = (ranking.values, accepted / len(scores), wrong / accepted, wrong / len(scores))
    return RiskCoverage(*(torch.from_numpy(column).to(result_device(uncertainty)) for column in columns))


def _value(name: str, uncertainty: Tensor, failure: Tensor, **settings: Any) -> Tensor:
    statistic = failure_statistic(name, **settings)
    value = statistic(*as_arrays(uncertainty, failure))
    return torch.tensor(value, dtype=torch.float64, device=result_device(uncertainty))
