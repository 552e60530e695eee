"""What settings in an export may decide: nothing about where is written, what is fetched, what is allowed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from calib.config import DataConfig, ReportRun, given, part_from_dict, setting_of
from calib.prompts.export import Prompt
from calib.runs.identity import flat

SHARES = ("\\\\", "//")  # how paths of Windows to other machines begin
PIXELS = ("grey16_max", "window", "frame")  # options that say what pixels mean, whatever data they are of


def own_data(prompt: Prompt, source: str) -> DataConfig | None:
    """Return the data settings a prompt was trained with, checked like any others. None: it has none.

    Args:
        prompt: As it was loaded.
        source: Where it comes from, for messages.

    Raises:
        ValueError: One is unknown, of the wrong type or out of range.
    """
    values = (prompt.training.get("config") or {}).get("data")
    if values is None:
        return None
    return part_from_dict(DataConfig, values, source=source, prefix="data.")


def data_from_export(
    own: DataConfig,
    here: DataConfig,
    asked: Collection[str],
    *,
    source: str,
    take: Collection[str] = (),
    instead: str = "",
) -> DataConfig:
    """Return the data settings of a prompt, changed by what the user asked for on this command.

    Of the export is never taken what affects no result: where the cache lies, how many images are encoded at
    once; and where other data are named, not where its own lie and how these are read. What would use the
    network or leave the folder of the data has to be asked for.

    Args:
        own: The prompt's, from `own_data`.
        here: Those of this command.
        asked: Names of the settings in `here` that the user gave.
        source: The export, for messages.
        take: Names of the settings that may come from the export. Empty: all.
        instead: What to do, for a command that takes no settings of data. Empty: the words that would allow
            it are said.

    Raises:
        ValueError: The export asks for such a thing.
    """
    own = replace(own, shots_from=None)  # a list of this machine; which shots they were, split.json says
    names = {each.name for each in fields(DataConfig)}
    free = {name for name in names if setting_of(DataConfig, name).affects == "nothing"}
    from_here = (free | set(asked) | (names - set(take) if take else set())) - {"name"}
    if "name" in asked and here.name != own.name:  # which lie elsewhere and are read otherwise
        from_here.add("root")
        own = replace(own, options={key: own.options[key] for key in PIXELS if key in own.options})
    data = replace(own, **{name: getattr(here, name) for name in from_here}, name=here.name or own.name)
    if "root" in asked and "options" not in asked and data.root is not None and os.path.isfile(data.root):
        data.options = {key: value for key, value in data.options.items() if key != "table"}  # root is one
    for name, value, why in _risks(data):
        if name not in asked:
            say = f"If it is what you want, say so on this command: {_words(name, value)}"
            raise ValueError(f"{source} {why}, and what a file says is not done unasked. {instead or say}")
    return data


def _risks(data: DataConfig) -> Iterator[tuple[str, Any, str]]:
    """Yield settings that reach farther than the folder of the data: name, value, and what they do."""
    options = data.options
    if data.name == "hf" and data.root is not None and not os.path.exists(data.root):
        yield "root", data.root, f"names data that may be on the Hugging Face hub ({data.root})"
    elif data.root is not None and data.root[:2] in SHARES:
        yield "root", data.root, f"names data on another machine ({data.root})"
    if options.get("dataset") is not None:
        yield "options", options, f"names a data set on the Hugging Face hub ({options['dataset']})"
    if options.get("allow_outside"):
        yield "options", options, "lets paths in its table lead out of the folder of the data"
    table = options.get("table")
    for path in table.values() if isinstance(table, Mapping) else [table]:
        if isinstance(path, str) and _leads_out(path):
            yield "options", options, f"names a table outside of the folder of the data ({path})"


def _leads_out(path: str) -> bool:
    kinds = (PurePosixPath(path), PureWindowsPath(path))
    return any(each.root or each.drive or ".." in each.parts for each in kinds)


def _words(name: str, value: Any) -> str:
    found = flat(value, f"data.{name}.") if isinstance(value, dict) else {f"data.{name}": value}
    said = {key: str(each).lower() if isinstance(each, bool) else str(each) for key, each in found.items()}
    return " ".join(shlex.quote(f"{key}={each}") for key, each in said.items())


def own_data_of(export: Any, source: str, here: DataConfig) -> DataConfig | None:
    """Return where the images of an export are, changed by what this command says. None: it does not say."""
    own = own_data(export, source)
    if own is None:
        return None
    return data_from_export(own, here, given(here, ReportRun().data), source=source)
