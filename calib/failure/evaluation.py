"""Every uncertainty score of a failure run: training-free, fitted on the images of the head, and the head."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.binning import bin_indices
from calib.core.errors import unknown_name
from calib.data.notices import ProgressLog
from calib.failure.cases import FailureCases
from calib.failure.doubt import HEAD
from calib.failure.export import FailureHead
from calib.failure.vilu import ViLU
from calib.metrics import FAILURE_METRICS, METRICS, columns_of
from calib.metrics.failure import failures_of_counts, summarize_failure
from calib.scores import SCORES, ReadyScore, fit, needs_same_classes
from calib.stats import MeanStatistic, bootstrap_interval, counted_resamples, resampled_interval

BASELINE = "mcp"  # what every score is compared with
DOUBT = "doubt"  # what the stack is called in tables
log = logging.getLogger(__name__)
ECE, BINS = "ece", 10  # of P(wrong), for what is a probability
ECE_KIND = METRICS[ECE].interval_kind  # noise raises it as it raises that of the confidence
LOG_ODDS = ("mcp", "temperature_mcp", "logistic", "logit_scaling")  # scores that are log-odds of being wrong
CAPTIONS_DIFFER = "it needs the same classes for all images, and captions are other ones in every batch"


@dataclass
class Judgements:
    """Uncertainties of N predictions by several scores.

    Attributes:
        values: Score to (N,) float64; higher = more likely wrong.
        failure: (N,) bool: which predictions are wrong.
        groups: N groups for the intervals. None: not known.
        not_fitted: Score to the reason why there is none.
        probs: P(wrong) (N,) in [0, 1] by those that mean one.
    """

    values: dict[str, Tensor]
    failure: Tensor
    groups: Sequence[str] | None = None
    not_fitted: dict[str, str] = field(default_factory=dict)
    probs: dict[str, Tensor] = field(default_factory=dict)


def head_name(head: ViLU) -> str:
    """Return what a head is called in tables: vilu or lvu, and whether it is residual.

    Example:
        >>> head_name(ViLU(8, logit_scale=1.0, residual=True))
        'vilu-residual'
    """
    options = head.options
    kind = "vilu" if options["use_attention"] or options["use_predicted_caption"] else "lvu"
    return f"{kind}-residual" if options["residual"] else kind


def score_names(wanted: Sequence[str]) -> list[str]:
    """Return the scores to report, MCP first.

    Args:
        wanted: Names; empty for all.

    Raises:
        ValueError: A name is unknown.
    """
    for name in wanted:
        if name not in SCORES:
            raise unknown_name("score", name, SCORES)
    return list(dict.fromkeys([BASELINE, *(wanted or SCORES)]))


@dataclass
class FittedScores:
    """Scores that are ready to judge, and why others are not.

    Attributes:
        ready: Name to score.
        not_fitted: Name to the reason why there is none.
    """

    ready: dict[str, ReadyScore] = field(default_factory=dict)
    not_fitted: dict[str, str] = field(default_factory=dict)


def fit_scores(
    names: Sequence[str],
    cases: FailureCases,
    text_features: Tensor | None,
    *,
    ready: Mapping[str, ReadyScore] | None = None,
) -> FittedScores:
    """Return the scores, fitted where they need it.

    All but MCP judge the class of the largest logit, whatever the cases say was predicted.

    Args:
        names: Scores, from `score_names`.
        cases: What the head learned from; scores are fitted on its plain images. (A cross-fitted image has
            logits of its fold's prompt; its predicted class is described all the same by the text that
            describes it later.)
        text_features: (C, D) of the model that is judged. None: the candidates are captions.
        ready: Scores that were fitted on these cases before, as those of a doubt were. None: none.
    """
    fitted = FittedScores()
    for name in names:
        if ready is not None and name in ready:
            fitted.ready[name] = ready[name]
            continue
        if text_features is None and needs_same_classes(name):
            fitted.not_fitted[name] = CAPTIONS_DIFFER
            continue
        try:
            fitted.ready[name] = fit(name, cases, text_features=text_features)
        except ValueError as error:  # say all training predictions are right: nothing to fit a temperature to
            fitted.not_fitted[name] = str(error)
    return fitted


def judge(
    scores: FittedScores, cases: FailureCases, head: FailureHead, *, groups: Sequence[str] | None = None
) -> Judgements:
    """Return the uncertainty of N predictions by every score, by the head, and by the doubt it may hold.

    Args:
        scores: From `fit_scores`.
        cases: What is judged; of several views the plain image.
        head: The head.
        groups: N groups for the intervals. None: not known.
    """
    texts = head.text_features
    values = {name: score(cases, text_features=texts) for name, score in scores.ready.items()}
    probs = {name: values[name].sigmoid() for name in LOG_ODDS if name in values}
    own = head_name(head.head)
    values[own] = probs[own] = head_uncertainty(head, cases, by=HEAD)
    if head.doubt is not None:
        values[DOUBT] = probs[DOUBT] = head_uncertainty(head, cases)
    return Judgements(values, cases.failure, groups, scores.not_fitted, probs)


def head_uncertainty(head: FailureHead, cases: FailureCases, *, by: str | None = None) -> Tensor:
    """Return the uncertainty (N,) of the plain images, each with its own candidates.

    Args:
        head: The head.
        cases: What is judged.
        by: As in `FailureHead.uncertainty`.
    """
    values = torch.empty(len(cases), dtype=torch.float64)
    for rows, texts in by_source(head, cases):
        picked = cases.predictions[0][rows]
        values[rows] = head.uncertainty(cases.image_features[0][rows], picked, text_features=texts, by=by)
    return values


def by_source(head: FailureHead, cases: FailureCases) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield rows (n,) that have the same candidates, and these (C, D) where the head has none of its own."""
    for source, texts in enumerate(cases.text_features):
        rows = (cases.source == source).nonzero().flatten()
        yield rows, texts if head.text_features is None else None


def metrics_of(judgements: Judgements) -> dict[str, dict[str, Any]]:
    """Return `summarize_failure` of every score, and the ECE of P(wrong) where it is one.

    A score that could not be fitted has the reason only.
    """
    values: dict[str, dict[str, Any]] = {
        name: summarize_failure(uncertainty, judgements.failure)
        for name, uncertainty in judgements.values.items()
    }
    failure = judgements.failure.cpu().numpy()
    for name, probs in judgements.probs.items():
        values[name][ECE] = ece_of_doubt(probs.cpu().numpy(), failure)
    for name, reason in judgements.not_fitted.items():
        reported = columns_of(FAILURE_METRICS)
        values[name] = {metric: float("nan") for metric in reported} | {
            "undefined": dict.fromkeys(reported, f"not fitted: {reason}")
        }
    return values


def add_intervals(
    metrics: Mapping[str, dict[str, Any]],
    judgements: Judgements,
    *,
    n_resamples: int,
    level: float,
    seed: int = 0,
) -> None:
    """Add `intervals` {metric: [low, high]} and `minus_mcp` {metric: [low, difference, high]} to the metrics.

    Groups are resampled where they are known. A metric that is undefined, or undefined in every resample, has
    none. Of the ECE it is the basic interval, see `calib.metrics.interval_statistic`: it may begin below 0.

    Args:
        metrics: What `metrics_of` returned.
        judgements: What it was computed from.
        n_resamples: Bootstrap resamples.
        level: Coverage.
        seed: Of the bootstrap.
    """
    failure, reported = judgements.failure.cpu().numpy(), [*columns_of(FAILURE_METRICS)]
    arrays = {name: value.cpu().numpy() for name, value in judgements.values.items()}
    groups = None if judgements.groups is None else np.asarray(judgements.groups)
    settings: dict[str, Any] = {
        "groups": groups,
        "n_resamples": n_resamples,
        "level": level,
        "seed": seed,
        "undefined": "drop",
    }
    values: dict[str, np.ndarray] = {}
    problem = ValueError()
    try:  # the resamples, and what a score's metrics share, are the same for all metrics
        of_counts = [failures_of_counts(reported, uncertainty, failure) for uncertainty in arrays.values()]
        drawn: dict[str, Any] = {"groups": groups, "n_resamples": n_resamples, "seed": seed}
        drawn["on_done"] = ProgressLog(log, f"resamples of {len(arrays)} scores", n_resamples).update
        values = dict(zip(arrays, counted_resamples(of_counts, len(failure), **drawn), strict=True))
    except ValueError as error:  # one group
        problem = error
    for name in arrays:
        row = metrics[name]
        row["intervals"], row["minus_mcp"] = {}, {}
        for at, metric in enumerate(reported):
            if metric in row["undefined"]:
                continue
            try:
                if not values:
                    raise problem
                ours = values[name][:, at]
                interval = resampled_interval(ours, level)
                row["intervals"][metric] = [interval.low, interval.high]
                if name != BASELINE:
                    difference = resampled_interval(ours - values[BASELINE][:, at], level)
                    row["minus_mcp"][metric] = [difference.low, difference.estimate, difference.high]
            except ValueError as error:  # one group, or no resample in which the metric is defined
                row["no_interval"] = str(error)
                break
        if name in judgements.probs and "no_interval" not in row:
            probs = judgements.probs[name].cpu().numpy()
            interval = bootstrap_interval(ECE_OF_DOUBT, probs, failure, kind=ECE_KIND, **settings)
            row["intervals"][ECE] = [interval.low, interval.high]


def ece_of_doubt(probs: np.ndarray, failure: np.ndarray) -> float:
    """Return the calibration error of P(wrong): how far promised and real error rates are apart, bin by bin.

    sum_b n_b / N |mean of P(wrong) in b - share of wrong ones in b|, over 10 bins of equal width

    Args:
        probs: (N,) in [0, 1].
        failure: (N,) bool.

    Example:
        >>> probs, wrong = np.array([0.05, 0.05, 0.95]), np.array([False, True, True])
        >>> round(ece_of_doubt(probs, wrong), 4)  # 2/3 * 0.45 + 1/3 * 0.05
        0.3167
    """
    return ECE_OF_DOUBT(probs, failure)


def _gaps(probs: np.ndarray, failure: np.ndarray) -> np.ndarray:
    """Return P(wrong) - wrong in the column of each prediction's bin, (N, BINS), 0 elsewhere."""
    found = np.zeros((len(probs), BINS))
    found[np.arange(len(probs)), bin_indices(torch.from_numpy(probs), BINS).numpy()] = probs - failure
    return found


ECE_OF_DOUBT = MeanStatistic(_gaps, lambda means: np.abs(means).sum(axis=1))
