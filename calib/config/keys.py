"""The keys of a schema, and what was meant by one that is not among them."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any

from calib.config.schema import READER_OPTIONS, DataConfig
from calib.core.errors import unknown_name

NEAR = 0.6  # spelling this similar may be a slip, from 0 to 1


def check_keys(values: Any, schema: type, *, known: Sequence[str], source: str, prefix: str = "") -> None:
    """Refuse keys that a settings class does not have.

    Args:
        values: Settings as nested dicts.
        schema: The settings class.
        known: Dotted keys that may have been meant.
        source: Where the values come from, for the message.
        prefix: What stands before each key.

    Raises:
        ValueError: A key is unknown, or a group of settings is not a dict.
    """
    fields = typing.get_type_hints(schema)
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields:
            likely = _likely(name, [*known, *(prefix + field for field in fields)])
            error = unknown_name("key", key, fields, prefix=prefix, meant=likely)
            raise ValueError(f"{source}: {error}")
        inner = dataclass_of(fields[key])
        if inner is None:
            continue
        if not isinstance(value, dict):
            raise ValueError(
                f"{source}: '{name}' holds several settings; write {name}.<key>=..., not {value!r}."
            )
        check_keys(value, inner, known=known, source=source, prefix=f"{name}.")


def keys_of(schema: type, prefix: str = "") -> list[str]:
    """Return the dotted keys of all settings, with those inside dictionaries as far as they are known here.

    Args:
        schema: A settings class.
        prefix: What stands before each key.

    Example:
        >>> from calib.config.schema import LogConfig
        >>> keys_of(LogConfig, "log.")
        ['log.wandb', 'log.project', 'log.tags']
    """
    keys = []
    hints = typing.get_type_hints(schema)
    for each in dataclasses.fields(schema):
        name, inner = f"{prefix}{each.name}", dataclass_of(hints[each.name])
        default = each.default_factory() if callable(each.default_factory) else None
        keys += [name] if inner is None else keys_of(inner, f"{name}.")
        keys += [f"{name}.{key}" for key in default] if isinstance(default, dict) else []
    if schema is DataConfig:
        keys += [f"{prefix}options.{option}" for option in READER_OPTIONS]
    return keys


def _likely(name: str, known: Sequence[str]) -> list[str]:
    """Return the known keys whose last part is spelt most like that of a name, those beside it first."""
    beside, _, last = name.rpartition(".")
    scores: dict[tuple[float, bool], list[str]] = {}
    for key in dict.fromkeys(known):
        place, _, end = key.rpartition(".")
        similarity = difflib.SequenceMatcher(None, last, end).ratio()
        scores.setdefault((similarity, place == beside), []).append(key)
    best = max(scores)
    return scores[best] if best[0] >= NEAR else []


def dataclass_of(hint: Any) -> type | None:
    """Return the dataclass in a type hint such as `OptimConfig | None`; None: there is none."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)  # type: ignore[return-value]
