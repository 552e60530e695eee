"""The folder of a robustness check: made whole, replaced whole, and never laid over something else."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

from calib.config import RobustnessRun, to_yaml
from calib.io.files import blocking_file, write_json, write_text
from calib.io.locks import holds_nothing
from calib.report.plots import save_figure
from calib.robustness.picture import severity_picture
from calib.robustness.result import Robustness
from calib.robustness.tables import as_record, csv_rows, tables
from calib.runs.folder import OTHER, RunFolder

log = logging.getLogger(__name__)


class RobustnessFolder:
    """Where the results of `calib robustness` go.

    Args:
        path: The folder; made by `write`.

    Raises:
        ValueError: It cannot be made, or holds a run or other files that are not a robustness check's.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._folder = RunFolder(path)
        blocking = blocking_file(self.path)
        if blocking is not None:
            raise ValueError(f"The folder '{self.path}' cannot be made: '{blocking}' is a file. {OTHER}")
        if self._folder.config.is_file():
            raise ValueError(f"'{self.path}' is the folder of a run, whose results would be lost. {OTHER}")
        if not self._folder.robustness.is_file() and not holds_nothing(self.path, but=self._folder.lock):
            raise ValueError(f"The folder '{self.path}' holds files but no robustness check. {OTHER}")

    def write(self, config: RobustnessRun, found: Robustness) -> None:
        """Write all results, in place of those of an earlier check; metrics.json comes last.

        Raises:
            ValueError: Another process is at work in it.
            WriteError: The folder cannot be written.
        """
        folder = self._folder
        with folder.locked():
            if folder.robustness.is_file():
                log.info("Replacing the robustness check in %s.", self.path)
            folder.metrics.unlink(missing_ok=True)
            write_text(folder.robustness, to_yaml(config))
            write_text(folder.table, tables(found))
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(csv_rows(found))
            write_text(folder.robustness_csv, text.getvalue())
            figure = severity_picture(found)
            folder.severities.unlink(missing_ok=True)  # of an earlier check
            if figure is not None:
                save_figure(figure, folder.severities)
            write_json(folder.metrics, as_record(found))
