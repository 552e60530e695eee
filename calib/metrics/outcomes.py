"""Predictions with everything that follows from them: what most metrics are computed from."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.core.checks import as_float64, check_labels, check_logits, check_probs


@dataclass(frozen=True)
class Outcomes:
    """Checked predictions of N samples; made by `from_logits` or `from_probs`, all numbers float64.

    Attributes:
        log_probs: (N, C) log-probabilities; -inf where a given probability is 0.
        probs: (N, C) probabilities.
        labels: (N,) int64.
        predictions: (N,) int64, the class with the largest probability; the first one on a tie.
        confidence: (N,) the largest probability.
        correct: (N,) bool, predictions == labels.

    Example:
        >>> p = Outcomes.from_probs(torch.tensor([[0.25, 0.75], [0.5, 0.5]]), torch.tensor([1, 1]))
        >>> p.confidence.tolist(), p.correct.tolist()
        ([0.75, 0.5], [True, False])
    """

    log_probs: Tensor
    probs: Tensor
    labels: Tensor
    predictions: Tensor
    confidence: Tensor
    correct: Tensor

    @classmethod
    def from_logits(cls, logits: Tensor, labels: Tensor) -> Outcomes:
        """Return the predictions of logits (N, C); the softmax is taken in float64.

        Args:
            logits: (N, C), finite.
            labels: (N,) class indices in [0, C).

        Raises:
            ValueError: If a shape, a type or a value is not as above, or if there are no samples.
        """
        check_logits(logits)
        log_probs = as_float64(logits).log_softmax(dim=-1)
        return cls._build(log_probs, log_probs.exp(), labels)

    @classmethod
    def from_probs(cls, probs: Tensor, labels: Tensor) -> Outcomes:
        """Return the predictions of probabilities (N, C).

        Args:
            probs: (N, C) in [0, 1], rows sum to 1.
            labels: (N,) class indices in [0, C).

        Raises:
            ValueError: If a shape, a type or a value is not as above, or if there are no samples.
        """
        check_probs(probs)
        exact = as_float64(probs)
        return cls._build(exact.log(), exact, labels)

    @functools.cached_property
    def log_rest(self) -> Tensor:
        """log(1 - confidence) of every sample, (N,), as the log of the sum of the other probabilities.

        Example:
            >>> p = Outcomes.from_logits(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))
            >>> float(p.confidence), float(p.log_rest)
            (1.0, -100.0)
        """
        return self.log_probs.scatter(1, self.predictions[:, None], -torch.inf).logsumexp(dim=1)

    @classmethod
    def _build(cls, log_probs: Tensor, probs: Tensor, labels: Tensor) -> Outcomes:
        check_labels(labels, probs)
        labels = labels.to(probs.device, torch.int64)
        confidence, predictions = probs.max(dim=-1)
        return cls(log_probs, probs, labels, predictions, confidence, predictions == labels)
