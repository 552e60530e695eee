"""The folder of a robustness check: its tables, picture and numbers."""

from __future__ import annotations

import csv
import io

from calib.config import RobustnessRun, to_yaml
from calib.io.files import write_json, write_text
from calib.report.plots import save_figure
from calib.robustness.picture import severity_picture
from calib.robustness.result import Robustness
from calib.robustness.tables import as_record, csv_rows, tables
from calib.runs.judgement_folder import JudgementFolder


class RobustnessFolder(JudgementFolder):
    """Where the results of `calib robustness` go.

    Args:
        path: The folder; made by `write`.

    Raises:
        ValueError: It cannot be made, or holds a run or other files that are not a robustness check's.
    """

    OWN, WHAT = "robustness", "robustness check"

    def write(self, config: RobustnessRun, found: Robustness) -> None:
        """Write all results, in place of those of an earlier check; metrics.json comes last.

        Raises:
            ValueError: Another process is at work in it.
            WriteError: The folder cannot be written.
        """
        with self._replaced() as folder:
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
