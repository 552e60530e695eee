"""Accuracy and its kin, Brier score, negative log-likelihood, and the table per class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from calib.core.checks import as_float64, check_classes, check_labels, check_logits, check_probs
from calib.metrics.calibration import expected_calibration_error
from calib.metrics.outcomes import Outcomes


def accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Return the share of predictions that equal the label, () float64.

    Args:
        predictions: (N,) predicted classes.
        labels: (N,) true classes.

    Example:
        >>> float(accuracy(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])))
        0.75
    """
    check_classes(predictions, labels)
    return as_float64(predictions == labels).mean()


def balanced_accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Return the mean recall over the classes that occur among the labels, () float64.

    Args:
        predictions: (N,) predicted classes.
        labels: (N,) true classes. A class without samples has no recall and is left out, as in scikit-learn.

    Example:
        >>> float(balanced_accuracy(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])))
        0.75
    """
    return balanced_accuracy_from_counts(*class_counts(predictions, labels))


def macro_f1(predictions: Tensor, labels: Tensor) -> Tensor:
    """Return the mean F1 over the classes that occur among the labels or the predictions, () float64.

    F1_c = 2 hits_c / (true_c + predicted_c)

    Args:
        predictions: (N,) predicted classes.
        labels: (N,) true classes. A class predicted but absent has F1 = 0; one neither present nor predicted
            would be 0 / 0 and is left out, as in scikit-learn.

    Example:
        >>> round(float(macro_f1(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1]))), 4)
        0.7333
    """
    return macro_f1_from_counts(*class_counts(predictions, labels))


def class_counts(
    predictions: Tensor, labels: Tensor, num_classes: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return per class how many samples were hit, are of it and were predicted as it, each (C,) float64.

    Args:
        predictions: (N,) predicted classes.
        labels: (N,) true classes.
        num_classes: C; None for the largest class that occurs + 1.

    Example:
        >>> [column.tolist() for column in class_counts(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))]
        [[1.0, 1.0], [1.0, 2.0], [2.0, 1.0]]
    """
    check_classes(predictions, labels)
    top = 1 + max(int(predictions.max()), int(labels.max()))
    if num_classes is not None and top > num_classes:
        raise ValueError(f"Classes must be below num_classes={num_classes}, got class {top - 1}.")
    size = num_classes or top
    hits = labels[predictions == labels]
    counts = [torch.bincount(classes.cpu(), minlength=size) for classes in (hits, labels, predictions)]
    hit, true, predicted = (count.double() for count in counts)
    return hit, true, predicted


def balanced_accuracy_from_counts(hits: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
    """Return the balanced accuracy of class counts, (...); leading dimensions are kept.

    Args:
        hits: (..., C) correct predictions per class, or shares of N.
        true: (..., C) samples per class in the same unit.
        predicted: (..., C) not needed; every statistic of class counts takes the same three.

    Example:
        >>> balanced_accuracy_from_counts(*torch.tensor([[2.0, 1.0, 0.0], [2.0, 2.0, 0.0], [3.0, 1.0, 0.0]]))
        tensor(0.7500)
    """
    present = true > 0
    recall = torch.where(present, hits / true, 0.0)
    return recall.sum(dim=-1) / present.sum(dim=-1)


def macro_f1_from_counts(hits: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
    """Return the macro-F1 of class counts, (...); leading dimensions are kept.

    Args:
        hits: (..., C) correct predictions per class, or shares of N.
        true: (..., C) samples per class in the same unit.
        predicted: (..., C) predictions per class in the same unit.

    Example:
        >>> macro_f1_from_counts(*torch.tensor([[2.0, 1.0, 0.0], [2.0, 2.0, 0.0], [3.0, 1.0, 0.0]]))
        tensor(0.7333)
    """
    either = true + predicted
    f1 = torch.where(either > 0, 2 * hits / either, 0.0)
    return f1.sum(dim=-1) / (either > 0).sum(dim=-1)


def brier_score(probs: Tensor, labels: Tensor) -> Tensor:
    """Return the Brier score mean_n sum_c (probs_nc - [labels_n = c])^2, () float64 in [0, 2].

    Args:
        probs: (N, C) in [0, 1], rows sum to 1.
        labels: (N,) class indices.

    Example:
        >>> float(brier_score(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1])))
        0.3125

    Source: Brier 1950, summed over classes. For 2 classes this is twice scikit-learn's default
        `brier_score_loss`.
    """
    check_probs(probs)
    check_labels(labels, probs)
    return brier_per_sample(as_float64(probs), labels).mean()


def brier_per_sample(probs: Tensor, labels: Tensor) -> Tensor:
    """Return sum_c (probs_nc - [labels_n = c])^2 of every sample, (N,), without checks.

    Args:
        probs: (N, C).
        labels: (N,) class indices.

    Example:
        >>> brier_per_sample(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1])).tolist()
        [0.125, 0.5]
    """
    one_hot = labels.to(probs.device)[:, None] == torch.arange(probs.shape[1], device=probs.device)
    return (probs - one_hot.to(probs)).square().sum(dim=-1)


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of -log softmax(logits)_label in nats, () float64.

    Args:
        logits: (N, C), finite.
        labels: (N,) class indices.

    Example:
        >>> logits, labels = torch.tensor([[0.0, 0.0], [200.0, 0.0]]), torch.tensor([0, 1])
        >>> round(float(negative_log_likelihood(logits, labels)), 4)
        100.3466
    """
    check_logits(logits)
    check_labels(labels, logits)
    return nll_per_sample(as_float64(logits).log_softmax(dim=-1), labels).mean()


def negative_log_likelihood_from_probs(probs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of -log probs_label in nats, () float64; inf if a true class was given probability 0.

    Where logits are at hand, `negative_log_likelihood` is better: it stays finite where a probability
    underflows.

    Args:
        probs: (N, C) in [0, 1], rows sum to 1.
        labels: (N,) class indices.

    Example:
        >>> probs, labels = torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1])
        >>> round(float(negative_log_likelihood_from_probs(probs, labels)), 4)
        0.4904
    """
    check_probs(probs)
    check_labels(labels, probs)
    return nll_per_sample(as_float64(probs).log(), labels).mean()


def nll_per_sample(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return -log_probs[n, labels_n] of every sample, (N,), without checks.

    Args:
        log_probs: (N, C).
        labels: (N,) class indices.

    Example:
        >>> nll_per_sample(torch.tensor([[-0.5, -1.0], [-2.0, -0.25]]), torch.tensor([1, 1])).tolist()
        [1.0, 0.25]
    """
    return -log_probs.gather(-1, labels.to(log_probs.device, torch.int64)[:, None]).squeeze(-1)


def per_class_table(
    probs: Tensor, labels: Tensor, *, class_names: Sequence[str] | None = None, n_bins: int = 10
) -> list[dict[str, Any]]:
    """Return one row per class: class, n, n_predicted, recall, precision, confidence, ece.

    Rows are by true class: n samples are of the class; recall is their accuracy, confidence their mean
    confidence and ece the ECE of their top label. n_predicted samples were predicted as the class, of which a
    share `precision` is of it. A quantity of no samples is nan: recall, confidence and ece where n = 0,
    precision where n_predicted = 0. The ece within a true class tells where confidence and accuracy part; it
    is not 0 for a perfectly calibrated model, whose errors gather in some classes.

    Args:
        probs: (N, C) in [0, 1], rows sum to 1.
        labels: (N,) class indices.
        class_names: C names for the column `class`; None for "0", "1", ...
        n_bins: Number of bins of the ece.

    Returns:
        C dictionaries of strings, ints and floats.

    Raises:
        ValueError: If the inputs are not as above or the number of names is not C.

    Example:
        >>> table = per_class_table(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 0]))
        >>> list(table[0].values())
        ['0', 2, 2, 1.0, 1.0, 0.625, 0.375]
        >>> list(table[1].values())
        ['1', 0, 0, nan, nan, nan, nan]

    Source: the per-class metrics of github.com/iabh1shekbasu/CalibPrompt c6ec13e, evaluators/vl_evaluator.py.
    """
    p = Outcomes.from_probs(probs, labels)
    size = p.probs.shape[1]
    names = [str(name) for name in (range(size) if class_names is None else class_names)]
    if len(names) != size:
        raise ValueError(f"Expected {size} class names, one per column of probs, got {len(names)}: {names}.")
    return [{"class": name, **_class_row(p, c, n_bins)} for c, name in enumerate(names)]


def _class_row(p: Outcomes, c: int, n_bins: int) -> dict[str, Any]:
    of_class, as_class = p.labels == c, p.predictions == c
    row: dict[str, Any] = {"n": int(of_class.sum()), "n_predicted": int(as_class.sum())}
    row |= dict.fromkeys(("recall", "precision", "confidence", "ece"), math.nan)
    confidence, correct = p.confidence[of_class], p.correct[of_class]
    if row["n"]:
        row["recall"] = float(as_float64(correct).mean())
        row["confidence"] = float(confidence.mean())
        row["ece"] = float(expected_calibration_error(confidence, correct, n_bins=n_bins))
    if row["n_predicted"]:
        row["precision"] = float(as_float64(p.correct[as_class]).mean())
    return row
