"""Uncertainty from logits by scores that are fitted on labelled validation data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64
from calib.posthoc.scaling import relative_logits, scaled_logits
from calib.scores.logits import entropy, margin, mcp


def temperature_mcp(logits: Tensor, *, temperature: float) -> Tensor:
    """Return `mcp` of the logits divided by a temperature, (N,).

    With two classes the order is that of `mcp`; with more, dividing can change it.

    Args:
        logits: (N, C), C at least 2, finite.
        temperature: T > 0, from `fit_temperature` on validation data.

    Example:
        >>> temperature_mcp(torch.tensor([[4.0, 0.0]]), temperature=2.0).tolist()
        [-2.0]

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    """
    return mcp(scaled_logits(logits, temperature))


def rel_u(logits: Tensor, *, matrix: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the relative uncertainty sum_ij p_i D_ij p_j, p = softmax(z / T), (N,).

    Args:
        logits: (N, C), C at least 2, finite.
        matrix: D (C, C), which pairs of classes are mixed up, from `fit_rel_u` on validation data.
        temperature: T > 0; the one D was fitted with.

    Raises:
        ValueError: The matrix is not (C, C), or another input is not as above.

    Example:
        >>> rel_u(torch.tensor([[0.0, 0.0]]), matrix=torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist()
        [0.5]

    Source: Dadalto et al. 2024 (arXiv 2306.01710); github.com/edadaltocg/relative-uncertainty 507a224.
    """
    scaled = scaled_logits(logits, temperature)
    size = logits.shape[1]
    if tuple(matrix.shape) != (size, size):
        raise ValueError(f"matrix must be ({size}, {size}), one row per class, got {tuple(matrix.shape)}.")
    probs = scaled.softmax(dim=1)
    return ((probs @ as_float64(matrix).to(probs.device)) * probs).sum(dim=1)


def logistic(
    logits: Tensor, *, coefficients: tuple[float, ...], centre: tuple[float, ...], intercept: float
) -> Tensor:
    """Return the log-odds of being wrong by a logistic regression on [mcp, margin, entropy], (N,).

    intercept + sum_k coefficients_k (feature_k - centre_k)

    Args:
        logits: (N, C), C at least 2, finite.
        coefficients: 3 slopes per unit of `mcp`, `margin`, `entropy`, from `fit_logistic`.
        centre: Their 3 means in the validation data.
        intercept: Log-odds at the centre.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> logistic(logits, coefficients=(1.0, 0.0, 0.0), centre=(0.0, 0.0, 0.0), intercept=0.5).tolist()
        [-1.5]
    """
    features = _features(logits)
    slopes, means = (features.new_tensor(values) for values in (coefficients, centre))
    if slopes.shape != (3,) or means.shape != (3,):
        raise ValueError(
            "coefficients and centre must be 3 numbers each, for mcp, margin and entropy; "
            f"got {coefficients} and {centre}."
        )
    return intercept + (features - means) @ slopes


def fit_rel_u(
    logits: Tensor, labels: Tensor, *, weight: float = 0.5, temperature: float = 1.0
) -> dict[str, Any]:
    """Return {"matrix": D, "temperature": T}, D (C, C): which classes are mixed up where it is wrong.

    D_ij = max(0, w E_wrong[p_i p_j] - (1 - w) E_right[p_i p_j]) for i != j, D_ii = 0. Where nothing is
    positive, D is 1 off the diagonal instead, the Gini index. Then D is divided by its Frobenius norm.

    Args:
        logits: (N, C) of validation data, C at least 2, finite.
        labels: (N,) class indices.
        weight: w in [0, 1], of the wrong predictions.
        temperature: T > 0 of the softmax.

    Raises:
        ValueError: There is no wrong or no right prediction to learn from, or an input is not as above.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, -2.0], [1.0, 0.0, -2.0], [-2.0, 0.0, 4.0]])
        >>> fit_rel_u(logits, torch.tensor([0, 1, 2]))["matrix"].round(decimals=3)
        tensor([[0.0000, 0.7020, 0.0890],
                [0.7020, 0.0000, 0.0000],
                [0.0890, 0.0000, 0.0000]], dtype=torch.float64)

    Source: Dadalto et al. 2024 (arXiv 2306.01710); src/RelU/methods.py of
        github.com/edadaltocg/relative-uncertainty 507a224.
    Differs: the release drops the last class when their number is odd; here every class counts.
    """
    relative_logits(logits, labels)
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie in [0, 1], got {weight!r}.")
    probs = scaled_logits(logits, temperature).softmax(dim=1)
    wrong = logits.argmax(dim=1) != labels.to(logits.device)
    _check_both(wrong)
    mixed = [group.T @ group / len(group) for group in (probs[wrong], probs[~wrong])]
    matrix = (weight * mixed[0] - (1 - weight) * mixed[1]).clamp_min(0).fill_diagonal_(0)
    matrix = (matrix + matrix.T) / 2  # a matrix product may round both halves differently
    if not bool((matrix > 0).any()):
        matrix = torch.ones_like(matrix).fill_diagonal_(0)
    return {"matrix": matrix / matrix.norm(), "temperature": float(temperature)}


def fit_logistic(logits: Tensor, labels: Tensor, *, strength: float = 1.0) -> dict[str, Any]:
    """Return the settings of `logistic`: coefficients, centre, intercept.

    Ridge-penalised logistic regression on the standardised features, the wrong predictions being the positive
    class.

    Args:
        logits: (N, C) of validation data, C at least 2, finite.
        labels: (N,) class indices.
        strength: Weight of the penalty |slopes|^2 / 2, above 0; 1 as in scikit-learn. The data weigh N.

    Raises:
        ValueError: There is no wrong or no right prediction to learn from, or an input is not as above.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 2 * torch.randn(200, 3, generator=generator)
        >>> labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        >>> fitted = fit_logistic(logits, labels)
        >>> uncertainty = logistic(logits, **fitted)
        >>> wrong = logits.argmax(1) != labels
        >>> bool(uncertainty[wrong].mean() > uncertainty[~wrong].mean())
        True
    """
    from sklearn.linear_model import LogisticRegression  # slow to import and needed here only

    relative_logits(logits, labels)
    if not strength > 0:
        raise ValueError(f"strength must be above 0, got {strength!r}.")
    wrong = logits.argmax(dim=1) != labels.to(logits.device)
    _check_both(wrong)
    features = _features(logits).cpu().numpy()
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)  # a feature that never changes says nothing: slope 0
    model = LogisticRegression(C=1 / strength, max_iter=1000, tol=1e-8)
    model.fit((features - centre) / spread, wrong.cpu().numpy())
    return {
        "coefficients": tuple((model.coef_[0] / spread).tolist()),
        "centre": tuple(centre.tolist()),
        "intercept": float(model.intercept_[0]),
    }


def _features(logits: Tensor) -> Tensor:
    return torch.stack([mcp(logits), margin(logits), entropy(logits)], dim=1)


def _check_both(wrong: Tensor) -> None:
    if bool(wrong.all()) or not bool(wrong.any()):
        which = "wrong" if bool(wrong.all()) else "right"
        raise ValueError(
            f"All {len(wrong)} validation predictions are {which}: nothing tells what makes one wrong. Fit "
            "on samples outside the training shots, some of them predicted wrongly and some rightly."
        )
