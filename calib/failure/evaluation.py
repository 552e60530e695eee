"""Every uncertainty score of a failure run: training-free, fitted on the images of the head, and the head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.errors import unknown_name
from calib.failure.cases import FailureCases
from calib.failure.export import FailureHead
from calib.failure.vilu import ViLU
from calib.failure.vilu_inputs import mcp_log_odds
from calib.metrics import FAILURE_METRICS, columns_of
from calib.metrics.failure import failure_statistic, summarize_failure
from calib.scores import SCORES, fit_score, score
from calib.scores.images import ClassGaussians, ImagePrototypes
from calib.scores.logit_scaling import LogitScaling
from calib.stats import bootstrap_interval, paired_bootstrap

BASELINE = "mcp"
Scorer = Callable[[FailureCases], Tensor]  # cases -> uncertainty (N,) of their plain images


def _image_prototypes(fit: FailureCases, text_features: Tensor) -> Any:
    return ImagePrototypes().fit(fit.image_features[0], fit.labels, n_classes=len(text_features))


def _class_gaussians(fit: FailureCases, text_features: Tensor) -> Any:
    return ClassGaussians().fit(fit.image_features[0], fit.labels, n_classes=len(text_features))


def _logit_scaling(fit: FailureCases, text_features: Tensor) -> Any:
    images, logits = fit.image_features[0], fit.logits[0]
    return LogitScaling().fit(images, fit.labels, logits=logits, text_features=text_features)


# Scores that need image features: fitted on the images the head learns from, with the texts (C, D) that are
# judged. (A cross-fitted image has logits of its fold's prompt; its predicted class is described all the same
# by the text that describes it later.)
IMAGE_SCORES: dict[str, Callable[[FailureCases, Tensor], Any]] = {
    "image_prototypes": _image_prototypes,
    "class_gaussians": _class_gaussians,
    "logit_scaling": _logit_scaling,
}
# Scores that compare an image with the classes of others: captions are other ones in every batch.
OF_CLASSES = ("rel_u", *IMAGE_SCORES)


@dataclass
class Judgements:
    """Uncertainties of N predictions by several scores.

    Attributes:
        values: Score to (N,) float64; higher = more likely wrong.
        failure: (N,) bool: which predictions are wrong.
        groups: N groups for the intervals. None: not known.
        not_fitted: Score to the reason why there is none.
    """

    values: dict[str, Tensor]
    failure: Tensor
    groups: Sequence[str] | None = None
    not_fitted: dict[str, str] = field(default_factory=dict)


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
    known = [*SCORES, *IMAGE_SCORES]
    for name in wanted:
        if name not in known:
            raise unknown_name("score", name, known)
    return list(dict.fromkeys([BASELINE, *(wanted or known)]))


@dataclass
class FittedScores:
    """Scores that are ready to judge, and why others are not.

    Attributes:
        scorers: Score to its function.
        not_fitted: Score to the reason why there is none.
    """

    scorers: dict[str, Scorer] = field(default_factory=dict)
    not_fitted: dict[str, str] = field(default_factory=dict)


def fit_scores(names: Sequence[str], fit: FailureCases, text_features: Tensor | None) -> FittedScores:
    """Return the scores, fitted where they need it.

    All but MCP judge the class of the largest logit, whatever the cases say was predicted.

    Args:
        names: Scores, from `score_names`.
        fit: What the head learned from; scores are fitted on its plain images.
        text_features: (C, D) of the model that is judged. None: the candidates are captions.
    """
    found = {name: _fitted_or_reason(name, fit, text_features) for name in names}
    return FittedScores(
        scorers={name: each for name, each in found.items() if not isinstance(each, str)},
        not_fitted={name: each for name, each in found.items() if isinstance(each, str)},
    )


def _fitted_or_reason(name: str, fit: FailureCases, text_features: Tensor | None) -> Scorer | str:
    if text_features is None and name in OF_CLASSES:
        return "it needs the same classes for all images, and captions are other ones in every batch"
    try:
        return _fitted(name, fit, text_features)
    except ValueError as error:  # say all training predictions are right: nothing to fit a temperature to
        return str(error)


def _fitted(name: str, fit: FailureCases, text_features: Tensor | None) -> Scorer:
    if name == BASELINE:
        return lambda cases: -mcp_log_odds(cases.logits[0].double(), cases.predictions[0])
    if name in IMAGE_SCORES and text_features is not None:
        ready = IMAGE_SCORES[name](fit, text_features)
        return lambda cases: ready.uncertainty(cases.image_features[0], cases.logits[0])
    settings = fit_score(name, logits=fit.logits[0], labels=fit.labels)
    return lambda cases: score(name, settings, logits=cases.logits[0])


def judge(
    scores: FittedScores, cases: FailureCases, checkpoint: FailureHead, *, groups: Sequence[str] | None = None
) -> Judgements:
    """Return the uncertainty of N predictions by every score and by the head.

    Args:
        scores: From `fit_scores`.
        cases: What is judged; of several looks the first.
        checkpoint: The head.
        groups: N groups for the intervals. None: not known.
    """
    values = {name: scorer(cases) for name, scorer in scores.scorers.items()}
    values[head_name(checkpoint.head)] = head_uncertainty(checkpoint, cases)
    return Judgements(values, cases.failure, groups, scores.not_fitted)


def head_uncertainty(checkpoint: FailureHead, cases: FailureCases) -> Tensor:
    """Return the head's uncertainty (N,) of the plain images, each with its own candidates."""
    values = torch.empty(len(cases), dtype=torch.float64)
    for rows, texts in by_source(checkpoint, cases):
        picked = cases.predictions[0][rows]
        values[rows] = checkpoint.uncertainty(cases.image_features[0][rows], picked, text_features=texts)
    return values


def by_source(checkpoint: FailureHead, cases: FailureCases) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield rows (n,) that have the same candidates, and these (C, D) where the head has none of its own."""
    for source, texts in enumerate(cases.text_features):
        rows = (cases.source == source).nonzero().flatten()
        yield rows, texts if checkpoint.text_features is None else None


def metrics_of(judgements: Judgements) -> dict[str, dict[str, Any]]:
    """Return `summarize_failure` of every score; one that could not be fitted has the reason only."""
    values: dict[str, dict[str, Any]] = {
        name: summarize_failure(uncertainty, judgements.failure)
        for name, uncertainty in judgements.values.items()
    }
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
    none.

    Args:
        metrics: What `metrics_of` returned.
        judgements: What it was computed from.
        n_resamples: Bootstrap resamples.
        level: Coverage.
        seed: Of the bootstrap.
    """
    failure = judgements.failure.cpu().numpy()
    arrays = {name: value.cpu().numpy() for name, value in judgements.values.items()}
    groups = None if judgements.groups is None else np.asarray(judgements.groups)
    settings: dict[str, Any] = {
        "groups": groups,
        "n_resamples": n_resamples,
        "level": level,
        "seed": seed,
        "undefined": "drop",
    }
    for name, uncertainty in arrays.items():
        row = metrics[name]
        row["intervals"], row["minus_mcp"] = {}, {}
        for metric in columns_of(FAILURE_METRICS):
            if metric in row["undefined"]:
                continue
            statistic, ours = failure_statistic(metric), (uncertainty, failure)
            try:
                interval = bootstrap_interval(statistic, *ours, **settings)
                row["intervals"][metric] = [interval.low, interval.high]
                if name != BASELINE:
                    difference = paired_bootstrap(statistic, ours, (arrays[BASELINE], failure), **settings)
                    row["minus_mcp"][metric] = [difference.low, difference.estimate, difference.high]
            except ValueError as error:  # one group, or no resample in which the metric is defined
                row["no_interval"] = str(error)
                break


def plain(cases: FailureCases) -> FailureCases:
    """Return the cases without augmented views."""
    return FailureCases(
        cases.image_features[:1],
        cases.labels,
        cases.text_features,
        cases.source,
        cases.predictions[:1],
        cases.logits[:1],
    )


def part_means(head: ViLU, cases: FailureCases) -> dict[str, Tensor]:
    """Return the mean input of the head over the plain training images, for its explanations.

    Args:
        head: The trained head.
        cases: What it was trained on; with several models each image counts with the texts that judged it.
    """
    sums: dict[str, Tensor] = {}
    for model, texts in enumerate(cases.text_features):
        rows = (cases.source == model).nonzero().flatten()
        if not len(rows):
            continue
        means = head.part_means(cases.image_features[0][rows], texts, cases.predictions[0][rows])
        for name, value in means.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(rows) / len(cases)
    return sums
