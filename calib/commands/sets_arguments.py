"""The arguments of `calib sets`, read without the imports that take seconds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

from calib.commands.shared_arguments import (
    add_columns,
    add_moved,
    check_kind,
    check_moved,
    classes_of,
    number_or_nan,
    one_of,
    refuse_dashes,
    settings_of,
    shares_of,
    whole,
)
from calib.core.errors import unknown_name
from calib.core.tables import names_in

MORE = """\
settings:
  coverage=0.9     how many of the sets hold the true class
  score=lac        lac: smallest sets; aps: larger ones where images are hard; raps: aps without very large
                   ones; aps_randomized, raps_randomized: smaller; an image's draw is always the same
  by=class         that coverage for each class by itself; by=COLUMN: for each hospital, device, ... there
  confidence=0.9   small-sample correction: the coverage with this probability, not on average
  shares=A=0.6,B=0.4   how often the classes occur where the sets are used
  penalty=0.01 free=1  of raps
  never_empty=false  sets may be empty (default: the most probable class is in every set)
  seed=0           of randomised scores
  cases=shots      of a run: its left-out shots instead of its validation images

examples:
  calib sets runs/mine coverage=0.9 score=aps                  (on its validation images, or left-out shots)
  calib sets runs/mine --on validation.csv --test test.csv
  calib sets outputs.csv by=class                              (of any model; writes sets.json)
  calib sets sets.json --apply new.csv --out with_sets.csv

A run keeps the sets in prompt.safetensors, and calib predict writes them. Files of outputs are those of calib
calibrate. They must be of cases that nothing was trained or calibrated on; where sets are for calibrated
probabilities, fit them on other cases than the calibrator.
"""

FITS = ("on", "test", "label", "group", "classes", "weights", "tokenizer")
CASES = ("validation", "shots")


def sets_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of `calib.commands.sets.main`: settings of PredictionSets are in `asked`.

    Raises:
        ValueError: A setting is unknown or out of range, or options do not go together.
        SystemExit: An option is unknown, or help was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="calib sets",
        description="Fit prediction sets with a stated coverage to labelled outputs, or apply them.",
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", help="a run folder or its prompt, a file of labelled outputs, or with --apply a sets.json"
    )
    parser.add_argument("settings", nargs="*", help="key=value, see below")
    parser.add_argument("--on", metavar="FILE", help="labelled outputs for the classes of the run, to fit on")
    parser.add_argument("--test", metavar="FILE", help="other labelled outputs, on which the sets are judged")
    add_columns(parser)
    parser.add_argument("--apply", metavar="FILE", help="outputs to which the sets are added")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the sets of a file (default: sets.json), or with --apply the new outputs",
    )
    parser.add_argument("--json", action="store_true", help="what was found as JSON on standard output")
    add_moved(parser)
    refuse_dashes(argv, READERS)
    given = parser.parse_intermixed_args(argv)
    asked = settings_of(given.settings, READERS, command="calib sets", example="coverage=0.9 by=class")
    _check(given, asked)
    given.by, given.shares, given.cases = (asked.pop(name, None) for name in ("by", "shares", "cases"))
    given.asked = asked
    given.classes = None if given.classes is None else classes_of(given.classes)
    return given


def _share(key: str, text: str) -> float:
    number = number_or_nan(text)
    if not 0 < number < 1:
        raise ValueError(f"{key} must be a share above 0 and below 1 (0.9 is 90 %), not {text}.")
    return number


def _least_zero(key: str, text: str) -> float:
    number = number_or_nan(text)
    if not (number >= 0 and math.isfinite(number)):
        raise ValueError(f"{key} must be a number of at least 0, not {text}.")
    return number


def _flag(key: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{key} must be true or false, not {text}.")
    return text == "true"


def _score(_: str, text: str) -> str:
    known = names_in("calib.posthoc.set_scores", "SETS")
    if text not in known:
        raise unknown_name("score of prediction sets", text, known)
    return text


def _name(key: str, text: str) -> str:
    if not text:
        raise ValueError(f"{key}= says nothing: by=class, or by=COLUMN.")
    return text


def _cases(key: str, text: str) -> str:
    return one_of(key, text, CASES)


def _shares(_: str, text: str) -> dict[str, float]:
    return shares_of(text)


READERS: dict[str, Callable[[str, str], Any]] = {
    "coverage": _share,
    "score": _score,
    "by": _name,
    "confidence": _share,
    "shares": _shares,
    "penalty": _least_zero,
    "free": whole,
    "never_empty": _flag,
    "seed": whole,
    "cases": _cases,
}


def _check(given: argparse.Namespace, asked: dict[str, Any]) -> None:
    """Refuse what does not belong to the source: sets of a file are applied, anything else is fitted on."""
    fitted = given.source.lower().endswith(".json")
    if fitted and given.apply is None:
        raise ValueError(f"{given.source} is applied with --apply FILE --out FILE.")
    if given.apply is not None and given.out is None:
        raise ValueError("--apply needs --out FILE: where the outputs with their sets go.")
    if given.apply is not None and not fitted:
        raise ValueError(
            "--apply takes a sets.json: calib sets sets.json --apply FILE --out FILE. Of a run's sets calib "
            "predict writes what images get."
        )
    if fitted:
        useless = [f"--{name}" for name in FITS if getattr(given, name) is not None] + sorted(asked)
        if useless:
            raise ValueError(
                f"{', '.join(useless)}: nothing is fitted with --apply, and its classes are known."
            )
    check_moved(given)
    check_kind(given.kind)
    if {"penalty", "free"} & asked.keys() and not asked.get("score", "lac").startswith("raps"):
        raise ValueError("penalty and free are settings of score=raps and score=raps_randomized.")
    if "shares" in asked and ("by" in asked or "confidence" in asked):
        raise ValueError(
            "shares are for one coverage over all cases, without a confidence: leave out by and confidence. "
            "by=class holds whatever the shares."
        )
