"""What every calibrator is: fitted on labelled outputs, it gives probabilities, and can be part of a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from calib.core import byname
from calib.core.checks import as_float64, check_labels, check_logits
from calib.core.errors import unknown_name
from calib.posthoc.records import VERSION, Shape, check_record, numbers
from calib.posthoc.shares import class_weights, mixed

C = TypeVar("C", bound="Calibrator")


class Calibrator(ABC):
    """Class probabilities from logits, by a mapping that `fit` learns from labelled outputs.

    Logits are what a softmax takes; of a model that gives probabilities, log p (as
    `calib.scores.logits_from_probs` makes them). A calibrator is a function of each row's softmax alone: a
    number added to all logits of a row changes nothing.

    With `mix`, p' = (1 - 1 / (n + 1)) p + 1 / ((n + 1) C), n the rows it was fitted on: from n rows nobody
    knows that a class is impossible.

    Args:
        mix: Whether to do that.

    Attributes:
        name: Its key in CALIBRATORS.
        keeps_argmax: Whether the predicted class is always that of the largest logit.
        quadratic: Whether the number of its parameters grows with the square of the classes.
        classes: C of the outputs it was fitted on. None: not fitted.
        rows: How many rows with a weight above 0 it was fitted on.
        parameters: What was fitted, by name, float64.
    """

    name: ClassVar[str]
    keeps_argmax: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    needs_two_classes: ClassVar[bool] = True  # among the labels: it learns something about each class

    def __init__(self, *, mix: bool = False) -> None:
        if not isinstance(mix, bool):
            raise ValueError(f"mix must be True or False, not {mix!r}.")
        self.mix = mix
        self.classes: int | None = None
        self.rows = 0
        self.parameters: dict[str, Tensor] = {}

    def fit(self: C, logits: Tensor, labels: Tensor, *, shares: Sequence[float] | Tensor | None = None) -> C:
        """Return self, fitted.

        Args:
            logits: (N, C) of outputs the model was not trained on, C at least 2, finite.
            labels: (N,) class indices. A class that has no rows is learned to be rare, as it is here.
            shares: (C,) the shares of the classes where the calibrator is used, in [0, 1], summing to 1. A
                row then counts share[y] / (share of y among the labels). None: as they are among the labels.

        Raises:
            ValueError: An input is not as above; a class with a share above 0 has no rows; all labels are of
                one class, where each class has parameters; the rows allow no fit, and the message says why.
        """
        _check_rows(logits, labels)
        return self.fit_weighted(logits, labels, class_weights(labels, logits.shape[1], shares))

    def fit_weighted(self: C, logits: Tensor, labels: Tensor, weights: Tensor) -> C:
        """Return self, fitted to rows that count differently; see `fit`.

        Args:
            logits: (N, C), C at least 2, finite.
            labels: (N,) class indices.
            weights: (N,) at least 0, of mean 1 (`class_weights`). Rows of weight 0 are left out.

        Raises:
            ValueError: As `fit`, or the weights are not as above.
        """
        _check_rows(logits, labels)
        if weights.shape != labels.shape or not bool((weights >= 0).all() and weights.isfinite().all()):
            raise ValueError(f"weights must be ({len(labels)},) finite numbers of at least 0.")
        counts = weights.cpu() > 0
        values = as_float64(logits.detach()).cpu()[counts]
        classes = labels.detach().cpu().to(torch.int64)[counts]
        if len(values) == 0:
            raise ValueError("No row has a weight above 0: there is nothing to fit.")
        present = classes.unique()
        if self.needs_two_classes and len(present) < 2:
            raise ValueError(
                f"All {len(classes)} labels are of class {int(present[0])}: nothing tells one class from "
                f"another, and '{self.name}' has parameters for each. Fit on rows of several classes, or use "
                "'temperature'."
            )
        # Of mean 1 over the rows that count: against a prior n rows weigh as n, not as all there are.
        shared = as_float64(weights).cpu()[counts] * (len(values) / len(labels))
        found = self._fitted(values, classes, shared)
        self.classes, self.rows, self.parameters = logits.shape[1], len(values), found
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """Return calibrated probabilities, (N, C) float64.

        Args:
            logits: (N, C) of the classes it was fitted on, finite.

        Raises:
            ValueError: Not fitted, or the logits are not as above.
        """
        classes = self._require_fitted()
        check_logits(logits)
        if logits.shape[1] != classes:
            raise ValueError(
                f"The calibrator '{self.name}' was fitted on {classes} classes, and the logits have "
                f"{logits.shape[1]}."
            )
        values = as_float64(logits.detach())
        probs = self._probs(values.cpu())
        return (mixed(probs, self.rows) if self.mix else probs).to(values.device)

    def linear_map(self) -> tuple[Tensor, Tensor] | None:
        """Return A (C, C) and b (C,), float64, with calibrated probabilities softmax(A z + b) of logits z.

        Returns:
            None where the calibrator is no linear map of logits.

        Raises:
            ValueError: Not fitted.
        """
        self._require_fitted()
        return None if self.mix else self._linear()

    def to_record(self) -> dict[str, Any]:
        """Return the fitted calibrator as plain values for JSON; `from_record` reads them.

        Raises:
            ValueError: Not fitted.
        """
        return {
            "name": self.name,
            "version": VERSION,
            "classes": self._require_fitted(),
            "rows": self.rows,
            "settings": {key: getattr(self, key) for key in byname.settings(type(self))},
            "parameters": {key: value.tolist() for key, value in self.parameters.items()},
        }

    @classmethod
    def from_record(cls: type[C], record: Any) -> C:
        """Return the calibrator that `to_record` has written, checked.

        Args:
            record: What was read from a file.

        Raises:
            ValueError: It is another calibrator's or version's, something is missing or unknown, or a number
                is not finite, not possible, or not of the right shape.
        """
        made = check_record(record, cls.name)
        settings = byname.settings(cls)
        for key in {*made["settings"]} - {*settings}:
            raise unknown_name(f"setting of calibrator '{cls.name}'", key, settings)
        calibrator = cls(**made["settings"])
        shapes = calibrator._shapes(made["classes"])
        if {*shapes} != {*made["parameters"]}:
            raise ValueError(
                f"The calibrator '{cls.name}' has the parameters {', '.join(shapes)}, and the record "
                f"{', '.join(map(str, made['parameters'])) or 'none'}."
            )
        found = {
            key: numbers(made["parameters"][key], shape, f"parameter {key} of calibrator '{cls.name}'")
            for key, shape in shapes.items()
        }
        calibrator._check(found)
        calibrator.classes, calibrator.rows, calibrator.parameters = made["classes"], made["rows"], found
        return calibrator

    def _require_fitted(self) -> int:
        if self.classes is None:
            raise ValueError(f"The calibrator '{self.name}' is not fitted: call its fit first.")
        return self.classes

    @abstractmethod
    def _fitted(self, values: Tensor, labels: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """Return the parameters for checked float64 logits (N, C), labels (N,), weights (N,) above 0."""

    @abstractmethod
    def _probs(self, values: Tensor) -> Tensor:
        """Return the probabilities (N, C) of checked float64 logits, without the mix."""

    @abstractmethod
    def _shapes(self, classes: int) -> dict[str, Shape]:
        """Return the shape of every parameter."""

    def _check(self, parameters: Mapping[str, Tensor]) -> None:  # noqa: B027 (most have nothing to refuse)
        """Refuse finite parameters of the right shapes that no fit could have found."""

    def _linear(self) -> tuple[Tensor, Tensor] | None:
        """Return A (C, C) and b (C,) with probabilities softmax(A z + b), or None."""
        return None


def _check_rows(logits: Tensor, labels: Tensor) -> None:
    check_logits(logits)
    check_labels(labels, logits)
