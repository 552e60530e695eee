"""A report as files for programs and papers: JSON, one long CSV table, Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

from calib.core.text import safe_text
from calib.io.files import finite
from calib.report.document import Case, Document, Section, Table, Value
from calib.report.tables import Cell, aligned, markdown

LONG = ("table", "row", "column", "value", "low", "high", "sd")


def as_json(document: Document) -> str:
    """Return everything a report says as JSON: numbers are fractions, what is undefined is null."""
    content = {
        "title": document.title,
        "subtitle": document.subtitle,
        "sections": {section.name: _section(section) for section in document.sections},
    }
    return json.dumps(finite(content), indent=1, ensure_ascii=False) + "\n"


def _section(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "said": section.said,
        **({"points": section.points} if section.points else {}),
        "notes": section.notes,
        "tables": {
            table.name: {
                "title": table.title,
                "columns": {key: column.title for key, column in table.columns.items()},
                "rows": {
                    name: {key: _plain(row.get(key)) for key in table.columns}
                    for name, row in table.rows.items()
                },
            }
            for table in section.tables
        },
        **(
            {"cases": {title: [_case(case) for case in found] for title, found in section.cases.items()}}
            if section.cases
            else {}
        ),
        **({"steps": section.slider} if section.slider else {}),
        **(
            {
                "checklist": {
                    title: [dict(zip(("item", "topic", "state", "where"), row, strict=True)) for row in rows]
                    for title, rows in section.checklist.items()
                }
            }
            if section.checklist
            else {}
        ),
    }


def _case(case: Case) -> dict[str, Any]:
    return {key: value for key, value in asdict(case).items() if key != "thumbnail"}


def _plain(value: Value) -> Any:
    if not isinstance(value, Cell):
        return value
    said: dict[str, Any] = {"value": value.value}
    if value.sd is not None:
        said["sd"] = value.sd
    if value.interval is not None:
        said["low"], said["high"] = value.interval
    return said


def as_csv(document: Document) -> str:
    """Return all tables of a report as one long one: table, row, column, value, low, high, sd.

    Numbers are fractions; what is undefined is empty. No name begins as a formula.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LONG)
    for table in document.tables.values():
        for name, row in table.rows.items():
            for key in table.columns:
                writer.writerow(
                    [safe_text(table.name), safe_text(name), safe_text(key), *_cells(row.get(key))]
                )
    return text.getvalue()


def _cells(value: Value) -> list[str]:
    if isinstance(value, str):
        return [safe_text(value), "", "", ""]
    cell = value if isinstance(value, Cell) else Cell(value)
    low, high = cell.interval or (None, None)
    return [
        "" if each is None or math.isnan(each) else f"{each:.8g}" for each in (cell.value, low, high, cell.sd)
    ]


def as_markdown(document: Document) -> str:
    """Return a report as Markdown: sentences, tables, cases and checklists, without the figures."""
    parts = [f"# {markdown(document.title)}", markdown(document.subtitle)]
    for section in document.sections:
        parts.append(f"## {markdown(section.title)}")
        parts += [markdown(said) for said in section.said]
        for title, points in section.points.items():
            parts += [f"**{markdown(title)}**", "\n".join(f"- {markdown(point)}" for point in points)]
        for table in section.tables:
            parts += [f"**{markdown(table.title)}**", _table(table)]
        for title, found in section.cases.items():
            rows = [
                [
                    case.title,
                    case.label,
                    case.prediction,
                    f"{case.confidence:.4f}",
                    f"{case.doubt:.4f}",
                    case.why,
                ]
                for case in found
            ]
            header = ["image", "label", "called", "confidence", "doubt", "why"]
            parts += [f"**{markdown(title)}**", aligned(header, rows)]
        for title, items in section.checklist.items():
            rows = [list(row) for row in items]
            parts += [f"**{markdown(title)}**", aligned(["item", "what", "state", "where"], rows)]
        parts += [f"_{markdown(note)}_" for note in section.notes]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    header, rows = table.texts()
    return aligned(header, rows)
