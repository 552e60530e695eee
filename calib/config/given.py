"""Which settings somebody asked for: also one that was asked for by its default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

ASKED = "_asked"  # beside the settings of a group: names that were written as key=value


def note_given(config: Any, values: Mapping[str, Any]) -> None:
    """Note in a run's settings which of them a `key=value` argument gave.

    Args:
        config: The run's settings.
        values: What the argument says, as nested dictionaries.
    """
    vars(config).setdefault(ASKED, set()).update(values)
    for name, value in values.items():
        if dataclasses.is_dataclass(inner := getattr(config, name)):
            note_given(inner, value)


def given(part: Any, default: Any) -> set[str]:
    """Return the names of the settings of a group that were asked for.

    These are the ones that differ from their defaults, and those written as `key=value` where `load_config`
    read them, whatever the value. A YAML file that says a default asks for nothing: it may have been written
    whole, as that of a run folder is.

    Args:
        part: A group of settings, as `load_config` made it.
        default: The group without any changes.

    Example:
        >>> from calib.config import BackboneConfig, load_config
        >>> config = load_config(["backbone.name=embedded"], task="failure")
        >>> given(config.backbone, BackboneConfig()), given(BackboneConfig(), BackboneConfig())
        ({'name'}, set())
    """
    names = [each.name for each in dataclasses.fields(part)]
    changed = {name for name in names if getattr(part, name) != getattr(default, name)}
    return changed | vars(part).get(ASKED, set())
