"""The page of an evaluation, in the style of the report on a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from calib.metrics import Column
from calib.report.document import Document, Picture, Section, Table, Value
from calib.report.page import as_html
from calib.report.svg import Chart
from calib.report.tables import Cell
from calib.vqa.evaluation.phrases import counted
from calib.vqa.evaluation.tables import Field, ResultTable, shown
from calib.vqa.schema import ORIGINAL
from calib.vqa.uncertainty import METHODS

# Heading, what it answers, its tables; those of many rows are folded.
SECTIONS = (
    ("answers", "Answers", ("overview", "letters", "orders")),
    ("errors", "Error detection: which answers are wrong", ("errors",)),
    ("calibration", "Calibration: are confidences true", ("calibration", "transfer")),
    ("shift", "Changed questions: what happens to answers and uncertainty", ("shift", "shift_uncertainty")),
    ("collapse", "Collapse: is it foreseen", ("collapse",)),
    ("tracking", "Accuracy: does quality follow it", ("tracking", "cells")),
    ("robustness", "Robustness: a real shift", ("robustness",)),
    ("methods", "Methods: what they are and need", ("methods",)),
)
LONG = 30  # rows from which a table is folded
MOST = 2000  # rows that a page shows; the files have all


def page(tables: Mapping[str, ResultTable], sentences: Sequence[str], about: Mapping[str, Any]) -> str:
    """Return an evaluation as one HTML page that asks nothing of the network.

    Args:
        tables: Tables by name.
        sentences: The findings in words.
        about: What was evaluated and how.
    """
    sections = [Section(name="summary", title="In words", said=list(sentences))]
    for name, title, keys in SECTIONS:
        filled = [(key, tables[key]) for key in keys if key in tables and tables[key].rows]
        if not filled:
            continue
        section = Section(name=name, title=title)
        for key, table in filled:
            section.tables.append(_table(key, table))
            section.notes.append(f"{table.title}. {table.note}")
            if len(table.printed) > MOST:
                section.notes.append(
                    f"{MOST:,} of {len(table.printed):,} rows are shown; tables/{key}.csv has all."
                )
        if name == "tracking" and "cells" in tables:
            section.pictures += _cloud(tables, about)
        if name == "collapse":
            section.pictures += _foreseen(tables)
        sections.append(section)
    return as_html(
        Document(
            title="Uncertainty of answers to visual questions",
            subtitle=(
                f"{counted(about['outputs'], 'answer')} of {counted(len(about['systems']), 'system')} to "
                f"{counted(about['items'], 'item')} of {counted(len(about['datasets']), 'data set')}."
            ),
            sections=sections,
        )
    )


def _table(key: str, table: ResultTable) -> Table:
    fields = [each for each in table.fields if each.shown and _says_something(table, each)]
    named = [each for each in fields if each.key in ("system", "dataset", "condition", "source", "target")]
    first = [each for each in fields if each.key in ("method", "cell", "place", "shift")]
    named += first if key != "methods" else first[:1]
    rest = [each for each in fields if each not in named]
    rows: dict[str, Mapping[str, Value]] = {}
    for i, row in enumerate(table.printed[:MOST]):
        name = " · ".join(str(row.get(each.key) or "") for each in named if row.get(each.key)) or str(i + 1)
        rows[name if name not in rows else f"{name} ({i + 1})"] = {
            each.key: _value(row, each) for each in rest
        }
    return Table(
        name=key,
        title=table.title,
        corner=" · ".join(each.title for each in named),
        columns={each.key: _column(each) for each in rest},
        rows=rows,
        folded=len(table.printed) > LONG or key in ("cells", "letters", "methods"),
    )


def _says_something(table: ResultTable, column: Field) -> bool:
    return any(row.get(column.key) not in (None, "", "n/a") for row in table.rows)


def _column(column: Field) -> Column:
    percent = column.form in ("share", "points")
    title = (
        column.title if percent == ("%" in column.title) else f"{column.title} %" if percent else column.title
    )
    if not percent:  # a fraction would be shown in percent
        title = title.replace(" %", " percent")
    decimals = {"share": 1, "points": 1, "mean": 1, "count": 0}.get(column.form, 3)
    return Column(title, decimals=decimals, signed=column.form == "points")


def _value(row: Mapping[str, Any], column: Field) -> Value:
    value = row.get(column.key)
    if value is None or isinstance(value, str):
        return value
    if column.form == "count":
        return int(value)
    if column.form == "p":  # of three decimals a small one would be 0.000
        return shown(row, column)
    if column.form == "points":
        value = round(value, 3) + 0.0  # no -0.0
    ends = [row.get(f"{column.key}_{end}") for end in ("low", "high")]
    if any(not isinstance(end, float) or math.isnan(end) for end in ends):
        return Cell(float(value))
    return Cell(float(value), interval=(float(ends[0]), float(ends[1])))  # type: ignore[arg-type]


def _foreseen(tables: Mapping[str, ResultTable]) -> list[Picture]:
    """Return what foresees collapse beside what the best rival alone gives, a dot for every method."""
    rows = [row for row in tables["collapse"].matching(condition="nota") if "null_mean" in row]
    rows = [row for row in rows if not METHODS[row["method"]].baseline]
    if not rows:
        return []
    ends = [row[key] for row in rows for key in ("auroc", "auroc_low", "null_mean") if row[key] == row[key]]
    low = min(0.5, *ends)
    said = (
        "AUROC for collapse under nota, a dot with its interval for every method, system and data set, "
        "beside what the strength of the best rival alone gives. On the line nothing but the rival is "
        "foreseen."
    )
    chart = Chart("Collapse", said, (low, 1), (low, 1), "by the rival alone %", "AUROC %")
    chart.line([low, 1], [low, 1], "ideal")
    for row in rows:
        if row["auroc_low"] == row["auroc_low"]:
            chart.bracket(row["null_mean"], row["auroc_low"], row["auroc_high"], "axis")
        chart.mark(row["null_mean"], row["auroc"], "dot full")
    return [Picture(chart.svg("collapse-rival"), said)]


def _cloud(tables: Mapping[str, ResultTable], about: Mapping[str, Any]) -> list[Picture]:
    """Return the picture of accuracy and AUROC of the reference method, a dot for every cell."""
    reference = about["protocol"]["reference"]
    rows = [row for row in tables["cells"].matching(method=reference) if "auroc" in row]
    if len(rows) < 3:
        return []
    low = min(0.5, *(row["auroc"] for row in rows))
    said = f"Accuracy and AUROC of {reference}, a dot for every system, data set and cell."
    chart = Chart(f"Accuracy and AUROC of {reference}", said, (0, 1), (low, 1), "accuracy %", "AUROC %")
    for row in rows:
        chart.mark(row["accuracy"], row["auroc"], "dot full")
    return [Picture(chart.svg("tracking-cloud"), f"{said} Condition {ORIGINAL}.")]
