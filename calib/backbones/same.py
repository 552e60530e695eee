"""Whether two descriptions are of the same backbone: one check for features, prompts and failure heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from calib.core.hashing import json_digest

# What must agree, and where `Backbone.describe()` holds it.
DEFINING: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "weights": lambda described: described.get("weights", {}).get("digest"),
    "preprocessing": lambda described: described.get("preprocessing"),
    "architecture": lambda described: described.get("architecture"),
    "parity": lambda described: described.get("parity"),
}
UNKNOWN = "an unknown backbone"
OF_IMAGES = ("weights", "preprocessing", "architecture")  # what decides about image features


def check_same_backbone(
    mine: Mapping[str, Any],
    theirs: Mapping[str, Any],
    *,
    what: str,
    at_hand: str = "the backbone at hand is",
    advice: str = "Use the same.",
    keys: Sequence[str] = tuple(DEFINING),
) -> None:
    """Refuse a backbone other than the one that something was made for.

    Args:
        mine: The `Backbone.describe()` of the one it was made for.
        theirs: That of the one at hand.
        what: What was made, e.g. "This prompt was made for".
        at_hand: What the other description belongs to.
        advice: What to do.
        keys: Which of `DEFINING` are compared.

    Raises:
        ValueError: Weights, preprocessing, architecture or parity differ; the message says which.

    Example:
        >>> ours = {"name": "plip", "weights": {"digest": "5e1f" * 16}}
        >>> check_same_backbone(ours, ours | {"weights": {"digest": "77aa" * 16}}, what="Made for")
        Traceback (most recent call last):
        ValueError: Made for plip with weights 5e1f5e1f5e1f, and the backbone at hand is plip with ...
    """
    for key in keys:
        ours, other = DEFINING[key](mine), DEFINING[key](theirs)
        if json_digest(ours) != json_digest(other):
            first = f"{what} {mine.get('name', UNKNOWN)} with {key} {_short(ours)}"
            second = f"{at_hand} {theirs.get('name', UNKNOWN)} with {key} {_short(other)}"
            raise ValueError(f"{first}, and {second}. {advice}")


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)
