"""The columns of a table of own questions by their names, told without the imports that take seconds."""

from __future__ import annotations

from collections.abc import Sequence

from calib.vqa.parsing import LETTERS

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
# What may be left out, by the names it may have; the first is the one that messages say.
OPTIONAL = {
    "image": ("image",),
    "patient": ("patient",),
    "modality": ("modality",),
    "type": ("type", "question_type"),
    "id": ("id",),
}
READ = {"question", "answer", "options", *(name for names in OPTIONAL.values() for name in names)}


def is_own(names: Sequence[str]) -> bool:
    """Return whether columns are those of a table of own questions, and not of items or of images.

    Args:
        names: Of the columns.

    Example:
        >>> is_own(["question", "options"]), is_own(["Question", "option_a", "answer"])
        (True, True)
        >>> is_own(["file", "label"]), is_own(["item_id", "question", "options", "option_ids"])
        (False, False)
    """
    plain = [str(name).strip().lower() for name in names]
    return (
        "question" in plain
        and bool("options" in plain or option_columns(plain) or "answer" in plain)
        and not {"item_id", "option_ids"} & set(plain)
    )


def option_columns(names: Sequence[str]) -> list[str]:
    """Return the columns that hold an option each, in the order of their letters.

    Args:
        names: Of all columns, in small letters.

    Example:
        >>> option_columns(["question", "option_b", "option_a"]), option_columns(["a", "b", "answer"])
        (['option_a', 'option_b'], ['a', 'b'])
    """
    small = LETTERS.lower()
    long = [f"option_{letter}" for letter in small if f"option_{letter}" in names]
    if long or "options" in names or not {"a", "b"} <= set(names):
        return long
    return [letter for letter in small if letter in names]
