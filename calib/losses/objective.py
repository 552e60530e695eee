"""The training objective: named loss terms with weights and settings, checked once, summed at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from calib.core.byname import bind
from calib.core.checks import at_least_float32
from calib.core.errors import unknown_name
from calib.losses.registry import LOSSES, OF_PIXELS

Terms = Mapping[str, Mapping[str, Any]]

# The same letter is the same size in every tensor of a call. Tensors of other names are not checked. Logits
# may have spatial axes, (B, C, *S) with labels (B, *S), where every loss takes them.
SHAPES = {
    "logits": "BC",
    "labels": "B",
    "text_features": "CD",
    "zero_shot_logits": "BC",
    "zero_shot_text_features": "CD",
}


class Objective:
    """A weighted sum of losses, `total = sum_i weight_i * loss_i`.

    Every name and setting is checked here, once. A term of weight 0 is left out: it is not computed and the
    tensors it needs are not asked for.

    Args:
        terms: Per key of `LOSSES` the loss's settings and its `weight`: finite, at least 0, 1 if left out.

    Attributes:
        terms: What was given, terms of weight 0 among them.
        weights: Weight per active term, in the order of `terms`.
        needs: Names of the tensors a call must be given.

    Raises:
        ValueError: A loss or a setting is unknown, a weight is negative or not finite, or no term has a
            weight above 0.

    Example:
        >>> objective = Objective({"ce": {"weight": 1.0}, "dca": {"weight": 2.0}})
        >>> sorted(objective.needs)
        ['labels', 'logits']
        >>> values = objective(logits=torch.zeros(4, 2), labels=torch.tensor([0, 0, 0, 1]))
        >>> {name: round(value.item(), 4) for name, value in values.items()}
        {'ce': 0.6931, 'dca': 0.25, 'total': 1.1931}
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = {name: dict(options) for name, options in check_terms(terms).items()}
        self._terms = {}
        self.weights: dict[str, float] = {}
        for name, options in self.terms.items():
            settings = {key: value for key, value in options.items() if key != "weight"}
            term = bind(LOSSES[name], settings, name=f"loss {name!r}", also=("weight",))
            weight = _check_weight(name, options.get("weight", 1.0))
            if weight > 0:
                self._terms[name] = term
                self.weights[name] = weight
        if not self._terms:
            given = ", ".join(terms) or "none"
            raise ValueError(f"The objective is empty: no loss has a weight above 0 (losses given: {given}).")
        self.needs = frozenset(tensor for term in self._terms.values() for tensor in term.needs)
        self._takes = frozenset(tensor for term in self._terms.values() for tensor in term.takes)

    def __call__(self, **tensors: Tensor | None) -> dict[str, Tensor]:
        """Return the unweighted value of every term and, under "total", their weighted sum; each ().

        Half-precision tensors are computed with in float32. The values of the tensors are not looked at, as
        that would make a GPU wait: see `check_finite`. (Labels outside [0, C) raise: here on the CPU, in
        torch elsewhere.)

        Args:
            **tensors: By name, shapes in `SHAPES`; those no term needs are ignored.

        Raises:
            ValueError: A needed tensor is absent, or shapes or dtypes do not fit together.
        """
        given = {
            name: tensor for name, tensor in tensors.items() if name in self._takes and tensor is not None
        }
        logits = given.get("logits")
        if logits is not None and logits.ndim > 2:
            _check_pixels(given, [*self._terms])
        else:
            _check_tensors(given)
        given = {name: at_least_float32(tensor) for name, tensor in given.items()}
        values = {name: term(**given) for name, term in self._terms.items()}
        values["total"] = torch.stack([self.weights[name] * value for name, value in values.items()]).sum()
        return values

    def try_on(self, n_classes: int) -> None:
        """Return nothing; refuse settings that a loss cannot be computed with, before any training.

        Every term is computed once on made-up tensors: two images per class, features of the width C.

        Args:
            n_classes: C.

        Raises:
            ValueError: A setting is out of its loss's range; the loss is named.

        Example:
            >>> Objective({"ce": {}, "smac": {"alpha": -1.0}}).try_on(3)
            Traceback (most recent call last):
            ValueError: loss 'smac': alpha (label smoothing) must be in [0, 1), got -1.0.
        """
        texts, labels = torch.eye(n_classes), torch.arange(2 * n_classes) % n_classes
        made: dict[str, Tensor] = {
            "logits": texts[labels],
            "labels": labels,
            "text_features": texts,
            "zero_shot_logits": texts[labels],
            "zero_shot_text_features": texts,
        }
        for name, term in self._terms.items():
            if not made.keys() >= {*term.needs}:
                continue  # a loss of tensors that only its caller knows
            try:
                term(**{tensor: made[tensor] for tensor in term.takes if tensor in made})
            except ValueError as error:
                raise ValueError(f"loss {name!r}: {error}") from error

    def __repr__(self) -> str:
        options = {name: {"weight": w, **self._terms[name].settings} for name, w in self.weights.items()}
        return f"Objective({options})"


def check_terms(terms: Terms) -> Terms:
    """Return the terms as they are, once every name is a known loss and every value a mapping.

    Args:
        terms: Settings and weight per loss name.

    Raises:
        ValueError: A loss is unknown, or its options are not a mapping.

    Example:
        >>> check_terms({"smack": {}})
        Traceback (most recent call last):
        ValueError: Unknown loss 'smack'. Did you mean 'smac'? Known: as, ce, dca, ...
    """
    for name, options in terms.items():
        if name not in LOSSES:
            raise unknown_name("loss", name, [*LOSSES])
        if not isinstance(options, Mapping):
            raise ValueError(f"loss {name!r} must be a mapping such as {{'weight': 1.0}}, got {options!r}.")
    return terms


def check_finite(values: Mapping[str, Tensor]) -> None:
    """Raise when a loss value is NaN or infinite, naming the terms; else return nothing.

    Reads the values, so on a GPU it waits for them: once per step, for all terms together.

    Args:
        values: () tensors by name, as an `Objective` returns them.

    Raises:
        FloatingPointError: At least one value is not finite.

    Example:
        >>> check_finite({"ce": torch.tensor(0.5), "as": torch.tensor(float("nan"))})
        Traceback (most recent call last):
        FloatingPointError: Loss terms that are not finite: as = nan (finite: ce = 0.5). ...
    """
    if torch.stack([value.detach().isfinite().all() for value in values.values()]).all():
        return
    numbers = {name: value.item() for name, value in values.items()}
    broken = [f"{name} = {number:g}" for name, number in numbers.items() if not math.isfinite(number)]
    sound = [f"{name} = {number:g}" for name, number in numbers.items() if math.isfinite(number)]
    raise FloatingPointError(
        f"Loss terms that are not finite: {', '.join(broken)} (finite: {', '.join(sound) or 'none'}). "
        "Look for NaN in the features or the prompt, a learning rate that is too high, or half precision."
    )


def _check_weight(name: str, weight: Any) -> float:
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight < 0:
        raise ValueError(f"weight of loss {name!r} must be a finite number of at least 0, got {weight!r}.")
    return float(weight)


def _check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Raise where a tensor of `SHAPES` has a wrong dtype, number of dimensions or size."""
    sizes: dict[str, tuple[int, str]] = {}  # letter -> size, and the tensor that set it
    for name in sorted(SHAPES.keys() & tensors.keys(), key=[*SHAPES].index):
        tensor, letters = tensors[name], SHAPES[name]
        expected = f"({', '.join(letters)})"
        if tensor.ndim != len(letters):
            raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}.")
        for letter, size in zip(letters, tensor.shape, strict=True):
            first_size, first = sizes.setdefault(letter, (size, name))
            if size != first_size:
                raise ValueError(
                    f"{name} must have shape {expected} with {letter} = {first_size} as in {first}, "
                    f"got {tuple(tensor.shape)}."
                )
            if size == 0:
                raise ValueError(f"{name} is empty: shape {tuple(tensor.shape)}.")
        if name == "labels":
            _check_labels(tensor, sizes)
        elif not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}.")


def _check_pixels(tensors: Mapping[str, Tensor], terms: list[str]) -> None:
    """Raise where images with a class per pixel are given to a loss of single classes, or do not fit."""
    strangers = [name for name in terms if name not in OF_PIXELS]
    if strangers:
        raise ValueError(
            f"loss {strangers[0]!r} takes logits (B, C), got {tuple(tensors['logits'].shape)}. Losses of "
            f"images with a class per pixel: {', '.join(OF_PIXELS)}."
        )
    logits, labels = tensors["logits"], tensors.get("labels")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, got {logits.dtype}.")
    if logits.numel() == 0:
        raise ValueError(f"logits is empty: shape {tuple(logits.shape)}.")
    if labels is None:
        return
    if labels.shape not in ((logits.shape[0], *logits.shape[2:]), logits.shape):
        raise ValueError(
            f"labels must have shape (B, *S) = {(logits.shape[0], *logits.shape[2:])} for logits "
            f"(B, C, *S) = {tuple(logits.shape)}, got {tuple(labels.shape)}."
        )
    _check_labels(labels, {"C": (max(2, logits.shape[1]), "logits")})


def _check_labels(labels: Tensor, sizes: Mapping[str, tuple[int, str]]) -> None:
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be class indices of dtype torch.int64, got {labels.dtype}.")
    if labels.device.type != "cpu" or "C" not in sizes:
        return  # elsewhere the range is checked by torch's own indexing, without waiting for the device
    n_classes, low, high = sizes["C"][0], int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        wrong = low if low < 0 else high
        raise ValueError(f"labels must lie in 0..{n_classes - 1} (C = {n_classes}), got {wrong}.")
