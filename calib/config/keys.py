"""The keys of a schema, and what was meant by one that is not among them."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calib.config.schema import Setting, setting_of
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
    fields = hints_of(schema)
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields:
            first, *rest = str(key).split(".")
            if rest and first in fields:
                nested = ": {".join([first, *rest]) + ": ..." + "}" * len(rest)
                raise ValueError(f"{source}: in a file the key '{name}' is written without dots, {nested}.")
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
    return list(_keys(schema, prefix))


@functools.cache
def _keys(schema: type, prefix: str) -> tuple[str, ...]:
    found = leaves(schema, prefix)
    return tuple(key for name, one in found for key in (name, *(f"{name}.{inner}" for inner in one.keys)))


@functools.cache
def hints_of(schema: type) -> Mapping[str, Any]:
    """Return the types of the fields of a settings class; read once, as every argument is checked by them.

    Example:
        >>> from calib.config.schema import LogConfig
        >>> hints_of(LogConfig)["tags"]
        list[str]
    """
    return typing.get_type_hints(schema)


def leaves(schema: type, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Yield the dotted key of every setting with what is known about it, in the order of the fields.

    Args:
        schema: A settings class.
        prefix: What stands before each key.

    Raises:
        TypeError: A setting does not say what it affects.

    Example:
        >>> from calib.config.schema import LogConfig
        >>> [(key, one.affects) for key, one in leaves(LogConfig, "log.")][:2]
        [('log.wandb', 'nothing'), ('log.project', 'nothing')]
    """
    hints = hints_of(schema)
    for each in dataclasses.fields(schema):
        name, inner = f"{prefix}{each.name}", dataclass_of(hints[each.name])
        if inner is None:
            yield name, setting_of(schema, each.name)
        else:
            yield from leaves(inner, f"{name}.")


def find_setting(schema: type, key: str) -> Setting | None:
    """Return what is known about the setting that a dotted key names or lies below. None: there is none.

    Args:
        schema: A settings class.
        key: E.g. "optim.lr", or "loss.smac.alpha", which lies in the dictionary `loss`.

    Example:
        >>> from calib.config.schema import PromptRun
        >>> [find_setting(PromptRun, key).affects for key in ("loss.smac.alpha", "trainer.devices")]
        ['own', 'nothing']
    """
    known = _known(schema)
    while key not in known and key:
        key = key.rpartition(".")[0]
    return known.get(key)


@functools.cache
def _known(schema: type) -> Mapping[str, Setting]:
    """Return every setting by its dotted key, those known inside dictionaries as well."""
    known = {}
    for name, one in leaves(schema):
        known[name] = one
        known |= {f"{name}.{key}": inside for key, inside in one.keys.items()}
    return known


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
