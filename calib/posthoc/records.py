"""Records of calibrators: plain values for JSON, checked strictly when they are read."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

VERSION = 1
RECORD = ("name", "version", "classes", "rows", "settings", "parameters")
Shape = tuple[int | None, ...]  # None: any size


def check_record(record: Any, name: str | None = None) -> dict[str, Any]:
    """Return a record whose outer form is that of `Calibrator.to_record`; refuse another.

    Args:
        record: What was read from a file.
        name: The calibrator it must be of. None: any.

    Raises:
        ValueError: It is not as above.
    """
    if not isinstance(record, dict) or {*record} != {*RECORD}:
        given = ", ".join(map(str, record)) if isinstance(record, dict) else repr(record)[:50]
        raise ValueError(f"A calibrator's record has the keys {', '.join(RECORD)}, not {given}.")
    if not isinstance(record["name"], str) or (name is not None and record["name"] != name):
        raise ValueError(f"The record is of the calibrator {record['name']!r}, not of {name!r}.")
    if type(record["version"]) is not int or record["version"] != VERSION:
        raise ValueError(
            f"The calibrator '{record['name']}' has version {record['version']!r}; this version reads "
            f"{VERSION}. Fit it anew."
        )
    for key, least in (("classes", 2), ("rows", 1)):
        if type(record[key]) is not int or not least <= record[key] < 2**53:
            raise ValueError(
                f"{key} of a calibrator must be a whole number of at least {least}, not {record[key]!r}."
            )
    for key in ("settings", "parameters"):
        if not isinstance(record[key], dict):
            raise ValueError(f"{key} of a calibrator must be a mapping, not {record[key]!r}.")
    return record


def check_positive(name: str, value: Any, *, zero: bool = False, none: bool = False) -> Any:
    """Return a setting; refuse what is no finite number above 0.

    Args:
        name: What it is called.
        value: What was given.
        zero: Whether it may be 0.
        none: Whether it may be None.

    Raises:
        ValueError: It is not as above.

    Example:
        >>> check_positive("prior_sd", 0)
        Traceback (most recent call last):
        ValueError: prior_sd must be a finite number above 0, not 0.
    """
    if none and value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        least = "of at least 0" if zero else "above 0"
        raise ValueError(
            f"{name} must be a finite number {least}{', or None' if none else ''}, not {value!r}."
        )
    return value


def numbers(value: Any, shape: Shape, what: str) -> Tensor:
    """Return nested lists of finite numbers as a float64 tensor.

    Args:
        value: What was read from a file.
        shape: The shape it must have; None means any size along that axis.
        what: What it is, for the message.

    Raises:
        ValueError: It is not as above.

    Example:
        >>> numbers([[1, 2.5]], (None, 2), "matrix").tolist()
        [[1.0, 2.5]]
    """
    if not _only_numbers(value, len(shape)):
        raise ValueError(f"{what} must be {len(shape)}-fold nested lists of finite numbers.")
    try:
        tensor = torch.tensor(value, dtype=torch.float64)
    except ValueError as error:  # lists of unequal length
        raise ValueError(f"{what} must be lists of equal length.") from error
    if tensor.dim() != len(shape) or any(
        w not in (None, s) for w, s in zip(shape, tensor.shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{what} must have shape ({wanted}), not {tuple(tensor.shape)}.")
    return tensor


def _only_numbers(value: Any, depth: int) -> bool:
    if depth:
        return isinstance(value, list) and all(_only_numbers(item, depth - 1) for item in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 1e300  # also whole numbers, which may have any size; False for NaN
