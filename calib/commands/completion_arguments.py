"""The arguments of `calib completion`, and which words each command takes: nothing heavy is imported."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from calib.config import SCHEMAS, keys_of
from calib.config.names import known_names
from calib.config.packaged import packaged_names

if TYPE_CHECKING:
    from calib.commands.registry import Command

OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
SETTING = re.compile(r"^  (\w+)=\S", re.MULTILINE)
# Settings whose values are names, and what they are names of.
NAMED = {
    "backbone.name": "backbone",
    "data.name": "data set",
    "loss.name": "failure loss",
    "doubt": "doubt",
}


def words_of(name: str, row: Command) -> list[str]:
    """Return what may follow a command: options, settings ("key=") and, where they are names, "key=value".

    Args:
        name: The command.
        row: Its row in the table.
    """
    tasks = [row.task, *(each.task for each in row.tasks.values())]
    keys = list(dict.fromkeys(key for task in tasks if task for key in keys_of(SCHEMAS[task])))
    presets = "segmentation preset" if tasks == ["segment"] else "loss preset"
    values = [f"{key}={value}" for key in keys for value in _values(key, presets)]
    values += [f"strategy={value}" for value in known_names("strategy") if "strategy" in keys]
    words = [f"{key}=" for key in keys] + values
    if "prompt" in tasks:
        words += [f"task={task}" for task in row.tasks] + packaged_names()
    text = _help(row, name)
    words += [f"{key}=" for key in SETTING.findall(text) if not row.task]
    words += OPTION.findall(text)
    return sorted({"--help", *words})


def _values(key: str, presets: str) -> list[str]:
    kind = presets if key == "preset" else NAMED.get(key)
    return [value for value in known_names(kind) if ":" not in value] if kind is not None else []


def _help(row: Command, name: str) -> str:
    """Return what a command says of its arguments; where that takes its imports, nothing."""
    if row.usage:
        return row.usage
    said = io.StringIO()
    if row.read is not list:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            row.read(["--help"])
    return said.getvalue()


def subcommands() -> Mapping[str, Sequence[str]]:
    """Return the words that follow commands with subcommands, by "command subcommand".

    Example:
        >>> subcommands()["data check"]
        ['--headers', '--json', 'out=']
    """
    from calib.commands.vqa.subcommands import SUBCOMMANDS

    found: dict[str, Sequence[str]] = {"data check": ["--headers", "--json", "out="]}
    found |= {f"vqa {name}": [f"{key}=" for key in row.options] for name, row in SUBCOMMANDS.items()}
    return found
