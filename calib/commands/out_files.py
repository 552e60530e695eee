"""Files that a command is to write: refused before the work, also where they would replace what is read."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from calib.data.mapping import check_format
from calib.data.outputs import Outputs, read_outputs
from calib.io.files import blocking_file


def check_out(out: Path, inputs: Iterable[str | None]) -> None:
    """Refuse a file that could not be written after the work, or would replace what is read.

    Args:
        out: The file.
        inputs: What is read; None: nothing.

    Raises:
        ValueError: It is so.

    Example:
        >>> check_out(Path("."), [])
        Traceback (most recent call last):
        ValueError: --out . cannot be written: name a file in a folder.
    """
    if out.is_dir() or blocking_file(out.parent) is not None:
        raise ValueError(f"--out {out} cannot be written: name a file in a folder.")
    if out.exists() and out.resolve() in {Path(path).resolve() for path in inputs if path is not None}:
        raise ValueError(f"--out {out} cannot be written: it is one of the files to read.")


def outputs_to_apply(given: argparse.Namespace, class_names: list[str]) -> tuple[Outputs, Path]:
    """Return the outputs of `--apply`, and where they go with what is added to them.

    Args:
        given: The arguments of `calib calibrate` or `calib sets`.
        class_names: Of what is applied, in its order.

    Raises:
        ValueError: The file cannot be written, or the outputs are of other classes.
    """
    out = Path(given.out)
    check_out(out, [given.source, given.apply])
    check_format(Path(given.apply), out)
    return read_outputs(given.apply, kind=given.kind, class_names=class_names, labelled=False), out
