"""`calib vqa`: runs the subcommand that was asked for."""

from __future__ import annotations

import importlib

from calib.commands.shown import shown_safely
from calib.commands.vqa.arguments import Given
from calib.commands.vqa.subcommands import SUBCOMMANDS


def main(given: Given) -> int:
    """Run a subcommand and return its exit status.

    Args:
        given: From `calib.commands.vqa.arguments.vqa_arguments`.
    """
    if not given.name:
        return 0
    module, _, name = SUBCOMMANDS[given.name].main.partition(":")
    function = getattr(importlib.import_module(module), name)
    with shown_safely():  # names of models, conditions and files come from tables of others
        status: int = function(given)
    return status
