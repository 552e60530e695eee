"""Labels of any kind to class indices: one rule for class folders, tables, data sets and arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from calib.core.names import composed, plain_name
from calib.core.problems import note
from calib.core.text import few
from calib.data.task import ClassNames, number_classes

WHOLE_NUMBER = re.compile(r"-?[0-9]+(\.0+)?")  # 1.0 is what some programs make of 1
TRUTHS = {"false": 0, "true": 1}


def label_text(value: Any) -> str | None:
    """Return a label as text, whatever its type; None where it is empty.

    Raises:
        ValueError: It is no single word or number.

    Example:
        >>> [label_text(value) for value in (" benign", 1, 1.0, True, "nan", None)]
        ['benign', '1', '1', 'True', None, None]
    """
    if value is None or value != value:  # not a number
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        raise ValueError(f"must hold text, whole numbers or true and false, not {value!r}")
    text = str(value).strip()
    return None if text.lower() in ("", "nan") else text  # "nan" is what some programs make of an empty cell


def number_labels(
    labels: Mapping[str, str], class_names: ClassNames | None, *, what: str = "label", hint: str = ""
) -> tuple[dict[str, int], list[str]]:
    """Return the index of every label and the class names in label order.

    Words are numbered as `calib.data.task.number_classes` says. Whole numbers, and true and false, are
    indices already: they have no name that could be read in a sentence, so a list of names is asked for, and
    the label 2 has the third name whichever labels occur.

    Args:
        labels: Every label that occurs, as text, and where it stands, for messages.
        class_names: Names in label order, or label to name. None: the labels themselves.
        what: What a label is, for messages.
        hint: What else can be done about labels that are numbers, for messages.

    Raises:
        ValueError: Labels and names do not fit together, or numbers have no names.

    Example:
        >>> number_labels({"0": "row 1", "2": "row 5"}, ["A", "B", "C"])
        ({'0': 0, '2': 2}, ['A', 'B', 'C'])
    """
    found = sorted(labels, key=composed)
    try:
        return _numbered(found, labels, class_names, what, hint)
    except ValueError as error:
        note(error)
        return {label: index for index, label in enumerate(found)}, [plain_name(label) for label in found]


def _numbered(
    found: list[str], labels: Mapping[str, str], class_names: ClassNames | None, what: str, hint: str
) -> tuple[dict[str, int], list[str]]:
    indices = indices_of(found)
    if isinstance(class_names, Mapping) or not indices or (class_names and set(found) <= set(class_names)):
        return number_classes(found, class_names, what=what)
    if class_names is None:
        kind = "integers" if all(map(WHOLE_NUMBER.fullmatch, found)) else "true and false"
        raise ValueError(
            f"The {what}s are {kind} ({few(found)}): give their names in label order, "
            f'"data.class_names=[NAME,NAME,...]"{hint}.'
        )
    for label, index in indices.items():
        if not 0 <= index < len(class_names):
            raise ValueError(
                f"{labels[label]}: {what} {label} has no name; data.class_names goes up to "
                f"{len(class_names) - 1}."
            )
    return indices, [str(name) for name in class_names]


def check_texts(class_names: ClassNames | None) -> None:
    """Refuse class names that are no text: other programs make other things of words such as no and 010.

    Args:
        class_names: Names in label order, or label to name. None: there are none to check.

    Raises:
        ValueError: They are a single text, or a name is of another type; the message shows it.

    Example:
        >>> check_texts([False, "yes"])
        Traceback (most recent call last):
        ValueError: data.class_names must hold text, not False (bool). Put it in quotes.
    """
    if isinstance(class_names, str):
        raise ValueError(f"data.class_names must be a list of names, not the text {class_names!r}.")
    for name in class_names.values() if isinstance(class_names, Mapping) else class_names or ():
        if not isinstance(name, str):
            raise ValueError(
                f"data.class_names must hold text, not {name!r} ({type(name).__name__}). Put it in quotes."
            )


def are_indices(found: Sequence[str]) -> bool:
    """Return whether labels are indices already: whole numbers, or true and false."""
    return bool(indices_of(found))


def indices_of(found: Sequence[str]) -> dict[str, int]:
    """Return the indices that labels are, of a single kind; nothing where some are words.

    Example:
        >>> indices_of(["0", "2.0"]), indices_of(["True", "false"]), indices_of(["1", "one"])
        ({'0': 0, '2.0': 2}, {'True': 1, 'false': 0}, {})
    """
    if all(map(WHOLE_NUMBER.fullmatch, found)):
        return {label: int(label.partition(".")[0]) for label in found}
    if all(label.lower() in TRUTHS for label in found):
        return {label: TRUTHS[label.lower()] for label in found}
    return {}
