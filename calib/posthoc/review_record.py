"""Records of review thresholds: plain values for JSON, and their tests done anew when they are read."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from calib.core.errors import unknown_name
from calib.posthoc.not_drawn import KEY, read_chosen
from calib.posthoc.review_counts import CurvePoint, point
from calib.posthoc.review_fitted import FittedReview, last_passed, passed

NAME = "review"
VERSION = 1
SETTINGS = ("max_error", "delta", "rule", "workload", "patients", "points", "seed")
WHOLE = ("cases", "units", "unlabelled")
YES_NO = ("grouped", "tied")
KEYS = ("name", "version", "settings", *WHOLE, *YES_NO, "tested", "curve", "wrong")
MOST = 1_000_000  # entries of a list, far more than any fit writes
R = TypeVar("R", bound="FittedReview")


def write_review(fitted: FittedReview) -> dict[str, Any]:
    """Return a fitted threshold as plain values; inf is written as null."""
    return {
        "name": NAME,
        "version": VERSION,
        "settings": {key: getattr(fitted, key) for key in SETTINGS},
        **{key: getattr(fitted, key) for key in (*WHOLE, *YES_NO)},
        "tested": [_row(each, fitted.cases) for each in fitted._tested],
        "curve": [_row(each, fitted.cases) for each in fitted._curve],
        **({KEY: list(fitted.chosen)} if fitted.chosen else {}),
        "wrong": [None if math.isinf(value) else value for value in fitted._wrong.tolist()],
    }


def read_review(kind: type[R], record: Any) -> R:
    """Return the fitted threshold that `write_review` has written.

    Args:
        kind: What is made.
        record: What was read from a file.

    Raises:
        ValueError: It is not as above, or its numbers contradict each other.
    """
    if not isinstance(record, dict) or {*record} - {KEY} != {*KEYS} or record["name"] != NAME:
        given = ", ".join(map(str, record)) if isinstance(record, dict) else repr(record)[:50]
        raise ValueError(f"A record of a review threshold has the keys {', '.join(KEYS)}, not {given[:200]}.")
    if type(record["version"]) is not int or record["version"] != VERSION:
        raise ValueError(
            f"The review threshold has version {record['version']!r}; this version reads {VERSION}. Fit it "
            "anew."
        )
    fitted = _of_settings(kind, record["settings"])
    fitted.chosen = read_chosen(record)
    for key in WHOLE:
        least = 0 if key == "unlabelled" else 1
        if type(record[key]) is not int or not least <= record[key] < 2**53:
            raise ValueError(f"{key} of a review threshold must be a whole number of at least {least}.")
        setattr(fitted, key, record[key])
    for key in YES_NO:
        if not isinstance(record[key], bool):
            raise ValueError(f"{key} of a review threshold must be true or false, not {record[key]!r}.")
        setattr(fitted, key, record[key])
    if fitted.units > fitted.cases:
        raise ValueError(f"{fitted.units} patients cannot have {fitted.cases} cases.")
    fitted._tested = _points(record["tested"], fitted, "tested")
    fitted._curve = _points(record["curve"], fitted, "curve")
    fitted._wrong = np.sort(np.array(_numbers(record["wrong"], "wrong"), dtype=np.float64))
    _check_whole(fitted)
    return fitted


def _of_settings(kind: type[R], settings: Any) -> R:
    if not isinstance(settings, dict):
        raise ValueError(f"settings of a review threshold must be a mapping, not {settings!r}.")
    for key in settings:
        if key not in SETTINGS:
            raise unknown_name("setting of a review threshold", key, SETTINGS)
    if {*settings} != {*SETTINGS}:
        raise ValueError(f"A review threshold has the settings {', '.join(SETTINGS)}.")
    return kind(**settings)


def _check_whole(fitted: FittedReview) -> None:
    """Refuse numbers that no fit gives together, and set the threshold that the tests give."""
    if not fitted._curve:
        raise ValueError("The record of a review threshold lacks its curve.")
    if fitted.rule == "batch":
        if fitted._tested or len(fitted._wrong) > fitted.units:
            raise ValueError("The record of a review threshold contradicts itself: it is of the batch rule.")
        return
    if len(fitted._wrong) or (fitted.rule == "workload" and len(fitted._tested) != 1):
        raise ValueError(f"The record of a review threshold contradicts itself: its rule is {fitted.rule}.")
    if fitted.rule == "workload":
        fitted._threshold = fitted._tested[0].threshold
        return
    if passed(fitted._tested, fitted.max_error, fitted.delta) < len(fitted._tested) - 1:
        raise ValueError(
            "The record of a review threshold contradicts itself: thresholds were tested after one that did "
            "not pass. Was it changed? Fit it anew."
        )
    fitted._threshold = last_passed(fitted._tested, fitted.max_error, fitted.delta)


def _row(each: CurvePoint, cases: int) -> list[Any]:
    at = None if math.isinf(each.threshold) else each.threshold
    return [at, round(each.accepted * cases), each.n, each.wrong]


def _points(rows: Any, fitted: FittedReview, name: str) -> list[CurvePoint]:
    """Return points with rising thresholds and counts; refuse others."""
    if not isinstance(rows, list) or len(rows) > MOST or not all(_is_row(row) for row in rows):
        raise ValueError(
            f"{name} of a review threshold must be lists of a threshold, accepted cases, accepted patients "
            "and wrong ones."
        )
    points, before = [], (-math.inf, 0, 0, 0)
    for at, cases, n, wrong in rows:
        now = (math.inf if at is None else float(at), cases, n, wrong)
        rises = now[0] > before[0] and all(a >= b for a, b in zip(now[1:], before[1:], strict=True))
        if not rises or cases > fitted.cases or n > min(cases, fitted.units) or wrong > n:
            raise ValueError(f"{name} of a review threshold contradicts itself: {[at, cases, n, wrong]}.")
        points.append(point(now[0], cases / fitted.cases, wrong, n, fitted.delta))
        before = now
    return points


def _is_row(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 4 or not all(type(x) is int and x >= 0 for x in row[1:]):
        return False
    return row[0] is None or _is_number(row[0])


def _numbers(values: Any, name: str) -> list[float]:
    if not isinstance(values, list) or len(values) > MOST:
        raise ValueError(f"{name} of a review threshold must be a list of numbers.")
    if not all(value is None or _is_number(value) for value in values):
        raise ValueError(f"{name} of a review threshold must be finite numbers, or null for inf.")
    return [math.inf if value is None else float(value) for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
