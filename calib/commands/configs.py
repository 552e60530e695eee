"""`calib configs`: the settings files that come with the package, and what is in one."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence

from calib.config.packaged import FOLDER, nearest, packaged_file, packaged_names

MORE = """\
examples:
  calib configs                                   lists all by name, with their first line
  calib train paper/plip_kather backbone.weights=WEIGHTS data.root=ROOT
  calib configs prompt > mine.yaml                to change it: calib train mine.yaml
  calib configs sweeps/prompt_grid > grid.yaml    for W&B: wandb sweep grid.yaml
"""


def main(argv: Sequence[str]) -> int:
    """Run `calib configs`. Returns the exit status.

    Raises:
        FileNotFoundError: No settings file of that name comes with the package.
    """
    parser = argparse.ArgumentParser(
        prog="calib configs",
        description="List the settings files that come with calib, or print one.",
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="the one to print, e.g. paper/plip_kather")
    name = parser.parse_args(argv).name
    if name is not None:
        path = packaged_file(name)
        if path is None:
            raise FileNotFoundError(f"No settings file '{name}' comes with calib.{nearest(name)}")
        sys.stdout.write(path.read_text(encoding="utf-8"))
        return 0
    names = packaged_names()
    wide = max(map(len, names))
    for each in names:
        first = (FOLDER / f"{each}.yaml").read_text(encoding="utf-8").splitlines()[0]
        sys.stdout.write(f"{each:{wide}}  {textwrap.shorten(first.lstrip('# '), 82, placeholder=' ...')}\n")
    return 0
