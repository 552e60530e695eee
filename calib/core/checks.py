"""What metrics, scores and calibrators check at their door."""

from __future__ import annotations

import torch
from torch import Tensor


def as_float64(values: Tensor) -> Tensor:
    """Return the values in float64, on the CPU if they were on MPS, which has no float64.

    Args:
        values: Any shape, any number type.

    Example:
        >>> as_float64(torch.tensor([1, 0])).tolist()
        [1.0, 0.0]
    """
    return (values.cpu() if values.device.type == "mps" else values).double()


def check_logits(logits: Tensor) -> None:
    """Return nothing; refuse logits that are not finite (N, C) numbers.

    Args:
        logits: What is to be checked.

    Raises:
        ValueError: What was expected and what came.
    """
    _check_matrix("logits", logits)
    if not bool(logits.isfinite().all()):
        raise ValueError(
            f"logits must be finite; {int((~logits.isfinite()).sum())} of {logits.numel()} are not."
        )


def check_probs(probs: Tensor) -> None:
    """Return nothing; refuse what cannot be the class probabilities (N, C) of N samples.

    Args:
        probs: What is to be checked. Rows may miss 1 by 1e-4, or by twice the rounding step of a shorter
            float type.

    Raises:
        ValueError: What was expected and what came.
    """
    _check_matrix("probs", probs)
    if not bool(((probs >= 0) & (probs <= 1)).all()):
        low, high = probs.min().item(), probs.max().item()
        raise ValueError(
            f"probs must lie in [0, 1], got values from {low:g} to {high:g}. Logits need a softmax first."
        )
    tolerance = max(1e-4, 2 * torch.finfo(probs.dtype).eps)
    worst = (as_float64(probs).sum(dim=-1) - 1).abs().max().item()
    if worst > tolerance:
        raise ValueError(
            f"Each row of probs must sum to 1 (within {tolerance:g}); the worst row misses it by {worst:g}."
        )


def check_labels(labels: Tensor, scores: Tensor) -> None:
    """Return nothing; refuse labels that are not one class index per row of the scores.

    Args:
        labels: What is to be checked, (N,) integers in [0, C).
        scores: (N, C).

    Raises:
        ValueError: What was expected and what came.
    """
    _check_indices("labels", labels)
    if len(labels) != len(scores):
        raise ValueError(f"Expected one label per sample: {len(scores)} samples but {len(labels)} labels.")
    if int(labels.max()) >= scores.shape[1]:
        raise ValueError(
            f"labels must be below the number of classes, {scores.shape[1]}; got {int(labels.max())}."
        )


def check_classes(predictions: Tensor, labels: Tensor) -> None:
    """Return nothing; refuse predicted and true classes that are not two equally long lists of class indices.

    Args:
        predictions: What is to be checked, (N,) integers >= 0.
        labels: What is to be checked, (N,) integers >= 0.

    Raises:
        ValueError: What was expected and what came.
    """
    _check_indices("predictions", predictions)
    _check_indices("labels", labels)
    if len(predictions) != len(labels):
        raise ValueError(
            f"Expected one label per prediction, got {len(predictions)} predictions, {len(labels)} labels."
        )


def check_confidence(confidence: Tensor, correct: Tensor | None = None) -> None:
    """Return nothing; refuse what cannot be the confidence and the correctness of N predictions.

    Args:
        confidence: What is to be checked, (N,) floats in [0, 1].
        correct: What is to be checked, (N,) bool; None if there is none.

    Raises:
        ValueError: What was expected and what came.
    """
    if confidence.ndim != 1 or not confidence.is_floating_point():
        raise ValueError(f"confidence must be (N,) floats, got {tuple(confidence.shape)} {confidence.dtype}.")
    if len(confidence) == 0:
        raise ValueError("confidence is empty: no sample, no metric.")
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):
        low, high = confidence.min().item(), confidence.max().item()
        raise ValueError(f"confidence must lie in [0, 1] without NaN, got values from {low:g} to {high:g}.")
    if correct is None:
        return
    if correct.dtype != torch.bool:
        raise ValueError(f"correct must be bool (predictions == labels), got {correct.dtype}.")
    if correct.shape != confidence.shape:
        raise ValueError(
            f"Expected as many values of correct as of confidence, got {tuple(correct.shape)} and "
            f"{tuple(confidence.shape)}."
        )


def _check_matrix(name: str, scores: Tensor) -> None:
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ValueError(f"{name} must be (N, C) floats, got {tuple(scores.shape)} {scores.dtype}.")
    if scores.numel() == 0:
        raise ValueError(f"{name} is empty, shape {tuple(scores.shape)}: no sample, no metric.")


def _check_indices(name: str, indices: Tensor) -> None:
    whole = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
    if indices.ndim != 1 or not whole:
        raise ValueError(f"{name} must be (N,) class indices, got {tuple(indices.shape)} {indices.dtype}.")
    if len(indices) == 0:
        raise ValueError(f"{name} is empty: no sample, no metric.")
    if int(indices.min()) < 0:
        raise ValueError(f"{name} must not be negative, got {int(indices.min())}.")
