"""What settings may not hold: bombs, functions, secrets of the environment. Files of settings travel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from calib.core.text import HIDDEN, names_a_secret, redacted

MAX_YAML = 1 << 20  # bytes of a file of settings
MAX_VALUES = 200_000  # of a file of settings, its aliases written out
MAX_REFERENCES = 10  # ${...} in all: those that stand in each other double the text each time


class SettingsError(ValueError):
    """Settings that are not to be read, with a message that says why."""


def check_yaml(text: str, file: str) -> yaml.Node:
    """Return the nodes of YAML; refuse it if it is empty or far too large, its aliases written out or not.

    Args:
        text: The YAML.
        file: What messages call it.

    Raises:
        SettingsError: It is so.
        yaml.YAMLError: It is no YAML.
    """
    if len(text) > MAX_YAML:
        raise SettingsError(f"{file} is not a file of settings: it has more than {MAX_YAML:,} letters.")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        raise SettingsError(f"{file} is empty. Was it cut off? Write settings in it, or leave it out.")
    if _size(node, {}) > MAX_VALUES:
        raise SettingsError(
            f"{file} holds more than {MAX_VALUES:,} values when its aliases (*name) are written out. Write "
            "the few that are needed."
        )
    return node


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node has, every alias counted as what it stands for."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # what an alias inside of what it stands for would never end at
        parts = node.value if isinstance(node, yaml.SequenceNode) else ()
        if isinstance(node, yaml.MappingNode):
            parts = [each for pair in node.value for each in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def check_values(values: Any, source: str) -> None:
    """Refuse settings that would read the environment or run a function, and those with a password in them.

    Settings are saved in run folders and exports and shown to others.

    Args:
        values: Settings by name, `${...}` not yet resolved.
        source: Where they come from, for messages.

    Raises:
        SettingsError: A setting is so; the message names its key, never the password.
    """
    references = 0
    for key, text in _texts(values, ""):
        inside = _inside_references(text)
        references += text.count("${")
        if ":" in inside:
            raise SettingsError(
                f"{source}: key '{key}': {text!r} would call a function. A setting may refer to others, "
                "${data.name}, and to nothing else: not to environment variables either, since settings are "
                "saved and shared."
            )
        if "\0" in text:
            raise SettingsError(f"{source}: key '{key}' holds a null byte, which no text has.")
        if redacted(text) != text or (text and names_a_secret(key.rpartition(".")[2])):
            raise SettingsError(
                f"{source.replace(text, HIDDEN)}: key '{key}' holds a password or an access token, and "
                "settings are saved and shared. Leave it to the environment (HF_TOKEN, WANDB_API_KEY, "
                "~/.netrc)."
            )
    if references > MAX_REFERENCES:
        raise SettingsError(
            f"{source} refers to other settings {references} times; at most {MAX_REFERENCES} are resolved."
        )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value


def _inside_references(text: str) -> str:
    """Return what stands inside `${...}`, nested ones included.

    Example:
        >>> _inside_references("runs/${data.name}: ${oc.env:HOME}")
        'data.nameoc.env:HOME'
    """
    inside, depth = [], 0
    for part in re.split(r"(\\*\$\{|\})", text):
        if part.endswith("${") and (len(part) % 2 == 0 or depth):  # an odd number of backslashes escapes it
            depth += 1
        elif part == "}":
            depth = max(0, depth - 1)
        elif depth:
            inside.append(part)
    return "".join(inside)
