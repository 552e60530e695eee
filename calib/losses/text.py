"""Losses on the class embeddings alone; no image is needed."""

from __future__ import annotations

from torch import Tensor


def angular_separation(text_features: Tensor) -> Tensor:
    """Return the mean cosine between the embeddings of different classes; small means well spread classes.

    `sum_{i != j} T_i . T_j / (C (C - 1))`

    Args:
        text_features: (C, D), unit norm (not normalised again here), C at least 2.

    Returns:
        (), in [-1 / (C - 1), 1].

    Raises:
        ValueError: There is one class only, so there is no pair.

    Example:
        >>> import torch
        >>> angular_separation(torch.tensor([[1.0, 0.0], [0.6, 0.8]])).item()
        0.6000000238418579

    Source: CalibPrompt (arXiv 2509.15226), trainers/classification/losses.py, AS, commit c6ec13e.
    Differs: the release gives NaN for one class.
    """
    n_classes = len(text_features)
    if n_classes < 2:
        raise ValueError(f"Angular separation needs at least 2 classes, got {n_classes}.")
    cosines = text_features @ text_features.T  # (C, C)
    return (cosines.sum() - cosines.trace()) / (n_classes * (n_classes - 1))


def text_moment_matching(text_features: Tensor, zero_shot_text_features: Tensor) -> Tensor:
    """Return how far mean and covariance of the class embeddings have moved from the zero-shot ones.

    `|mean(T) - mean(T0)|^2 + |Cov(T) - Cov(T0)|_F^2`, covariances over the classes, divided by C.

    Args:
        text_features: (C, D), unit norm.
        zero_shot_text_features: (C, D), unit norm: the embeddings of the hand-written prompts. Not trained.

    Returns:
        (), at least 0.

    Example:
        >>> import torch
        >>> zero_shot = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> text_moment_matching(torch.eye(2), zero_shot).item()  # means 1/2 apart twice, 4 entries of 1/4
        0.75

    Source: TCPT (arXiv 2602.19024); CalibPrompt, losses.py, TEXT_MOMENT_MATCHING, commit c6ec13e.
    """
    mean, covariance = _moments(text_features)
    zero_shot_mean, zero_shot_covariance = _moments(zero_shot_text_features)
    return (mean - zero_shot_mean).square().sum() + (covariance - zero_shot_covariance).square().sum()


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D) over the rows of `features` (C, D), divided by C."""
    mean = features.mean(0)
    centred = features - mean
    return mean, centred.T @ centred / len(features)
