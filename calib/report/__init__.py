"""What a reader is shown: tables, figures, the report.

    calib.report(test, "report.html", images=task.test)

`calib.report` is this room, and a function: calling it is calling `calib.report.page.report`, whose docstring
says what it takes.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A room that can be called: a submodule of calib and a name of the door cannot be two things."""

    def __call__(self, predictions: Any, path: str | Path, **given: Any) -> Path:
        """Return the path of a report; see `calib.report.page.report`."""
        written: Path = import_module("calib.report.page").report(predictions, path, **given)
        return written


sys.modules[__name__].__class__ = _Room
