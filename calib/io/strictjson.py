"""JSON from files that others may have written: read strictly, or refused with the file's name."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any


def parse_json(text: str, *, source: str | Path) -> Any:
    """Return the value of a JSON text.

    Stricter than `json.loads`: no key twice, no NaN, no number too large for a float, no half of a character,
    no nesting that exhausts the stack.

    Args:
        text: The JSON.
        source: What error messages call it, e.g. the file.

    Raises:
        ValueError: It is not strict JSON; the message begins with `source`.

    Example:
        >>> parse_json('{"a": 1, "a": 2}', source="mine.json")
        Traceback (most recent call last):
        ...
        ValueError: mine.json is not valid JSON (the key 'a' stands twice). Was it cut off? Make it anew.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite_float
        )
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(f"{source} is not valid JSON (it is nested too deeply). Make it anew.") from error
    except ValueError as error:  # also what too long an integer or half a character raises
        reason = "half a character" if isinstance(error, UnicodeError) else str(error)
        raise ValueError(f"{source} is not valid JSON ({reason}). Was it cut off? Make it anew.") from error
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {next(key for key, count in counts.items() if count > 1)!r} stands twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number
