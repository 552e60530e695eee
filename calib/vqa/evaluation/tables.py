"""Tables of an evaluation: their columns and rows, and how a cell is printed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from calib.core.text import printable, safe_text
from calib.report.tables import aligned

Form = Literal["text", "count", "share", "points", "mean", "number", "p"]


@dataclass(frozen=True)
class Field:
    """A column of a table.

    Attributes:
        key: Its name in a row; KEY_low and KEY_high are the ends of its interval.
        title: What stands above it.
        form: "share": a fraction shown in percent; "points": a signed difference of two; "mean": a mean of
            counts, to a tenth; "number": to thousandths.
        shown: Whether printed tables have it; files always do.
    """

    key: str
    title: str
    form: Form = "text"
    shown: bool = True


@dataclass(frozen=True)
class ResultTable:
    """A table of an evaluation.

    Attributes:
        title: What it answers.
        note: How it is to be read: what was corrected for, what was left out.
        fields: Its columns.
        rows: Its rows, numbers as they are.
        finding: What it says as a whole, for the sentences; empty: nothing.
    """

    title: str
    note: str
    fields: tuple[Field, ...]
    rows: list[dict[str, Any]]
    finding: str = ""

    def cells(self, row: Mapping[str, Any]) -> list[str]:
        """Return the printed cells of a row."""
        return [shown(row, each) for each in self._printed_fields]

    @property
    def titles(self) -> list[str]:
        """What stands above the printed columns."""
        return [each.title for each in self._printed_fields]

    @property
    def _printed_fields(self) -> list[Field]:
        """Those that are printed; texts that no row has are left out."""
        return [
            each
            for each in self.fields
            if each.shown and (each.form != "text" or any(row.get(each.key) for row in self.rows))
        ]

    @property
    def printed(self) -> list[dict[str, Any]]:
        """The rows as they are printed: methods without a number that say the same share a row."""
        made: list[dict[str, Any]] = []
        shared: list[str] = []
        before: list[str] = []
        for row in self.rows:
            cells = self.cells({**row, "method": ""}) if row.get("why") and "method" in row else []
            if cells and cells == before:
                shared.append(str(row["method"]))
                made[-1]["method"] = f"{shared[0]} and {len(shared) - 1} more"
            else:
                made.append(dict(row))
                shared, before = [str(row.get("method"))], cells
        return made

    def matching(self, **where: str) -> list[dict[str, Any]]:
        """Return the rows that say so in the columns named, e.g. method="option_msp"."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in where.items())]

    def markdown(self) -> str:
        """Return the table as Markdown, with its title and its note."""
        if not self.rows:
            return f"### {self.title}\n\nNothing to show: {self.note}\n"
        body = aligned(self.titles, [[printable(cell) for cell in self.cells(row)] for row in self.printed])
        return f"### {self.title}\n\n{body}\n\n{self.note}\n"

    def csv(self) -> str:
        """Return every column of the table as CSV, numbers in full; an undefined number is empty."""
        keys = list(dict.fromkeys(key for row in self.rows for key in row))
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(keys)
        for row in self.rows:
            writer.writerow([_plain(row.get(key)) for key in keys])
        return out.getvalue()


def shown(row: Mapping[str, Any], column: Field) -> str:
    """Return a printed cell, with its interval where the row has one; what is undefined is n/a.

    Example:
        >>> shown({"acc": 0.5, "acc_low": 0.41, "acc_high": 0.6}, Field("acc", "accuracy %", "share"))
        '50.0 [41.0, 60.0]'
    """
    value = row.get(column.key)
    if column.form == "text" or isinstance(value, str):
        return "" if value is None else str(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    text = _number(value, column.form)
    ends = [row.get(f"{column.key}_{end}") for end in ("low", "high")]
    if all(isinstance(end, float) and not math.isnan(end) for end in ends):
        text += f" [{', '.join(_number(end, column.form) for end in ends)}]"
    return text


def _number(value: Any, form: Form) -> str:
    if form == "count":
        return f"{int(value):,}"
    if form == "share":
        return f"{100 * value:.1f}"
    if form == "points":
        return f"{round(100 * value, 1) + 0.0:+.1f}"  # -0.0 + 0.0 is 0.0
    if form == "mean":
        return f"{value:.1f}"
    if form == "p":
        return "≤0.001" if value <= 0.001 else f"{value:.3f}"
    return f"{value:.3f}"


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return (
        safe_text(value)
        if isinstance(value, str)
        else repr(value)
        if isinstance(value, float)
        else str(value)
    )
