"""What is shown of the metrics of segmentation: a line per class, Dice beside the calibration errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calib.report.tables import aligned
from calib.segmentation.evaluation import METRICS
from calib.segmentation.masks import MEAN

BAD = {"ace": 0.2, "ece": 0.05}  # above either something is to be done: nuclei came to 0.17 and 0.03
LEAST = 0.01  # between probability and share, to be called too high or too low
RISING = 0.01  # of the validation Dice in the last fifth of the epochs: training was not at its end
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
    return "\n\n".join(filter(None, (f"{aligned(head, rows)}\n\n{note}", lean_in_words(metrics))))


def lean_in_words(metrics: Mapping[str, Any]) -> str:
    """Return a line for each class with bad calibration: whether its probabilities are too high or too low.

    An ACE alone does not say. Of all pixels together the mean probability of the class is compared with its
    share, and so it is where the class gets more than one half.

    Args:
        metrics: From `Evaluated.metrics`.

    Returns:
        Lines; empty where calibration is not bad (ACE above 20 % or ECE above 5 %), or a run of an older
        version did not write down what it takes.

    Example:
        >>> given = {"all": [0.4, 0.3], "above": [0.9, 0.6]}
        >>> found = {"classes": {"rest": {}, "cell": {"ace": 0.3, "ece": 0.1, "given": given}}}
        >>> lean_in_words(found).partition(". ")[0]
        'cell gets too high a probability: 40.0 % on average, where 30.0 % of the pixels are cell'
    """
    _, *others = metrics["classes"].items()
    lines = []
    for name, values in others:
        given = values.get("given")
        if not given or not given["all"] or not any((values[key] or 0) > most for key, most in BAD.items()):
            continue
        mean, share = given["all"]
        if abs(mean - share) < LEAST:
            told = f"{name} gets about the right probability on average"
        else:
            told = f"{name} gets too {'high' if mean > share else 'low'} a probability"
        told += f": {100 * mean:.1f} % on average, where {100 * share:.1f} % of the pixels are {name}."
        if given["above"] and abs(given["above"][0] - given["above"][1]) >= LEAST:
            p, y = given["above"]
            told += f" Above one half it gets {100 * p:.1f} %, where {100 * y:.1f} % are: "
            told += "over-confident." if p > y else "under-confident."
        lines.append(told)
    return "\n".join(lines)


def what_to_try(written: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return what to try where `lean_in_words` says something; empty where it does not.

    Args:
        written: What metrics.json says of the run.
        metrics: From `Evaluated.metrics`.

    Example:
        >>> given = {"all": [0.4, 0.3], "above": [0.9, 0.6]}
        >>> metrics = {"classes": {"rest": {}, "cell": {"ace": 0.3, "ece": 0.1, "given": given}}}
        >>> what_to_try({"temperature": 1.0, "losses": {"dice": {}}, "val": {}}, metrics)
        'Try calibrate=temperature, or preset=dice-ce-ace.'
    """
    if not lean_in_words(metrics):
        return ""
    ways = []
    if written.get("still_rising"):
        ways.append("more epochs (trainer.max_epochs; the validation Dice was still rising)")
    if written["temperature"] == 1 and "val" in written:  # it is fitted there
        ways.append("calibrate=temperature")
    if "ml1_ace" not in written["losses"]:
        ways.append("preset=dice-ce-ace")
    return f"Try {_either(ways)}." if ways else ""


def _either(ways: Sequence[str]) -> str:
    """Return ways as a choice: "a, b, or c"."""
    *first, last = ways
    return f"{', '.join(first)}, or {last}" if first else last


def still_rising(dice: Mapping[int, float]) -> bool:
    """Return whether the validation Dice was still rising at the end: by over a point in the last fifth.

    Args:
        dice: Epoch to Dice.

    Example:
        >>> still_rising({0: 0.3, 1: 0.5, 2: 0.6}), still_rising({0: 0.3, 1: 0.6, 2: 0.601})
        (True, False)
    """
    values = [dice[epoch] for epoch in sorted(dice)]
    if len(values) < 2:
        return False
    before = values[: max(1, len(values) - max(1, len(values) // 5))]
    return values[-1] - max(before) > RISING


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
