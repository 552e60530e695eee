"""Whether an image is unlike all that were seen: its distance to the classes of a few labelled images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from calib.core.checks import HALF_NORM, as_float64, check_labels, check_tensor, check_unit_norm
from calib.posthoc.not_drawn import KEY, others_of, read_chosen
from calib.stats.bounds import check_share
from calib.stats.groups import is_missing

NAME = "familiarity"
VERSION = 1
KEYS = ("name", "version", "false_alarms", "threshold", "rank", "shots")
MEANS = "familiar_means"  # the tensor in a file
LEAST = 4  # shots below which no threshold is found


class Familiarity:
    """Which images are unlike those that were seen, from the mean image features of each class.

        distance = 1 - max_c cos(image_features, mean_c)

    The threshold is a distance that the shots themselves exceed rarely, each measured against means that it
    (and what belongs to its group) has no part in: the ceil((1 - false_alarms) (n + 1))-th smallest of n, or
    the largest. An image drawn as the shots were, every class as often, exceeds it with a chance of about
    (n + 1 - rank) / (n + 1) on average over shots: `false_alarm_rate`; that of a given threshold varies as
    Beta(n + 1 - rank, rank), and more where shots share an owner. It says nothing of how many strange images
    are noticed.

    What is kept are C means, no features of single images; with one shot of a class its mean is that shot's.

    Args:
        false_alarms: The share of images like the shots that may be called unlike, in (0, 1).

    Attributes:
        means: (C, D) unit norm, float32. None: not fitted.
        threshold: The distance above which an image is unlike.
        rank: Which of the shots' distances that is.
        shots: n.
        chosen: Strategies by which they were chosen, if not at random.

    Raises:
        ValueError: false_alarms is not as above.

    Example:
        >>> shots = torch.tensor([[1.0, 0.0, 0.1], [1.0, 0.1, 0.0], [0.0, 1.0, 0.1], [0.1, 1.0, 0.0]])
        >>> seen = Familiarity().fit(normalize(shots), torch.tensor([0, 0, 1, 1]))
        >>> seen(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])).tolist()
        [False, True]
    """

    def __init__(self, false_alarms: float = 0.05) -> None:
        self.false_alarms = check_share("false_alarms", false_alarms)
        self.means: Tensor | None = None
        self.threshold, self.rank, self.shots = math.inf, 0, 0
        self.chosen: tuple[str, ...] = ()

    def fit(
        self,
        image_features: Tensor,
        labels: Tensor,
        *,
        owners: Sequence[object] | None = None,
        chosen: Mapping[str, int] | Sequence[str] = (),
    ) -> Familiarity:
        """Return self, fitted.

        Args:
            image_features: (n, D) unit norm, of plain images; n at least 4.
            labels: (n,) class indices.
            owners: n names of what belongs together, such as patients. None: every image is by itself.
            chosen: Strategies by which the images were chosen (`calib select`): unless at random, images to
                come are marked more or less often than is said, which is said.

        Raises:
            ValueError: An input is not as above.
        """
        features = _features(image_features, None)
        check_labels(labels, features.new_zeros(len(features), int(labels.max()) + 1 if len(labels) else 1))
        if len(features) < LEAST:
            raise ValueError(f"{len(features)} images say too little of what is familiar: it takes {LEAST}.")
        if owners is not None and len(owners) != len(features):
            raise ValueError(f"There are {len(features)} images and {len(owners)} owners.")
        if any(map(is_missing, owners or ())):
            raise ValueError("Every image needs an owner, some have None or NaN; owners=None: its own.")
        names = list(range(len(features))) if owners is None else [str(owner) for owner in owners]
        classes = labels.detach().cpu().long()
        sums, counts = _sums(features, classes)
        apart = _left_out(features, classes, names, sums, counts)
        if not bool(apart.isfinite().all()):
            raise ValueError(f"All {len(features)} images are of one group: none can be judged by others.")
        self.shots, self.chosen = len(features), others_of(chosen)
        self.rank = min(math.ceil((1 - self.false_alarms) * (self.shots + 1) - 1e-9), self.shots)
        self.threshold = float(apart.sort().values[self.rank - 1])
        self.means = normalize(sums[counts > 0]).float()
        return self

    @property
    def false_alarm_rate(self) -> float:
        """How often an image drawn as the shots were is called unlike, about."""
        self._require_fitted()
        return (self.shots + 1 - self.rank) / (self.shots + 1)

    @property
    def guarantee(self) -> str:
        """What is known of the mark, in two sentences."""
        from scipy.special import betaincinv  # takes a while to import

        self._require_fitted()
        worst = 100 * float(betaincinv(self.shots + 1 - self.rank, self.rank, 0.95))
        said = (
            f"'unlike' marks images farther from the shots' class means than {self.threshold:.3g}: of images "
            f"like the {self.shots} shots about {100 * self.false_alarm_rate:.0f} % (with so few, perhaps "
            f"{worst:.0f} %, if they are of different patients). Strange images may go unnoticed."
        )
        if self.chosen:
            said += (
                f" But the shots were chosen ({' and '.join(self.chosen)}), and images to come are not like "
                "them: of such 1 to 15 % were marked where 5 % was stated, by strategy."
            )
        return said

    def distance(self, image_features: Tensor) -> Tensor:
        """Return how far images are from what was seen, (N,) float64 in [0, 2].

        Args:
            image_features: (N, D) unit norm, from the same backbone.

        Raises:
            ValueError: Not fitted, or the features are not as above.
        """
        means = self._require_fitted()
        features = _features(image_features, means.shape[1])
        return _distance(features, normalize(means.double())).to(image_features.device)

    def __call__(self, image_features: Tensor) -> Tensor:
        """Return which images are unlike those that were seen, (N,) bool.

        Args:
            image_features: (N, D) unit norm, from the same backbone.

        Raises:
            ValueError: Not fitted, or the features are not as above.
        """
        return self.distance(image_features) > self.threshold

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a file holds of it.

        Raises:
            ValueError: Not fitted.
        """
        return {MEANS: self._require_fitted()}

    def to_record(self) -> dict[str, Any]:
        """Return the rest of it as plain values for JSON.

        Raises:
            ValueError: Not fitted.
        """
        self._require_fitted()
        known = {"name": NAME, "version": VERSION, **{key: getattr(self, key) for key in KEYS[2:]}}
        return known | ({KEY: list(self.chosen)} if self.chosen else {})

    @classmethod
    def from_record(
        cls, record: Any, tensors: Mapping[str, Tensor], *, width: int | None = None
    ) -> Familiarity:
        """Return what `to_record` and `tensors` have written, checked.

        Args:
            record: What was read from a file.
            tensors: Those of the file.
            width: D that the means must have. None: any.

        Raises:
            ValueError: They are not as above.
        """
        if not isinstance(record, dict) or {*record} - {KEY} != {*KEYS} or record["name"] != NAME:
            raise ValueError(f"A record of familiarity has the keys {', '.join(KEYS)}.")
        if type(record["version"]) is not int or record["version"] != VERSION:
            raise ValueError(f"familiarity has version {record['version']!r}; this version reads {VERSION}.")
        found = cls(record["false_alarms"])
        found.chosen = read_chosen(record)
        shots, rank, threshold = record["shots"], record["rank"], record["threshold"]
        if not all(type(each) is int for each in (shots, rank)) or not 1 <= rank <= shots < 2**53:
            raise ValueError(f"rank and shots of familiarity must be whole numbers, not {rank!r}, {shots!r}.")
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not number or not -1e-6 <= threshold <= 2 + 1e-6:
            raise ValueError(f"threshold of familiarity must be a distance from 0 to 2, not {threshold!r}.")
        means = tensors.get(MEANS)
        if means is None or means.dim() != 2 or means.dtype != torch.float32 or 0 in means.shape:
            raise ValueError(f"familiarity needs the tensor {MEANS}, (C, D) float32.")
        if width is not None and means.shape[1] != width:
            raise ValueError(f"{MEANS} must be (C, {width}), not {tuple(means.shape)}.")
        check_unit_norm(means, MEANS, tolerance=1e-4)
        found.means, found.shots, found.rank, found.threshold = means, shots, rank, float(threshold)
        return found

    def _require_fitted(self) -> Tensor:
        if self.means is None:
            raise ValueError("Familiarity is not fitted: call its fit first.")
        return self.means


def _sums(features: Tensor, labels: Tensor, classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the sum of the features of each class (C, D), and how many they are (C,)."""
    size = int(labels.max()) + 1 if classes is None else classes
    sums = features.new_zeros(size, features.shape[1]).index_add_(0, labels, features)
    return sums, labels.bincount(minlength=size)


def _left_out(
    features: Tensor, labels: Tensor, owners: Sequence[object], sums: Tensor, counts: Tensor
) -> Tensor:
    """Return how far each image is from the means that its owner has no part in, (n,); inf: there are none.

    With S_c the sum of a class and A the part of the image's owner in it, cos(x, S_c - A) is
    (x S_c - x A) / sqrt(|S_c|^2 - 2 S_c A + |A|^2): only classes in which the owner has a part differ.
    """
    members: dict[object, list[int]] = {}
    for row, name in enumerate(owners):
        members.setdefault(name, []).append(row)
    parts: dict[tuple[object, int], list[int]] = {}
    for row, (name, label) in enumerate(zip(owners, labels.tolist(), strict=True)):
        parts.setdefault((name, label), []).append(row)
    of_row = torch.empty(len(features), dtype=torch.int64)
    for number, part in enumerate(parts.values()):
        of_row[part] = number
    away, gone = _sums(features, of_row)  # (P, D): A of every owner and class
    pairs = [(row, number) for number, (name, _) in enumerate(parts) for row in members[name]]
    rows, numbers = torch.tensor(pairs).T
    classes = torch.tensor([label for _, label in parts])
    dots = features @ sums.T
    squares = sums.square().sum(dim=1)
    closeness = torch.where(counts > 0, dots / squares.sqrt().clamp_min(1e-12), -torch.inf)
    rest = squares[classes] - 2 * (sums[classes] * away).sum(dim=1) + away.square().sum(dim=1)
    left = counts[classes] > gone
    own = dots[rows, classes[numbers]] - (features[rows] * away[numbers]).sum(dim=1)
    own = own / rest.clamp_min(1e-24).sqrt()[numbers]
    closeness[rows, classes[numbers]] = torch.where(left[numbers], own, -torch.inf)
    return 1 - closeness.max(dim=1).values


def _distance(features: Tensor, means: Tensor) -> Tensor:
    return 1 - (features @ means.to(features).T).max(dim=1).values


def _features(given: Tensor, width: int | None) -> Tensor:
    """Return features (N, D) in float64 on the CPU, once they are of unit norm."""
    check_tensor(given, "image_features")
    if given.dim() != 2 or not given.is_floating_point() or len(given) == 0:
        raise ValueError(f"image_features must be (N, D) floats, not {tuple(given.shape)} {given.dtype}.")
    if width is not None and given.shape[1] != width:
        raise ValueError(
            f"image_features must have the width {width} of those that were seen, not {given.shape[1]}."
        )
    check_unit_norm(given, "image_features", tolerance=HALF_NORM)
    return as_float64(given.detach()).cpu()
