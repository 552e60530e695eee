"""The options of a data set's reader: which there are, and of which kind their values must be."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from calib.core import byname
from calib.core.errors import unknown_name

OF_ALL_IMAGES: dict[str, Any] = {  # whatever the reader
    "grey16_max": int | None,
    "skip_unreadable": bool,
    "window": Sequence | None,
    "frame": int | str | None,
    "patients": bool,
}

KINDS: dict[Any, str] = {  # how the values of a reader's options are written
    bool: "true or false",
    int: "a whole number",
    str: "text",
    Mapping: "a mapping (.KEY=VALUE)",
    Sequence: "a list ([A,B])",
}


def check_options(name: str, load: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that a data set's reader does not have, or whose values are of another kind.

    Args:
        name: The data set, for messages.
        load: Its reader, whose keyword arguments are the options.
        options: What was given.

    Raises:
        ValueError: An option is unknown, or its value of another kind.
    """
    hints = typing.get_type_hints(load) | OF_ALL_IMAGES
    allowed = [*OF_ALL_IMAGES, *(each for each in byname.settings(load) if each != "class_names")]
    for option, value in options.items():
        if option not in allowed:
            kind = f"option of data set '{name}'"
            raise unknown_name(kind, option, allowed, prefix="data.options.")
        # Python 3.10 makes a Union of `X | None` where the default is None.
        union = typing.get_origin(hints[option]) in (types.UnionType, typing.Union)
        parts = typing.get_args(hints[option]) if union else (hints[option],)
        kinds = [typing.get_origin(part) or part for part in parts]
        if not any(_is_a(value, kind) for kind in kinds):
            said = " or ".join(KINDS[kind] for kind in kinds if kind in KINDS)
            raise ValueError(f"data.options.{option} must be {said}, not {value!r}.")


def _is_a(value: object, kind: type) -> bool:
    """Return whether a value is of a kind, where true is no number and text is no list."""
    if isinstance(value, bool | str):
        return kind is type(value)
    return isinstance(value, kind)
