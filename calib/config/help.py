"""Help texts of the settings, made of the dataclasses that define them and their docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing
from typing import Any

from calib.config import SCHEMAS, PromptRun, SegmentRun, dataclass_of
from calib.config.names import TABLES
from calib.core.tables import names_in, settings_in

WIDTH = 108
INDENT = " " * 6


def settings_help(task: str) -> str:
    r"""Return every setting of a task: dotted key with its default, and below it what it does.

    Args:
        task: A key of `calib.config.SCHEMAS`.

    Example:
        >>> print(*settings_help("evaluate").splitlines()[4:6], sep="\n")
          out=null
              Folder of the results. null: runs/evaluation.
    """
    return "\n".join(_lines(SCHEMAS[task], SCHEMAS[task](), ""))


def _lines(schema: type, values: Any, prefix: str) -> list[str]:
    said = _attributes(schema)
    hints = typing.get_type_hints(schema)
    lines: list[str] = []
    groups_last = sorted(dataclasses.fields(schema), key=lambda field: bool(dataclass_of(hints[field.name])))
    for field in groups_last:
        value, inner = getattr(values, field.name), dataclass_of(hints[field.name])
        if inner is not None:
            lines.append("")
            if field.name in said:  # what this task has to say of a group that others have as well
                lines += _wrapped(f"{prefix}{field.name}: {said[field.name]}", "  ")
            lines += _lines(inner, value, f"{prefix}{field.name}.")
        else:
            lines.append(f"  {prefix}{field.name}={_written(value)}")
            lines += _wrapped(said[field.name], INDENT)
            if (schema, field.name) == (PromptRun, "loss"):
                lines += _wrapped(_losses("loss"), INDENT)
            elif (schema, field.name) == (SegmentRun, "loss"):
                lines += _wrapped(_losses("loss of pixels"), INDENT)
    return lines


def _losses(kind: str) -> str:
    """Return every loss with its own settings and their defaults."""
    table = TABLES["loss"][0]
    listed = []
    for name in names_in(*TABLES[kind][0]):
        own = ", ".join(f"{key}={_written(value)}" for key, value in settings_in(*table, name).items())
        listed.append(f"{name} ({own})" if own else name)
    return f"The losses, each with a weight and these settings: {', '.join(listed)}."


def _wrapped(text: str, start: str) -> list[str]:
    """Return the lines of an explanation, which says null where Python says None."""
    text = re.sub(r"\bNone\b", "null", text)
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=INDENT, break_on_hyphens=False)


def _attributes(schema: type) -> dict[str, str]:
    """Return what the docstring of a settings class says about each of its fields."""
    text = inspect.getdoc(schema) or ""
    section = text.partition("Attributes:\n")[2]
    parts = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(words.split()) for name, words in zip(parts[::2], parts[1::2], strict=True)}


def _written(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(item) for item in value) + "]"
    return str(value)
