"""A linear discriminant of a few labelled images: what their features say without any text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.core.checks import check_tensor
from calib.core.onethread import one_thread

SHRINKAGE = 0.8


@dataclass(frozen=True, eq=False)
class LinearDiscriminant:
    """Class means under one shrunk covariance: `logits = features @ weight.T + bias`.

    With the class means mu_c and the pooled within-class covariance S of n images (over n - C),

        S' = (1 - shrinkage) S + shrinkage tr(S) / D I
        weight_c = S'^-1 mu_c,   bias_c = -mu_c' S'^-1 mu_c / 2

    Every class is taken as equally frequent. Where no class has two images there is no covariance to
    estimate, and the identity stands in its place.

    Attributes:
        weight: (C, D) float64.
        bias: (C,) float64.

    Source: the shrunk covariance is that of Ledoit and Wolf 2004 (J. Multivariate Analysis 88), with a fixed
    share instead of an estimated one.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(
        cls, features: Tensor, labels: Tensor, n_classes: int, *, shrinkage: float = SHRINKAGE
    ) -> LinearDiscriminant:
        """Return the discriminant of labelled images.

        Args:
            features: (N, D), finite.
            labels: (N,) class indices; every class has an image at least.
            n_classes: C.
            shrinkage: Share of the scaled identity in the covariance, above 0 and at most 1.

        Raises:
            ValueError: An input is not as above.

        Example:
            >>> points = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 1.0], [4.0, 3.0]])
            >>> one = LinearDiscriminant.fit(points, torch.tensor([0, 0, 1, 1]), 2, shrinkage=1.0)
            >>> one.weight.tolist(), one.bias.tolist()  # tr(S) / D = 1
            ([[0.0, 2.0], [4.0, 2.0]], [-2.0, -10.0])
        """
        space = _Space.of(features, labels, n_classes, shrinkage)
        means = space.means
        precise = means * space.inverse_variances(space.scatter_share, space.ridge)  # (C, D), rotated
        return cls(precise @ space.axes.T, -(means * precise).sum(dim=1) / 2)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (N, C), float64, of features (N, D)."""
        return features.to(self.weight) @ self.weight.T + self.bias


def left_out_logits(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    *,
    owners: Sequence[str] | None = None,
    shrinkage: float = SHRINKAGE,
) -> Tensor:
    """Return the logits of every image by the discriminant of the others, exactly.

    The discriminant is not computed anew for every image: without the images of one owner, the scatter
    loses a matrix whose rank is their number, and the covariance is inverted by Woodbury's identity in the
    axes of the whole scatter.

    Args:
        features: (N, D), finite.
        labels: (N,) class indices; every class has an image at least.
        n_classes: C.
        owners: (N,) groups such as patients, left out together. None: every image alone.
        shrinkage: As in `LinearDiscriminant.fit`.

    Returns:
        (N, C) float64. A class that has no other image has no mean then: its column is NaN in that row.

    Raises:
        ValueError: An input is not as above.

    Example:
        >>> points = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 1.0], [4.0, 3.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> one = left_out_logits(points, labels, 2)[:1]
        >>> rest = LinearDiscriminant.fit(points[1:], labels[1:], 2).logits(points[:1])
        >>> torch.allclose(one, rest)
        True
    """
    space = _Space.of(features, labels, n_classes, shrinkage)
    members: dict[str, list[int]] = {}
    for row in range(len(labels)):
        members.setdefault(str(row) if owners is None else owners[row], []).append(row)
    logits = space.rows.new_full((len(labels), n_classes), torch.nan)
    for rows in members.values():
        logits[rows] = space.without(torch.tensor(rows))
    return logits


@dataclass(frozen=True, eq=False)
class _Space:
    """Features in the axes of their within-class scatter, where leaving some out is a small correction."""

    rows: Tensor  # (N, D) rotated features
    labels: Tensor  # (N,)
    counts: Tensor  # (C,)
    means: Tensor  # (C, D) rotated
    axes: Tensor  # (D, D)
    scatter: Tensor  # (D,) eigenvalues of the sum of squares within classes
    shrinkage: float

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, n_classes: int, shrinkage: float) -> _Space:
        _check(features, labels, n_classes, shrinkage)
        values, labels = features.detach().cpu().double(), labels.cpu().long()
        counts = labels.bincount(minlength=n_classes)
        means = values.new_zeros(n_classes, values.shape[1]).index_add_(0, labels, values) / counts[:, None]
        centred = values - means[labels]
        with one_thread():
            scatter, axes = torch.linalg.eigh(centred.T @ centred)
        return cls(values @ axes, labels, counts, means @ axes, axes, scatter.clamp(min=0), shrinkage)

    @property
    def scatter_share(self) -> float:
        return self._share(int(self.counts.sum()), len(self.counts))

    @property
    def ridge(self) -> float:
        return self._ridge(float(self.scatter.sum()), int(self.counts.sum()), len(self.counts))

    def inverse_variances(self, share: float, ridge: float) -> Tensor:
        """Return 1 / (share * scatter + ridge) along every axis, (D,)."""
        return 1 / (share * self.scatter + ridge)

    def without(self, rows: Tensor) -> Tensor:
        """Return the logits (n, C) of n images by the discriminant of all others."""
        own, owner = self.rows[rows], self.labels[rows]
        taken = owner.bincount(minlength=len(self.counts))
        left = self.counts - taken
        moved = (self.means * self.counts[:, None]).index_add(0, owner, -own) / left[
            :, None
        ]  # NaN: none left
        away = own - self.means[owner]  # (n, D)
        # The scatter of a class loses away' (I + 11' / left) away; all of it where nothing is left.
        same = (owner[:, None] == owner[None, :]).to(own)
        remaining = torch.where(left[owner] > 0, left[owner], torch.inf)
        inner = torch.eye(len(rows), dtype=own.dtype) + same / remaining[:, None]  # (n, n)
        n, n_classes = int(left.sum()), int((left > 0).sum())
        lost = float((inner * (away @ away.T)).sum())
        share = self._share(n, n_classes)
        ridge = self._ridge(max(float(self.scatter.sum()) - lost, 0.0), n, n_classes)
        inverse = self.inverse_variances(share, ridge)  # (D,)
        with one_thread():
            centre = torch.linalg.inv(torch.linalg.inv(inner) - share * (away * inverse) @ away.T)  # (n, n)
        precise = moved * inverse  # (C, D)
        toward = precise @ away.T  # (C, n)
        squares = (moved * precise).sum(dim=1) + share * ((toward @ centre) * toward).sum(dim=1)
        cross = own @ precise.T + share * ((own * inverse) @ away.T) @ centre @ toward.T
        return cross - squares / 2

    def _share(self, n: int, n_classes: int) -> float:
        return 0.0 if n <= n_classes else (1 - self.shrinkage) / (n - n_classes)

    def _ridge(self, total: float, n: int, n_classes: int) -> float:
        """Return the scaled identity's part of the covariance; 1 where nothing scatters."""
        if n <= n_classes or total <= 0:
            return 1.0
        return self.shrinkage * total / (n - n_classes) / len(self.scatter)


def _check(features: Tensor, labels: Tensor, n_classes: int, shrinkage: float) -> None:
    check_tensor(features, "features")
    check_tensor(labels, "labels")
    if features.dim() != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"features must be (N, D) and labels (N,) with N > 0; got {tuple(features.shape)} and "
            f"{tuple(labels.shape)}."
        )
    if not bool(features.isfinite().all()):
        raise ValueError("features hold a number that is NaN or infinite.")
    if int(labels.min()) < 0 or int(labels.max()) >= n_classes:
        raise ValueError(
            f"labels must be from 0 to {n_classes - 1}; they are from {int(labels.min())} to "
            f"{int(labels.max())}."
        )
    empty = (labels.cpu().long().bincount(minlength=n_classes) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"A discriminant needs an image of every class; there is none of class {empty[0]}.")
    if not 0 < shrinkage <= 1:
        raise ValueError(f"shrinkage must be above 0 and at most 1, got {shrinkage!r}.")
