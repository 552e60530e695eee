"""The folder of one evaluation: its predictions, table, picture, report and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calib.config import EvaluateRun, to_yaml
from calib.core import ranks
from calib.data.predictions import Predictions
from calib.io.files import remove_unfinished, write_json, write_text
from calib.report.document import Document
from calib.report.page import write_report
from calib.report.plots import save_figure
from calib.runs.judgement_folder import JudgementFolder


class EvaluationFolder(JudgementFolder):
    """Where the results of `evaluate.py` go.

    Args:
        path: The folder; made by `write`.

    Raises:
        ValueError: It cannot be made, or holds a run or other files that are not an evaluation's.
    """

    OWN, WHAT = "evaluation", "evaluation"

    def write(
        self,
        config: EvaluateRun,
        predictions: Mapping[str, Predictions],
        table: str,
        figure: Any,
        metrics: Mapping[str, Any],
        report: Document | None = None,
    ) -> None:
        """Write all results, in place of those of an earlier evaluation; metrics.json comes last.

        Args:
            config: The settings.
            predictions: What each prompt said, by the name of its file.
            table: The text of table.md.
            figure: The reliability diagrams.
            metrics: The content of metrics.json.
            report: The report. None: there is none.

        Raises:
            ValueError: Another process is at work in it.
            WriteError: The folder cannot be written.
        """
        with self._replaced() as folder:
            remove_unfinished(folder.evaluated)
            write_text(folder.evaluation, to_yaml(config))
            kept = {folder.evaluated / f"{name}.safetensors": each for name, each in predictions.items()}
            for path, each in kept.items():
                each.save(path)
            for path in folder.evaluated.glob("*.safetensors"):
                if path not in kept:
                    path.unlink()
            write_text(folder.table, table)
            save_figure(figure, folder.reliability)
            for path in (folder.report, folder.report_json, folder.report_csv, folder.report_md):
                path.unlink(missing_ok=True)  # of an earlier evaluation
            if report is not None:
                write_report(report, folder.report)
            write_json(folder.metrics, metrics)


@ranks.by_first
def open_evaluation(path: str | Path) -> EvaluationFolder:
    """Return the folder of an evaluation, which the first process looks at for all; raises as the class."""
    return EvaluationFolder(path)
