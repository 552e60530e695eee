"""One setting: its default, what it affects, the values it may have."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Affects = Literal["nothing", "encoding", "draw", "training", "own", "report"]
Value = TypeVar("Value")
SEEDS = 2**32  # what numpy and Lightning take is below


@dataclass(frozen=True)
class Setting:
    """What the rest of the package needs to know about a setting.

    Attributes:
        affects: "nothing": where things lie and how they are shown; a run may go on with another value.
            "encoding": which images and texts are encoded, with what; runs that share features agree in it.
            "draw": which images are drawn. "training": what is learned. "own": likewise, and each prompt of a
            stack may have its own value. "report": what is said about the result.
        at_least: The least value.
        above: All values are above this number.
        below: All values are below this number.
        one_of: The values there are. Empty: any.
        shown: The default name of a run's folder says it in words; of the others it has a digest.
        told: The tables of `calib evaluate` say it in words of their own, or it makes no other method; of the
            others they say what differs.
        of_prompt: A failure run takes it from the prompt it judges, and is named after that.
        place: It says where files lie; what is in them, split.json says. They may be moved, and the run stays
            the same (`calib.runs.marks`).
        sets_length: How many batches an epoch has depends on it. Each prompt of a stack may have its own
            value, unless the trainer counts batches (`by_batches`).
        by_batches: With it a run ends, or validates, by batches.
        kind: Type of the value of a key inside a dictionary; other settings have that of their field.
        keys: For a dictionary: what is known about some of its keys. The others are as the dictionary.
    """

    affects: Affects
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    one_of: tuple[str, ...] = ()
    shown: bool = False
    told: bool = False
    of_prompt: bool = False
    place: bool = False
    sets_length: bool = False
    by_batches: bool = False
    kind: Any = Any
    keys: Mapping[str, Setting] = field(default_factory=dict)


def setting(default: Value, *, affects: Affects, **about: Any) -> Value:
    """Return a dataclass field with this default that carries a `Setting`.

    Args:
        default: The default; every instance gets its own copy of a list or dictionary.
        affects: What the setting affects, see `Setting`.
        **about: Its bounds and the rest, see `Setting`.

    Example:
        >>> @dataclass
        ... class DrawConfig:
        ...     shots: int = setting(8, affects="draw", at_least=1)
        >>> DrawConfig(), setting_of(DrawConfig, "shots").at_least
        (DrawConfig(shots=8), 1)
    """
    metadata = {"setting": Setting(affects, **about)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def setting_of(schema: type, name: str) -> Setting:
    """Return what is known about a setting of a dataclass.

    Args:
        schema: The dataclass.
        name: One of its fields.

    Raises:
        TypeError: It was not declared by `setting`, so that nobody knows what it affects.
    """
    declared = next(each for each in dataclasses.fields(schema) if each.name == name)
    if "setting" not in declared.metadata:
        raise TypeError(f"{schema.__name__}.{name} must say what it affects: setting(..., affects=...).")
    found: Setting = declared.metadata["setting"]
    return found
