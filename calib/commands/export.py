"""`calib export`: a finished run as a folder for others, with a model card, and on the hub where asked."""

from __future__ import annotations

import sys

from calib.commands.export_arguments import ExportSettings
from calib.runs.hub import check_hub_id, push
from calib.runs.sharing import share


def main(given: tuple[str, ExportSettings]) -> int:
    """Run `calib export` and say what was written. Returns the exit status."""
    run, settings = given
    assert settings.out is not None  # `export_arguments`
    if settings.push is not None:
        check_hub_id(settings.push)  # before anything is written
    shared = share(run, settings.out, hub_id=settings.push, title=settings.title, licence=settings.licence)
    say = sys.stdout.write
    say(f"Written to {shared.folder}: {', '.join(shared.files)}\n")
    if settings.push is not None:
        commit = push(shared, settings.push, private=settings.private)
        say(f'On the hub: calib.load("hf://{settings.push}", revision="{commit}")\n')
    return 0
