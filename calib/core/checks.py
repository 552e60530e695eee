"""What metrics, scores and calibrators check at their door."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from calib.core.text import few

# How far from 1 the norm of a feature may be that was divided by it:
FLOAT32_NORM = 1e-3  # in float32, sums over thousands of terms included
HALF_NORM = 1e-2  # and then rounded to float16 or bfloat16
# As a log: exp(12) is 160,000. Above it surely the scale itself was given, e.g. 100.
LARGEST_LOGIT_SCALE = 12.0


def as_float64(values: Tensor) -> Tensor:
    """Return the values in float64, on the CPU if they were on MPS, which has no float64.

    Args:
        values: Any shape, any number type.

    Example:
        >>> as_float64(torch.tensor([1, 0])).tolist()
        [1.0, 0.0]
    """
    return (values.cpu() if values.device.type == "mps" else values).double()


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 if it was in half precision, else as it is.

    Args:
        tensor: Any shape, any number type.

    Example:
        >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_tensor(value: object, name: str) -> None:
    """Return nothing; refuse anything but a tensor.

    Args:
        value: What is to be checked.
        name: What it is, for the message.

    Raises:
        ValueError: It is something else; the message says how to get a tensor from it.

    Example:
        >>> check_tensor([0.5, 0.5], "confidence")
        Traceback (most recent call last):
        ValueError: confidence must be a torch tensor, not a list: give torch.as_tensor(confidence).
    """
    if isinstance(value, Tensor):
        return
    if value is None:
        raise ValueError(f"{name} must be a torch tensor; it is missing (None).")
    kind = type(value).__name__
    kind = "a numpy array" if kind == "ndarray" else f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
    advice = f"its .{name}" if hasattr(value, name) else f"torch.as_tensor({name})"
    raise ValueError(f"{name} must be a torch tensor, not {kind}: give {advice}.")


def check_kind(value: object, kind: type | tuple[type, ...], name: str, advice: str) -> None:
    """Return nothing; refuse an argument of another class.

    Args:
        value: What is to be checked.
        kind: The class it should have, or several.
        name: Name of the argument, for the message.
        advice: A sentence on where to get the right thing.

    Raises:
        ValueError: It is something else.

    Example:
        >>> check_kind("cxr3", dict, "task", "calib.load_data returns one.")
        Traceback (most recent call last):
        ValueError: task must be a dict, not the str 'cxr3'. calib.load_data returns one.
    """
    if not isinstance(value, kind):
        kinds = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        shown = f"the str {value!r}" if isinstance(value, str) else f"a {type(value).__name__}"
        raise ValueError(f"{name} must be a {kinds}, not {shown}. {advice}")


def check_whole(at_least: int, **numbers: object) -> None:
    """Return nothing; refuse what is no whole number of a least size.

    Args:
        at_least: The least value.
        **numbers: What is to be checked, by name.

    Raises:
        ValueError: One of them is not; it is named.

    Example:
        >>> check_whole(1, epochs=50, shots=1.5)
        Traceback (most recent call last):
        ValueError: shots must be a whole number of at least 1, not 1.5.
    """
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise ValueError(f"{name} must be a whole number of at least {at_least}, not {value!r}.")


def row_numbers(indices: Iterable[int] | Tensor) -> list[int]:
    """Return row numbers as a list; refuse true and false, which would be taken for the rows 1 and 0.

    Args:
        indices: (n,) whole numbers.

    Raises:
        ValueError: They are a mask.

    Example:
        >>> row_numbers(torch.tensor([2, 0]))
        [2, 0]
        >>> row_numbers(torch.tensor([True, False]))
        Traceback (most recent call last):
        ValueError: Rows are chosen by their numbers, not by true and false: give mask.nonzero().flatten().
    """
    rows = indices.tolist() if isinstance(indices, Tensor) else list(indices)
    if any(isinstance(row, bool | np.bool_) for row in rows):
        raise ValueError(
            "Rows are chosen by their numbers, not by true and false: give mask.nonzero().flatten()."
        )
    return [int(row) for row in rows]


def check_unit_norm(features: Tensor, name: str, *, tolerance: float, advice: str = "") -> None:
    """Return nothing; refuse features that are not finite or not of unit norm.

    Args:
        features: What is to be checked, (..., D) floats; "row" in the message counts the vectors in order.
        name: What they are, for the message.
        tolerance: FLOAT32_NORM, or HALF_NORM for what may have been rounded to half precision.
        advice: A sentence on what to do.

    Raises:
        ValueError: A vector is NaN, infinite, or of another length; its row and norm are said.

    Example:
        >>> check_unit_norm(torch.tensor([[0.6, 0.8], [3.0, 4.0]]), "image_features", tolerance=FLOAT32_NORM)
        Traceback (most recent call last):
        ValueError: image_features must have unit norm; row 1 has norm 5 (1 such rows of 2).
    """
    check_tensor(features, name)
    norms = as_float64(features.detach()).norm(dim=-1).flatten()
    broken = (~norms.isfinite()).nonzero().flatten().tolist()
    if broken:
        raise ValueError(f"{name} holds NaN or infinite values in rows {few(broken)}.")
    off = ((norms - 1).abs() > tolerance).nonzero().flatten().tolist()
    if off:
        raise ValueError(
            f"{name} must have unit norm; row {off[0]} has norm {float(norms[off[0]]):.4g} "
            f"({len(off)} such rows of {len(norms)}).{advice and ' ' + advice}"
        )


def check_logit_scale(value: float, name: str = "logit_scale") -> float:
    """Return the log of a scale; refuse what is surely the scale itself.

    Args:
        value: What is to be checked, 4.6 for a scale of 100.
        name: What it is, for the message.

    Raises:
        ValueError: It is not finite, or above LARGEST_LOGIT_SCALE.

    Example:
        >>> check_logit_scale(4.6)
        4.6
    """
    if not math.isfinite(value) or value > LARGEST_LOGIT_SCALE:
        raise ValueError(f"{name} is the log of the scale (4.6 for a scale of 100), got {value:g}.")
    return value


def check_logits(logits: Tensor) -> None:
    """Return nothing; refuse logits that are not finite (N, C) numbers of at least 2 classes.

    Args:
        logits: What is to be checked.

    Raises:
        ValueError: What was expected and what came; a single class says nothing.
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
    check_tensor(confidence, "confidence")
    if confidence.ndim != 1 or not confidence.is_floating_point():
        raise ValueError(f"confidence must be (N,) floats, got {tuple(confidence.shape)} {confidence.dtype}.")
    if len(confidence) == 0:
        raise ValueError("confidence is empty: no sample, no metric.")
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):
        low, high = confidence.min().item(), confidence.max().item()
        raise ValueError(f"confidence must lie in [0, 1] without NaN, got values from {low:g} to {high:g}.")
    if correct is None:
        return
    check_tensor(correct, "correct")
    if correct.dtype != torch.bool:
        raise ValueError(f"correct must be bool (predictions == labels), got {correct.dtype}.")
    if correct.shape != confidence.shape:
        raise ValueError(
            f"Expected as many values of correct as of confidence, got {tuple(correct.shape)} and "
            f"{tuple(confidence.shape)}."
        )


def _check_matrix(name: str, scores: Tensor) -> None:
    check_tensor(scores, name)
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ValueError(f"{name} must be (N, C) floats, got {tuple(scores.shape)} {scores.dtype}.")
    if scores.numel() == 0:
        raise ValueError(f"{name} is empty, shape {tuple(scores.shape)}: no sample, no metric.")
    if scores.shape[1] < 2:  # of one class every prediction is right, with confidence 1
        raise ValueError(
            f"{name} must have one column for each of at least 2 classes, got shape {tuple(scores.shape)}. "
            "Of two classes with one logit z, the columns are 0 and z; with one probability p, 1 - p and p."
        )


def _check_indices(name: str, indices: Tensor) -> None:
    check_tensor(indices, name)
    whole = not (indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool)
    if indices.ndim != 1 or not whole:
        raise ValueError(f"{name} must be (N,) class indices, got {tuple(indices.shape)} {indices.dtype}.")
    if len(indices) == 0:
        raise ValueError(f"{name} is empty: no sample, no metric.")
    if int(indices.min()) < 0:
        raise ValueError(f"{name} must not be negative, got {int(indices.min())}.")
