"""Class names: as they are read in a sentence, and told apart by a reader and by a model."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

# Names that are no words: numbers and codes (n01855672, C50.9, class_3).
CODE = re.compile(
    r"-?\d+([._ -]\d+)*|[A-Za-z]{1,2}[-_ ]?\d{2,}[\d.]*|(?i:class|label|category|type|group|id)[-_ ]?\d+"
)
JOINED = re.compile(r"[A-Za-z]|[A-Z]{2,4}|\w*[a-z]{3}[A-Z][a-z].*")  # N, MEL, LungOpacity
SEPARATORS = re.compile(r"[|;,/+&]")
BRACKETS = " []{}()'\""


def composed(text: str) -> str:
    r"""Return text with its accents composed (NFC): systems write the same name in either form.

    Example:
        >>> len("be\u0301nin"), len(composed("be\u0301nin"))
        (6, 5)
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def one_form(text: str) -> str:
    r"""Return the form in which texts that look the same are equal.

    Ligatures and full-width signs count as the plain ones (NFKC), invisible signs do not count, and any
    white space is a blank. Letters of other alphabets that look alike stay different.

    Example:
        >>> one_form("\ufb01brosis \uff14"), one_form("CD4\u200b")
        ('fibrosis 4', 'CD4')
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return " ".join(text.split())


def plain_name(class_name: str) -> str:
    """Return a class name, folder name or label as it is read in a sentence: underscores become spaces.

    Example:
        >>> plain_name("smooth_muscle")
        'smooth muscle'
    """
    return " ".join(composed(class_name).replace("_", " ").split())


def name_key(class_name: str) -> str:
    r"""Return what class names are compared by: they are the same for a reader where it is the same.

    Example:
        >>> name_key("smooth_muscle") == name_key("smooth\u00a0muscle")
        True
    """
    return plain_name(one_form(class_name))


def same_names(names: Iterable[str], others: Iterable[str]) -> bool:
    """Return whether two lists hold the same class names in the same order."""
    return list(map(name_key, names)) == list(map(name_key, others))


def one_spelling(names: Iterable[str]) -> dict[str, str]:
    r"""Return each name with the spelling that all that look like it share.

    Args:
        names: Folder names or labels, as they were found.

    Example:
        >>> one_spelling(["be\u0301nin", "b\u00e9nin", "malin"]) == {
        ...     "be\u0301nin": "b\u00e9nin", "b\u00e9nin": "b\u00e9nin", "malin": "malin"
        ... }
        True
    """
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(one_form(name), []).append(name)
    shared: dict[str, str] = {}
    for form, group in alike.items():
        spellings = {composed(name) for name in group}
        shared |= dict.fromkeys(group, spellings.pop() if len(spellings) == 1 else form)
    return shared


def spelt_apart(shared: Mapping[str, str]) -> list[list[str]]:
    """Return the names of `one_spelling` that only look the same, a ligature and letters say, in groups."""
    groups: dict[str, set[str]] = {}
    for name, spelling in shared.items():
        groups.setdefault(spelling, set()).add(composed(name))
    return [sorted(group) for group in groups.values() if len(group) > 1]


def check_class_names(class_names: Sequence[str]) -> list[str]:
    """Return class names as they are read in a sentence, once they can be told apart there.

    Args:
        class_names: C names in label order.

    Raises:
        ValueError: Fewer than two names, an empty one, or two that read the same.

    Example:
        >>> check_class_names(["smooth_muscle", "stroma"])
        ['smooth muscle', 'stroma']
    """
    names = [plain_name(name) for name in class_names]
    if len(names) < 2:
        raise ValueError(f"At least two classes are needed, got {list(class_names)!r} (data.class_names).")
    first: dict[str, str] = {}
    for index, name in enumerate(names):
        key = name_key(name)
        if not key:
            raise ValueError(
                f"Class name number {index} is empty: {class_names[index]!r} (data.class_names)."
            )
        if key in first:
            both = "" if name == first[key] else f" ({first[key]!a} and {name!a})"
            raise ValueError(
                f"Two classes are both called '{name}'{both}; nothing could tell them apart "
                "(data.class_names)."
            )
        first[key] = name
    return names


def check_tokens(class_names: Sequence[str], rows: Iterable[Sequence[int]], *, model: str) -> None:
    """Refuse two classes whose sentences are the same tokens: every prompt would give them one probability.

    Args:
        class_names: C names in label order.
        rows: Token ids of each class's sentence.
        model: What reads them, for the message.

    Raises:
        ValueError: Two rows are equal; the message names the classes.

    Example:
        >>> check_tokens(["Grade I", "grade i"], [(5, 6), (5, 6)], model="embedded")
        Traceback (most recent call last):
        ValueError: The classes 'Grade I' and 'grade i' are the same tokens for embedded, which may not know \
their words, or not tell case or accents: no prompt could tell them apart. Give them other names \
(data.class_names).
    """
    first: dict[tuple[int, ...], str] = {}
    for name, row in zip(class_names, rows, strict=True):
        other = first.setdefault(tuple(row), name)
        if other is not name:
            raise ValueError(
                f"The classes '{other}' and '{name}' are the same tokens for {model}, which may not know "
                "their words, or not tell case or accents: no prompt could tell them apart. Give them other "
                "names (data.class_names)."
            )


def codes_among(names: Iterable[str]) -> list[str]:
    """Return the names that are numbers or codes, which say nothing to a text model.

    Example:
        >>> codes_among(["n01855672", "10", "stroma", "COVID-19", "grade 2"])
        ['n01855672', '10']
    """
    return [name for name in names if CODE.fullmatch(name)]


def hard_to_read(names: Iterable[str]) -> list[str]:
    """Return the names that read badly in a sentence: letters, short abbreviations and joined words.

    Example:
        >>> hard_to_read(["MEL", "LungOpacity", "stroma", "IgA"])
        ['MEL', 'LungOpacity']
    """
    return [name for name in names if JOINED.fullmatch(name)]


def several_in_one(names: Sequence[str]) -> str | None:
    """Return a name that lists several of the others, as "Atelectasis|Effusion" does. None: there is none.

    A name counts where each of its parts is a name by itself, or a part of another list. Without letters in
    every part it does not: "3+4" is one grade.

    Example:
        >>> several_in_one(["Atelectasis", "Effusion", "Atelectasis|Effusion"])
        'Atelectasis|Effusion'
        >>> several_in_one(["malignant", "normal, benign"])
    """
    parts = {}
    for name in names:
        found = [part.strip(BRACKETS) for part in SEPARATORS.split(name)]
        if len(found) > 1 and all(any(map(str.isalpha, part)) for part in found):
            parts[name] = found
    known = Counter({name.strip(BRACKETS): 2 for name in names if name not in parts})
    known.update(part for found in parts.values() for part in set(found))
    return next((name for name, found in parts.items() if all(known[part] > 1 for part in found)), None)
