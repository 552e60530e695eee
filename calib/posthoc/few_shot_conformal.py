"""Full conformal sets from the shots alone: the same few images teach and calibrate, by exact refits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from calib.core.checks import (
    HALF_NORM,
    as_float64,
    check_labels,
    check_logit_scale,
    check_tensor,
    check_unit_norm,
)
from calib.posthoc.conformal import PredictionSets
from calib.posthoc.not_drawn import not_drawn, others_of
from calib.posthoc.set_guarantee import percent
from calib.posthoc.set_levels import SLACK, fewest_cases, least_error

LEAST_LAMBDA = 1e-3  # of SS-Text, reached with 1,000 images
AT_ONCE = 4_000_000  # probabilities held in memory


def ss_text(features: Tensor, labels: Tensor, text_features: Tensor, logit_scale: float) -> Tensor:
    """Return the class weights (C, D) float64 that SS-Text makes of texts and labelled images.

    w_c = t_c + s / (N lambda) sum_{i of class c} v_i,   lambda = max(1 / N, 0.001),   s = exp(logit_scale)

    and logits are s cos(v, w_c). With s = 100 and eight images of a class the text weighs about 1 / 800: it
    is the nearest class mean, in effect.

    Args:
        features: (N, D) unit norm.
        labels: (N,) class indices.
        text_features: (C, D).
        logit_scale: Log of the scale s.

    Raises:
        ValueError: An input is not as above.

    Example:
        >>> images, texts = torch.eye(2), torch.eye(2).flip(0)
        >>> ss_text(images, torch.tensor([0, 1]), texts, logit_scale=0.0).tolist()
        [[1.0, 1.0], [1.0, 1.0]]

    Source: SS-Text of Silva-Rodríguez et al. 2025 (MICCAI), as in jusiro/FCA@7ef90c5, solvers/sstext.py.
    """
    _check(features, labels, text_features, logit_scale)
    values, texts = as_float64(features.detach()).cpu(), as_float64(text_features.detach()).cpu()
    sums = torch.zeros_like(texts).index_add_(0, labels.cpu().long(), values)
    return texts + _pull(len(values), logit_scale) * sums


class FullConformal:
    """Prediction sets from the shots alone, exact, without a calibration image: SS-Text is refitted.

    For a new image and each class it may be of, the classifier is fitted to the shots and this one more
    image. The class is in the set where the image is not among the strangest: where more than a share
    alpha = 1 - coverage of the images, itself included, are as strange. As the fit treats all of them alike,
    this is exact, though the same images teach and calibrate, if all are of different patients. SS-Text has a
    closed form, so that nothing is trained: 500 images of 5 classes with 40 shots take under a second.

    Args:
        sets: Which score, which coverage, and whether for each class: PredictionSets that is not fitted.
        left_out: Whether each image is judged by the fit to all others, which is as exact, and free: no image
            looks at home for having moved its class's mean. False: by the fit to all, as FCA does.

    Attributes:
        classes: C. None: not fitted.

    Raises:
        ValueError: `sets` has a confidence, for which nothing is known here.

    Example:
        >>> images = torch.nn.functional.normalize(torch.tensor([[9.0, 1], [8, 2], [1, 9], [2, 8]]), dim=1)
        >>> labels, texts = torch.tensor([0, 0, 1, 1]), torch.eye(2)
        >>> full = FullConformal(PredictionSets("lac", coverage=0.7)).fit(images, labels, texts, 1.0)
        >>> full(images[:1]).tolist()
        [[True, False]]

    Source: Silva-Rodríguez et al. 2025, full conformal adaptation (IPMI; jusiro/FCA@7ef90c5); full conformal
        prediction: Vovk, Gammerman and Shafer 2005. Differs: APS is not randomised unless that is asked for;
        `left_out`.
    """

    def __init__(self, sets: PredictionSets, *, left_out: bool = True) -> None:
        if not isinstance(sets, PredictionSets):
            raise ValueError(f"sets must be PredictionSets, not {type(sets).__name__}.")
        if sets.confidence is not None:
            raise ValueError(
                "Nothing is known of a confidence of full conformal sets: they have no threshold whose "
                "coverage could be corrected. Leave it out."
            )
        self.sets, self.left_out = sets, left_out
        self.classes: int | None = None

    def fit(
        self,
        features: Tensor,
        labels: Tensor,
        text_features: Tensor,
        logit_scale: float,
        *,
        chosen: Mapping[str, int] | Sequence[str] = (),
    ) -> FullConformal:
        """Return self, with the shots.

        Args:
            features: (N, D) unit norm, of the shots.
            labels: (N,) class indices; every class has a shot at least.
            text_features: (C, D) unit norm of the fixed sentences, none of them learned from these shots.
            logit_scale: Log of the scale.
            chosen: Strategies by which the shots were chosen (`calib select`): unless at random, nothing is
                guaranteed, which is said.

        Raises:
            ValueError: An input is not as above.
        """
        _check(features, labels, text_features, logit_scale)
        self._chosen = others_of(chosen)
        self._labels = labels.detach().cpu().long()
        self._counts = self._labels.bincount(minlength=len(text_features))
        empty = (self._counts == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"There is no shot of class {empty[0]}: nothing could be calibrated for it.")
        self._shots = as_float64(features.detach()).cpu()
        self._scale, self._log_scale = math.exp(logit_scale), logit_scale
        self._texts = as_float64(text_features.detach()).cpu()
        # N images behind every fit: all shots and the new one, or all of these but the one that is judged
        self._pull = _pull(len(self._shots) + (0 if self.left_out else 1), logit_scale)
        sums = torch.zeros_like(self._texts).index_add_(0, self._labels, self._shots)
        self._weights = self._texts + self._pull * sums
        self.classes = len(self._texts)
        return self

    def __call__(self, features: Tensor) -> Tensor:
        """Return which classes are in the set of each new image, (M, C) bool.

        Args:
            features: (M, D) unit norm.

        Raises:
            ValueError: Not fitted, or the features are not as above.
        """
        return torch.cat([self._sets(part) for part in self._parts(features)])

    def probs(self, features: Tensor) -> Tensor:
        """Return the mean over candidates of each image's probabilities, (M, C) float64: FCA's prediction.

        With `left_out` every candidate gives the same: SS-Text of the shots.

        Args:
            features: (M, D) unit norm.

        Raises:
            ValueError: Not fitted, or the features are not as above.
        """
        parts = []
        for part in self._parts(features):
            each = [self._augmented(part, y)[1] for y in range(len(self._texts))]
            parts.append(torch.stack(each).mean(dim=0))
        return torch.cat(parts)

    @property
    def guarantee(self) -> str:
        """What is promised, of whom, and what is not, in plain sentences."""
        self._require_fitted()
        wanted, per_class = percent(self.sets.coverage), self.sets.per_class
        n = int(self._counts.min()) if per_class else len(self._labels)
        whom = "new cases of each class, however frequent it is," if per_class else "new cases"
        said = [not_drawn(self._chosen)] if self._chosen else []
        said += [
            f"At least {wanted} of {whom} have their class in their set, on average over the choice of the "
            f"{len(self._labels)} shots, if these were drawn as new cases are"
            + (" within each class." if per_class else " and with the same shares of the classes."),
            "This is exact although the same images teach and calibrate: every fit treats the new image as "
            "one of them. It holds if the shots are of different patients: several images of one are no "
            "independent draws. There is no threshold: it cannot be stored, and each new image is judged "
            "with the shots at hand.",
        ]
        if not per_class and bool((self._counts == self._counts[0]).all()):
            said.append(
                f"The shots are balanced, {int(self._counts[0])} of each class: where classes are not "
                "equally frequent, only a coverage of each class is guaranteed (per_class=True)."
            )
        needed = fewest_cases(self.sets.coverage)
        if n < needed:
            few = " of some class, which is in every set" if per_class else ": every class is in every set"
            said.append(
                f"There are too few shots{few}. A coverage of {wanted} needs at least {needed}, and {n} "
                f"allow an error of {percent(least_error(n))} at the least."
            )
        return " ".join(said)

    def _sets(self, new: Tensor) -> Tensor:
        columns = []
        for y in range(len(self._texts)):
            shots, probs = self._augmented(new, y)  # (m, n, C), (m, C)
            m, n, classes = shots.shape
            scores = self.sets.scores(shots.reshape(m * n, classes)).reshape(m, n, classes)
            theirs = scores.gather(2, self._labels.expand(m, n)[:, :, None])[:, :, 0]
            own = self.sets.scores(probs)[:, y]
            peers = self._labels == y if self.sets.per_class else torch.ones(n, dtype=torch.bool)
            as_strange = (theirs[:, peers] >= own[:, None]).sum(dim=1) + 1
            columns.append(as_strange > (1 - self.sets.coverage + SLACK) * (int(peers.sum()) + 1))
        return torch.stack(columns, dim=1)

    def _augmented(self, new: Tensor, y: int) -> tuple[Tensor, Tensor]:
        """Return the probabilities of the shots (m, n, C) and the new images (m, C) if those are of class y.

        Row y of the weights gains pull * new; where images are left out, the row of a shot's own class loses
        pull * shot, and the new images are judged by the shots alone.
        """
        shots, pull, labels = self._shots, self._pull, self._labels
        dots, mine = shots @ self._weights.T, new @ self._weights.T  # (n, C), (m, C)
        squares = self._weights.square().sum(dim=1)  # (C,)
        cross, own, size = new @ shots.T, shots.square().sum(dim=1), new.square().sum(dim=1)
        moved = dots[None, :, y] + pull * cross  # (m, n): shot . (w_y + pull new)
        norms = (squares[y] + pull**2 * size + 2 * pull * mine[:, y])[:, None].expand_as(moved)
        cosines = (dots / squares.sqrt()).expand(len(new), -1, -1).clone()
        if self.left_out:
            rows = torch.arange(len(shots))
            less = dots[rows, labels] - pull * own
            left = squares[labels] + pull**2 * own - 2 * pull * dots[rows, labels]
            cosines[:, rows, labels] = _over(less, left)
            same = labels == y
            moved = torch.where(same, moved - pull * own, moved)
            both = norms + pull**2 * own - 2 * pull * dots[:, y] - 2 * pull**2 * cross
            norms = torch.where(same, both, norms)
        cosines[:, :, y] = _over(moved, norms)
        theirs = mine / squares.sqrt()
        if not self.left_out:
            theirs[:, y] = _over(mine[:, y] + pull * size, norms[:, 0])
        return (self._scale * cosines).softmax(dim=2), (self._scale * theirs).softmax(dim=1)

    def _parts(self, features: Tensor) -> Iterator[Tensor]:
        self._require_fitted()
        check_tensor(features, "features")
        width = self._texts.shape[1]
        if features.dim() != 2 or features.shape[1] != width or not len(features):
            raise ValueError(f"features must be (M, {width}) with M > 0, not {tuple(features.shape)}.")
        check_unit_norm(features, "features", tolerance=HALF_NORM)
        step = max(1, AT_ONCE // (len(self._shots) * len(self._texts)))
        yield from as_float64(features.detach()).cpu().split(step)

    def _require_fitted(self) -> None:
        if self.classes is None:
            raise ValueError("The full conformal sets are not fitted: call fit first.")


def _pull(n: int, logit_scale: float) -> float:
    """Return s / (N lambda): what an image adds to the weights of its class."""
    return math.exp(logit_scale) / (n * max(1 / n, LEAST_LAMBDA))


def _over(dots: Tensor, squares: Tensor) -> Tensor:
    """Return dots / norms; 0 where nothing is left of a class."""
    return torch.where(squares > 1e-12, dots / squares.clamp_min(1e-12).sqrt(), 0.0)


def _check(features: Tensor, labels: Tensor, text_features: Tensor, logit_scale: float) -> None:
    for name, value in (("features", features), ("text_features", text_features)):
        check_tensor(value, name)
        if value.dim() != 2 or not len(value):
            raise ValueError(f"{name} must be a matrix with rows, not {tuple(value.shape)}.")
        check_unit_norm(value, name, tolerance=HALF_NORM)
    if features.shape[1] != text_features.shape[1] or len(text_features) < 2:
        raise ValueError(
            f"features (N, D) and text_features (C, D), C at least 2, do not fit: {tuple(features.shape)} "
            f"and {tuple(text_features.shape)}."
        )
    check_labels(labels, features.new_zeros(len(features), len(text_features)))
    check_logit_scale(logit_scale)
