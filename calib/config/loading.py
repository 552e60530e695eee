"""Settings from YAML files, `key=value` arguments and saved configurations."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from calib.config.given import note_given
from calib.config.keys import check_keys, keys_of
from calib.config.names import check_names
from calib.config.packaged import nearest, packaged_file
from calib.config.pipes import is_pipe, read_pipe
from calib.config.ranges import check_part, check_ranges
from calib.config.schema import SCHEMAS, TRAINED
from calib.config.untrusted import SettingsError, check_values, check_yaml
from calib.config.written import Written, from_argument, from_yaml, read
from calib.core.errors import UsageError, first_line, meant_path, unknown_name
from calib.core.text import redacted

OF_SWEEPS = {"method", "parameters", "program"}  # keys of a file for W&B's agent
Part = typing.TypeVar("Part")


def task_of(argv: Sequence[str]) -> str:
    """Return the task that YAML files and `key=value` arguments ask for; "prompt" where none says.

    Args:
        argv: As in `load_config`.

    Raises:
        FileNotFoundError: A YAML file does not exist.
        ValueError: The task is unknown or not one that is trained.

    Example:
        >>> task_of(["task=failure", "seed=2"]), task_of(["seed=2"])
        ('failure', 'prompt')
    """
    task, source = TRAINED[0], ""
    found: Any
    for given in [a for a in argv if not _is_change(a)] + [a for a in argv if _is_change(a)]:
        if _is_change(given):
            key, _, value = given.partition("=")
            said, found, at = key == "task", from_argument(value), ""
        else:
            values = _read_yaml(str(given))
            said, found, at = "task" in values, values.get("task"), f"{given}: "
        if said:
            task, source = _typed(found, str | None, "task", source=at), at
    if task not in TRAINED:
        raise ValueError(f"{source}{unknown_name('task of train.py', task, TRAINED)}")
    return task


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings (YAML files, `key=value`) and the other arguments, such as paths of runs.

    What exists as a file or folder is a path even if it holds a "=".

    Example:
        >>> split_arguments(["runs/a", "seed=2", "more.yaml"])
        (['seed=2', 'more.yaml'], ['runs/a'])
    """
    settings = [
        a
        for a in argv
        if a.endswith((".yaml", ".yml"))
        or a.startswith("-")
        or ("=" in a and not os.path.exists(a))  # for which no list of names is too long
        or is_pipe(a)
    ]
    return settings, [a for a in argv if a not in settings]


def load_config(argv: Sequence[str], *, task: str) -> Any:
    """Return the settings that YAML files and `key=value` arguments describe, as the dataclass of the task.

    Args:
        argv: YAML files, or names of those that come with the package (arguments without "="), merged from
            left to right, then `key=value` changes in order.
        task: A key of `calib.config.SCHEMAS`, such as "prompt"; a file that says another task is refused.

    Returns:
        The dataclass of the task (`PromptRun`, ...), interpolations resolved; its groups remember what was
        asked for, see `calib.config.given`.

    Raises:
        FileNotFoundError: A YAML file does not exist.
        ValueError: An unknown key or name, a value of the wrong type, a flag, or YAML that cannot be read.

    Example:
        >>> load_config(["data.shots=16", "loss.smac.alpha=0.1"], task="prompt").loss
        {'smac': {'alpha': 0.1}}
    """
    schema = SCHEMAS[task]
    merged = _defaults(schema)
    files = [argument for argument in argv if not _is_change(argument)]
    changes = [argument for argument in argv if _is_change(argument)]
    for file in files:
        values = _typed(_read_yaml(file), schema, "", source=f"{file}: ")
        _merge(merged, values, schema, source=str(file), task=task)
    written = [(change, f"argument '{redacted(change)}'") for change in changes]
    read_changes = [(_typed(_read_change(each), schema, "", source=f"{at}: "), at) for each, at in written]
    for values, source in read_changes:
        _merge(merged, values, schema, source=source, task=task)
    try:
        try:
            config = OmegaConf.to_object(merged)
        except OmegaConfBaseException as error:
            raise ValueError(f"The settings cannot be resolved: {first_line(error)}") from error
        check_ranges(config)
        check_names(config)
    except ValueError as error:
        if not files:
            raise
        raise ValueError(f"{error} (Settings were read from {', '.join(map(str, files))}.)") from error
    for values, _ in read_changes:
        note_given(config, values)
    return config


def check_config(config: object, schema: type) -> None:
    """Refuse what are no settings of a task, such as a dictionary.

    Args:
        config: What was given as the settings.
        schema: The class they must have.

    Raises:
        ValueError: They have another; the message says how settings are made.
    """
    if not isinstance(config, schema):
        task = next(name for name, known in SCHEMAS.items() if known is schema)
        raise ValueError(
            f"The settings must be a {schema.__name__}, not a {type(config).__name__}: give "
            f'load_config(["data.shots=8"], task="{task}") of calib.config, or call calib.fit_prompt or '
            "calib.fit_failure_head, which take plain arguments."
        )


def from_dict(values: dict[str, Any], *, task: str, source: str) -> Any:
    """Return the settings that `to_dict` wrote, e.g. those in an exported prompt.

    Args:
        values: Settings by name; those left out keep their defaults.
        task: As in `load_config`.
        source: Where they come from, for messages.

    Raises:
        ValueError: An unknown key or a value of the wrong type.
    """
    schema = SCHEMAS[task]
    new = _typed(_literal(values), schema, "", source=f"{source}: ")
    merged = _defaults(schema)
    _merge(merged, new, schema, source=source, task=task)
    config = OmegaConf.to_object(merged)
    check_ranges(config)
    return config


def part_from_dict(schema: type[Part], values: Any, *, source: str, prefix: str = "") -> Part:
    """Return a part of the settings, such as those of the data, that an exported prompt holds.

    Args:
        schema: The part's class, e.g. `DataConfig`.
        values: Its settings by name; those left out keep their defaults.
        source: Where they come from, for messages.
        prefix: What stands before its keys in a run's settings, e.g. "data.".

    Raises:
        ValueError: They are no settings, or one of them is unknown, of the wrong type or out of range.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{source}: expected settings by name, not {values!r}.")
    check_values(values, source)
    check_keys(values, schema, known=keys_of(schema), source=source)
    typed = _typed(_literal(values), schema, "", source=f"{source}: ")
    try:
        merged = _defaults(schema)
        merged.merge_with(OmegaConf.create(typed))
        part = typing.cast(Part, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, TypeError) as error:
        raise ValueError(f"{source}: {first_line(error)}") from error
    try:
        check_part(part, prefix)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return part


def to_dict(config: Any) -> dict[str, Any]:
    """Return a settings dataclass as plain dicts, lists and numbers."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    """Return a settings dataclass as YAML text that `load_config` reads back to the same settings."""
    return OmegaConf.to_yaml(OmegaConf.create(_literal(to_dict(config))))


def _literal(value: Any) -> Any:
    """Return settings in which a "${" that was written to be one (escaped) stays one when read again."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def _is_change(argument: str) -> bool:
    if argument.startswith("-"):
        name = argument.lstrip("-").split("=")[0]
        known = {key for schema in SCHEMAS.values() for key in keys_of(schema)}
        if name in known or "=" in argument:
            raise UsageError(f"Settings are written without dashes: '{name}=value' instead of '{argument}'.")
        raise UsageError(
            f"There is no option '{argument}': this command takes settings (key=value), and --help lists "
            "them. The numbers of a run or an evaluation are in the metrics.json of its folder."
        )
    return "=" in argument


def _typed(value: Any, hint: Any, key: str, *, source: str) -> Any:
    """Return a value in the type of its setting; raises ValueError that says where it was written."""
    try:
        return read(value, hint, key)
    except ValueError as error:
        raise ValueError(f"{source}{error}") from error


def _read_yaml(file: str) -> dict[str, Any]:
    path = Path(file)
    piped = is_pipe(file)
    if not os.path.isfile(path) and not piped:
        path = packaged_file(file) or path
    if not os.path.isfile(path) and not piped:
        more = nearest(file) or meant_path(path)
        if path.parts[:2] == ("/", "proc") or path.parts[:3] == ("/", "dev", "fd"):
            more = (
                " A pipe belongs to the process it was given to: where torchrun or srun start several, write "
                "the settings to a file."
            )
        if os.path.isdir(path):  # however long it is
            more = f" '{file}' is a folder: that of images is data.name=folder data.root={file}."
        raise FileNotFoundError(
            f"There is no settings file '{file}' (settings are changed as key=value).{more}"
        )
    try:
        text = read_pipe(file, path.stat().st_ino) if piped else path.read_text(encoding="utf-8")
        loaded = from_yaml(check_yaml(text, file))
    except SettingsError:
        raise
    except Exception as error:  # yaml's errors, and those of decoding and of depth
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        reason = f"line {mark.line + 1}: {problem}" if mark and problem else first_line(error)
        raise ValueError(f"{file} is not valid YAML: {reason}") from error
    if not isinstance(loaded, dict):
        found = "a list" if isinstance(loaded, list) else "a single value"
        raise ValueError(f"{file} must hold keys and values (a mapping), not {found}.")
    if set(loaded) >= OF_SWEEPS:
        raise ValueError(
            f"{file} is a search for W&B's agent, not settings of a run: wandb sweep FILE ('calib configs' "
            "prints those that come with calib). Without W&B: calib sweep, calib tune."
        )
    return loaded


def _read_change(change: str) -> dict[str, Any]:
    """Return a `key=value` argument as nested dictionaries around its value as it was typed."""
    key, _, value = change.partition("=")
    try:
        nested = OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}=0"]))
    except (OmegaConfBaseException, LookupError, RecursionError) as error:  # brackets, dots without end
        raise ValueError(
            f"Argument '{redacted(change)}' cannot be read ({first_line(error)}): a key is names with dots "
            "between them, as in data.shots=16."
        ) from error
    return typing.cast(dict[str, Any], _filled(nested, from_argument(value)))


def _filled(nested: Any, value: Written) -> Any:
    """Return nested dictionaries of one key each, with a value at their end."""
    return {key: _filled(inner, value) for key, inner in nested.items()} if nested else value


@functools.cache
def _blank(schema: type) -> DictConfig:
    return OmegaConf.structured(schema)


def _defaults(schema: type) -> DictConfig:
    """Return the defaults of a settings class, to be changed."""
    return copy.deepcopy(_blank(schema))  # which takes half the time of reading the class again


def _merge(base: DictConfig, new: dict[str, Any], schema: type, *, source: str, task: str) -> None:
    """Change `base` by new settings."""
    said = new.get("task", task)
    if said != task:
        if isinstance(said, str) and said in SCHEMAS:
            raise ValueError(f"{source} is for task '{said}', this command runs '{task}'.")
        raise ValueError(f"{source}: {unknown_name('task', said, SCHEMAS)}")
    check_values(new, source)
    check_keys(new, schema, known=keys_of(schema), source=source)
    try:
        base.merge_with(OmegaConf.create(new))  # `OmegaConf.merge` copies all settings for each change
    except (OmegaConfBaseException, TypeError) as error:
        key = getattr(error, "full_key", None)
        raise ValueError(f"{source}: {f'key {key!r}: ' if key else ''}{first_line(error)}") from error
