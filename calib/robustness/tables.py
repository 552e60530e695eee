"""What was found under shifts as tables: one at a glance, all of them, rows for CSV, a record for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from calib.report.tables import Cell, aligned, format_cell
from calib.robustness.measures import MEASURES, SEPARATOR, measure_of
from calib.robustness.result import AS_IT_IS, CORRUPTION, MEAN, SHIFT, Robustness, Row, Value
from calib.robustness.shift import TOGETHER
from calib.robustness.words import ARROW, PROMISE, cell_of, ends_of, findings, in_words

HEADER = ("system", "condition", "kind", "corruption", "severity", "measure", "n", "sd")
NUMBERS = ("value", "change", "kept")  # each with _low and _high


def glance(found: Robustness) -> str:
    """Return the table that is read first: models, and what sees nothing, as it is and under shift.

    A cell with an arrow holds a number of the images as they are and its mean over all corruptions; where
    there are none, of usual images and of all others. Sanity baselines are of the images as they are, with
    their temperature fitted on validation images where there are any.
    """
    before, after = _ends(found)
    shown = _shown(found)
    rows = []
    for system in found.systems:
        cells = [_pair(found, system, before, after, name) for name in shown]
        rows.append([system, *cells])
    for name, values in found.sanity.items():
        calibrated = any(pair[1] is not None for pair in values.values())
        picked = {key: plain if fitted is None else fitted for key, (plain, fitted) in values.items()}
        cells = [cell_of(key, picked.get(key), there=key in picked) for key in shown]
        label = f"({name}{', calibrated' if calibrated else ''})"
        rows.append([label, *cells])
    return aligned(["model", *(_title(found, name) for name in shown)], rows)


def changes(found: Robustness) -> str:
    """Return a table of what the shift of `glance` does to the first model: a line per measure, intervals.

    The change is paired; the share that is left is the relative robustness, of measures where more is better:
    of an ECE it is one of 1 - ECE, which nobody reads right, so that there the change stands alone.
    """
    system = found.systems[0]
    before, after = _ends(found)
    body = []
    for name in _shown(found):
        pair = [found.find(system, each, name) for each in (before, after)]
        if pair[0] is None or pair[1] is None or pair[1].change is None:
            continue
        column, change, left = measure_of(name).column, pair[1].change, pair[1].kept
        interval = ends_of(change)
        body.append(
            [
                _title(found, name),
                cell_of(name, pair[0].value.value),
                cell_of(name, pair[1].value.value),
                format_cell(column, Cell(change.value, interval=interval), difference=True),
                _ratio(pair[1]) if measure_of(name).more_is_better and _known(left) else "",
            ]
        )
    level = f"{100 * found.about.get('level', 0.95):g} %"
    head = [system, "before", "after", f"change [{level}]", f"share that is left [{level}]"]
    return aligned(head, body)


def strengths(found: Robustness) -> str:
    """Return a table of the first model by severity: a line for each, means over corruptions.

    Empty where one severity at most was asked for.
    """
    system, several = found.systems[0], len(found.about.get("corruptions", ())) > 1
    lines = [
        each
        for each in found.conditions
        if each.kind == CORRUPTION and each.severity is not None and bool(each.corruption) is not several
    ]
    if len(lines) < 2:
        return ""
    shown = _shown(found)
    body = []
    for condition in (AS_IT_IS, *(each.name for each in lines)):
        rows = [found.find(system, condition, name) for name in shown]
        body.append([condition, *(_plain_cell(row) for row in rows)])
    return aligned([system, *(_title(found, name) for name in shown)], body)


def _plain_cell(row: Row | None) -> str:
    return "-" if row is None else cell_of(row.measure, row.value.value)


def _known(value: Value | None) -> bool:
    return value is not None and math.isfinite(value.value)


def heading(found: Robustness) -> str:
    """Return the line above the table: which images, what was done to them."""
    about = found.about
    of = f" of {about['groups']} groups (patients)" if about["groups"] < about["images"] else ""
    before, after = _ends(found)
    if found.effective:
        kinds, levels = about["corruptions"], about["severities"]
        done = f"images as they are {ARROW} "
        if len(kinds) > 1 or len(levels) > 1:
            done += "mean over "
        done += kinds[0] if len(kinds) == 1 else f"{len(kinds)} corruptions"
        done += f" at severit{'ies' if len(levels) > 1 else 'y'} {', '.join(map(str, levels))}"
    else:
        rows = [found.find(found.systems[0], name, "accuracy") for name in (before, after)]
        done = f" {ARROW} ".join(
            f"{in_words(found, row.condition.name)} ({row.n} images)" for row in rows if row is not None
        )
    blind = " In brackets: what sees nothing, on all images as they are." if found.sanity else ""
    return f"{about.get('data', 'Data')}: {about['images']} images{of}. Each cell: {done}.{blind}"


def tables(found: Robustness) -> str:
    """Return all tables in Markdown, with headings."""
    told = "\n".join(f"- {line}" for line in findings(found))
    parts = ["# Robustness", heading(found), glance(found), changes(found), strengths(found), told]
    for system in found.systems:
        parts += [f"## {system}: values", _values(found, system)]
        parts += [
            f"## {system}: relative robustness",
            "How much of what is good is left: 1 is all of it (accuracy, AUROC, coverage, acceptance m: m "
            "shifted / m usual; ECE, AURC, error: the same of 1 - m; NLL: of exp(-NLL)). With intervals.",
            _kept(found, system),
        ]
    if found.sanity:
        parts += ["## What sees nothing", _sanity(found)]
    return "\n\n".join(filter(None, parts)) + "\n"


def csv_rows(found: Robustness) -> Iterator[list[str]]:
    """Yield the header and a row for each model, condition and measure: fractions, empty where undefined."""
    ends = [f"{name}{end}" for name in NUMBERS for end in ("", "_low", "_high")]
    yield [*HEADER, *ends]
    for row in found.rows:
        condition = row.condition
        yield [
            row.system,
            condition.name,
            condition.kind,
            condition.corruption,
            "" if condition.severity is None else str(condition.severity),
            row.measure,
            str(row.n),
            _plain(row.sd),
            *(_plain(number) for name in NUMBERS for number in _triple(getattr(row, name))),
        ]


def as_record(found: Robustness) -> dict[str, Any]:
    """Return everything for JSON."""
    return {
        "about": dict(found.about),
        "rows": [
            {
                "system": row.system,
                "condition": row.condition.name,
                "kind": row.condition.kind,
                "corruption": row.condition.corruption,
                "severity": row.condition.severity,
                "measure": row.measure,
                "n": row.n,
                "sd": row.sd if math.isfinite(row.sd) else None,
                **{
                    name: None if (value := getattr(row, name)) is None else value.as_record()
                    for name in NUMBERS
                },
            }
            for row in found.rows
        ],
        "effective": {
            name: {
                "accuracy": each.accuracy,
                "confidence": each.confidence,
                "followed": each.followed,
                "gap": each.gap,
                "cells": each.cells,
                "ranks": None if each.ranks is None else {"rho": each.ranks.rho, "p": each.ranks.p},
            }
            for name, each in found.effective.items()
        },
        "sanity": {
            name: {key: _finite(pair) for key, pair in values.items()}
            for name, values in found.sanity.items()
        },
        "promised": {name: dict(each) for name, each in found.promised.items()},
        "notes": list(found.notes),
    }


def _ends(found: Robustness) -> tuple[str, str]:
    """Return the two conditions of an arrow."""
    corrupted = [each for each in found.conditions if each.kind == CORRUPTION]
    if corrupted:
        names = {each.name for each in corrupted}
        return AS_IT_IS, MEAN if MEAN in names else corrupted[-1].name
    shifts = [each for each in found.conditions if each.kind == SHIFT]
    together = [each for each in shifts if each.name.endswith(f": {TOGETHER}")]
    last = (together or shifts)[0]
    return last.against, last.name


def _shown(found: Robustness) -> list[str]:
    there = {row.measure for row in found.rows}
    return [name for name in MEASURES if name in there and name != "set_size"]


def _title(found: Robustness, name: str) -> str:
    title = measure_of(name).column.title
    asked = {each[PROMISE[name]] for each in found.promised.values() if PROMISE.get(name) in each}
    if len(asked) != 1:
        return title
    return f"{title} ({'≥' if name == 'coverage' else '≤'} {100 * asked.pop():g})"


def _pair(found: Robustness, system: str, before: str, after: str, name: str) -> str:
    pair = [found.find(system, each, name) for each in (before, after)]
    if pair[0] is None or pair[1] is None:
        return "-"
    return f" {ARROW} ".join(cell_of(name, row.value.value) for row in pair if row is not None)


def _values(found: Robustness, system: str) -> str:
    names = list(dict.fromkeys(row.measure for row in found.rows if row.system == system))
    body = []
    for condition in found.conditions:
        cells = []
        for name in names:
            row = found.find(system, condition.name, name)
            cells.append("-" if row is None else _with_change(row))
        body.append([condition.name, *cells])
    titles = [_full_title(name) for name in names]
    return (
        f"With the {found.about.get('level', 0.95):.0%} interval; under a shift the change, and its paired "
        f"interval, in brackets.\n\n{aligned(['condition', *titles], body)}"
    )


def _full_title(name: str) -> str:
    bare, _, doubt = name.partition(SEPARATOR)
    title = MEASURES[bare].column.title
    return f"{doubt}: {title}" if doubt else title


def _with_change(row: Row) -> str:
    column = measure_of(row.measure).column
    if row.change is None:
        return format_cell(column, Cell(row.value.value, interval=ends_of(row.value)))
    change = format_cell(column, Cell(row.change.value, interval=ends_of(row.change)), difference=True)
    return f"{format_cell(column, row.value.value)} ({change})"


def _kept(found: Robustness, system: str) -> str:
    names = [
        name
        for name in dict.fromkeys(row.measure for row in found.rows if row.system == system)
        if measure_of(name).good is not None
    ]
    body = []
    for condition in found.conditions:
        rows = [found.find(system, condition.name, name) for name in names]
        if any(row is not None and row.kept is not None for row in rows):
            body.append([condition.name, *(_ratio(row) for row in rows)])
    return aligned(["condition", *(_full_title(name).replace(" %", "") for name in names)], body)


def _ratio(row: Row | None) -> str:
    if row is None or row.kept is None or not math.isfinite(row.kept.value):
        return "n/a"
    ends = ends_of(row.kept)
    return f"{row.kept.value:.3f}" + ("" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]")


def _sanity(found: Robustness) -> str:
    names = [name for name in MEASURES if any(name in values for values in found.sanity.values())]
    body = []
    for baseline, values in found.sanity.items():
        for place, label in enumerate((baseline, f"{baseline}, calibrated")):
            numbers = [values[name][place] if name in values else None for name in names]
            if any(number is not None for number in numbers):
                body.append([label, *(cell_of(name, n) for name, n in zip(names, numbers, strict=True))])
    return aligned(["baseline", *(MEASURES[name].column.title for name in names)], body)


def _triple(value: Value | None) -> tuple[float, float, float]:
    return (math.nan,) * 3 if value is None else (value.value, value.low, value.high)


def _plain(number: float) -> str:
    return f"{number:.6g}" if math.isfinite(number) else ""


def _finite(pair: Sequence[float | None]) -> list[float | None]:
    return [number if number is not None and math.isfinite(number) else None for number in pair]
