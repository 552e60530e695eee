"""The arguments of `calib review`, read without the imports that take seconds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from calib.commands.shared_arguments import (
    add_moved,
    check_kind,
    check_moved,
    number_or_nan,
    one_of,
    refuse_dashes,
    settings_of,
    whole,
)

MORE = """\
settings:
  error=0.05       at most this share of the accepted predictions may be wrong
  confidence=0.9   and that with this probability, over the choice of the labelled cases
  workload=0.2     instead: at most this share goes to review; what error that means is said, none is promised
  rule=batch       instead: the share that is wrong is bounded on average over batches, each decided at once
  patients=any     where patients are known: a patient is wrong if any accepted case of theirs is wrong;
                   patients=one: one case of each is drawn, and counted
  seed=0           of that draw

examples:
  calib review runs/mine error=0.05                           (on its validation images, or left-out shots)
  calib review runs/mine --on labelled.csv --apply new.csv --out reviewed.csv
  calib review outputs.csv error=0.05 confidence=0.95         (of any model; writes review.json)
  calib review review.json --apply new.csv --out reviewed.csv

A run keeps the threshold in prompt.safetensors or failure.safetensors, and calib predict says accept or
review. Files are tables (CSV, TSV, Parquet) with a column doubt, uncertainty or confidence, or p(CLASS) for
every class, and a column correct, failure or label, perhaps patient; or .npz and .safetensors with such
arrays. A table may be what calib predict wrote, with a column label filled in for rows drawn at random: then
thresholds are taken from the others. Where patients are known, patients are drawn, and all their rows filled
in (or patients=one). Neither the model nor its calibration may have been fitted on labelled
cases.
"""

NUMBERS = {"error": 0.05, "confidence": 0.9, "workload": None, "seed": 0}
WORDS = {"rule": ("threshold", "workload", "batch"), "patients": ("any", "one")}
FITS = ("on", "unlabelled", "doubt", "kind", "classes", "label", "group", "weights", "tokenizer")


def review_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of `calib.commands.review.main`.

    Raises:
        ValueError: A setting is unknown or out of range, or options do not go together.
        SystemExit: An option is unknown, or help was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="calib review",
        description="Fit a threshold that says which predictions may pass and which a person must look at.",
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", help="a run folder or export, a file of doubts and outcomes, or with --apply a review.json"
    )
    parser.add_argument("settings", nargs="*", help="key=value, see below")
    parser.add_argument(
        "--on", metavar="FILE", help="labelled outputs of the run for other images, to fit on"
    )
    parser.add_argument(
        "--unlabelled", metavar="FILE", help="further cases without labels, from which thresholds are taken"
    )
    parser.add_argument(
        "--doubt", metavar="NAME", help="doubt, uncertainty, confidence or classes: which column"
    )
    parser.add_argument("--kind", help="what plain columns of classes hold: probs or logits")
    parser.add_argument("--classes", metavar="A,B,...", help="the columns of the classes")
    parser.add_argument("--label", metavar="COLUMN", help="column of labels (default: label)")
    parser.add_argument("--group", metavar="COLUMN", help="column of patients (default: group, patient)")
    parser.add_argument("--apply", metavar="FILE", help="cases to decide on")
    parser.add_argument(
        "--out", metavar="FILE", help="the threshold of a file (default: review.json); of --apply its table"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be found; no threshold is kept or replaced"
    )
    parser.add_argument("--json", action="store_true", help="what was found as JSON on standard output")
    add_moved(parser)
    refuse_dashes(argv, READERS)
    given = parser.parse_intermixed_args(argv)
    asked = settings_of(given.settings, READERS, command="calib review", example="error=0.05 confidence=0.9")
    _check(given, asked)
    for name, default in NUMBERS.items():
        setattr(given, name, asked.get(name, default))
    rule = asked.get("rule") or ("threshold" if given.workload is None else "workload")
    given.rule, given.patients = rule, asked.get("patients", "any")
    if given.workload is not None and "error" in asked:
        raise ValueError("error=SHARE and workload=SHARE ask two questions: give one of them.")
    if (given.rule == "workload") != (given.workload is not None):
        raise ValueError(
            "workload=SHARE and rule=workload belong together, and no other rule takes a workload."
        )
    given.classes = None if given.classes is None else [name.strip() for name in given.classes.split(",")]
    return given


def _share(key: str, text: str) -> float:
    number = number_or_nan(text)
    least = number >= 0 if key == "workload" else number > 0
    if not (least and number < 1):
        low = "from 0" if key == "workload" else "above 0"
        raise ValueError(f"{key} must be a share {low} and below 1 (0.05 is 5 %), not {text}.")
    return number


def _word(key: str, text: str) -> str:
    return one_of(key, text, WORDS[key])


READERS: dict[str, Callable[[str, str], Any]] = {
    **dict.fromkeys(NUMBERS, _share),
    "seed": whole,
    **dict.fromkeys(WORDS, _word),
}


def _check(given: argparse.Namespace, asked: dict[str, Any]) -> None:
    """Refuse what does not belong to the source: a threshold is applied, anything else is fitted on."""
    fitted = given.source.lower().endswith(".json")
    if given.dry_run and (fitted or given.apply is not None):
        raise ValueError(
            "--dry-run only fits: nothing is decided with a threshold that is not kept. Leave --apply and "
            "--out out."
        )
    if fitted and given.apply is None:
        raise ValueError(f"{given.source} is applied with --apply FILE --out FILE.")
    if (given.apply is not None) and given.out is None:
        raise ValueError("--apply needs --out FILE: where the table with the decisions goes.")
    if fitted:
        useless = [f"--{name}" for name in FITS if getattr(given, name) is not None and name not in ("kind",)]
        useless += sorted(asked)
        if useless:
            raise ValueError(
                f"{', '.join(useless)}: nothing is fitted with {given.source}, which knows its doubt."
            )
    check_moved(given)
    check_kind(given.kind)
