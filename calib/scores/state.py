"""What every score that is fitted asks itself before it judges, and what it learned as tensors for a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
# Of a class that is fitted, `STATE` names what it needs to judge: attribute to shape. A letter stands for any
# size that is the same wherever the letter stands; C and D are the classes and the width of the features.
Shapes = Mapping[str, tuple[str | int, ...]]


def require_fitted(score: object, learned: T | None) -> T:
    """Return what a score learned; refuse one that has not.

    Args:
        score: The score, for the message.
        learned: A part of what `fit` finds. None: it has not been called.

    Raises:
        ValueError: Not fitted.
    """
    if learned is None:
        raise ValueError(f"{type(score).__name__} is not fitted: call its fit first.")
    return learned


def state_of(score: Any) -> dict[str, Tensor]:
    """Return what a fitted score needs to judge, by name, float64 on the CPU; of a plain function nothing.

    Args:
        score: A function, or an object whose class has `STATE`.

    Raises:
        ValueError: Not fitted.

    Example:
        >>> from calib.scores import TemperatureMCP
        >>> logits = torch.tensor([[4.0, 0.0]] * 4)
        >>> score = TemperatureMCP().fit(logits, torch.tensor([0, 0, 0, 1]))
        >>> {name: round(value.item(), 4) for name, value in state_of(score).items()}
        {'temperature': 3.641}
    """
    values = {key: require_fitted(score, getattr(score, key, None)) for key in _shapes(type(score))}
    return {
        key.strip("_"): torch.as_tensor(value, dtype=torch.float64).detach().cpu().clone()
        for key, value in values.items()
    }


def with_state(score: T, state: Mapping[str, Tensor], sizes: Mapping[str, int]) -> T:
    """Return a score that knows what `state_of` returned, once that is of the right shape and finite.

    Args:
        score: A function, or a new object of the class; it is changed.
        state: What `state_of` returned.
        sizes: Sizes that are known: C and D.

    Raises:
        ValueError: A tensor is missing, not wanted, of another shape or type, or not finite, or its values
            are none that a fit can find.
    """
    shapes = {key.strip("_"): (key, shape) for key, shape in _shapes(type(score)).items()}
    name = type(score).__name__
    if state.keys() != shapes.keys():
        raise ValueError(f"{name} has the tensors {sorted(shapes)}, and here are {sorted(state)}.")
    known = dict(sizes)
    for key, (attribute, shape) in shapes.items():
        value = state[key]
        wanted = tuple(known.get(size, size) if isinstance(size, str) else size for size in shape)
        fits = value.dim() == len(wanted) and all(
            isinstance(want, str) or want == size for want, size in zip(wanted, value.shape, strict=True)
        )
        if not fits or value.dtype != torch.float64:
            sizes_text = ", ".join(map(str, wanted))
            raise ValueError(
                f"{key} of {name} must be ({sizes_text}) float64, not {tuple(value.shape)} {value.dtype}."
            )
        if not bool(value.isfinite().all()):
            raise ValueError(f"{key} of {name} holds NaN or infinite values.")
        known |= {want: size for want, size in zip(wanted, value.shape, strict=True) if isinstance(want, str)}
        setattr(score, attribute, value if shape else float(value))
    for key in getattr(type(score), "POSITIVE", ()):
        value = torch.as_tensor(getattr(score, key))
        diagonal = value.diagonal(dim1=-2, dim2=-1) if value.dim() > 1 else value
        if not bool((diagonal > 0).all()):
            raise ValueError(f"{key.strip('_')} of {name} must be above 0, which it is not.")
    return score


def _shapes(kind: type) -> Shapes:
    found: Shapes = getattr(kind, "STATE", {})
    return found
