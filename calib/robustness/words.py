"""What was found under shifts in sentences: the worst, promises that are not kept, what means nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from calib.core.text import few
from calib.report.tables import format_cell
from calib.robustness.measures import MEASURES, measure_of
from calib.robustness.result import (
    AS_IT_IS,
    CORRUPTION,
    SHIFT,
    USUAL,
    Condition,
    Robustness,
    Row,
    Value,
)
from calib.robustness.shift import TOGETHER

ARROW = "→"
PROMISE = {"coverage": "coverage", "error": "error"}  # measure to what it was fitted for


def findings(found: Robustness) -> list[str]:
    """Return in sentences what the numbers of the first model say, and what they do not."""
    main = found.systems[0]
    told = [*_worst(found, main)]
    if main in found.effective:
        told.append(f"{main}: {found.effective[main].sentence()}")
    told += [line for name in ("coverage", "error") for line in _promise(found, main, name)]
    told += _shifts(found, main)
    return [*told, *_sees_nothing(found, main), *found.notes]


def cell_of(name: str, value: float | None, *, there: bool = True) -> str:
    """Return a measure's value as it stands in a cell."""
    return format_cell(measure_of(name).column, value) if there else ""


def ends_of(value: Value) -> tuple[float, float] | None:
    """Return the ends of an interval; None where it is undefined."""
    return (value.low, value.high) if math.isfinite(value.low) and math.isfinite(value.high) else None


def _worst(found: Robustness, system: str) -> Iterator[str]:
    single = [each for each in found.conditions if each.kind == CORRUPTION and each.severity is not None]
    rows = [
        row
        for each in single
        if each.corruption and (row := found.find(system, each.name, "accuracy")) is not None
    ]
    if not rows:
        return
    row = min(rows, key=lambda each: each.value.value)
    parts = []
    for name in ("accuracy", "ece", "auroc"):
        pair = [found.find(system, each, name) for each in (AS_IT_IS, row.condition.name)]
        if all(each is not None for each in pair):
            values = f" {ARROW} ".join(cell_of(name, each.value.value) for each in pair if each is not None)
            parts.append(f"{MEASURES[name].column.title.removesuffix(' %')} {values} %")
    yield f"{system}: worst under {row.condition.name}: {', '.join(parts)}."


def _promise(found: Robustness, system: str, name: str) -> Iterator[str]:
    asked = found.promised.get(system, {}).get(PROMISE[name])
    every = [row for row in found.rows if (row.system, row.measure) == (system, name)]
    rows = [row for row in every if math.isfinite(row.value.value)]
    if asked is None or not every:
        return
    usual = next((row for row in rows if row.condition.name == AS_IT_IS), None)
    under = [row for row in rows if _is_single(row.condition)]
    sign = -1 if name == "coverage" else 1
    broken = [
        row for row in under if (row.value.high if name == "coverage" else -row.value.low) < -sign * asked
    ]
    if name == "coverage":
        told = f"Prediction sets are to hold the true class of at least {100 * asked:g} % of images"
    else:
        told = f"Of what the review threshold accepts at most {100 * asked:g} % is to be wrong"
    if usual is not None:
        told += f". As the images are, it is {100 * usual.value.value:.1f} %"
    if under:
        worst = max(under, key=lambda row: sign * row.value.value)
        told += f". {_kept_under(worst, len(broken), len(under))}"
    undefined = [row for row in every if not math.isfinite(row.value.value)]
    yield f"{told}{_not_accepted(found, undefined, bool(under))}."


def _not_accepted(found: Robustness, undefined: list[Row], more: bool) -> str:
    """Return where nothing is accepted, so that there is no error; empty: it is everywhere."""
    where: dict[str, list[str]] = {}
    for row in undefined:
        accepted = found.find(row.system, row.condition.name, "accepted")
        if accepted is not None and (_is_single(row.condition) or row.condition.name == AS_IT_IS):
            what = "nothing is accepted" if accepted.value.value == 0 else "some seeds accept nothing"
            where.setdefault(what, []).append(row.condition.name)
    if not where:
        return ""
    told = "; ".join(f"at {few(names, 4)} {what}" for what, names in where.items())
    return f"; {told}" if more else f". {told[0].upper()}{told[1:]}"


def _kept_under(worst: Row, broken: int, count: int) -> str:
    """Return whether a promise is kept under shifts, and where least."""
    where = f"{worst.condition.name} {100 * worst.value.value:.1f} %"
    if count == 1:
        kept = "broken" if broken else "not surely broken (its interval reaches the promise)"
        return f"Under {where}: {kept}"
    said = (
        f"Broken, interval and all, under {broken} of {count} shifts"
        if broken
        else f"Under none of {count} shifts is it surely broken"
    )
    return f"{said}; the worst is {where}"


def _is_single(condition: Condition) -> bool:
    if condition.kind == SHIFT:
        return not condition.name.endswith(f": {TOGETHER}")
    return condition.kind == CORRUPTION and condition.severity is not None and bool(condition.corruption)


def _shifts(found: Robustness, system: str) -> Iterator[str]:
    for condition in found.conditions:
        row = found.find(system, condition.name, "accuracy")
        gap = found.find(system, condition.name, "ece")
        if condition.kind != SHIFT or row is None or row.change is None or gap is None or gap.change is None:
            continue
        before, after = row.value.value - row.change.value, row.value.value
        base = found.find(system, condition.against, "accuracy")
        against = "" if base is None else f" against {in_words(found, condition.against)} ({base.n})"
        change = f"by {_signed(row.change)} points; ECE by {_signed(gap.change)} points"
        yield (
            f"{in_words(found, condition.name)} ({row.n} images){against}: accuracy {100 * before:.1f} "
            f"{ARROW} {100 * after:.1f} %, {change}."
        )


def in_words(found: Robustness, name: str) -> str:
    """Return what a condition is called in a sentence: which values of a column are usual is said.

    Args:
        found: Everything that was found.
        name: Of the condition.
    """
    column, separator, value = name.partition(": ")
    usual = (found.about.get("shifts") or {}).get(column, {}).get("usual") if separator else None
    if usual and value == USUAL:
        return f"{column} {few(usual)} (usual)"
    return f"{column} {value}" if usual else name


def _sees_nothing(found: Robustness, system: str) -> Iterator[str]:
    own = found.find(system, AS_IT_IS, "ece")
    seen = []  # calibrated where it could be: what the table shows
    for name, values in found.sanity.items():
        plain, calibrated = values["ece"]
        value = plain if calibrated is None else calibrated
        if value is not None:
            seen.append((value, name if calibrated is None else f"{name}, calibrated"))
    if own is None or not seen:
        return
    value, name = min(seen)
    says = (
        "a low ECE alone says nothing"
        if value <= own.value.value
        else "nothing that sees no image is calibrated as well here"
    )
    yield (
        f"On all images as they are what sees nothing has an ECE of {100 * value:.1f} % ({name}), "
        f"{system} of {100 * own.value.value:.1f} %: {says}."
    )


def _signed(value: Value) -> str:
    ends = ends_of(value)
    interval = "" if ends is None else f" [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]"
    return f"{100 * value.value:+.1f}{interval}"
