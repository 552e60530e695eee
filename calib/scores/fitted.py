"""Uncertainty from logits by scores that are fitted on labelled validation data."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64
from calib.posthoc.scaling import fit_temperature, relative_logits, scaled_logits
from calib.scores.logits import entropy, margin, mcp
from calib.scores.state import Shapes, require_fitted


class TemperatureMCP:
    """`mcp` of the logits divided by a temperature.

    With two classes the order is that of `mcp`; with more, dividing can change it.

    Attributes:
        temperature: T > 0, from `fit_temperature` on validation data. None: not fitted.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]] * 4)  # three of four right: T = 4 / log 3
        >>> score = TemperatureMCP().fit(logits, torch.tensor([0, 0, 0, 1]))
        >>> [round(value, 4) for value in score(torch.tensor([[4.0, 0.0], [8.0, 0.0]])).tolist()]
        [-1.0986, -2.1972]

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    """

    STATE: ClassVar[Shapes] = {"temperature": ()}
    POSITIVE: ClassVar[tuple[str, ...]] = ("temperature",)

    def __init__(self) -> None:
        self.temperature: float | None = None

    def fit(self, logits: Tensor, labels: Tensor) -> TemperatureMCP:
        """Return self, with the temperature that minimises the NLL.

        Args:
            logits: (N, C) of validation data, C at least 2, finite.
            labels: (N,) class indices.

        Raises:
            ValueError: An input is not as above, or no temperature is best: see `fit_temperature`.
        """
        self.temperature = fit_temperature(logits, labels)["temperature"]
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the uncertainty of the predictions, (N,) float64.

        Args:
            logits: (N, C), C at least 2, finite.

        Raises:
            ValueError: Not fitted, or the logits are not as above.
        """
        return mcp(scaled_logits(logits, require_fitted(self, self.temperature)))


class RelativeUncertainty:
    """sum_ij p_i D_ij p_j, p = softmax(z / T): D says which classes are mixed up where predictions are wrong.

    D_ij = max(0, w E_wrong[p_i p_j] - (1 - w) E_right[p_i p_j]) for i != j, D_ii = 0. Where nothing is
    positive, D is 1 off the diagonal instead, the Gini index. Then D is divided by its Frobenius norm.

    Args:
        weight: w in [0, 1], of the wrong predictions.
        temperature: T > 0 of the softmax.

    Attributes:
        matrix: D (C, C) float64. None: not fitted.

    Raises:
        ValueError: The weight is not as above.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -2.0], [1.0, 0.0, -2.0], [-2.0, 0.0, 4.0]])
        >>> score = RelativeUncertainty().fit(logits, torch.tensor([0, 1, 2]))
        >>> score.matrix.round(decimals=3)
        tensor([[0.0000, 0.7020, 0.0890],
                [0.7020, 0.0000, 0.0000],
                [0.0890, 0.0000, 0.0000]], dtype=torch.float64)
        >>> score(torch.tensor([[0.0, 0.0, -50.0], [0.0, -50.0, 0.0]])).round(decimals=3)
        tensor([0.3510, 0.0440], dtype=torch.float64)

    Source: Dadalto et al. 2024 (arXiv 2306.01710); src/RelU/methods.py of
        github.com/edadaltocg/relative-uncertainty 507a224.
    Differs: the release drops the last class when their number is odd; here every class counts.
    """

    same_classes: ClassVar[bool] = True  # D has a row for each
    STATE: ClassVar[Shapes] = {"temperature": (), "matrix": ("C", "C")}
    POSITIVE: ClassVar[tuple[str, ...]] = ("temperature",)

    def __init__(self, *, weight: float = 0.5, temperature: float = 1.0) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must lie in [0, 1], got {weight!r}.")
        self.weight, self.temperature = weight, temperature
        self.matrix: Tensor | None = None

    def fit(self, logits: Tensor, labels: Tensor) -> RelativeUncertainty:
        """Return self, with the matrix D.

        Args:
            logits: (N, C) of validation data, C at least 2, finite.
            labels: (N,) class indices.

        Raises:
            ValueError: There is no wrong or no right prediction to learn from, or an input is not as above.
        """
        wrong = _wrong(logits, labels)
        probs = scaled_logits(logits, self.temperature).softmax(dim=1)
        mixed = [group.T @ group / len(group) for group in (probs[wrong], probs[~wrong])]
        matrix = (self.weight * mixed[0] - (1 - self.weight) * mixed[1]).clamp_min(0).fill_diagonal_(0)
        matrix = (matrix + matrix.T) / 2  # a matrix product may round both halves differently
        if not bool((matrix > 0).any()):
            matrix = torch.ones_like(matrix).fill_diagonal_(0)
        self.matrix = matrix / matrix.norm()
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the uncertainty of the predictions, (N,) float64.

        Args:
            logits: (N, C) of the classes it was fitted on, finite.

        Raises:
            ValueError: Not fitted, or the logits are not as above.
        """
        matrix = require_fitted(self, self.matrix)
        scaled = scaled_logits(logits, self.temperature)
        size = logits.shape[1]
        if tuple(matrix.shape) != (size, size):
            raise ValueError(f"The score was fitted on {len(matrix)} classes, and the logits have {size}.")
        probs = scaled.softmax(dim=1)
        return ((probs @ as_float64(matrix).to(probs.device)) * probs).sum(dim=1)


class LogisticScore:
    """The log-odds of being wrong by a logistic regression on [mcp, margin, entropy].

    intercept + sum_k coefficients_k (feature_k - centre_k)

    Ridge-penalised on the standardised features, the wrong predictions being the positive class.

    Args:
        strength: Weight of the penalty |slopes|^2 / 2, above 0; 1 as in scikit-learn. The data weigh N.

    Attributes:
        coefficients: (3,) float64: slopes per unit of `mcp`, `margin`, `entropy`. None: not fitted.
        centre: (3,) float64: their means in the validation data.
        intercept: Log-odds at the centre.

    Raises:
        ValueError: The strength is not as above.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(200, 3, generator=generator)
        >>> labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> uncertainty = LogisticScore().fit(logits, labels)(logits)
        >>> wrong = logits.argmax(1) != labels
        >>> bool(uncertainty[wrong].mean() > uncertainty[~wrong].mean())
        True
    """

    STATE: ClassVar[Shapes] = {"coefficients": (3,), "centre": (3,), "intercept": ()}

    def __init__(self, *, strength: float = 1.0) -> None:
        if not strength > 0:
            raise ValueError(f"strength must be above 0, got {strength!r}.")
        self.strength = strength
        self.coefficients: Tensor | None = None

    def fit(self, logits: Tensor, labels: Tensor) -> LogisticScore:
        """Return self, with the coefficients.

        Args:
            logits: (N, C) of validation data, C at least 2, finite.
            labels: (N,) class indices.

        Raises:
            ValueError: There is no wrong or no right prediction to learn from, or an input is not as above.
        """
        from sklearn.linear_model import LogisticRegression  # slow to import and needed here only

        wrong = _wrong(logits, labels)
        features = _features(logits).cpu().numpy()
        centre, spread = features.mean(axis=0), features.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)  # a feature that never changes says nothing: slope 0
        model = LogisticRegression(C=1 / self.strength, max_iter=1000, tol=1e-8)
        model.fit((features - centre) / spread, wrong.cpu().numpy())
        self.coefficients = torch.from_numpy(model.coef_[0] / spread)
        self.centre, self.intercept = torch.from_numpy(centre), float(model.intercept_[0])
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the uncertainty of the predictions, (N,) float64.

        Args:
            logits: (N, C), C at least 2, finite.

        Raises:
            ValueError: Not fitted, or the logits are not as above.
        """
        slopes, features = require_fitted(self, self.coefficients), _features(logits)
        return self.intercept + (features - self.centre.to(features)) @ slopes.to(features)


def _features(logits: Tensor) -> Tensor:
    return torch.stack([mcp(logits), margin(logits), entropy(logits)], dim=1)


def _wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Return which predictions are wrong (N,), some and not all of them, once the inputs are checked."""
    relative_logits(logits, labels)
    wrong = logits.argmax(dim=1) != labels.to(logits.device)
    if bool(wrong.all()) or not bool(wrong.any()):
        which = "wrong" if bool(wrong.all()) else "right"
        raise ValueError(
            f"All {len(wrong)} validation predictions are {which}: nothing tells what makes one wrong. Fit "
            "on samples outside the training shots, some of them predicted wrongly and some rightly."
        )
    return wrong
