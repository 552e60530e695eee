"""The four kinds of metric.

From its kind follow a metric's value, what is kept of a batch (by `calib.metrics.modules`, over batches and
processes) and its resamples in a bootstrap, so that a metric is one function and one row of METRICS.

    kind              its function                                              kept of a batch
    MeanOverSamples   (*tensors) -> (N,)                                        their number and their sum
    BinSums           ([counts, values, targets]), each (..., n_bins) -> (...)  the sums per bin
    ClassCounts       (hits, true, predicted), each (..., C) -> (...)           the counts per class
    WholeSet          (*tensors) -> ()                                          the tensors themselves

Functions of tensors name them in their signature, as losses do: any attributes of `Outcomes`.

The first three are functions of sums over samples. Then thousands of resamples are one matrix product: the
ECE, for instance, is a function of the means over samples of "confidence if in bin b" and "correct if in
bin b".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from calib.core.binning import bin_indices, bin_statistics
from calib.core.byname import settings, tensors
from calib.core.errors import unknown_name
from calib.metrics.calibration import classwise_statistics
from calib.metrics.classification import class_counts
from calib.metrics.outcomes import Outcomes
from calib.stats import MeanStatistic, Statistic


@dataclass(frozen=True)
class Kind(ABC):
    """What all metrics of one kind have in common.

    Attributes:
        function: The metric's own function, see above.
        pooled: Whether what is kept of two batches is added or put side by side.
    """

    function: Callable[..., Tensor]
    pooled: ClassVar[Literal["sum", "cat"]] = "sum"

    @abstractmethod
    def states(self, n_classes: int, n_bins: int) -> dict[str, tuple[int, ...]]:
        """Return the names of what is kept of a batch, and the shapes of sums."""

    @abstractmethod
    def kept(self, p: Outcomes, n_bins: int) -> Sequence[Tensor]:
        """Return what is kept of a batch, in the order of `states`."""

    @abstractmethod
    def statistic(self, n_bins: int) -> Statistic:
        """Return the metric as a statistic of numpy arrays logits (N, C) and labels (N,)."""

    def finish(self, kept: Sequence[Tensor], n_bins: int) -> Tensor:
        """Return the metric () of what was kept of all batches."""
        return self.function(*kept)

    def value(self, p: Outcomes, n_bins: int) -> Tensor:
        """Return the metric () of a whole set."""
        return self.finish(self.kept(p, n_bins), n_bins)


@dataclass(frozen=True)
class _OfTensors(Kind):
    """A kind whose function names attributes of `Outcomes`."""

    def __post_init__(self) -> None:
        known = [each.name for each in fields(Outcomes)]
        for name in tensors(self.function):
            if name not in known:
                raise unknown_name("tensor of a metric", name, known)

    def _tensors(self, p: Outcomes) -> list[Tensor]:
        return [getattr(p, name) for name in tensors(self.function)]


@dataclass(frozen=True)
class MeanOverSamples(_OfTensors):
    """The mean of a number that each sample has for itself.

    Example:
        >>> p = Outcomes.from_probs(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> float(MeanOverSamples(lambda confidence: confidence).value(p, n_bins=10))
        0.625
    """

    def states(self, n_classes: int, n_bins: int) -> dict[str, tuple[int, ...]]:
        """Return the number of samples and the sum of their numbers, both ()."""
        return dict.fromkeys(("count", "total"), ())

    def kept(self, p: Outcomes, n_bins: int) -> Sequence[Tensor]:
        """Return count and total."""
        values = self.function(*self._tensors(p))
        return values.new_tensor(len(values)), values.sum()

    def finish(self, kept: Sequence[Tensor], n_bins: int) -> Tensor:
        """Return total / count."""
        count, total = kept
        return total / count

    def statistic(self, n_bins: int) -> Statistic:
        """Return the mean as a statistic."""
        return _mean_statistic(
            lambda p: self.function(*self._tensors(p))[:, None], lambda means: means[..., 0]
        )


@dataclass(frozen=True)
class BinSums(Kind):
    """A function of the sums per confidence bin, see `calib.core.binning.bin_statistics`.

    Attributes:
        per_class: Whether every class is binned by its own probability, against whether it is the label, and
            the metric is the mean over the classes. Otherwise the top label is binned by its confidence,
            against whether it is correct.

    Example:
        >>> p = Outcomes.from_probs(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> float(BinSums(lambda sums: (sums[1] - sums[2]).abs().sum(-1)).value(p, n_bins=10))  # N times ECE
        0.75
    """

    per_class: bool = False

    def states(self, n_classes: int, n_bins: int) -> dict[str, tuple[int, ...]]:
        """Return samples per bin, sums of what they were binned by and of what it is compared with."""
        if self.per_class:
            return dict.fromkeys(("counts", "prob_sums", "label_sums"), (n_classes, n_bins))
        return dict.fromkeys(("counts", "confidence_sums", "correct_sums"), (n_bins,))

    def kept(self, p: Outcomes, n_bins: int) -> Sequence[Tensor]:
        """Return three sums per bin."""
        if self.per_class:
            return classwise_statistics(p.probs, p.labels, n_bins)
        return bin_statistics(p.confidence, p.correct, n_bins)

    def finish(self, kept: Sequence[Tensor], n_bins: int) -> Tensor:
        """Return the function of the sums, the mean over classes if there are several."""
        return self.function(kept).mean()

    def statistic(self, n_bins: int) -> Statistic:
        """Return the function of the mean sums as a statistic."""

        def columns(p: Outcomes) -> Tensor:  # (N, 3 n_bins), or (N, C 3 n_bins)
            if not self.per_class:
                return _by_bin(p.confidence, p.correct, n_bins)
            classes = range(p.probs.shape[1])
            return torch.cat([_by_bin(p.probs[:, c], p.labels == c, n_bins) for c in classes], dim=1)

        return _mean_statistic(
            columns,
            lambda means: self.function(means.unflatten(-1, (-1, 3, n_bins)).unbind(-2)).mean(dim=-1),
        )


@dataclass(frozen=True)
class ClassCounts(Kind):
    """A function of how many samples of each class were hit, are of it and were predicted as it.

    Example:
        >>> p = Outcomes.from_probs(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> float(ClassCounts(lambda hits, true, predicted: (hits / true).amin(dim=-1)).value(p, n_bins=10))
        0.0
    """

    def states(self, n_classes: int, n_bins: int) -> dict[str, tuple[int, ...]]:
        """Return three counts, each (C,)."""
        return dict.fromkeys(("hits", "true", "predicted"), (n_classes,))

    def kept(self, p: Outcomes, n_bins: int) -> Sequence[Tensor]:
        """Return three counts per class."""
        return class_counts(p.predictions, p.labels, p.probs.shape[1])

    def value(self, p: Outcomes, n_bins: int) -> Tensor:
        """Return the metric of a whole set, to the last bit that of a caller who does not know C."""
        return self.function(*class_counts(p.predictions, p.labels))

    def statistic(self, n_bins: int) -> Statistic:
        """Return the function of the shares per class as a statistic."""

        def columns(p: Outcomes) -> Tensor:  # (N, 3 C)
            true, predicted = (_one_hot(classes, p.probs.shape[1]) for classes in (p.labels, p.predictions))
            return torch.cat([true * p.correct[:, None], true, predicted], dim=1)

        return _mean_statistic(columns, lambda means: self.function(*means.chunk(3, dim=-1)))


@dataclass(frozen=True)
class WholeSet(_OfTensors):
    """A function of all samples at once, such as one that ranks them. It may have a setting `n_bins`.

    Every resample of a bootstrap is computed by itself, which is slow.

    Example:
        >>> p = Outcomes.from_probs(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> float(WholeSet(lambda confidence: confidence.median()).value(p, n_bins=10))
        0.5
    """

    pooled: ClassVar[Literal["sum", "cat"]] = "cat"

    def states(self, n_classes: int, n_bins: int) -> dict[str, tuple[int, ...]]:
        """Return the tensors that the function names; no sums, no shapes."""
        return dict.fromkeys(tensors(self.function), ())

    def kept(self, p: Outcomes, n_bins: int) -> Sequence[Tensor]:
        """Return these tensors of the batch, each (B, ...)."""
        return self._tensors(p)

    def finish(self, kept: Sequence[Tensor], n_bins: int) -> Tensor:
        """Return the function of the tensors."""
        asked: dict[str, Any] = {"n_bins": n_bins} if "n_bins" in settings(self.function) else {}
        return self.function(*kept, **asked)

    def statistic(self, n_bins: int) -> Statistic:
        """Return the function as a statistic."""
        return lambda logits, labels: float(self.value(_outcomes(logits, labels), n_bins))


def _outcomes(logits: np.ndarray, labels: np.ndarray) -> Outcomes:
    return Outcomes.from_logits(torch.tensor(np.asarray(logits)), torch.tensor(np.asarray(labels)))


def _mean_statistic(
    columns: Callable[[Outcomes], Tensor], finish: Callable[[Tensor], Tensor]
) -> MeanStatistic:
    return MeanStatistic(
        lambda logits, labels: columns(_outcomes(logits, labels)).numpy(),
        lambda means: finish(torch.from_numpy(means)).numpy(),
    )


def _by_bin(values: Tensor, targets: Tensor, n_bins: int) -> Tensor:
    member = _one_hot(bin_indices(values, n_bins), n_bins)
    return torch.cat([member, member * values[:, None], member * targets[:, None]], dim=1)  # (N, 3 n_bins)


def _one_hot(indices: Tensor, size: int) -> Tensor:
    return torch.nn.functional.one_hot(indices, size).double()
