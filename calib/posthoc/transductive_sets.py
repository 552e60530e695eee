"""Prediction sets of one batch that is looked at as a whole: Conf-OT and LATA; no threshold can be kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calib.core import byname
from calib.core.checks import (
    HALF_NORM,
    as_float64,
    check_labels,
    check_logits,
    check_probs,
    check_tensor,
    check_unit_norm,
    check_whole,
)
from calib.core.errors import unknown_name
from calib.posthoc.conformal import PredictionSets
from calib.posthoc.records import check_positive
from calib.posthoc.set_levels import thresholds
from calib.posthoc.set_scores import rounded
from calib.posthoc.shares import check_shares

WAYS = ("conf_ot", "lata")


def transported_probs(
    logits: Tensor,
    *,
    epsilon: float = 1.0,
    iterations: int = 3,
    shares: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Return probabilities (N, C) whose classes together are as frequent as stated: Conf-OT's codes.

    Q = exp(logits / epsilon) is divided in turn by its sums over images, times the shares, and by those over
    classes (Sinkhorn). Every image is treated alike, calibration and new ones.

    Args:
        logits: (N, C), finite.
        epsilon: Above 0.
        iterations: At least 1.
        shares: (C,) of the classes, summing to 1. None: all alike.

    Raises:
        ValueError: An argument is not as above.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 1.0]])
        >>> transported_probs(logits, iterations=50).sum(dim=0).round(decimals=3).tolist()
        [1.5, 1.5]

    Source: Conf-OT, Silva-Rodríguez et al. 2025 (CVPR), jusiro/CLIP-Conformal@1a29ced. Differs: the default
        of epsilon is that of its command (1), not of its function (0.8), and shares are stated instead of
        counted among the calibration labels, of which a transform must know nothing.
    """
    check_logits(logits)
    check_positive("epsilon", epsilon)
    check_whole(1, iterations=iterations)
    values = as_float64(logits.detach()) / epsilon
    classes = values.shape[1]
    wanted = torch.full((classes,), 1 / classes).double() if shares is None else check_shares(shares, classes)
    target = wanted.clamp_min(1e-300).log().to(values.device)
    for _ in range(iterations):  # as logarithms: no scale of logits overflows
        values = values - values.logsumexp(dim=0, keepdim=True) + target
        values = values - values.logsumexp(dim=1, keepdim=True)
    return values.exp()


def smoothed_probs(
    probs: Tensor,
    features: Tensor,
    *,
    neighbours: int = 15,
    strength: float = 0.35,
    steps: int = 8,
    prior: float = 0.2,
) -> Tensor:
    """Return probabilities (N, C) pulled towards those of similar images: LATA's mean-field updates.

    z_ik is set in proportion to q_ik exp(strength * sum_j W_ij z_jk), `steps` times from z = q. W is the
    cosine where each of two images is among the other's nearest, and 0 elsewhere, each row divided by its
    sum; q_ik is p_ik m_k^prior, m the mean of p. Every image is treated alike, calibration and new ones, and
    no label is used.

    Args:
        probs: (N, C), rows sum to 1.
        features: (N, D) unit norm.
        neighbours: Nearest images that count, at least 1; all others where there are fewer.
        strength: At least 0; 0 leaves q as it is.
        steps: At least 0.
        prior: Exponent of the mean probabilities, at least 0; 0 leaves them out.

    Raises:
        ValueError: An argument is not as above.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]).double()
        >>> images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> found = smoothed_probs(probs, images, neighbours=1, prior=0.0)
        >>> bool(found[1, 0] > 0.5), bool((found[2] - probs[2]).abs().max() < 1e-6)
        (True, True)

    Source: LATA, Bozorgtabar et al. 2026 (CVPR; arXiv 2602.17535), from its text, as there is no code.
        Differs: that rows of W sum to 1 and that cosines below 0 count 0 is our reading.
    """
    check_tensor(features, "features")
    if features.dim() != 2 or len(features) != len(probs):
        raise ValueError(f"features must be ({len(probs)}, D), not {tuple(features.shape)}.")
    check_unit_norm(features, "features", tolerance=HALF_NORM)
    check_probs(probs)
    check_whole(1, neighbours=neighbours)
    check_whole(0, steps=steps)
    check_positive("prior", prior, zero=True)
    check_positive("strength", strength, zero=True)
    values, images = as_float64(probs.detach()).cpu(), as_float64(features.detach()).cpu()
    kernel = (images @ images.T).fill_diagonal_(-2.0)
    k = min(neighbours, len(images) - 1)
    if k < 1:
        return values
    least = kernel.topk(k, dim=1).values[:, -1:]
    near = kernel >= least
    kernel = torch.where(near & near.T, kernel.clamp_min(0), 0.0)
    kernel = kernel / kernel.sum(dim=1, keepdim=True).clamp_min(1e-12)
    start = values.clamp_min(1e-12).log() + prior * values.mean(dim=0).clamp_min(1e-12).log()
    found = start.softmax(dim=1)
    for _ in range(steps):
        found = (start + strength * kernel @ found).softmax(dim=1)
    return found


class TransductiveSets:
    """Prediction sets of one batch of new images, found together with the calibration images.

    "conf_ot" makes probabilities with `transported_probs`, "lata" with `smoothed_probs`, of calibration and
    new images alike and without labels, so that the threshold found on the former holds for the latter. It
    holds for this batch alone and cannot be stored. With a doubt u in [0, 1], such as P(wrong) of a failure
    head, and plausibilities a of the classes, LATA's score is S (1 + doubt_weight u) - plausible_weight a.

    Args:
        way: "conf_ot" or "lata".
        sets: Which score and coverage, and whether for each class: PredictionSets that is not fitted.
        doubt_weight: At least 0.
        plausible_weight: At least 0.
        window: New images that are looked at together with all calibration images.
        shares: (C,) for "conf_ot": how frequent the classes are in a batch. None: all alike.
        **settings: Those of `transported_probs` or `smoothed_probs`.

    Raises:
        ValueError: An argument is not as above.

    Source: see `transported_probs` and `smoothed_probs`; doubt and plausibility: LATA, with ViLU.
    """

    def __init__(
        self,
        way: str,
        sets: PredictionSets,
        *,
        doubt_weight: float = 0.5,
        plausible_weight: float = 0.25,
        window: int = 256,
        shares: Sequence[float] | Tensor | None = None,
        **settings: float,
    ) -> None:
        if way not in WAYS:
            raise unknown_name("way of transductive sets", way, WAYS)
        if not isinstance(sets, PredictionSets) or sets.confidence is not None:
            raise ValueError("sets must be PredictionSets without a confidence.")
        if way == "lata" and shares is not None:
            raise ValueError("shares are for 'conf_ot'.")
        known = byname.settings(transported_probs if way == "conf_ot" else smoothed_probs)
        known.pop("shares", None)
        byname.check_settings(settings, known, name=f"way '{way}'")
        check_positive("doubt_weight", doubt_weight, zero=True)
        check_positive("plausible_weight", plausible_weight, zero=True)
        check_whole(1, window=window)
        self.way, self.sets, self.window, self.shares = way, sets, window, shares
        self.doubt_weight, self.plausible_weight, self.settings = doubt_weight, plausible_weight, settings

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        new_logits: Tensor,
        *,
        features: Tensor | None = None,
        new_features: Tensor | None = None,
        doubt: Tensor | None = None,
        new_doubt: Tensor | None = None,
        plausible: Tensor | None = None,
        new_plausible: Tensor | None = None,
    ) -> Tensor:
        """Return which classes are in the set of each new image, (M, C) bool.

        Args:
            logits: (N, C) of the calibration images, by a model that has seen none of them.
            labels: (N,) their classes.
            new_logits: (M, C) of the new images.
            features: (N, D) unit norm, for "lata".
            new_features: (M, D) likewise.
            doubt: (N,) in [0, 1], by a model that has seen none of these images. None: not used.
            new_doubt: (M,) likewise.
            plausible: (N, C) in [0, 1], such as attention over the classes. None: not used.
            new_plausible: (M, C) likewise.

        Raises:
            ValueError: An input is not as above, or only one of a pair is given.
        """
        check_logits(logits)
        check_logits(new_logits)
        check_labels(labels, logits)
        if new_logits.shape[1] != logits.shape[1]:
            raise ValueError(f"logits have {logits.shape[1]} classes, and new_logits {new_logits.shape[1]}.")
        pairs = {
            "features": (features, new_features),
            "doubt": (doubt, new_doubt),
            "plausible": (plausible, new_plausible),
        }
        for name, (ours, theirs) in pairs.items():
            if (ours is None) != (theirs is None):
                raise ValueError(f"{name} and new_{name} go together: one of them is missing.")
        if self.way == "lata" and features is None:
            raise ValueError("'lata' needs features and new_features: it looks at which images are alike.")
        for name in ("doubt", "plausible"):
            for each in pairs[name]:
                if each is not None and not bool(((each >= 0) & (each <= 1)).all()):
                    raise ValueError(f"{name} must lie in [0, 1] without NaN.")
        found = []
        for rows in torch.arange(len(new_logits)).split(self.window):
            joined = {
                name: None if ours is None or theirs is None else torch.cat([ours.cpu(), theirs.cpu()[rows]])
                for name, (ours, theirs) in pairs.items()
            }
            both = as_float64(torch.cat([logits.cpu(), new_logits.cpu()[rows]]).detach())
            found.append(self._batch(both, labels.cpu().long(), **joined))
        return torch.cat(found)

    @property
    def guarantee(self) -> str:
        """What is promised, of whom, and what is not, in plain sentences."""
        whom = "the new images of each class" if self.sets.per_class else "the new images"
        same = "" if self.sets.per_class else " and the classes are as frequent there"
        return (
            f"At least {100 * self.sets.coverage:.3g} % of {whom} have their class in their set, on average "
            f"over batches and calibration images, if both are drawn the same way{same}. This is "
            f"transductive: the threshold is of this batch of at most {self.window} images with its "
            "calibration images, holds for no other, and cannot be stored. Neither the model nor the doubt "
            "may have learned from these images."
        )

    def to_record(self) -> dict[str, object]:
        """Refuse: a threshold of one batch holds for no other.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"Sets by '{self.way}' are found for one batch together with its calibration images; no "
            "threshold of theirs holds for another batch, and none is stored. Use PredictionSets for a file."
        )

    def _batch(
        self,
        logits: Tensor,
        labels: Tensor,
        features: Tensor | None,
        doubt: Tensor | None,
        plausible: Tensor | None,
    ) -> Tensor:
        if self.way == "conf_ot":
            probs = transported_probs(logits, shares=self.shares, **self.settings)  # type: ignore[arg-type]
        else:
            assert features is not None
            probs = smoothed_probs(logits.softmax(dim=1), features, **self.settings)  # type: ignore[arg-type]
        scores = self.sets.scores(probs)
        if doubt is not None:
            scores = scores * (1 + self.doubt_weight * as_float64(doubt)[:, None])
        if plausible is not None:
            scores = scores - self.plausible_weight * as_float64(plausible)
        scores = rounded(scores)
        n, classes = len(labels), scores.shape[1]
        own = scores[:n].gather(1, labels[:, None])[:, 0]
        parts = [torch.ones(n, dtype=torch.bool)]
        if self.sets.per_class:
            parts = [labels == c for c in range(classes)]
        one = torch.ones(n + 1, dtype=torch.float64)
        limits = torch.cat(
            [thresholds(own[part], one[:n][part], one[n:], self.sets.coverage) for part in parts]
        )
        return scores[n:] <= limits
