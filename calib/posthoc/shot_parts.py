"""What calibration from the shots is made of, and what it finds: priors, shots, the calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from calib.core.checks import check_labels, check_logits
from calib.core.text import few
from calib.posthoc.discriminant import SHRINKAGE

METHODS = ("auto", "none", "scale", "experts")
PROMPT, IMAGES, ZERO_SHOT = "prompt", "images", "zero_shot"  # the experts


@dataclass(frozen=True, kw_only=True)
class ShotPriors:
    """What is assumed before any shot is seen.

    Weights are in units that give every expert the spread of zero-shot logits that were calibrated by the
    shots. The defaults were chosen on development images, see benchmarks/calibration_study.py.

    Attributes:
        scale_median: Median of the factor of method "scale".
        scale_sd: Standard deviation of its log.
        medians: Median of the weight of each expert of method "experts".
        expert_sd: Standard deviation of their logs.
        shrinkage: Of the covariance of the linear discriminant.
    """

    scale_median: float = 0.7
    scale_sd: float = 0.7
    medians: Mapping[str, float] = field(default_factory=lambda: {PROMPT: 0.3, IMAGES: 0.55, ZERO_SHOT: 0.4})
    expert_sd: float = 0.8
    shrinkage: float = SHRINKAGE

    def __post_init__(self) -> None:
        if set(self.medians) != {PROMPT, IMAGES, ZERO_SHOT}:
            raise ValueError(
                f"calibrate.medians must be of {PROMPT}, {IMAGES} and {ZERO_SHOT}, not of "
                f"{few(list(self.medians))}."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Shots:
    """A few labelled images, and what a model says about them that did not see them.

    Attributes:
        features: (N, D) unit norm, of the plain images.
        labels: (N,) class indices.
        logits: (N, C) of each image, by a prompt that was trained without it.
        zero_shot_logits: (N, C) of the fixed sentences.
        owners: (N,) groups such as patients, which were left out together. None: every image alone.

    Raises:
        ValueError: Shapes do not fit, or a number is not finite.
    """

    features: Tensor
    labels: Tensor
    logits: Tensor
    zero_shot_logits: Tensor
    owners: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for logits in (self.logits, self.zero_shot_logits):
            check_logits(logits)
            check_labels(self.labels, logits)
        if self.owners is not None and len(self.owners) != len(self.labels):
            raise ValueError(f"There are {len(self.owners)} owners for {len(self.labels)} shots.")


@dataclass(frozen=True, eq=False, kw_only=True)
class ShotCalibration:
    """What the shots say about a prompt's confidence.

    Attributes:
        method: "none", "scale" or "experts": the one that is applied.
        weight: (C, D) float64, at prediction `logits = features @ weight.T + bias`.
        bias: (C,) float64.
        logits: (N, C) float64: those of the shots under it, each by models that did not see it.
        weights: What the logits of each expert are multiplied with.
        tilt: (C,) float64, what stated class shares add to the logits.
        nll: Mean negative log-likelihood of the left-out shots for every candidate.
        shares: How much each expert counts, in units that give all the same spread; they sum to 1.
        effective: How many independent draws the posterior's are worth, and how many there are.
        n: Shots that the likelihood is made of.
    """

    method: str
    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    logits: Tensor = field(repr=False)
    weights: dict[str, float]
    tilt: Tensor = field(repr=False)
    nll: dict[str, float]
    shares: dict[str, float]
    effective: tuple[float, int]
    n: int

    def facts(self) -> dict[str, Any]:
        """Return what a file or a table says about it, JSON-able."""
        return {
            "left_out_nll": self.nll,
            "expert_shares": self.shares,
            "shots": self.n,
            "effective_draws": round(self.effective[0], 1),
            "draws": self.effective[1],
        }
