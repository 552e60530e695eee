"""Error detection: does the uncertainty rank wrong answers above right ones?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from calib.stats import adjusted_p
from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.study import Answers, doubtful, each
from calib.vqa.evaluation.tables import Field, ResultTable
from calib.vqa.resampling import ranked
from calib.vqa.uncertainty import METHODS

WITH_INTERVAL = ("auroc", "aurc", "augrc", "prr")


def error_detection(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of every method under every condition, each beside the reference method.

    Args:
        found: The systems.
        protocol: How they are evaluated.
    """
    rows = []
    for answers, dataset, condition in each(found):
        made = [_row(answers, dataset, condition, name) for name in doubtful(answers)]
        _compare(answers, made, protocol)
        rows += [{key: value for key, value in row.items() if key != "values"} for row in made]
    tolerated = [
        Field(f"yield_{risk:g}", f"yield at {100 * risk:g} % error", "share") for risk in protocol.tolerated
    ]
    fields = (
        Field("system", "system"),
        Field("dataset", "data set"),
        Field("condition", "condition"),
        Field("method", "method"),
        Field("access", "access", shown=False),
        Field("n", "n", "count"),
        Field("n_wrong", "wrong", "count"),
        Field("auroc", "AUROC %", "share"),
        Field("difference", f"less {protocol.reference}", "points"),
        Field("p_holm", "p (Holm)", "p"),
        Field("prr", "PRR", "number"),
        Field("aurc", "AURC %", "share"),
        Field("augrc", "AUGRC %", "share", shown=False),
        Field("aupr", "AUPR-error %", "share", shown=False),
        *tolerated,
        Field("confident_errors", "errors among the surest 20 %, % of all", "share"),
        Field("why", "why no number"),
    )
    note = (
        f"Intervals of {100 * protocol.level:g} % by the bootstrap of images or patients "
        f"({protocol.n_resamples} resamples, the same for all methods); ties count half. Differences from "
        f"{protocol.reference} are paired; their p-values are corrected within a system, data set and "
        "condition (Holm). The yield is the largest share of answers whose share of errors is tolerated on "
        "these very answers: a description, no guarantee for others."
    )
    return ResultTable("Which answers are wrong", note, fields, rows)


def too_few(wrong: int, right: int, least: int, what: tuple[str, str] = ("wrong", "right")) -> str:
    """Return why answers cannot be ranked; empty where they can.

    Example:
        >>> too_few(5, 100, 20)
        '5 wrong answers: 20 are needed'
    """
    for count, name in ((wrong, what[0]), (right, what[1])):
        if count < least:
            return f"{count} {name} answers: {least} are needed"
    return ""


def ranking(
    answers: Answers, dataset: str, rows: np.ndarray, name: str, failure: np.ndarray
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Return how a method ranks failures among rows it knows, and its AUROC in every resample.

    Args:
        answers: A system.
        dataset: The data set of the rows.
        rows: (n,) rows of answers.
        name: The method.
        failure: (n,) bool.
    """
    protocol, boot = answers.layout.protocol, answers.layout.boots.get(dataset)
    doubt = answers.doubts[name][rows]
    points = ["aupr_error"]
    points += [f"coverage_at_risk@{risk:g}" for risk in protocol.tolerated]
    points += ["capture@0.8", *(f"capture@{budget:g}" for budget in protocol.budgets)]
    clusters = answers.cluster[rows]
    index = np.unique(clusters, return_inverse=True)[1]
    one = ranked(points, doubt, failure, index)
    at = dict(zip(points, one.of_counts(np.ones((1, int(index.max()) + 1), dtype=np.uint8))[0], strict=True))
    row: dict[str, Any] = {"aupr": at["aupr_error"], "confident_errors": 1 - at["capture@0.8"]}
    row |= {f"yield_{risk:g}": at[f"coverage_at_risk@{risk:g}"] for risk in protocol.tolerated}
    row |= {f"capture_{budget:g}": at[f"capture@{budget:g}"] for budget in protocol.budgets}
    if boot is None:
        point = ranked(WITH_INTERVAL, doubt, failure, index)
        values = point.of_counts(np.ones((1, int(index.max()) + 1), dtype=np.uint8))
    else:
        values = boot.values(ranked(WITH_INTERVAL, doubt, failure, clusters))
    for i, metric in enumerate(WITH_INTERVAL):
        row[metric] = float(values[0, i])
        if boot is not None:
            row[f"{metric}_low"], row[f"{metric}_high"] = boot.interval(values[:, i])
    return {key: float(value) for key, value in row.items()}, values[:, 0] if boot is not None else None


def _row(answers: Answers, dataset: str, condition: str, name: str) -> dict[str, Any]:
    rows = answers.rows(dataset, condition)
    rows = rows[answers.answerable[rows]]
    known = rows[~np.isnan(answers.doubts[name][rows])]
    failure = ~answers.right[known]
    wrong, least = int(failure.sum()), answers.layout.protocol.min_cases
    row: dict[str, Any] = {
        "system": answers.name,
        "dataset": dataset,
        "condition": condition,
        "method": name,
        "access": METHODS[name].access,
        "n": len(known),
        "n_wrong": wrong,
        "unknown": len(rows) - len(known),
        "values": None,
        "why": "",
    }
    if not len(known):
        return row | {"why": answers.reasons[name] or "no answer that can be right"}
    why = too_few(wrong, len(known) - wrong, least)
    if why:
        return row | {"why": why}
    numbers, values = ranking(answers, dataset, known, name, failure)
    return row | numbers | {"values": values, "rows": known.tobytes()}


def _compare(answers: Answers, made: list[dict[str, Any]], protocol: Protocol) -> None:
    """Put the difference from the reference, its interval and its p-values beside every other method."""
    reference = next((row for row in made if row["method"] == protocol.reference), None)
    for row in made:
        row["p"] = row["difference"] = math.nan
        if reference is None or row is reference:
            continue
        values, base = row["values"], reference["values"]
        if values is None or base is None:
            continue
        boot = answers.layout.boots[row["dataset"]]
        if row["rows"] != reference["rows"]:  # one of them knows less: compare where both know
            mine, theirs = row["rows"], reference["rows"]
            known = np.intersect1d(np.frombuffer(mine, np.int64), np.frombuffer(theirs, np.int64))
            failure, clusters = ~answers.right[known], answers.cluster[known]
            if too_few(int(failure.sum()), int((~failure).sum()), protocol.min_cases):
                continue
            both = [str(row["method"]), protocol.reference]
            values, base = (
                boot.values(ranked(["auroc"], answers.doubts[name][known], failure, clusters))[:, 0]
                for name in both
            )
        row["difference"] = float(values[0] - base[0])
        row["difference_low"], row["difference_high"] = boot.interval(values - base)
        row["p"] = boot.p_value(values - base)
    for row, p in zip(made, adjusted_p([row["p"] for row in made]), strict=True):
        row["p_holm"] = float(p)
        row.pop("rows", None)
