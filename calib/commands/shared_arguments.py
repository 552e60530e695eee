"""Arguments that `calib calibrate`, `calib sets` and `calib review` have in common, read without torch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from calib.core.errors import UsageError, unknown_name

KINDS = ("probs", "logits")


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a file of outputs is read."""
    parser.add_argument("--kind", help="what plain columns hold: probs or logits")
    parser.add_argument("--classes", metavar="A,B,...", help="the classes in the order wanted")
    parser.add_argument("--label", metavar="COLUMN", help="column of labels (default: label)")
    parser.add_argument(
        "--group", metavar="COLUMN", help="column of patients, slides, ... (default: group, patient)"
    )


def add_moved(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a run's backbone is now."""
    parser.add_argument("--weights", help="the run's backbone weights, where they have moved since training")
    parser.add_argument("--tokenizer", help="its tokenizer, where it has moved since training")


def check_moved(given: argparse.Namespace) -> None:
    """Refuse to say where a run's backbone is where it is not used: outputs in a file are there.

    Raises:
        ValueError: It was said beside --on.
    """
    if given.on is not None and (given.weights is not None or given.tokenizer is not None):
        raise ValueError(
            "--weights and --tokenizer are for a run's own validation images, not for --on FILE."
        )


def check_read(
    given: argparse.Namespace, files: Sequence[str], options: Sequence[str] = ("kind", "label", "group")
) -> None:
    """Refuse options that say how a file is read, of a run of which none is.

    Args:
        given: The arguments.
        files: Those that name a file.
        options: Those that say how it is read.

    Raises:
        ValueError: There is such an option and no file.

    Example:
        >>> check_read(argparse.Namespace(on=None, kind=None, label="y", group=None), ["on"])
        Traceback (most recent call last):
        ValueError: --label: no file is read here. Labelled outputs: --on FILE.
    """
    useless = [f"--{name}" for name in options if getattr(given, name) is not None]
    if useless and all(getattr(given, name) is None for name in files):
        raise ValueError(f"{', '.join(useless)}: no file is read here. Labelled outputs: --on FILE.")


def check_kind(kind: str | None) -> None:
    """Refuse a kind of outputs that is unknown.

    Raises:
        ValueError: It is.
    """
    if kind not in (None, *KINDS):
        raise ValueError(f"--kind {unknown_name('kind of outputs', kind, KINDS)}")


def settings_of(
    words: Sequence[str], readers: Mapping[str, Callable[[str, str], Any]], *, command: str, example: str
) -> dict[str, Any]:
    """Return the settings in "key=value" words.

    Args:
        words: As they were typed.
        readers: Name to what turns name and text into the value, or refuses it.
        command: Whose settings they are, for messages.
        example: How they are written, for messages.

    Raises:
        ValueError: One is unknown, given twice, or its value is none.

    Example:
        >>> settings_of(["seed=3"], {"seed": whole}, command="calib sets", example="seed=1")
        {'seed': 3}
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"'{word}' is no setting: they are written {example}.")
        if key not in readers:
            raise unknown_name(f"setting of {command}", key, readers)
        if key in found:
            raise ValueError(f"{key} was given twice.")
        found[key] = readers[key](key, value)
    return found


def refuse_dashes(argv: Sequence[str], readers: Mapping[str, Any]) -> None:
    """Refuse settings that are written as options.

    Args:
        argv: The arguments as they were typed.
        readers: Those of `settings_of`.

    Raises:
        UsageError: One is.

    Example:
        >>> refuse_dashes(["run", "--error", "0.1"], {"error": float})
        Traceback (most recent call last):
        calib.core.errors.UsageError: There is no option --error; it is a setting: error=VALUE.
    """
    for word in argv:
        key = word.partition("=")[0].removeprefix("--")
        if word.startswith("--") and key in readers:
            raise UsageError(f"There is no option --{key}; it is a setting: {key}=VALUE.")


def number_or_nan(text: str) -> float:
    """Return the number in a text, NaN where there is none.

    Example:
        >>> number_or_nan("0.5"), number_or_nan("half")
        (0.5, nan)
    """
    try:
        return float(text)
    except ValueError:
        return math.nan


def whole(key: str, text: str) -> int:
    """Return a whole number of at least 0.

    Args:
        key: The setting, for messages.
        text: Its value.

    Raises:
        ValueError: It is none.

    Example:
        >>> whole("seed", "3")
        3
    """
    number = number_or_nan(text)
    if not (number >= 0 and number.is_integer()):
        raise ValueError(f"{key} must be a whole number of at least 0, not {text}.")
    return int(number)


def one_of(key: str, text: str, known: Sequence[str]) -> str:
    """Return a value that is among those known.

    Raises:
        ValueError: It is not.

    Example:
        >>> one_of("patients", "one", ("any", "one"))
        'one'
    """
    if text not in known:
        raise unknown_name(f"value of {key}", text, known)
    return text


def classes_of(text: str) -> list[str]:
    """Return the names in "A,B,...".

    Raises:
        ValueError: A name is empty.

    Example:
        >>> classes_of("benign, malignant")
        ['benign', 'malignant']
    """
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise ValueError(f"--classes {text}: names separated by commas, none of them empty.")
    return names


def shares_of(text: str) -> dict[str, float]:
    """Return the shares in "A=0.6,B=0.4" by name; whether they are those of the classes is checked later.

    Raises:
        ValueError: It is not written so, or a name stands twice.

    Example:
        >>> shares_of("benign=0.9,malignant=0.1")
        {'benign': 0.9, 'malignant': 0.1}
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.rpartition("="))
        value = number_or_nan(number)
        if not (name and equals and 0 <= value <= 1) or name in shares:
            raise ValueError(
                f"--shares {text}: expected CLASS=SHARE,CLASS=SHARE,... with every class once and "
                f"shares from 0 to 1; '{part.strip()}' is not so."
            )
        shares[name] = value
    return shares
