"""The result of an evaluation: tables with their columns, sentences, and the files made of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from calib.core.errors import unknown_name
from calib.core.text import printable, safe_text
from calib.io.files import read_json, write_json, write_text
from calib.report.tables import aligned

KIND = "vqa evaluation"
Form = Literal["text", "count", "share", "points", "number", "p"]


@dataclass(frozen=True)
class Field:
    """A column of a table.

    Attributes:
        key: Its name in a row; KEY_low and KEY_high are the ends of its interval.
        title: What stands above it.
        form: "share": a fraction shown in percent; "points": a signed difference of two; "number" as it is.
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
    """

    title: str
    note: str
    fields: tuple[Field, ...]
    rows: list[dict[str, Any]]

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


@dataclass
class Evaluation:
    """What an evaluation has found.

    Attributes:
        tables: Tables by name.
        sentences: The findings in words.
        about: What was evaluated and how, for the record.
    """

    tables: dict[str, ResultTable] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def table(self, name: str) -> str:
        """Return a table as Markdown.

        Args:
            name: A key of `tables`.

        Raises:
            ValueError: There is no such table.
        """
        return self._look_up(name).markdown()

    def rows(self, name: str, **where: str) -> list[dict[str, Any]]:
        """Return rows of a table, those that say so in the columns named.

        Args:
            name: A key of `tables`.
            **where: Columns and what they say, e.g. method="option_msp".

        Raises:
            ValueError: There is no such table.
        """
        return [
            row
            for row in self._look_up(name).rows
            if all(row.get(key) == value for key, value in where.items())
        ]

    def text(self) -> str:
        """Return the findings in words, a line each."""
        return "\n".join(f"- {printable(sentence)}" for sentence in self.sentences)

    def to_record(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "kind": KIND,
            "about": self.about,
            "sentences": self.sentences,
            "tables": {name: {"note": each.note, "rows": each.rows} for name, each in self.tables.items()},
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write tables/*.csv, tables.md, report.html and at last metrics.json; return the files.

        Tables of an earlier evaluation in the same folder, those its metrics.json names, are removed.

        Args:
            folder: Where; it is made.
        """
        from calib.vqa.evaluation.page import page

        folder = Path(folder)
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        for name in _earlier(folder / "metrics.json"):
            (folder / "tables" / f"{name}.csv").unlink(missing_ok=True)
        written = []
        for name, each in self.tables.items():
            if each.rows:
                written.append(folder / "tables" / f"{name}.csv")
                write_text(written[-1], each.csv())
        texts = {
            "tables.md": "\n".join([self.text() + "\n", *(each.markdown() for each in self.tables.values())]),
            "report.html": page(self),
        }
        for name, text in texts.items():
            written.append(folder / name)
            write_text(written[-1], text)
        written.append(folder / "metrics.json")
        write_json(written[-1], self.to_record())
        return written

    def _look_up(self, name: str) -> ResultTable:
        if name not in self.tables:
            raise unknown_name("table", name, self.tables)
        return self.tables[name]


def _earlier(path: Path) -> list[str]:
    """Return the names of the tables that an evaluation has written beside its metrics.json."""
    try:
        record = read_json(path)
    except (FileNotFoundError, ValueError):
        return []
    if not isinstance(record, dict) or record.get("kind") != KIND:
        return []
    tables = record.get("tables")
    names = tables if isinstance(tables, dict) else {}
    return [name for name in names if name and not set(name) & set("/\\\0")]


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
        return f"{100 * value:+.1f}"
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


def joined_words(words: Sequence[str]) -> str:
    """Return words as a list in a sentence.

    Example:
        >>> joined_words(["a", "b", "c"])
        'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
