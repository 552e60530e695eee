"""The arguments of `calib export`, read without the imports that take seconds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from calib.commands.search.grid import own_settings
from calib.core.errors import unknown_name

MORE = """\
settings:
  out=FOLDER          where the files go
  push=owner/name     put them on the Hugging Face hub as well; without it nothing leaves this machine
  private=true        whether a new repository there is private
  licence=mit         the licence of the files, as the hub calls it (default: not stated)
  title="..."         the heading of the card (default: method and data)

examples:
  calib export runs/mine out=shared/mine
  calib export runs/failure-mine-all-s1 out=shared/mine licence=cc-by-4.0 push=me/mine

Writes README.md (the model card: what it is for and not for, data, results with intervals, calibration,
decisions, limits), prompt.safetensors and, of a failure run, failure.safetensors. Folders of this machine are
taken out of the files. They are loaded with calib.load(FOLDER) or calib.load("hf://owner/name",
revision=COMMIT).
"""


@dataclass(frozen=True)
class ExportSettings:
    """Settings of `calib export`.

    Attributes:
        out: The folder to write.
        push: "owner/name" on the hub. None: nothing is put there.
        private: Whether a new repository is private.
        licence: Of the files. None: not stated.
        title: Heading of the card. None: method and data.
    """

    out: str | None = None
    push: str | None = None
    private: bool = True
    licence: str | None = None
    title: str | None = None


def export_arguments(argv: Sequence[str]) -> tuple[str, ExportSettings]:
    """Return the run and the settings of `calib.commands.export.main`.

    Raises:
        ValueError: A setting is wrong, or no folder or more than one run was given.
        SystemExit: Help was asked for.

    Example:
        >>> export_arguments(["runs/mine", "out=shared"])[1].out
        'shared'
    """
    parser = argparse.ArgumentParser(
        prog="calib export",
        usage="calib export RUN out=FOLDER [key=value ...]",
        description="Write a finished run as a folder for others, with a model card.",
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="RUN key=value", help="a run folder, and settings")
    words = parser.parse_args(list(argv)).words
    settings, runs = own_settings(ExportSettings, words)
    unknown = [word for word in runs if "=" in word]
    if unknown:
        name = unknown[0].partition("=")[0]
        raise unknown_name("setting", name, ExportSettings.__dataclass_fields__)
    if len(runs) != 1:
        raise ValueError(f"Expected the folder of one run, got {len(runs)}: calib export RUN out=FOLDER.")
    if settings.out is None:
        raise ValueError("Say which folder to write: out=FOLDER.")
    return runs[0], settings
