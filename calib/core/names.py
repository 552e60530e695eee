"""Class names: as they are read in a sentence, and told apart."""

from __future__ import annotations

from collections.abc import Sequence


def plain_name(class_name: str) -> str:
    """Return a class name, folder name or label as it is read in a sentence: underscores become spaces.

    Example:
        >>> plain_name("smooth_muscle")
        'smooth muscle'
    """
    return " ".join(class_name.replace("_", " ").split())


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
    for index, name in enumerate(names):
        if not name:
            raise ValueError(
                f"Class name number {index} is empty: {class_names[index]!r} (data.class_names)."
            )
        if name in names[:index]:
            raise ValueError(
                f"Two classes are both called '{name}'; nothing could tell them apart (data.class_names)."
            )
    return names
