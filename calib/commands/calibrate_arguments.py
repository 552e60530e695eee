"""The arguments of `calib calibrate`, read without the imports that take seconds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from calib.commands.shared_arguments import (
    add_columns,
    add_moved,
    check_kind,
    check_moved,
    classes_of,
    shares_of,
)
from calib.core.errors import unknown_name
from calib.core.tables import names_in

MORE = """\
examples:
  calib calibrate runs/mine                                       (on its validation images)
  calib calibrate outputs.csv --shares no_finding=0.6,pneumonia=0.3,covid=0.1
  calib calibrate outputs.csv --kind probs --classes benign,malignant --method temperature_prior
  calib calibrate runs/mine --on validation.csv --out mine.json
  calib calibrate runs/mine --out mine.safetensors                (its prompt, calibrated: one linear map)
  calib calibrate calibrator.json --apply new.csv --out calibrated.csv

Labelled outputs of any model: a CSV, TSV or Parquet table with a column label and p(CLASS) or logit(CLASS)
for every class, or columns called as the classes with --kind and --classes; or an .npz or .safetensors file
with labels and probs or logits (class_names, groups). They must be of cases the model was not trained on.

Without --method the candidates are fitted on parts of the rows and judged on the others. The one with the
lowest mean NLL there is taken, if it is lower than that of doing nothing; else nothing is written. A file
that was fitted to other outputs is never replaced.

With --apply, where the new outputs have labels: accuracy, NLL and ECE of these rows before and after.
"""


# What only fitting uses, and of that the numbers with their defaults.
FITS = ("on", "method", "candidates", "classes", "group", "shares", "weights", "tokenizer")
NUMBERS: dict[str, int | float] = {"folds": 5, "seed": 0, "margin": 0.0, "bins": 10}


def calibrate_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of `calib.commands.calibrate.main`; shares as a dictionary, classes as a list.

    Raises:
        ValueError: A name is unknown, a number is out of range, or options do not go together.
        SystemExit: An option is unknown, or help was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="calib calibrate",
        description="Fit a calibrator to labelled outputs of a run or of any model, or apply one.",
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", help="a run folder, a file of labelled outputs, or with --apply a calibrator.json"
    )
    parser.add_argument("--on", metavar="FILE", help="labelled outputs of the run's prompt, to fit on")
    parser.add_argument(
        "--method", metavar="NAME", help="fit this one, whatever cross-validation says (default: it chooses)"
    )
    parser.add_argument(
        "--candidates",
        metavar="A,B,...",
        help="among which it chooses, or all (default: temperature_prior,svs,sms: few rows move them little)",
    )
    add_columns(parser)
    parser.add_argument(
        "--shares", metavar="A=0.6,B=0.4", help="how often the classes occur where the calibrator is used"
    )
    parser.add_argument("--folds", type=int, metavar="N", help="parts for cross-validation (default: 5)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the division into parts (default: 0)")
    parser.add_argument(
        "--margin",
        type=float,
        metavar="X",
        help="ask for an NLL lower by X standard errors than doing nothing (default: 0, lower at all)",
    )
    parser.add_argument("--bins", type=int, metavar="N", help="bins of the ECE shown (default: 10)")
    parser.add_argument("--apply", metavar="FILE", help="outputs to which the calibrator.json is applied")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the calibrator (default: calibrator.json), for a run also its prompt with the calibrator in it "
        "(.safetensors), or with --apply the new outputs",
    )
    add_moved(parser)
    given = parser.parse_args(argv)
    _check_source(given)
    for name, default in NUMBERS.items():
        if getattr(given, name) is None:
            setattr(given, name, default)
    _check(given)
    given.classes = None if given.classes is None else classes_of(given.classes)
    given.candidates = None if given.candidates is None else candidates_of(given.candidates)
    given.shares = None if given.shares is None else shares_of(given.shares)
    return given


def _check_source(given: argparse.Namespace) -> None:
    """Refuse what does not belong to the source: a calibrator is applied, anything else is fitted on."""
    mapping = given.source.lower().endswith(".json")
    if mapping != (given.apply is not None):
        raise ValueError(
            f"{given.source}: "
            + (
                "a calibrator is applied with --apply FILE --out FILE."
                if mapping
                else "--apply takes a calibrator: calib calibrate calibrator.json --apply FILE --out FILE."
            )
        )
    if mapping:
        useless = [f"--{name}" for name in (*FITS, *NUMBERS) if getattr(given, name) is not None]
        if useless:
            raise ValueError(
                f"{', '.join(useless)}: nothing is fitted with --apply, and its classes are known."
            )
        if given.out is None:
            raise ValueError("--apply needs --out FILE: where the calibrated outputs go.")


def _check(given: argparse.Namespace) -> None:
    check_moved(given)
    check_kind(given.kind)
    known = names_in("calib.posthoc.registry", "CALIBRATORS")
    if given.method is not None and given.method not in known:
        raise unknown_name("calibrator", given.method, known)
    if given.method is not None and given.candidates is not None:
        raise ValueError(
            "--method takes that calibrator, --candidates chooses among several: give one of them."
        )
    for name, least in (("folds", 2), ("seed", 0), ("bins", 1)):
        if getattr(given, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(given, name)}.")
    if not (math.isfinite(given.margin) and given.margin >= 0):
        raise ValueError(f"--margin must be a number of at least 0, not {given.margin}.")


def candidates_of(text: str) -> list[str]:
    """Return the calibrators in "A,B,...", or all of them.

    Raises:
        ValueError: A name is unknown.

    Example:
        >>> candidates_of("svs,sms")
        ['svs', 'sms']
    """
    known = names_in("calib.posthoc.registry", "CALIBRATORS")
    names = known if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise unknown_name("calibrator", name, known)
    return names
