"""Prediction sets: how often the true class is in the set, how large the sets are, and for whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calib.metrics import Column
from calib.report.document import COUNT, NO_TEST, PROMISED, Section, Table, Value, sentences_of
from calib.report.sections.overview import between, percent
from calib.report.subject import Sets, Subject
from calib.report.tables import Cell
from calib.stats import proportion_interval

BREAK = "\x1e"  # between points, which may hold any name


def prediction_sets(subject: Subject, sets: Sets) -> Section:
    """Return the section on prediction sets, judged on the images of the report.

    Args:
        subject: What the report is about.
        sets: Fitted on other cases.

    Raises:
        ValueError: They are for other classes, or need strata that were not given.
    """
    probs, labels = subject.outcomes.probs, subject.outcomes.labels
    strata = subject.parts.strata
    inside = (sets(probs) if strata is None else sets(probs, strata=strata)).cpu().numpy().astype(bool)
    if inside.shape != tuple(probs.shape):
        raise ValueError(f"The sets are {inside.shape}, and there are probabilities {tuple(probs.shape)}.")
    n = len(inside)
    holds, size = inside[np.arange(n), labels.cpu().numpy()], inside.sum(axis=1)
    share, low, high = proportion_interval(holds, subject.groups, level=subject.parts.level)
    wanted = getattr(sets, "coverage", None)
    often = "with a chosen probability" if wanted is None else f"for {100 * wanted:.3g} % of new cases"
    said = [
        f"Instead of one class the model names a set of classes that shall hold the true one {often}.",
        f"On the images of this page the set holds the true class in {percent(share)} "
        f"({between(low, high)}). It has {size.mean():.2f} classes on average; "
        f"{percent((size == 1).mean())} of the sets are a single class, {percent((size == 0).mean())} are "
        f"empty. {NO_TEST}",
    ]
    tables = [_sizes(subject, size, holds), _by_class(subject, holds, size)]
    return Section(
        "sets",
        "Prediction sets",
        said=said,
        points={PROMISED: promises(sets, subject.class_names)},
        tables=tables,
        notes=_gap(tables[1]),
    )


def promises(sets: Sets, class_names: Sequence[str]) -> list[str]:
    """Return the guarantee point by point, with the names of the classes where the sets can say it so.

    Args:
        sets: Fitted.
        class_names: C names.
    """
    described = getattr(sets, "described", None)
    if callable(described):
        return str(described(list(class_names), between=BREAK)).split(BREAK)
    return sentences_of(sets.guarantee)


def _cell(subject: Subject, hits: np.ndarray, among: np.ndarray) -> Value:
    groups = None if subject.groups is None else subject.groups[among]
    share, low, high = proportion_interval(hits[among], groups, level=subject.parts.level)
    return Cell(share, interval=(low, high))


def _sizes(subject: Subject, size: np.ndarray, holds: np.ndarray) -> Table:
    rows = {
        str(number): {
            "n": int((size == number).sum()),
            "share": float((size == number).mean()),
            "coverage": _cell(subject, holds, size == number) if number else 0.0,
        }
        for number in np.unique(size).tolist()
    }
    columns = {"n": COUNT, "share": Column("of all %"), "coverage": Column("holds the true class %")}
    return Table("set_sizes", "Sizes of the sets", "classes in the set", columns, rows)


def _by_class(subject: Subject, holds: np.ndarray, size: np.ndarray) -> Table:
    labels, rows = subject.outcomes.labels.cpu().numpy(), {}
    for c, name in enumerate(subject.class_names):
        of_class = labels == c
        if of_class.any():
            rows[name] = {
                "n": int(of_class.sum()),
                "coverage": _cell(subject, holds, of_class),
                "size": float(size[of_class].mean()),
            }
    columns = {
        "n": COUNT,
        "coverage": Column("holds the true class %"),
        "size": Column("mean size", decimals=2),
    }
    return Table("set_classes", "Sets by true class", "class", columns, rows)


def _gap(table: Table) -> list[str]:
    shares = {
        name: cell.value
        for name, row in table.rows.items()
        if isinstance(cell := row["coverage"], Cell) and cell.value is not None
    }
    if len(shares) < 2:
        return []
    if len(set(shares.values())) == 1:
        share = percent(next(iter(shares.values())))
        return [
            f"The coverage is {share} in every class. A guarantee over all images is none for each class."
        ]
    least, most = (pick(shares, key=lambda name: shares[name]) for pick in (min, max))
    return [
        f"Between classes the coverage lies from {percent(shares[least])} ({least}) to "
        f"{percent(shares[most])} ({most}). A guarantee over all images is none for each class."
    ]
