"""What is shown of the metrics of segmentation: a line per class, Dice beside the calibration errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calib.report.tables import aligned
from calib.segmentation.evaluation import METRICS
from calib.segmentation.masks import MEAN

TITLES = {"dice": "Dice", "ace": "ACE", "ece": "ECE", "mce": "MCE"}


def results_text(metrics: Mapping[str, Any], *, level: float = 0.95) -> str:
    """Return a table of what `Evaluated.metrics` says: a line per class, Dice beside the calibration errors.

    Of two classes the background has no line: where p is said for the one 1 - p is said for the other, so
    that both have the same calibration errors.

    Args:
        metrics: From `Evaluated.metrics`.
        level: Coverage of its intervals.
    """
    classes = metrics["classes"]
    head = ["class", *(f"{TITLES[metric]} %" for metric in METRICS), "pooled ACE %", "pooled ECE %"]
    rows = []
    background, *others = classes
    lines = [*classes.items(), (MEAN, metrics)] if len(others) > 1 else [(others[0], classes[others[0]])]
    for name, values in lines:
        ends = metrics["intervals"][name]
        cells = [shown(values[metric], ends[metric]) for metric in METRICS]
        rows.append([name, *cells, shown(values["micro_ace"]), shown(values["micro_ece"])])
    which = (
        f"'{MEAN}' is over the classes but {background}."
        if len(others) > 1
        else f"{background}, the only other class, has the same calibration errors."
    )
    note = (
        f"{means_in_words(metrics, level)}. {which} ACE: mean gap between probability and share of pixels "
        "over the bins of an image; pooled: of all pixels as one image."
    )
    return f"{aligned(head, rows)}\n\n{note}"


def means_in_words(metrics: Mapping[str, Any], level: float) -> str:
    """Return what means are over: how many images, of how many groups where these are known.

    Args:
        metrics: From `Evaluated.metrics`.
        level: Coverage of its intervals.

    Example:
        >>> means_in_words({"n": 9, "groups": 4}, 0.95)
        'Means over 9 images of 4 groups, with 95 % intervals over the choice of groups'
        >>> means_in_words({"n": 1, "groups": None}, 0.95)
        'Of 1 image; intervals need several'
    """
    n, groups = metrics["n"], metrics["groups"]
    of = f"{n} image{'s' * (n != 1)}" + ("" if groups is None else f" of {groups} group{'s' * (groups != 1)}")
    if (n if groups is None else groups) == 1:
        return f"Of {of}; intervals need several" if n == 1 else f"Means over {of}; intervals need several"
    units = "images" if groups is None else "groups"
    return f"Means over {of}, with {100 * level:g} % intervals over the choice of {units}"


def shown(value: float | None, ends: Sequence[float] | None = None) -> str:
    """Return a share in percent with its interval; a dash where it is not defined.

    Example:
        >>> shown(0.8312, [0.81, 0.852]), shown(None)
        ('83.1 [81.0, 85.2]', '–')
    """
    if value is None:
        return "–"
    text = f"{100 * value:.1f}"
    return text if ends is None else f"{text} [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
