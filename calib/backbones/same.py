"""Whether two descriptions are of the same backbone: one check for features, prompts and failure heads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from calib.core.errors import unknown_name
from calib.core.hashing import json_digest

FP32, BF16 = "fp32", "bf16"
ENCODE_PRECISIONS = (FP32, BF16)  # of image towers


def check_encode_precision(precision: object) -> None:
    """Refuse what is no precision of an image tower.

    Raises:
        ValueError: It is none of `ENCODE_PRECISIONS`.
    """
    if precision not in ENCODE_PRECISIONS:
        raise unknown_name("value of backbone.encode_precision", precision, ENCODE_PRECISIONS)


def encode_precision_of(described: Mapping[str, Any]) -> Any:
    """Return the precision of the image tower in `Backbone.describe()`, which is silent about fp32.

    Example:
        >>> encode_precision_of({"name": "plip"}), encode_precision_of({"encode_precision": "bf16"})
        ('fp32', 'bf16')
    """
    return described.get("encode_precision", FP32)


def said_precision(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a record that says an image tower's precision; none for fp32, as ever.

    Example:
        >>> said_precision({"name": "plip"}), said_precision({"encode_precision": "bf16"})
        ({}, {'encode_precision': 'bf16'})
    """
    precision = encode_precision_of(described)
    return {} if precision == FP32 else {"encode_precision": precision}


# What must agree, and where `Backbone.describe()` holds it.
DEFINING: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "weights": lambda described: _digest_in(described.get("weights")),
    "preprocessing": lambda described: described.get("preprocessing"),
    "architecture": lambda described: described.get("architecture"),
    "parity": lambda described: described.get("parity"),
    "encode_precision": encode_precision_of,
}
SETTINGS = ("encode_precision",)  # what a setting of `backbone` says in the same words
UNKNOWN = "an unknown backbone"
# What decides about image features.
OF_IMAGES = ("weights", "preprocessing", "architecture", "encode_precision")


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
        ValueError: Weights, preprocessing, architecture, parity or the precision of the image tower differ;
            the message says which.

    Example:
        >>> ours = {"name": "plip", "weights": {"digest": "5e1f" * 16}}
        >>> check_same_backbone(ours, ours | {"weights": {"digest": "77aa" * 16}}, what="Made for")
        Traceback (most recent call last):
        ValueError: Made for plip with weights 5e1f5e1f5e1f, and the backbone at hand is plip with ...
    """
    for key in keys:
        ours, other = DEFINING[key](mine), DEFINING[key](theirs)
        if json_digest(ours) != json_digest(other):
            said = f"backbone.{key}" if key in SETTINGS else key
            first = f"{what} {mine.get('name', UNKNOWN)} with {said} {_short(ours)}"
            second = f"{at_hand} {theirs.get('name', UNKNOWN)} with {said} {_short(other)}"
            raise ValueError(f"{first}, and {second}. {advice}")


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, types, shapes and bytes of tensors, in the order of their names.

    Example:
        >>> weights_digest({"a": torch.zeros(2)})[:12]
        'da53f451559f'
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_in(weights: object) -> Any:
    """Return the digest in what a description, perhaps from a file of others, says of weights."""
    return weights.get("digest") if isinstance(weights, Mapping) else weights


class KnownDigest:
    """The `weights_digest` of a model, computed once, and again after a weight was changed or exchanged."""

    def __init__(self) -> None:
        self._known: tuple[list[tuple[Any, ...]], list[Tensor], str] | None = None

    def of(self, state: Mapping[str, Tensor]) -> str:
        """Return the digest of weights.

        Args:
            state: Name to the weight itself, not a copy.
        """
        if any(tensor.is_inference() for tensor in state.values()):
            return weights_digest(state)  # such tensors do not count their changes
        facts = [(name, state[name].dtype, state[name]._version) for name in sorted(state)]
        tensors = [state[name] for name in sorted(state)]
        known = self._known
        if known is None or known[0] != facts or list(map(id, known[1])) != list(map(id, tensors)):
            self._known = known = (facts, tensors, weights_digest(state))
        return known[2]


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)
