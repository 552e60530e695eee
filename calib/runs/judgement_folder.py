"""The folder of what judges finished runs: made whole, replaced whole, and never laid over something else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from calib.io.files import blocking_file
from calib.io.locks import holds_nothing
from calib.runs.folder import OTHER, RunFolder

log = logging.getLogger(__name__)


class JudgementFolder:
    """Where the results of a command on finished runs go.

    Args:
        path: The folder; made when results are written.

    Attributes:
        OWN: The file of `calib.runs.folder.FILES` that says what the folder holds.
        WHAT: What that is called.

    Raises:
        ValueError: It cannot be made, or holds a run or other files that are not such results.
    """

    OWN: ClassVar[str]
    WHAT: ClassVar[str]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._folder = RunFolder(path)
        blocking = blocking_file(self.path)
        if blocking is not None:
            raise ValueError(f"The folder '{self.path}' cannot be made: '{blocking}' is a file. {OTHER}")
        if self._folder.config.is_file():
            raise ValueError(f"'{self.path}' is the folder of a run, whose results would be lost. {OTHER}")
        if not self._is_ours and not holds_nothing(self.path, but=self._folder.lock):
            raise ValueError(f"The folder '{self.path}' holds files but no {self.WHAT}. {OTHER}")

    @property
    def _is_ours(self) -> bool:
        own: Path = getattr(self._folder, self.OWN)
        return own.is_file()

    @contextlib.contextmanager
    def _replaced(self) -> Iterator[RunFolder]:
        """Yield the folder while nobody else writes there; it is unfinished until metrics.json is there.

        Raises:
            ValueError: Another process is at work in it.
            WriteError: The folder cannot be written.
        """
        with self._folder.locked():
            if self._is_ours:
                log.info("Replacing the %s in %s.", self.WHAT, self.path)
            self._folder.metrics.unlink(missing_ok=True)
            yield self._folder
