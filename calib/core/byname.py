"""Call a function with the tensors and the settings it names.

A loss, a score or a metric here is a plain function: its positional parameters are the tensors it needs,
its keyword-only parameters are its settings. The signature is the only place where both are written down.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from calib.core.errors import unknown_name

REQUIRED: Any = inspect.Parameter.empty  # stands for "no default"
KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def tensors(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the names of a function's positional parameters with their defaults.

    Args:
        function: Any function with a readable signature.

    Returns:
        Names in order; `REQUIRED` is the value of a parameter without a default.

    Raises:
        ValueError: The function has parameters that cannot be given by name.

    Example:
        >>> def smooth(logits, labels, *, alpha=0.05): ...
        >>> list(tensors(smooth))
        ['logits', 'labels']
    """
    return {p.name: p.default for p in _parameters(function) if p.kind is p.POSITIONAL_OR_KEYWORD}


def settings(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the names of a function's keyword-only parameters with their defaults.

    Args:
        function: Any function with a readable signature.

    Returns:
        Names in order; `REQUIRED` is the value of a setting without a default.

    Raises:
        ValueError: The function has parameters that cannot be given by name.

    Example:
        >>> def smooth(logits, labels, *, alpha=0.05): ...
        >>> settings(smooth)
        {'alpha': 0.05}
    """
    return {p.name: p.default for p in _parameters(function) if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Bound:
    """A function with its settings fixed, which picks the tensors it needs. Made by `bind`.

    Args:
        function: What is called.
        settings: Keyword-only arguments, checked.
        name: What error messages call it, e.g. "loss 'smac'".
        needs: Tensors that must be given.
        takes: Tensors that are passed on when given: `needs` and the optional ones.
    """

    function: Callable[..., Any]
    settings: Mapping[str, Any]
    name: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]

    def __call__(self, **tensors: Any) -> Any:
        """Return the function's value on the tensors it names; the others are ignored.

        Raises:
            ValueError: A needed tensor is absent or None.
        """
        given = {name: tensors[name] for name in self.takes if tensors.get(name) is not None}
        missing = [name for name in self.needs if name not in given]
        if missing:
            there = sorted(name for name, value in tensors.items() if value is not None)
            raise ValueError(
                f"{self.name} needs {' and '.join(missing)}; given: {', '.join(there) or 'nothing'}."
            )
        return self.function(**given, **self.settings)


def bind(
    function: Callable[..., Any], given: Mapping[str, Any], *, name: str, also: Iterable[str] = ()
) -> Bound:
    """Return the function with its settings fixed, ready to be called with tensors by name.

    Args:
        function: A function whose positional parameters are tensors and keyword-only ones settings.
        given: Settings by name; those left out keep the function's default.
        name: What error messages call it, e.g. "loss 'smac'".
        also: Names the caller keeps for itself, such as "weight", which error messages should list too.

    Raises:
        ValueError: A setting is unknown, missing without a default, or not of its default's kind.

    Example:
        >>> def scaled(logits, *, factor=2.0): return factor * logits
        >>> bind(scaled, {"factor": 3}, name="loss 'scaled'")(logits=5.0, labels=1)
        15.0
        >>> bind(scaled, {"fctor": 3}, name="loss 'scaled'")
        Traceback (most recent call last):
        ValueError: Unknown setting of loss 'scaled' 'fctor'. Did you mean 'factor'? Known: factor.
    """
    known = settings(function)
    check_settings(given, known, name=name, also=also)
    missing = [key for key, default in known.items() if default is REQUIRED and key not in given]
    if missing:
        raise ValueError(f"{name} needs the settings {', '.join(missing)}; they have no default.")
    parameters = tensors(function)
    needs = tuple(key for key, default in parameters.items() if default is REQUIRED)
    return Bound(function, {**given}, name, needs, tuple(parameters))


def check_settings(
    given: Mapping[str, Any], known: Mapping[str, Any], *, name: str, also: Iterable[str] = ()
) -> None:
    """Return nothing; refuse settings that a function does not have, or values of another kind.

    Args:
        given: Settings by name.
        known: What the function has, with defaults, as `settings` returns them.
        name: What error messages call it, e.g. "loss 'smac'".
        also: Names that error messages should list too.

    Raises:
        ValueError: A setting is unknown or not of its default's kind.
    """
    for key, value in given.items():
        if key not in known:
            raise _unknown_setting(key, [*also, *known], name)
        if not _same_kind(value, known[key]):
            kind = KINDS.get(type(known[key]), f"a {type(known[key]).__name__}")
            raise ValueError(f"Setting {key!r} of {name} must be {kind}, got {value!r}.")


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    if any(p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters):
        name = getattr(function, "__name__", repr(function))
        raise ValueError(f"{name} has *args, **kwargs or positional-only parameters; write them out by name.")
    return parameters


def _unknown_setting(key: str, known: list[str], name: str) -> ValueError:
    if not known:
        return ValueError(f"{name} has no settings, got {key!r}.")
    return unknown_name(f"setting of {name}", key, known)


def _same_kind(value: Any, default: Any) -> bool:
    """Return whether a value may replace a default. YAML has ints for whole numbers and a str for a typo."""
    if default is REQUIRED or default is None:
        return True
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is type(default)
