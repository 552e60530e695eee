"""The arguments of `calib vqa`, read without the imports that take seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from calib.commands.vqa.option import Option, truth
from calib.commands.vqa.subcommands import SUBCOMMANDS
from calib.core.errors import UsageError, unknown_name
from calib.core.tables import names_in

HELP = ("-h", "--help")


@dataclass(frozen=True)
class Given:
    """What the arguments say.

    Attributes:
        name: The subcommand. Empty: help was asked for and shown.
        files: Arguments without `=`.
        settings: Every setting, with defaults.
        words: The arguments as they were.
    """

    name: str
    files: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


def vqa_arguments(argv: Sequence[str]) -> Given:
    """Return what the arguments of `calib vqa` say; shows help where it is asked for.

    Raises:
        ValueError: There is no such subcommand or setting, a value is none, or something is missing.
    """
    rest = [word for word in argv if word not in HELP]
    if not rest or len(rest) < len(argv):
        sys.stdout.write(_help(rest[0] if rest else ""))
        return Given("")
    name, *given = rest
    if name not in SUBCOMMANDS:
        raise UsageError(str(unknown_name("subcommand of calib vqa", name, SUBCOMMANDS)))
    row = SUBCOMMANDS[name]
    settings = {key: option.default for key, option in row.options.items()}
    files, asked = [], []
    for word in given:
        key, equals, text = word.partition("=")
        if word.startswith("-"):
            raise UsageError(f"{word}: settings are written name=value; see calib vqa {name} --help.")
        if not equals or not key.isidentifier():
            files.append(word)
            continue
        if key not in row.options:
            raise unknown_name(f"setting of calib vqa {name}", key, row.options)
        settings[key] = _value(key, text, row.options[key])
        asked.append(key)
    for key in row.needs:
        if settings[key] is None:
            raise ValueError(f"{key}= is missing: {row.options[key].help}; see calib vqa {name} --help.")
    if row.check is not None:
        row.check({**settings, "_asked": asked})
    return Given(name, files, settings, given)


def _value(key: str, text: str, option: Option) -> Any:
    try:
        value = option.kind(text)
    except ValueError as error:
        kinds = {int: "a whole number", float: "a number", truth: "true or false"}
        raise ValueError(f"{key}={text}: expected {kinds.get(option.kind, 'another value')}.") from error
    if option.least is not None and not value >= option.least:
        raise ValueError(f"{key}={text}: at least {option.least:g} is allowed.")
    known = _known(key, option)
    if known and value not in known:
        raise unknown_name(f"value of {key}", value, known)
    return value


_MORE = {"source": ("task",), "kind": ("two_by_two",), "answerer": ("recorded",)}  # what is no row of a table


def _help(name: str) -> str:
    if name in SUBCOMMANDS:
        row = SUBCOMMANDS[name]
        lines = [
            f"  {f'{key}={_shown(option.default)}':<26} {option.help}{_allowed(key, option)}"
            for key, option in row.options.items()
        ]
        return f"{row.usage}\nSettings and their defaults:\n\n" + "\n".join(lines) + "\n"
    lines = [f"  {key:9} {row.summary}" for key, row in SUBCOMMANDS.items()]
    return (
        "calib vqa SUBCOMMAND ...: questions with options, changed on purpose, answered by a model, "
        "and judged.\n\n" + "\n".join(lines) + "\n\ncalib vqa SUBCOMMAND --help says more.\n"
    )


def _known(key: str, option: Option) -> list[str]:
    """Return the values that a setting may have; none: any."""
    return [*names_in(option.allowed[0], option.allowed[1]), *_MORE.get(key, ())] if option.allowed else []


def _allowed(key: str, option: Option) -> str:
    """Return the values that a setting may have, in lines below its help."""
    lines = wrap(", ".join(_known(key, option)), 80, break_on_hyphens=False)
    return "".join(f"\n{'':29}{line}" for line in lines)


def _shown(value: Any) -> str:
    return (
        ""
        if value is None
        else ",".join(map(str, value))
        if isinstance(value, list)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )
