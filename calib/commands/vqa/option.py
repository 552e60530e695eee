"""What a subcommand of `calib vqa` and its settings are, and how the text of a setting becomes its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True)
class Option:
    """A setting `name=value` of a subcommand.

    Attributes:
        default: Its value where it is not given; None where there is none.
        help: What it is.
        kind: What its text is turned into.
        least: The smallest number allowed.
        allowed: The values allowed, module and table of their names; empty: any.
    """

    default: Any
    help: str
    kind: Callable[[str], Any] = str
    least: float | None = None
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subcommand:
    """A subcommand of `calib vqa`.

    Attributes:
        summary: A line for the list.
        main: The function that does it, "module:name"; it takes the files and the settings.
        usage: How it is called, with examples.
        options: Its settings by name.
        needs: Settings that must be given.
        check: Refuses settings that do not go together. None: all do.
    """

    summary: str
    main: str
    usage: str
    options: Mapping[str, Option]
    needs: tuple[str, ...] = ()
    check: Callable[[Mapping[str, Any]], None] | None = None


def truth(text: str) -> bool:
    """Return a yes or no.

    Raises:
        ValueError: It is neither.

    Example:
        >>> truth("true"), truth("0")
        (True, False)
    """
    if text.lower() not in (*TRUE, *FALSE):
        raise ValueError("true or false")
    return text.lower() in TRUE


def words(text: str) -> list[str]:
    """Return what stands between commas.

    Example:
        >>> words("letters,texts")
        ['letters', 'texts']
    """
    return [word.strip() for word in text.split(",") if word.strip()]
