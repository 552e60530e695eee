"""What a command says to machines: one JSON object on standard output, its sentences on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable
from typing import Any

from calib.core.text import printable


def answered(found: dict[str, Any], run: Callable[[], int], *, as_json: bool) -> int:
    """Run a command and return its exit status; where JSON is asked for, what it found is said last.

    Args:
        found: What the command fills in while it runs.
        run: Does the work, and says it on standard output.
        as_json: Whether its sentences go to standard error, and what was found to standard output.
    """
    if not as_json:
        return run()
    with contextlib.redirect_stdout(sys.stderr):
        status = run()
    sys.stdout.write(to_json(found) + "\n")
    return status


def to_json(found: Any) -> str:
    r"""Return JSON that every reader takes: no number is NaN (null) or infinite ("inf", "-inf").

    What commands a terminal, as names may hold, is spelt out as JSON has it.

    Example:
        >>> to_json([float("nan"), float("inf"), 0.5]).split()
        ['[', 'null,', '"inf",', '0.5', ']']
        >>> print(to_json("a\x7fb\u202e"))
        "a\u007fb\u202e"
    """
    text = json.dumps(_plain(found), indent=1, ensure_ascii=False, allow_nan=False)
    if printable(text) == text:
        return text
    return "".join(letter if printable(letter) == letter else _spelt_out(letter) for letter in text)


def _spelt_out(letter: str) -> str:
    return f"\\u{ord(letter):04x}" if letter.isascii() else json.dumps(letter)[1:-1]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
