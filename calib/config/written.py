"""Values as they were written in a file or an argument, read by the type that the schema gives.

YAML 1.1 would make false of `no`, 8 of `010`, 90 of `1:30` and 1000.0 of `1e3`, whatever is asked for. Here
text stays text, whole numbers are decimal, and what is of another type is refused by name.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from calib.config.keys import hints_of
from calib.config.schema import Setting, setting_of

NULLS = ("", "~", "null", "Null", "NULL")
FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
LETTERS = {"y": True, "1": True, "n": False, "0": False}  # where nothing but true or false is asked for
WHOLE = re.compile(r"[-+]?([0-9]+(_[0-9]+)*|0[xX][0-9a-fA-F]+)", re.ASCII)
NUMBER = re.compile(
    r"[-+]?([0-9][0-9_]*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", re.I | re.ASCII
)
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null", "str", "seq", "map")}
SHOWN = 60  # letters of a value in a message


@dataclasses.dataclass(frozen=True)
class Written:
    """One value as text.

    Attributes:
        text: As it was typed.
        quoted: It was put in quotes: text, not a number or null.
        null: It says that there is no value.
        whole: The right side of `key=value`, which may also be a list or a mapping.
    """

    text: str
    quoted: bool = False
    null: bool = False
    whole: bool = False


def from_argument(text: str) -> Written:
    """Return the right side of `key=value`. None is null: W&B's agent writes values as Python prints them."""
    return Written(text, null=text.strip() in (*NULLS, "None"), whole=True)


def from_yaml(node: yaml.Node, nulls: tuple[str, ...] = NULLS) -> Any:
    """Return what a YAML node holds as dictionaries and lists of `Written`; keys are text.

    Args:
        node: As `yaml.compose` returns it.
        nulls: What stands for null where it is not in quotes.

    Raises:
        yaml.YAMLError: A key occurs twice or is no text, or a tag asks for an object.
    """
    if isinstance(node, yaml.ScalarNode):
        implied = _RESOLVER.resolve(yaml.ScalarNode, node.value, (node.style is None, node.style is not None))
        quoted = node.style is not None or (node.tag != implied and node.tag.endswith(":str"))
        if node.tag not in (implied, *TAGS):
            raise _problem(node, f"could not determine a constructor for the tag {node.tag!r}")
        return Written(node.value, quoted, null=not quoted and node.value in nulls)
    if node.tag not in TAGS:
        raise _problem(node, f"could not determine a constructor for the tag {node.tag!r}")
    if not isinstance(node, yaml.MappingNode):
        return [from_yaml(each, nulls) for each in node.value]
    own: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _problem(key, "a key must be text")
        if key.value in own and key.tag != MERGE:
            raise _problem(key, f"found duplicate key {key.value}")
        own.add(key.value)
    yaml.SafeLoader("").flatten_mapping(node)  # what `<<: *name` takes over
    return {key.value: from_yaml(value, nulls) for key, value in node.value}


_RESOLVER = yaml.resolver.Resolver()
MERGE = "tag:yaml.org,2002:merge"


def _problem(node: yaml.Node, text: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def read(value: Any, hint: Any, key: str, known: Mapping[str, Setting] | None = None) -> Any:
    """Return a value in the type that is asked for.

    References to other settings, `${...}`, stay as they are. Where no type is known, as for the arguments of
    the trainer, a value is read as YAML reads it, but that whole numbers are decimal and 1:30 is text.

    Args:
        value: Dictionaries and lists of `Written`, or of plain values such as those of JSON.
        hint: The type: a settings class, or the type of one of its fields.
        key: Its dotted key, for messages.
        known: For a dictionary: what is known about some of its keys.

    Raises:
        ValueError: The value is of another type.

    Example:
        >>> read(from_argument("no"), str, "prompt.init"), read(from_argument("010"), int, "seed")
        ('no', 10)
        >>> read(from_argument("[no, 010, a #b]"), list[str] | None, "data.class_names")
        ['no', '010', 'a #b']
    """
    kinds = _kinds(hint)
    nothing = value.null if isinstance(value, Written) else value is None
    if nothing and (hint is Any or type(None) in kinds):
        return None
    if isinstance(value, Written):
        value = _opened(value, kinds, key)
    elif isinstance(value, str):
        value = Written(value, quoted=True)
    if isinstance(value, dict):
        return _mapping(value, kinds, key, known or {})
    if isinstance(value, list):
        inner = next((kind for kind in kinds if typing.get_origin(kind) is list), None)
        if inner is None and Any not in kinds:
            raise _misplaced(key, "a list", kinds)
        item = typing.get_args(inner)[0] if inner else Any
        return [read(_word(each) if item is str else each, item, key) for each in value]
    return _scalar(value, kinds, key)


def _word(value: Any) -> Any:
    """Return an item of a list of texts, where `null` is a word as any other."""
    return (
        dataclasses.replace(value, null=value.null and not value.text)
        if isinstance(value, Written)
        else value
    )


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _opened(value: Written, kinds: tuple[Any, ...], key: str) -> Any:
    """Return the right side of `key=value` without its quotes, or as the list or mapping that it is."""
    if not value.whole:
        return value
    bare = value.text.strip()
    lists = any(typing.get_origin(kind) is list for kind in kinds)
    if lists and bare.startswith("[") and bare.endswith("]"):
        return _items(bare[1:-1], key)
    if bare[:1] + bare[-1:] in ("[]", "{}"):
        takes = [kind for kind in kinds if _is_mapping(kind) or kind is Any]
        if takes or bare not in ("{}", "{ }"):  # for text `{}` is the place of a class name
            return from_yaml(_composed(bare, key), (*NULLS, "None"))
    if bare[:1] in ("'", '"') and bare[-1:] == bare[:1] and len(bare) > 1:
        return _unquoted(bare) or value
    return value


def _composed(text: str, key: str) -> Any:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "problem", None) or "it is too deep"
        raise ValueError(f"key '{key}': {_shown(text)} cannot be read: {reason}.{_QUOTES}") from error


def _unquoted(text: str) -> Written | None:
    """Return text without the quotes around it; None where they are not one pair around all of it."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return None
    return Written(node.value, quoted=True) if isinstance(node, yaml.ScalarNode) and node.style else None


def _items(inside: str, key: str) -> list[Any]:
    """Return the items of a list in an argument, as they were typed."""
    parts = [each.strip() for each in divided(inside)]
    if parts[-1] == "":
        parts.pop()  # [], [a,]
    if "" in parts:
        raise ValueError(f"key '{key}': [{inside}] has an empty item: is a comma too many?")
    return [from_argument(part) for part in parts]


def divided(text: str, *, opening: str = "[{", closing: str = "]}") -> list[str]:
    """Return the parts of text between commas, those in brackets and quotes left whole.

    A quote opens where a value begins, so that the one in "Crohn's" does not.

    Args:
        text: E.g. the inside of a list.
        opening: What a bracket opens with.
        closing: What it closes with.

    Example:
        >>> divided("Crohn's,'a, b',[c,d]")
        ["Crohn's", "'a, b'", '[c,d]']
    """
    found, depth, quote, start, before = [], 0, "", 0, ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and before in ("", ",", ":", *opening):
            quote = letter
        elif letter in opening:
            depth += 1
        elif letter in closing:
            depth = max(0, depth - 1)
        elif letter == "," and depth == 0:
            found.append(text[start:place])
            start = place + 1
        before = before if letter == " " else letter
    return [*found, text[start:]]


def _is_mapping(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict


def _mapping(
    values: dict[str, Any], kinds: tuple[Any, ...], key: str, known: Mapping[str, Setting]
) -> dict[str, Any]:
    """Return a mapping with its values in the types of a settings class or a dictionary."""
    inner: Any = next((kind for kind in kinds if _is_mapping(kind)), None)
    if inner is None and Any not in kinds:
        raise _misplaced(key, "a mapping", kinds)
    hints = hints_of(typing.cast(type, inner)) if dataclasses.is_dataclass(inner) else {}
    others = typing.get_args(inner)[1] if typing.get_origin(inner) is dict else Any
    read_values = {}
    for name, value in values.items():
        inside = setting_of(inner, name).keys if name in _settings(inner) else {}
        kind = hints.get(name, known[name].kind if name in known else others)
        read_values[name] = read(value, kind, f"{key}.{name}" if key else str(name), inside)
    return read_values


def _settings(schema: Any) -> set[str]:
    """Return the names of the settings of a class that are no groups themselves."""
    if not dataclasses.is_dataclass(schema):
        return set()
    return {each.name for each in dataclasses.fields(schema) if "setting" in each.metadata}


def _scalar(value: Any, kinds: tuple[Any, ...], key: str) -> Any:
    """Return one value in the first of the types that it can be read as."""
    if isinstance(value, Written) and "${" in value.text:
        return value.text  # another setting, which is looked up later
    if any(map(dataclasses.is_dataclass, kinds)):
        return value.text if isinstance(value, Written) else value  # refused as a key without its settings
    if isinstance(value, Written) and value.null and Any not in kinds:
        raise ValueError(f"key '{key}' must be {_said(kinds)}, and is empty (null).")
    for kind in kinds:
        reader = _READERS.get(kind)
        if reader is not None and (found := reader(value)) is not None:
            return found[0]
    if any(typing.get_origin(kind) is list for kind in kinds):
        raise ValueError(f"key '{key}': it is a list; write {key}=[A,B].")
    raise ValueError(f"key '{key}' must be {_said(kinds)}, not {_shown(value)}.")


Found = tuple[Any] | None  # the value, or None where it is of another type


def _text(value: Any) -> Found:
    if not isinstance(value, Written):
        return None
    return None if value.text == "???" else (value.text,)  # OmegaConf's sign for a value to be filled in


def _whole(value: Any) -> Found:
    if not isinstance(value, Written):
        return (value,) if type(value) is int else None
    text = re.sub(r"\.0*$", "", value.text.strip())  # 8.0 is what some programs make of 8
    return (_to_int(text),) if WHOLE.fullmatch(text) and len(text) < 1000 else None


def _to_int(text: str) -> int:
    return int(text, 16 if "x" in text.lower() else 10)


def _number(value: Any) -> Found:
    try:
        if not isinstance(value, Written):
            return (float(value),) if type(value) in (int, float) else None
        if (whole := _whole(value)) is not None:
            return (float(whole[0]),)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    text = value.text.strip()
    plain = text.lower().replace(".inf", "inf").replace(".nan", "nan")
    numeric = NUMBER.fullmatch(text) or plain.lstrip("+-") in ("inf", "nan")
    return (float(plain.replace("_", "")),) if numeric else None


def _flag(value: Any) -> Found:
    if not isinstance(value, Written):
        return (value,) if isinstance(value, bool) else None
    found = {**FLAGS, **LETTERS}.get(value.text.strip().lower())
    return None if found is None else (found,)


def _anything(value: Any) -> Found:
    """Return a value of which no type is known: null, true, numbers and text are told by their spelling."""
    if not isinstance(value, Written):
        return (value,)
    text = value.text.strip() if value.whole else value.text
    if value.quoted or text == "???":
        return _text(value)
    if text.lower() in FLAGS:
        return (FLAGS[text.lower()],)
    if WHOLE.fullmatch(text):
        return _whole(value)
    return _number(value) if NUMBER.fullmatch(text) else (text,)


_READERS: dict[Any, Callable[[Any], Found]] = {
    int: _whole,
    float: _number,
    bool: _flag,
    str: _text,
    Any: _anything,
}
_SAID = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Any: "a value"}
_QUOTES = " Text with such brackets is put in quotes."


def _misplaced(key: str, what: str, kinds: tuple[Any, ...]) -> ValueError:
    advice = _QUOTES if str in kinds else ""
    return ValueError(f"key '{key}': {what} stands where {_said(kinds)} is expected.{advice}")


def _said(kinds: tuple[Any, ...]) -> str:
    said = [
        _SAID.get(kind, "a list ([A,B])" if typing.get_origin(kind) is list else "a mapping (.KEY=VALUE)")
        for kind in kinds
        if kind is not type(None)
    ]
    return " or ".join(said)


def _shown(value: Any) -> str:
    text = value.text if isinstance(value, Written) else value
    shown = repr(text)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
