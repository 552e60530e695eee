"""Uncertainty from a few labelled images: does the image look like those of the class that is predicted?

The logits compare an image with texts, these scores compare it with images. Each class is fitted on the image
features of a few shots and then gives the uncertainty (N,) of predictions, float64, higher = more likely
wrong, from image features and logits; the prediction is the largest logit. `ImagePrototypes` and
`ClassGaussians` need no training, and their image features may come from another model than the logits.
`LogitScaling` trains a small network.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from calib.core.checks import HALF_NORM, as_float64, check_labels, check_tensor, check_unit_norm
from calib.core.onethread import one_thread
from calib.scores.logits import mcp
from calib.scores.state import Shapes, require_fitted


class ImagePrototypes:
    """Distance of an image to the prototype of its predicted class, added to 1 - max p.

    uncertainty = (1 - max p) + weight (1 - cos(v, prototype of the predicted class))

    The prototype of a class is the mean of its image features, normalised. Works from one shot on.

    Args:
        weight: Of the prototype's part, at least 0; 0 is MCP. The release uses 1 almost everywhere.

    Raises:
        ValueError: The weight is negative or not finite.

    Example:
        >>> shots, labels = torch.eye(3), torch.tensor([0, 1, 1])
        >>> score = ImagePrototypes().fit(shots, labels)
        >>> score(torch.eye(3)[:2], torch.tensor([[0.0, -800.0], [0.0, -800.0]])).tolist()
        [0.0, 1.0]

    Source: TrustVLM (arXiv 2505.23745); TrustVLM.py of github.com/EPFL-IMOS/TrustVLM 0a0caa6, without its v2,
        which changes the predictions. It is max p + weight cos there, with features of DINOv2.
    """

    same_classes: ClassVar[bool] = True  # a prototype for each
    STATE: ClassVar[Shapes] = {"weight": (), "_prototypes": ("C", "D")}

    def __init__(self, *, weight: float = 1.0) -> None:
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight must be a finite number of at least 0, got {weight!r}.")
        self.weight = weight
        self._prototypes: Tensor | None = None

    def fit(self, image_features: Tensor, labels: Tensor, logits: Tensor | None = None) -> ImagePrototypes:
        """Return self, with one prototype per class.

        Args:
            image_features: (N, D) unit norm, the shots.
            labels: (N,) class indices; every class needs a shot.
            logits: (N, C), which say how many classes there are. None: the largest label + 1.

        Raises:
            ValueError: An input is not as above, or the features of a class cancel out.
        """
        features, members = _shots(image_features, labels, logits)
        means = members.T @ features / members.sum(dim=0)[:, None]  # (C, D)
        norms = means.norm(dim=1, keepdim=True)
        if bool((norms < 1e-8).any()):
            raise ValueError(f"The features of class {int(norms.argmin())} cancel out: it has no prototype.")
        self._prototypes = means / norms
        return self

    def likeness(self, image_features: Tensor) -> Tensor:
        """Return the cosine of images to the prototype of each class, (N, C) float64.

        Args:
            image_features: (N, D) unit norm.

        Raises:
            ValueError: Not fitted, or the features are not as above.

        Example:
            >>> score = ImagePrototypes().fit(torch.eye(2), torch.tensor([0, 1]))
            >>> score.likeness(torch.tensor([[0.6, 0.8]])).round(decimals=4).tolist()
            [[0.6, 0.8]]
        """
        prototypes = require_fitted(self, self._prototypes)
        return unit_features(image_features, prototypes.shape[1]) @ prototypes.T

    def __call__(self, image_features: Tensor, logits: Tensor) -> Tensor:
        """Return the uncertainty of the predictions, (N,) float64.

        Args:
            image_features: (N, D) unit norm, from the model the shots were encoded with.
            logits: (N, C), finite.

        Raises:
            ValueError: Not fitted, or an input is not as above.
        """
        prototypes = require_fitted(self, self._prototypes)
        features = check_queries(image_features, logits, prototypes.shape[1], len(prototypes))
        closeness = (features * prototypes[logits.argmax(dim=1)]).sum(dim=1)
        return mcp(logits).sigmoid() + self.weight * (1 - closeness)


class ClassGaussians:
    """Probability that an image belongs to its predicted class by Gaussians fitted to each class, with MCP.

    uncertainty = log(1 - (max p + q) / 2), q = softmax_c(log N(x; mean_c, cov_c)) of the predicted class

    x are the leading principal components of the image features. Covariances from few shots are shrunk in two
    steps, each as if `strength` samples of the simpler model had been seen (n_c shots of class c, N in all,
    S_c their scatter around the class mean, d components):

        pooled = (sum_c S_c + strength t I) / (N - C + strength),  t = trace(sum_c S_c) / (d (N - C))
        cov_c  = (S_c + strength pooled) / (n_c - 1 + strength)

    With one shot per class there is no scatter, and t is the variance of all shots per component: what counts
    is the distance to the shots. With many, cov_c is the covariance of the class.

    Args:
        components: Principal components at most; fewer where the shots span fewer.
        strength: Pseudo-samples of the simpler model, above 0; None for d, the number of components.

    Raises:
        ValueError: A setting is not as above.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> shots = torch.eye(4)[[0] * 8 + [1] * 8] + 0.2 * torch.randn(16, 4, generator=generator)
        >>> shots, labels = torch.nn.functional.normalize(shots, dim=1), torch.tensor([0] * 8 + [1] * 8)
        >>> score = ClassGaussians().fit(shots, labels)
        >>> near, far = score(torch.eye(4)[:2], torch.tensor([[5.0, 0.0], [5.0, 0.0]]))
        >>> bool(near < -5), bool(far > -0.7)  # both are predicted as class 0
        (True, True)

    Source: ICPE (arXiv 2511.22019); icpe.ipynb of github.com/zhenxianglin/ICPE aa9c144.
    Differs: the release adds 1e-8 I to the class covariance instead of shrinking it, which is close to
        singular below 129 shots per class in its 128 components; it takes raw features instead of unit ones;
        its score is not in log space, so that values near 1 become ties.
    """

    same_classes: ClassVar[bool] = True  # a Gaussian for each
    STATE: ClassVar[Shapes] = {
        "_centre": ("D",),
        "_basis": ("D", "d"),
        "_means": ("C", "d"),
        "_factors": ("C", "d", "d"),
    }
    POSITIVE: ClassVar[tuple[str, ...]] = ("_factors",)  # on their diagonals

    def __init__(self, *, components: int = 128, strength: float | None = None) -> None:
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components!r}.")
        if strength is not None and not (strength > 0 and math.isfinite(strength)):
            raise ValueError(f"strength must be a finite number above 0, or None, got {strength!r}.")
        self.components = components
        self.strength = strength
        self._centre: Tensor | None = None

    def fit(self, image_features: Tensor, labels: Tensor, logits: Tensor | None = None) -> ClassGaussians:
        """Return self, with the principal components and one Gaussian per class.

        Args:
            image_features: (N, D) unit norm, the shots; not all the same.
            labels: (N,) class indices; every class needs a shot.
            logits: (N, C), which say how many classes there are. None: the largest label + 1.

        Raises:
            ValueError: An input is not as above.
        """
        features, members = _shots(image_features, labels, logits)
        with one_thread():
            centre = features.mean(dim=0)
            _, spread, axes = torch.linalg.svd(features - centre, full_matrices=False)
        rank = int((spread > 1e-6 * math.sqrt(len(features))).sum())
        if rank == 0:
            raise ValueError(f"All {len(features)} shots have the same features: nothing to compare with.")
        basis = axes[: min(rank, self.components)].T  # (D, d)
        counts = members.sum(dim=0)
        with one_thread():
            reduced = (features - centre) @ basis
            means = members.T @ reduced / counts[:, None]  # (C, d)
            covariances = self._covariances(reduced, members, means, counts)
            self._factors = torch.linalg.cholesky(covariances)  # (C, d, d)
        self._centre, self._basis, self._means = centre, basis, means
        return self

    def log_density(self, image_features: Tensor) -> Tensor:
        """Return the log-density of images under the Gaussian of each class, (N, C), up to one constant.

        Args:
            image_features: (N, D) unit norm.

        Raises:
            ValueError: Not fitted, or an input is not as above.
        """
        centre = require_fitted(self, self._centre)
        columns = []
        with one_thread():
            reduced = (unit_features(image_features, len(centre)) - centre) @ self._basis
            for mean, factor in zip(self._means, self._factors, strict=True):  # (N, d) at a time
                white = torch.linalg.solve_triangular(factor, (reduced - mean).T, upper=False)
                columns.append(-white.square().sum(dim=0) / 2 - factor.diagonal().log().sum())
        return torch.stack(columns, dim=1)

    def likeness(self, image_features: Tensor) -> Tensor:
        """Return q, softmax_c of the log-densities: how images divide among the classes, (N, C), sum 1.

        Args:
            image_features: (N, D) unit norm.

        Raises:
            ValueError: Not fitted, or the features are not as above.
        """
        return self.log_density(image_features).softmax(dim=1)

    def __call__(self, image_features: Tensor, logits: Tensor) -> Tensor:
        """Return the uncertainty of the predictions, (N,) float64, at most 0.

        Args:
            image_features: (N, D) unit norm, from the model the shots were encoded with.
            logits: (N, C), finite.

        Raises:
            ValueError: Not fitted, or an input is not as above.
        """
        centre = require_fitted(self, self._centre)
        check_queries(image_features, logits, len(centre), len(self._means))
        densities = self.log_density(image_features)
        predicted = one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
        others = densities.masked_fill(predicted, -math.inf).logsumexp(dim=1)
        not_by_density = logsigmoid(others - densities[predicted])  # log(1 - q)
        not_by_logits = logsigmoid(mcp(logits))  # log(1 - max p)
        return torch.logaddexp(not_by_logits, not_by_density) - math.log(2)

    def _covariances(self, reduced: Tensor, members: Tensor, means: Tensor, counts: Tensor) -> Tensor:
        (n, d), size = reduced.shape, len(counts)
        strength = float(d if self.strength is None else self.strength)
        residuals = reduced - members @ means
        scatter = torch.stack([residuals[row].T @ residuals[row] for row in members.T.bool()])  # (C, d, d)
        within = scatter.sum(dim=0)
        variance = within.trace() / (d * (n - size)) if n > size else reduced.square().sum() / (d * (n - 1))
        if not variance > 1e-12:  # copies of one shot per class
            variance = reduced.square().sum() / (d * (n - 1))
        isotropic = variance * torch.eye(d, dtype=reduced.dtype, device=reduced.device)
        pooled = (within + strength * isotropic) / (n - size + strength)
        return (scatter + strength * pooled) / (counts[:, None, None] - 1 + strength)


def _shots(image_features: Tensor, labels: Tensor, logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return checked features (N, D) and class membership (N, C), both float64."""
    features = unit_features(image_features, None)
    check_tensor(labels, "labels")
    if logits is not None:
        check_tensor(logits, "logits")
    size = logits.shape[1] if logits is not None else 1 + int(labels.max()) if labels.numel() else 0
    check_labels(labels, features.new_zeros(len(features), max(size, 1)))
    members = one_hot(labels.to(features.device, torch.int64), size).to(features)
    empty = [str(c) for c, count in enumerate(members.sum(dim=0).tolist()) if count == 0]
    if empty:
        raise ValueError(f"Every class needs at least one shot; classes without: {', '.join(empty)}.")
    if size < 2:
        raise ValueError("Shots of at least 2 classes are needed, got one class.")
    return features, members


def check_queries(image_features: Tensor, logits: Tensor, dim: int, size: int) -> Tensor:
    """Return the features (N, D) in float64, once they and the logits (N, C) fit what was fitted."""
    features = unit_features(image_features, dim)
    check_tensor(logits, "logits")
    if tuple(logits.shape) != (len(features), size):
        raise ValueError(
            f"logits must be ({len(features)}, {size}), one row per image and one column per fitted class; "
            f"got {tuple(logits.shape)}."
        )
    return features


def unit_features(given: Tensor, dim: int | None, name: str = "image_features") -> Tensor:
    """Return the features in float64, once they are (N, D) of unit norm."""
    check_tensor(given, name)
    if given.ndim != 2 or not given.is_floating_point():
        raise ValueError(f"{name} must be (rows, D) floats, got {tuple(given.shape)} {given.dtype}.")
    if len(given) == 0:
        raise ValueError(f"{name} is empty.")
    if dim is not None and given.shape[1] != dim:
        raise ValueError(
            f"{name} must have the width of the others, {dim}, got {given.shape[1]}. Were they made by the "
            "same model?"
        )
    check_unit_norm(given, name, tolerance=HALF_NORM)
    return as_float64(given)
