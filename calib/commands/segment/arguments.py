"""The arguments of `calib segment predict` and `evaluate`, read without the imports that take seconds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

PREDICT = """\
For each image NAME the folder gets NAME.png, the mask in the values of the training masks, for each class but
the background NAME.CLASS.png, its probability from 0 (0) to 255 (1), and predictions.csv with the share of
each class and the mean confidence of the pixels.

  calib segment predict runs/mine new/*.png --out masks
"""

EVALUATE = """\
One table: a line for each run, Dice beside ACE, ECE and MCE (means over images and classes but the
background), with intervals over the choice of images, or of groups where these are known, and the difference
of each run to the first. Without --data the runs' own test images, as they were measured; with --data other
images with masks, in the folders or the table of calib segment --help, e.g. of another site or stain. Images
of one kind: a table with their rows (file, mask) alone. Paths in a table start from its folder: write it
beside the images, or give --allow-outside where they lead elsewhere.

  calib segment evaluate runs/plain runs/ace
  calib segment evaluate runs/plain runs/ace --data STAINED --split test --out runs/shift
  calib segment evaluate runs/plain runs/ace --data stained.csv --allow-outside
"""


def predict_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of `calib.commands.segment.predict.main`; the first word is "predict".

    Raises:
        SystemExit: An option is unknown, or help was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="calib segment predict",
        description="Write masks and probabilities of images with an exported network.",
        epilog=PREDICT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="a run folder or segment.safetensors")
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument(
        "--out", metavar="FOLDER", required=True, help="where masks go: a new or empty folder"
    )
    parser.add_argument("--grey16-max", type=int, metavar="WHITE", help="the white of 16-bit images")
    return parser.parse_args([*argv][1:])


def evaluate_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of `calib.commands.segment.evaluate.main`; the first word is "evaluate".

    Raises:
        ValueError: A number is out of range, or an option has nothing to do.
        SystemExit: An option is unknown, or help was asked for.
    """
    parser = argparse.ArgumentParser(
        prog="calib segment evaluate",
        description="Compare exported networks on images with masks.",
        epilog=EVALUATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", help="run folders or segment.safetensors; the first is compared with"
    )
    parser.add_argument("--data", metavar="ROOT", help="other images with masks: a folder, or a table")
    parser.add_argument(
        "--split", metavar="NAME", help="which of them (default: test, or all without splits)"
    )
    parser.add_argument("--table", metavar="NAME", help="the table in the folder, where there are several")
    parser.add_argument("--mask", metavar="COLUMN", help="the table's column of masks (default: mask)")
    parser.add_argument("--group", metavar="COLUMN", help="its column of patients (default: group, patient)")
    parser.add_argument(
        "--allow-outside", action="store_true", help="read paths that lead out of the table's folder"
    )
    parser.add_argument("--bins", type=int, metavar="N", help="bins of ACE, ECE, MCE (of the first run)")
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (2000)")
    parser.add_argument("--level", type=float, default=0.95, metavar="L", help="of the intervals (0.95)")
    parser.add_argument("--out", metavar="FOLDER", help="write table, metrics, images.csv and figure there")
    given = parser.parse_args([*argv][1:])
    if not 0 < given.level < 1:
        raise ValueError(f"--level must lie between 0 and 1, got {given.level:g}.")
    for name in ("resamples", "bins"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")
    of_data = ("split", "table", "mask", "group", "allow_outside", "bins")
    useless = [f"--{name.replace('_', '-')}" for name in of_data if getattr(given, name)]
    if given.data is None and useless:
        raise ValueError(f"{', '.join(useless)}: no images are read here; give them with --data ROOT.")
    return given
