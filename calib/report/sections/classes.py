"""Classes and groups one by one, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from calib.metrics import Column
from calib.metrics.calibration import expected_calibration_error
from calib.metrics.chance import null_ece
from calib.metrics.failure import auroc
from calib.metrics.recalibration import calibration_intercept, calibration_slope
from calib.report.document import COUNT, Section, Table, Value
from calib.report.sections.reliability import reliability_picture
from calib.report.subject import Subject
from calib.report.tables import Cell
from calib.stats import proportion_interval

MOST_CLASSES = 12  # whose reliability is drawn
SITES = 20  # groups that are shown one by one, as sites or scanners are; patients are more
PER_SITE = 20  # images that each of them has on average


def classes(subject: Subject) -> Section:
    """Return the section of the classes, one by one.

    Args:
        subject: What the report is about.
    """
    names, p = subject.class_names, subject.outcomes
    pictures = [
        reliability_picture(
            p.probs[:, c].clamp(0, 1),
            p.labels == c,
            name,
            f"class{c}",
            subject,
            axes=("probability of the class %", "is of the class %"),
        )
        for c, name in enumerate(names[:MOST_CLASSES])
    ]
    section = Section(
        "classes",
        "Class by class",
        said=[
            "Sensitivity (recall) is the share of a class that was found, precision the share of what was "
            "called so that is so; AUROC says how well the probability of a class sorts its images before "
            "all others. In the diagrams each class stands against all others.",
        ],
        pictures=pictures,
        tables=[_per_class(subject), *_confusion(subject)],
    )
    if len(names) > MOST_CLASSES:
        section.notes.append(f"Diagrams of {len(names) - MOST_CLASSES} more classes are left out.")
    return section


def _per_class(subject: Subject) -> Table:
    p, rows = subject.outcomes, {}
    for c, name in enumerate(subject.class_names):
        event, probs = p.labels == c, p.probs[:, c].clamp(0, 1)
        of_class, as_class = event.cpu().numpy(), (p.predictions == c).cpu().numpy()
        rows[name] = {
            "n": int(of_class.sum()),
            "called": int(as_class.sum()),
            "recall": _share(subject, subject.correct, of_class),
            "precision": _share(subject, subject.correct, as_class),
            "specificity": _share(subject, ~as_class, ~of_class),
            "auroc": _ranking(probs, event),
            "mean": float(probs.mean()) - float(event.double().mean()),
            "slope": float(calibration_slope(probs, event)),
            "intercept": float(calibration_intercept(probs, event)),
        }
    columns = {
        "n": COUNT,
        "called": Column("called so", decimals=0),
        "recall": Column("sensitivity %"),
        "precision": Column("precision %"),
        "specificity": Column("specificity %"),
        "auroc": Column("AUROC %"),
        "mean": Column("mean prob. - share %", signed=True),
        "slope": Column("slope", decimals=2),
        "intercept": Column("intercept", decimals=2, signed=True),
    }
    return Table("classes", "Classes", "class", columns, rows)


def _share(subject: Subject, hits: np.ndarray, among: np.ndarray) -> Value:
    """Return the share of hits among some images with its interval. None: there are none of these."""
    if not among.any():
        return None
    groups = None if subject.groups is None else subject.groups[among]
    share, low, high = proportion_interval(hits[among], groups, level=subject.parts.level)
    return Cell(share, interval=(low, high))


def _ranking(probs: torch.Tensor, event: torch.Tensor) -> Value:
    return float(auroc(probs, event)) if bool(event.any()) and not bool(event.all()) else None


def _confusion(subject: Subject) -> list[Table]:
    names, p = subject.class_names, subject.outcomes
    size = len(names)
    counts = torch.bincount(p.labels.cpu() * size + p.predictions.cpu(), minlength=size**2).view(size, size)
    columns = {name: Column(name, decimals=0) for name in names}
    rows = {
        name: {other: int(counts[row, column]) for column, other in enumerate(names)}
        for row, name in enumerate(names)
    }
    title = "Confusion matrix: rows are what the images are, columns what they were called"
    return [Table("confusion", title, "is ... called", columns, rows, shaded=True)]


def groups(subject: Subject) -> Section:
    """Return the section of subgroups: what was given, and groups where these are few and large.

    Args:
        subject: What the report is about.
    """
    slices: dict[str, Sequence[Any]] = dict(subject.parts.slices)
    section = Section("groups", "Subgroups and sites")
    number = subject.n_groups
    if subject.groups is not None and number is not None:
        per_group = len(subject.correct) / number
        if 1 < number <= SITES and per_group >= PER_SITE:
            slices = {"group": _called(subject, subject.groups), **slices}
        else:
            _, index = np.unique(subject.groups, return_inverse=True)
            wrong = np.bincount(index, ~subject.correct) > 0
            section.said.append(
                f"The images are of {number:,} groups (patients, slides), {per_group:.1f} images each on "
                f"average; at least one prediction is wrong in {int(wrong.sum()):,} of them. Groups are "
                "too many or too small to be shown one by one."
            )
    for name, values in slices.items():
        section.tables.append(_by_slice(subject, name, [str(value) for value in values]))
    if not slices:
        section.said.append(
            "No subgroups (site, scanner, sex, age) were given: whether the model does worse in one of "
            "them is not known. A table with a column name and further columns gives them: slices=FILE.csv."
        )
    else:
        section.said.append(
            "Where the confidence lies above the accuracy by more than the interval allows, the model is "
            "surer there than it is right."
        )
    return section


def _called(subject: Subject, values: np.ndarray) -> list[str]:
    """Return names of groups, or numbers where names are left out."""
    if subject.parts.names:
        return [str(value) for value in values]
    return [f"group {code + 1}" for code in np.unique(values, return_inverse=True)[1]]


def _by_slice(subject: Subject, name: str, values: Sequence[str]) -> Table:
    confidence, n_bins = subject.outcomes.confidence.cpu(), subject.parts.n_bins
    rows: dict[str, Mapping[str, Value]] = {}
    for value in sorted(set(values)):
        inside = np.array([each == value for each in values])
        rows_inside = torch.from_numpy(inside)
        sure, right = confidence[rows_inside], torch.from_numpy(subject.correct)[rows_inside]
        rows[value or "(empty)"] = {
            "n": int(inside.sum()),
            "accuracy": _share(subject, subject.correct, inside),
            "confidence": float(sure.mean()),
            "gap": float(sure.mean()) - float(right.double().mean()),
            "ece": float(expected_calibration_error(sure, right, n_bins=n_bins)),
            "chance": float(null_ece(sure, n_bins=n_bins)),
        }
    columns = {
        "n": COUNT,
        "accuracy": Column("accuracy %"),
        "confidence": Column("confidence %"),
        "gap": Column("conf. - acc. %", signed=True),
        "ece": Column("ECE %"),
        "chance": Column("chance %"),
    }
    return Table(f"by {name}", f"By {name}", name, columns, rows)
