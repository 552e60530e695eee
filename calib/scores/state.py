"""What every score that is fitted asks itself before it judges."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


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
