"""The arguments of `calib predict`, read without the imports that take seconds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from calib.core.errors import UsageError

MORE = """\
examples:
  calib predict runs/mine scans/ --out predictions.csv
  calib predict runs/mine 'scans/**/*.png' --failure runs/failure-mine-all-s1 --out predictions.csv
  calib predict runs/mine scans/ --grey16-max 4095 --skip-unreadable --out predictions.csv
  calib predict runs/mine scans/ --patients cases.csv --out predictions.csv       (or '{patient}/*.png')

columns: file, patient (where --patients or DICOM headers say it: calib review and sets then count patients),
prediction, confidence, p(class) of every class; with --failure also uncertainty and why;
set, decision (accept or review) and reason, where calib sets and calib review have fitted them; unlike (yes:
unlike the images of the training, and never accepted); note (whose copy a file is); with --skip-unreadable
also error, empty where the image was read. What decisions guarantee is said on standard error, in a line
each. A file or class whose name a spreadsheet would run as a formula is written as ./name (the same file) or
'name.
"""


def predict_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments as those of `calib.commands.predict.predict`; device None: a GPU if there is one.

    Raises:
        ValueError: A number is out of range.
        SystemExit: An option is unknown, or help was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="calib predict",
        description="Classify images with an exported prompt.",
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prompt", help="prompt.safetensors, or the run folder that holds it")
    parser.add_argument("images", nargs="+", help="image files, folders or glob patterns")
    parser.add_argument(
        "--failure", help="failure.safetensors (or its run folder): adds how likely each prediction is wrong"
    )
    parser.add_argument("--out", help="CSV file; without it the table goes to standard output")
    parser.add_argument("--weights", help="the backbone's weights, where they have moved since training")
    parser.add_argument("--tokenizer", help="the tokenizer, where it has moved since training")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="images encoded at once (default: 32)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument(
        "--grey16-max",
        type=int,
        metavar="N",
        help="the white of 16-bit grey images, e.g. 4095 for 12-bit data (default: as in training)",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="go on past images that cannot be read; their rows have an error instead of a prediction",
    )
    parser.add_argument(
        "--window",
        type=_window,
        metavar="CENTRE,WIDTH",
        help="what lies between black and white in all DICOM files of this call, also those that say it "
        "themselves, e.g. 40,400 (default: as in training)",
    )
    parser.add_argument(
        "--frame",
        metavar="N",
        help="which frame of DICOM files, from 1, or middle (default: as trained)",
    )
    parser.add_argument(
        "--patients",
        metavar="HOW",
        help="whose an image is: a table with the columns file and patient, a pattern with {patient} "
        "('{patient}_*.png', '{patient}/**/*'), folder, or none (default: "
        "told apart by the ids in DICOM headers, and called by a digest of their images)",
    )
    parser.add_argument(
        "--group", metavar="COLUMN", help="that table's column of patients (default: group, patient)"
    )
    given = parser.parse_args(argv)
    for word in given.images:
        key, equals, value = word.partition("=")
        known = vars(given).keys() - {"prompt", "images"}
        if equals and key.replace("-", "_") in known and not Path(word).exists():
            option = f"--{key.replace('_', '-')}"
            raise UsageError(f"calib predict takes options, not settings: {option} {value}, not {word}.")
    check_numbers(given.batch_size, given.grey16_max)
    return given


def _window(text: str) -> tuple[float, float]:
    """Return centre and width, of which `calib.data.dicom.DicomView` knows whether they are possible."""
    try:
        centre, width = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected CENTRE,WIDTH, e.g. 40,400, not '{text}'") from error
    return centre, width


def check_numbers(batch_size: int, grey16_max: int | None) -> None:
    """Refuse numbers that are out of range.

    Raises:
        ValueError: One is.
    """
    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {batch_size}.")
    if grey16_max is not None and not 1 <= grey16_max < 2**16:
        raise ValueError(f"--grey16-max must lie between 1 and {2**16 - 1}, not {grey16_max}.")
