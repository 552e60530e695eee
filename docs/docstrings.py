"""How the site reads docstrings: examples as code, formulas and columns as they stand in the source."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

# "Example:" stands alone; the parser knows "Examples:" as the section whose lines are code.
EXAMPLE = re.compile(r"^Example:$", flags=re.MULTILINE)


class Docstrings(Extension):
    """Turns the docstrings of the package into what the parser of the site understands."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one function, class or module, before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = as_it_stands(EXAMPLE.sub("Examples:", obj.docstring.value))


def as_it_stands(text: str) -> str:
    """Return the text with formulas and columns of the description as code, so that lines stay lines.

    Those are paragraphs before the first section whose lines all have an equals sign or columns; a line
    alone starts with what it defines.
    """
    head, sections = divided(text)
    paragraphs = head.split("\n\n")
    return "\n\n".join(block(p) if is_formula(p) else p for p in paragraphs) + sections


def divided(text: str) -> tuple[str, str]:
    """Return what stands before the first section ("Args:" and the like), and the rest."""
    found = re.search(r"^(Args|Attributes|Returns|Raises|Examples|Source|Differs):", text, re.MULTILINE)
    return (text[: found.start()], text[found.start() :]) if found else (text, "")


def is_formula(paragraph: str) -> bool:
    """Return whether lines of this paragraph must stay lines."""
    lines = paragraph.splitlines()
    if not lines or any(line.startswith((" ", "-", "|", "*")) for line in lines):
        return False
    columns = any(re.search(r"\S {3,}\S", line) for line in lines)
    equations = len(lines) > 1 and all(re.search(r"\S += +\S", line) for line in lines)
    equation = len(lines) == 1 and re.match(r"\w+(\([^)]*\))? = \S", lines[0])
    return bool(columns or equations or equation)


def block(paragraph: str) -> str:
    """Return the paragraph as a block of code."""
    return "\n".join(f"    {line}" for line in paragraph.splitlines())
