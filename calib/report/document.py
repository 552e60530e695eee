"""What a report is made of: sections of sentences, tables and figures, before they become a page or files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from calib.metrics import Column
from calib.report.tables import Cell, format_cell

Value = Cell | float | int | str | None
COUNT = Column("n", decimals=0)
NO_TEST = "If the labelled cases it was fitted on are among these images, this is no test."

PROMISED = "What is promised, and on what conditions"


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text of several, one by one.

    Example:
        >>> sentences_of("At most 2.5 % are wrong. It holds for cases like these: not after a change.")
        ['At most 2.5 % are wrong.', 'It holds for cases like these: not after a change.']
    """
    return re.split(r"(?<=[.]) (?=[A-Z])", text)


@dataclass(frozen=True)
class Table:
    """A table: rows by name, columns by key.

    Attributes:
        name: What it is called in the files, e.g. "comparison".
        title: Its caption on the page.
        corner: What stands above the names of the rows.
        columns: Key to column; fractions are shown in percent where its title has a "%".
        rows: Name to values by key: numbers (fractions, never percent), texts, None where there is nothing.
        difference: Whether the numbers are differences, which have a sign.
        folded: Whether the page shows it only when asked to.
        shaded: Whether cells are darker the larger their share of the row, as in a confusion matrix.
    """

    name: str
    title: str
    corner: str
    columns: Mapping[str, Column]
    rows: Mapping[str, Mapping[str, Value]]
    difference: bool = False
    folded: bool = False
    shaded: bool = False

    def cell(self, row: Mapping[str, Value], key: str) -> str:
        """Return a value as it is shown.

        Args:
            row: One of the rows.
            key: One of the columns.

        Example:
            >>> table = Table("t", "", "class", {"recall": Column("recall %"), "n": COUNT}, {})
            >>> table.cell({"recall": Cell(0.5, interval=(0.25, 0.75))}, "recall"), table.cell({"n": 12}, "n")
            ('50.0 [25.0, 75.0]', '12')
        """
        value = row.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value:,}"
        return format_cell(self.columns[key], value, difference=self.difference)

    def is_text(self, key: str) -> bool:
        """Return whether a column holds texts, which stand to the left."""
        return any(isinstance(row.get(key), str) for row in self.rows.values())

    def shade(self, row: Mapping[str, Value], key: str) -> int:
        """Return how dark a cell of counts is by its share of the row, from 0 to 5."""
        numbers = [value for value in row.values() if isinstance(value, int)]
        value = row.get(key)
        return math.ceil(5 * value / sum(numbers)) if isinstance(value, int) and value else 0

    def texts(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows as texts."""
        header = [self.corner, *(column.title for column in self.columns.values())]
        return header, [
            [name, *(self.cell(row, key) for key in self.columns)] for name, row in self.rows.items()
        ]


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        svg: The drawing, escaped.
        caption: What it shows, in words that stand below it.
        wide: Whether it takes the whole width.
    """

    svg: Markup
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Case:
    """One image with what the model said of it.

    Attributes:
        title: Its name, or a number where names are left out.
        label: The true class.
        prediction: The predicted one.
        confidence: Of the prediction.
        doubt: The score that sorts.
        why: The reason in words.
        thumbnail: The image as a data address. None: it is not at hand.
    """

    title: str
    label: str
    prediction: str
    confidence: float
    doubt: float
    why: str
    thumbnail: str | None = None


@dataclass
class Section:
    """A part of the report.

    Attributes:
        name: Its anchor, e.g. "reliability".
        title: Its heading.
        said: Paragraphs in plain words.
        points: Heading to short points below the paragraphs, as the conditions of a guarantee.
        pictures: Its figures.
        tables: Its tables.
        cases: Heading to images.
        slider: What the slider needs, see `calib.report.sections.steps`. None: the section has none.
        checklist: Guideline to rows (item, topic, state, where). Empty: it is no checklist.
        notes: Remarks in small print.
    """

    name: str
    title: str
    said: list[str] = field(default_factory=list)
    points: dict[str, list[str]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    cases: dict[str, list[Case]] = field(default_factory=dict)
    slider: dict[str, Any] | None = None
    checklist: dict[str, list[tuple[str, str, str, str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: Its heading.
        subtitle: A line below it.
        sections: Its parts, in order.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]

    @property
    def tables(self) -> dict[str, Table]:
        """All tables by name."""
        return {table.name: table for section in self.sections for table in section.tables}
