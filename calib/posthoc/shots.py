"""Calibration from the shots alone: no validation images, one linear map at prediction."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calib.core.checks import as_float64
from calib.core.errors import unknown_name
from calib.core.text import few
from calib.posthoc.discriminant import LinearDiscriminant, left_out_logits
from calib.posthoc.posterior import weight_posterior
from calib.posthoc.shares import check_shares, class_weights
from calib.posthoc.shot_parts import (
    IMAGES,
    METHODS,
    PROMPT,
    ZERO_SHOT,
    ShotCalibration,
    ShotPriors,
    Shots,
)
from calib.stats.groups import group_numbers

AGAINST = 3.0  # standard errors by which the shots must speak against a calibration for "auto" to leave it


def calibrate_from_shots(
    shots: Shots,
    weight: Tensor,
    zero_shot_weight: Tensor,
    *,
    method: str = "auto",
    priors: ShotPriors | None = None,
    shares: Tensor | None = None,
) -> ShotCalibration:
    """Return the calibration of a prompt from its own shots.

    "scale" multiplies the prompt's logits z_P by a factor. "experts" adds the logits z_G of a linear
    discriminant of the same shots and those of zero-shot, z_Z. Zero-shot has seen no shot, so that these say
    honestly how sure it may be: each expert is brought to the spread of z_Z times its own factor a_0 by a
    unit u_e = a_0 spread(z_Z) / spread(z_e):

        softmax(a_0 z_Z)                                  log a_0 ~ N(0, scale_sd^2)

        softmax(a u_P z_P)                                log a ~ N(log scale_median, scale_sd^2)
        softmax(a_P u_P z_P + a_G u_G z_G + a_Z u_Z z_Z)  log a_e ~ N(log median_e, expert_sd^2)

    The likelihood is that of the shots under out-of-sample logits: of the prompt by folds, of the
    discriminant by leaving images out exactly. The posterior is averaged over and brought to the nearest
    single weights, so that prediction is one linear map.

    A class without any shot has no image that a discriminant could know: "auto" is then "scale", under the
    same condition.

    "auto" is "experts", unless the left-out shots speak against it: unless their negative log-likelihood is
    higher than the prompt's own by more than three standard errors of the paired difference (of sums over
    owners, where shots have some). A stricter gate does harm: of a few dozen shots the likelihood is too
    rough, and the prior knows better. A class with a single shot leaves nothing to judge by when that is
    left out; there the prior's medians are used.

    Args:
        shots: The labelled images.
        weight: (C, D) of the prompt trained on all shots: `logits = features @ weight.T`.
        zero_shot_weight: (C, D) of the fixed sentences.
        method: One of `METHODS`. A named one is applied whatever its likelihood.
        priors: What is assumed beforehand. None: the defaults.
        shares: (C,) how frequent the classes are where the prompt will be used, summing to 1. They count in
            the likelihood and shift the logits. None: as frequent as among the shots.

    Raises:
        ValueError: The method is unknown, an input is not as above, or a class without a shot makes "experts"
            or a stated share impossible.
    """
    if method not in METHODS:
        raise unknown_name("value of calibrate.method", method, METHODS)
    given = priors or ShotPriors()
    labels = shots.labels.cpu().long()
    n_classes = shots.logits.shape[1]
    check_every_class(labels, n_classes, method=method, stated=shares is not None)
    whole = len(labels.unique()) == n_classes
    tilt, rows = _tilt(shares, labels, n_classes)
    evidence = _Evidence(
        shots,
        labels,
        {PROMPT: as_float64(weight.detach()).cpu(), ZERO_SHOT: as_float64(zero_shot_weight.detach()).cpu()},
        tilt,
        rows,
        given,
    )
    found = {"none": evidence.as_it_is()}
    if method in ("auto", "scale"):
        found["scale"] = evidence.scaled()
    if method == "experts" or (method == "auto" and whole):
        found["experts"] = evidence.experts()
    nll = {name: each.mean for name, each in found.items() if each.losses is not None}
    chosen = found[_choice(found, shots.owners) if method == "auto" else method]
    return replace(chosen.calibration, nll=nll)


def check_every_class(
    labels: Tensor, n_classes: int, *, method: str, stated: bool, class_names: Sequence[str] | None = None
) -> None:
    """Refuse a calibration that needs a shot of every class where some class has none.

    Args:
        labels: (N,) class indices.
        n_classes: C.
        method: One of `METHODS`.
        stated: Whether the shares of the classes are stated.
        class_names: C names, for the message. None: their numbers.

    Raises:
        ValueError: It does; the message says what to do.
    """
    absent = (labels.cpu().bincount(minlength=n_classes) == 0).nonzero().flatten().tolist()
    if not absent or not (stated or method == "experts"):
        return
    names = few([str(label) if class_names is None else class_names[label] for label in absent])
    what = "calibrate.prevalence" if stated else "calibrate.method=experts"
    raise ValueError(
        f"{what} needs a shot of every class, and there is none of {names}. Label images of it, or "
        + (
            "leave the prevalence out."
            if stated
            else "use calibrate.method=auto, which takes one factor then."
        )
    )


def expert_map(
    weights: Mapping[str, float], texts: Mapping[str, Tensor], images: LinearDiscriminant | None
) -> tuple[Tensor, Tensor]:
    """Return the map (C, D) and offsets (C,), float64, of weighted experts.

    Args:
        weights: What the logits of each are multiplied with, by name.
        texts: (C, D) of those that are texts.
        images: The discriminant. None: it is not among them.
    """
    first = next(iter(texts.values()))
    weight, bias = torch.zeros_like(first), first.new_zeros(len(first))
    for name, factor in weights.items():
        if name == IMAGES:
            assert images is not None
            weight, bias = weight + factor * images.weight, bias + factor * images.bias
        else:
            weight = weight + factor * texts[name]
    return weight, bias


def spread(logits: Tensor) -> float:
    """Return the root mean square of logits (N, C) around each row's mean; those that are NaN do not count.

    Example:
        >>> spread(torch.tensor([[1.0, 3.0], [0.0, 4.0]]))  # deviations 1, 1, 2, 2
        1.5811388300841898
    """
    values = as_float64(logits.detach()).cpu()
    away = values - values.nanmean(dim=1, keepdim=True)
    return math.sqrt(float(away.square().nanmean()))


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A calibration with the losses of the left-out shots; None: none could be left out."""

    calibration: ShotCalibration
    losses: Tensor | None = None
    rows: Tensor | None = None

    @property
    def mean(self) -> float:
        assert self.losses is not None
        assert self.rows is not None
        return float((self.rows * self.losses).sum() / self.rows.sum())


def _choice(found: Mapping[str, _Candidate], owners: Sequence[str] | None = None) -> str:
    """Return the calibration that "auto" applies; shots of one owner say it once."""
    name = "experts" if "experts" in found else "scale"
    ours, plain = found[name], found["none"]
    if ours.losses is None:
        return name
    assert plain.losses is not None
    assert plain.rows is not None
    worse = plain.rows * (ours.losses - plain.losses)
    of = torch.from_numpy(group_numbers(owners, len(worse)))
    sums = torch.zeros(int(of.max()) + 1, dtype=worse.dtype).index_add_(0, of, worse - worse.mean())
    n = len(sums)
    error = math.sqrt(n / (n - 1) * float(sums.square().sum())) / len(worse) if n > 1 else math.inf
    return "none" if float(worse.mean()) > AGAINST * error else name


@dataclass(eq=False)
class _Evidence:
    """What the candidates are made of."""

    shots: Shots
    labels: Tensor  # (N,)
    texts: Mapping[str, Tensor]  # (C, D)
    tilt: Tensor  # (C,)
    rows: Tensor  # (N,) weights
    priors: ShotPriors

    @property
    def logits(self) -> Tensor:
        return as_float64(self.shots.logits.detach()).cpu()

    def unit(self, logits: Tensor) -> float:
        """Return what gives logits the spread of calibrated zero-shot ones; 1 where either has none."""
        ours = spread(logits)
        return self.sure / ours if ours > 0 and self.sure > 0 else 1.0

    @functools.cached_property
    def sure(self) -> float:
        """The spread of the zero-shot logits, calibrated by one factor: how sure the shots allow it to be."""
        fixed = {ZERO_SHOT: self.shots.zero_shot_logits}
        found = weight_posterior(
            fixed, self.labels, sd=self.priors.scale_sd, offset=self.tilt, row_weights=self.rows
        )
        return float(found.nearest[0]) * spread(self.shots.zero_shot_logits)

    def as_it_is(self) -> _Candidate:
        """Return the prompt with nothing but the tilt."""
        logits = self.logits + self.tilt
        losses = -logits.log_softmax(dim=1).gather(1, self.labels[:, None])[:, 0]
        calibration = self._calibration("none", {PROMPT: 1.0}, {PROMPT: 1.0}, logits, None)
        return _Candidate(calibration, losses, self.rows)

    def scaled(self) -> _Candidate:
        """Return the prompt times one factor."""
        unit = self.unit(self.logits)
        posterior = weight_posterior(
            {PROMPT: unit * self.logits},
            self.labels,
            median=self.priors.scale_median,
            sd=self.priors.scale_sd,
            offset=self.tilt,
            row_weights=self.rows,
        )
        factor = unit * float(posterior.nearest[0])
        calibration = self._calibration(
            "scale", {PROMPT: factor}, {PROMPT: 1.0}, factor * self.logits + self.tilt, None
        )
        drawn = (posterior.effective, len(posterior.draws))
        return _Candidate(replace(calibration, effective=drawn), posterior.left_out_nll, self.rows)

    def experts(self) -> _Candidate:
        """Return the prompt beside zero-shot and the discriminant.

        A shot without another of its class leaves no mean of it and says nothing about the weights; where
        all are such, the weights are the prior's medians.
        """
        features = as_float64(self.shots.features.detach()).cpu()
        n_classes, shrinkage = self.logits.shape[1], self.priors.shrinkage
        images = LinearDiscriminant.fit(features, self.labels, n_classes, shrinkage=shrinkage)
        apart = left_out_logits(
            features, self.labels, n_classes, owners=self.shots.owners, shrinkage=shrinkage
        )
        known = apart.isfinite().all(dim=1)
        logits = {
            PROMPT: self.logits,
            IMAGES: apart,
            ZERO_SHOT: as_float64(self.shots.zero_shot_logits.detach()).cpu(),
        }
        units = {name: self.unit(each[known] if bool(known.any()) else each) for name, each in logits.items()}
        relative = {name: float(self.priors.medians[name]) for name in logits}
        losses, drawn = None, (0.0, 0)
        if bool(known.any()):
            posterior = weight_posterior(
                {name: units[name] * each[known] for name, each in logits.items()},
                self.labels[known],
                median=self.priors.medians,
                sd=self.priors.expert_sd,
                offset=self.tilt,
                row_weights=self.rows[known],
            )
            relative = dict(zip(posterior.names, posterior.nearest.tolist(), strict=True))
            drawn = (posterior.effective, len(posterior.draws))
            losses = posterior.left_out_nll if bool(known.all()) else None
        weights = {name: units[name] * each for name, each in relative.items()}
        told = sum((weights[name] * each for name, each in logits.items()), start=self.tilt)
        told = torch.where(known[:, None], told, self.logits + self.tilt)
        calibration = self._calibration("experts", weights, relative, told, images)
        calibration = replace(calibration, effective=drawn, n=int(known.sum()))
        return _Candidate(calibration, losses, self.rows)

    def _calibration(
        self,
        method: str,
        weights: dict[str, float],
        relative: Mapping[str, float],
        logits: Tensor,
        images: LinearDiscriminant | None,
    ) -> ShotCalibration:
        weight, bias = expert_map(weights, self.texts, images)
        return ShotCalibration(
            method=method,
            weight=weight,
            bias=bias + self.tilt,
            logits=logits,
            weights=weights,
            tilt=self.tilt,
            nll={},
            shares={name: each / sum(relative.values()) for name, each in relative.items()},
            effective=(0.0, 0),
            n=len(self.labels),
        )


def _tilt(shares: Tensor | None, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Return what stated shares add to the logits (C,), and how much every shot counts (N,)."""
    if shares is None:
        return torch.zeros(n_classes).double(), torch.ones(len(labels)).double()
    wanted = check_shares(shares, n_classes)
    if not bool((wanted > 0).all()):
        raise ValueError(f"shares must be above 0, got {wanted.tolist()}: a class that never occurs is none.")
    rows = class_weights(labels, n_classes, wanted)
    there = labels.bincount(minlength=n_classes).double() / len(labels)
    return (wanted / there).log(), rows
