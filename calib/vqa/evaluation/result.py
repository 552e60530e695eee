"""The result of an evaluation: tables, sentences, and the files made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calib.core.errors import unknown_name
from calib.core.text import printable
from calib.io.files import read_json, write_json, write_text
from calib.vqa.evaluation.page import page
from calib.vqa.evaluation.tables import ResultTable

KIND = "vqa evaluation"


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
        return self._look_up(name).matching(**where)

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
            "report.html": page(self.tables, self.sentences, self.about),
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
