"""What a room offers to those who look into it from Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def offered(names: Mapping[str, Any], *, also: Iterable[str] = ()) -> list[str]:
    """Return what `dir` and `help` should show of a room: its own functions, classes and tables, sorted.

    Args:
        names: `globals()` of the room, at its end. What is neither a table nor made in the room is left out.
        also: Names that are imported when they are asked for.

    Example:
        >>> from calib.core import text
        >>> own = {"few": text.few, "text": text, "Mapping": Mapping, "SIZES": {}, "_own": text.few}
        >>> offered({"__name__": "calib.core", **own})
        ['SIZES', 'few']
    """
    own = (
        name
        for name, value in names.items()
        if not name.startswith("_")
        and (isinstance(value, dict) or _module_of(value).startswith(f"{names['__name__']}."))
    )
    return sorted({*own, *also})


def _module_of(value: Any) -> str:
    return str(getattr(value, "__module__", None) or "")
