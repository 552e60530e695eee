"""How the findings of every `calib data check` end: what is worth a look, and what would be refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BEGINS = "Training would begin: nothing was found that it refuses."


def verdict(found: Mapping[str, Any], *, by: str = "Training", good: str = BEGINS) -> list[str]:
    """Return the last lines of the findings as text.

    Args:
        found: What was found, with "warnings" and "refused", lists of sentences.
        by: Who would refuse.
        good: The last line where nothing is refused.

    Example:
        >>> verdict({"warnings": [], "refused": ["2 classes have no image."]})
        ['', 'Training would refuse:', '- 2 classes have no image.']
    """
    lines = []
    for title, key in (("Worth a look", "warnings"), (f"{by} would refuse", "refused")):
        if found[key]:
            lines += ["", f"{title}:", *(f"- {each}" for each in found[key])]
    return lines if found["refused"] else [*lines, "", good]
