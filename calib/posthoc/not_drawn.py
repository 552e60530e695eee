"""What is to be said of shots that a strategy chose: they were not drawn as new cases are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RANDOM = "random"
KEY = "chosen"  # in records of what was fitted on chosen shots; others do not have it


def not_drawn(chosen: Mapping[str, int] | Sequence[str] | None) -> str:
    """Return the sentences on chosen shots; empty where they were drawn at random, or from every class.

    Args:
        chosen: By which strategies they were chosen. None: by none.

    Example:
        >>> not_drawn({"random": 24})
        ''
        >>> not_drawn({"typicality": 24})[:68]
        'The shots were chosen by the strategy typicality, not drawn at rando'
    """
    others = others_of(chosen)
    if not others:
        return ""
    how = f"the strateg{'y' if len(others) == 1 else 'ies'} {' and '.join(others)}"
    return (
        f"The shots were chosen by {how}, not drawn at random: they are not exchangeable "
        "with new cases, and no guarantee that rests on them holds for these, neither coverage of sets nor "
        "errors among what is accepted. Fit on labelled cases that were drawn at random (strategy=random)."
    )


def others_of(chosen: Mapping[str, int] | Sequence[str] | None) -> tuple[str, ...]:
    """Return the strategies other than a draw at random.

    Args:
        chosen: By which strategies shots were chosen. None: by none.

    Example:
        >>> others_of({"random": 12, "entropy": 12})
        ('entropy',)
    """
    return tuple(name for name in chosen or () if name != RANDOM)


def read_chosen(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the strategies in the record of something that was fitted on chosen shots; else none.

    Args:
        record: Of anything fitted.

    Raises:
        ValueError: What stands there are no names.
    """
    names = record.get(KEY, [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{KEY} must be names of strategies, not {names!r}.")
    return tuple(names)
