"""What prediction sets promise, of whom, and what they do not, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from calib.core.text import few
from calib.posthoc.not_drawn import not_drawn
from calib.posthoc.set_levels import below_nominal, least_error

LEVEL = 0.95


def sentences(
    rows: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    *,
    coverage: float,
    confidence: float | None,
    counts: Tensor,
    shares: Tensor | None,
    grouped: bool,
    left_out: bool,
    chosen: Sequence[str] = (),
) -> list[str]:
    """Return what is promised, sentence by sentence.

    How the coverage varies with the calibration cases is proven for rows that are cases by themselves. Where
    groups have several rows it holds about, which the sentences say.

    Args:
        rows: Those of `PredictionSets.table` at LEVEL.
        class_names: C names.
        coverage: As it was asked for.
        confidence: Of the small-sample correction. None: none.
        counts: (G, C) calibration rows.
        shares: (C,) as stated. None: not stated.
        grouped: Whether rows came in groups.
        left_out: Whether the model was trained on the calibration cases.
        chosen: Strategies by which these were chosen, if not at random.
    """
    per_class = rows[0]["label"] is not None
    said = [
        f"{not_drawn(chosen)} For cases that were drawn as new ones are, what follows would be promised."
        if chosen
        else "",
        _promise(rows, coverage, confidence, int(counts.sum()), shares, grouped, class_names),
    ]
    said = [each for each in said if each]
    if left_out:
        said.append(
            "The calibration cases are the shots the model was trained on, each judged by a model trained "
            "without it. New cases are judged by a model of a few more shots, so that all this holds nearly, "
            "not exactly: an exact guarantee needs cases that nothing was trained on."
        )
    fitted = [row for row in rows if row["threshold"] is not None]
    said += (
        [_realised(fitted, class_names, coverage, confidence, shares is not None, grouped)] if fitted else []
    )
    if not per_class and shares is None:
        said += _about_shares(counts.sum(dim=0))
    said += _full(rows, class_names, coverage, confidence)
    said.append(
        "Nothing is promised for a single case, for a group that is not told apart here, or for cases of "
        "another kind, device or hospital."
    )
    return said


def percent(value: float) -> str:
    """Return a share as it is read.

    Example:
        >>> percent(0.9), percent(0.975), percent(1 / 9)
        ('90 %', '97.5 %', '11.1 %')
    """
    return f"{100 * value:.3g} %"


def _promise(
    rows: Sequence[Mapping[str, Any]],
    coverage: float,
    confidence: float | None,
    n: int,
    shares: Tensor | None,
    grouped: bool,
    class_names: Sequence[str],
) -> str:
    per_class, strata = rows[0]["label"] is not None, rows[0]["stratum"] is not None
    wanted = percent(coverage)
    whom = "of new cases"
    if strata:
        whom += " of each stratum"
    if per_class:
        whom += " of each class, however frequent it is,"
    kind = (
        "images of a class look as they do there"
        if per_class or shares is not None
        else ("images look as they do there and classes are as frequent")
    )
    unit = f"the {n} calibration cases"
    if grouped:
        unit = f"the {n} calibration cases, of whom each group (patient, slide) counts once"
    if shares is not None:
        stated = few(
            [f"{name} {percent(s)}" for name, s in zip(class_names, shares.tolist(), strict=True)], 12
        )
        return (
            f"About {wanted} {whom} have their class in their set, where classes are as frequent as stated "
            f"({stated}) and {kind}, in {unit}. It would be at least {wanted} exactly if the shares among "
            "the calibration cases were known and not counted."
        )
    sure = "on average over the choice of the calibration cases"
    if confidence is not None:
        about = "about " if _several(rows, grouped) else ""
        sure = f"with a probability of {about}{percent(confidence)} over the choice of the calibration cases"
        sure += ", for each threshold by itself" if len(rows) > 1 else ""
    return (
        f"At least {wanted} {whom} have their class in their set, {sure}, if they are like {unit}: drawn the "
        f"same way, so that {kind}."
    )


def _realised(
    rows: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    coverage: float,
    confidence: float | None,
    weighted: bool,
    grouped: bool,
) -> str:
    about = "about " if weighted or _several(rows, grouped) else ""
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    least = min(rows, key=lambda row: float(row["cases"]))
    cases = f"{least['cases']:.4g} cases"
    if len(rows) > 1:
        cases += f" (those of {_name(least, class_names)}, the fewest)"
    if weighted:
        cases += ", as many as the weighted ones are worth, roughly"
    text = (
        f"The coverage that these very sets will have is not known exactly: with {cases}, it lies between "
        f"{percent(low)} and {percent(high)} with a probability of {about}{percent(LEVEL)}"
    )
    if confidence is not None:
        return f"{text}."
    risk = max(below_nominal(row["cases"], coverage, weighted=weighted) for row in rows)
    return f"{text}, and below {percent(coverage)} with one of {about}{percent(risk)}."


def _several(rows: Sequence[Mapping[str, Any]], grouped: bool) -> bool:
    """Whether some group has several rows."""
    return grouped and any(row["cases"] < row["rows"] for row in rows)


def _about_shares(counts: Tensor) -> list[str]:
    there = counts[counts > 0]
    if bool((there == there[0]).all()):
        return [
            f"The calibration cases are balanced, {int(there[0])} of each class: where classes are not "
            "equally frequent the coverage is not guaranteed. Then state their shares, or ask for a "
            "coverage of each class, which holds whatever the shares."
        ]
    return []


def _full(
    rows: Sequence[Mapping[str, Any]], class_names: Sequence[str], coverage: float, confidence: float | None
) -> list[str]:
    full = [row for row in rows if row["threshold"] is None]
    if not full:
        return []
    least = min(float(row["cases"]) for row in full)
    needed, smallest = full[0]["needed"], percent(least_error(least, confidence))
    surely = "" if confidence is None else f" with a probability of {percent(confidence)}"
    why = (
        f"a coverage of {percent(coverage)}{surely} needs at least {needed} cases, and {least:g} allow an "
        f"error of {smallest} at the least"
    )
    if len(rows) == 1:
        return [f"Every class is in every set: {why}."]
    names = few([_name(row, class_names) for row in full], 8)
    what = "is in every set" if full[0]["label"] is not None else "every set is full"
    return [f"Of {names} there are too few calibration cases, so that {what}: {why}."]


def _name(row: Mapping[str, Any], class_names: Sequence[str]) -> str:
    parts = [] if row["stratum"] is None else [str(row["stratum"])]
    if row["label"] is not None:
        parts.append(class_names[row["label"]])
    return ", ".join(parts) or "all"
