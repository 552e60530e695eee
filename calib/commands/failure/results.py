"""The files of a finished failure run: predictions, scores, metrics, tables, doubtful images, curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from calib.config import FailureRun
from calib.core import ranks
from calib.failure.cases import FailureCases
from calib.failure.data import FailureData
from calib.failure.evaluation import (
    BASELINE,
    DOUBT,
    Judgements,
    add_intervals,
    fit_scores,
    head_name,
    judge,
    metrics_of,
)
from calib.failure.export import FailureHead
from calib.failure.report import failures_csv, heading, risk_coverage_figure, short_report, tables
from calib.io.files import MARK, write_json, write_text
from calib.io.tensors import load_tensors, save_tensors
from calib.report.plots import save_figure
from calib.runs.folder import RunFolder
from calib.runs.marks import warn_if_other


@ranks.by_first
def write_results(
    config: FailureRun,
    data: FailureData,
    cases: FailureCases,
    export: FailureHead,
    names: Sequence[str],
    folder: RunFolder,
) -> None:
    """Write the head, judge the test images by every score and write all results; metrics.json comes last.

    Args:
        config: The settings.
        data: The model and its predictions on the test images.
        cases: What the head learned from, and the other scores are fitted on.
        export: The head.
        names: The other scores, from `score_names`.
        folder: The run's folder.
    """
    export.save(folder.failure, run=folder.mark)
    test, head = data.test, head_name(export.head)
    doubt = export.doubt
    ready = None if doubt is None else doubt.scores
    scores = fit_scores(names, cases, data.judged.text_features, ready=ready)
    judged = judge(scores, data.test_cases, export, groups=test.groups)
    metrics = metrics_of(judged)
    add_intervals(metrics, judged, n_resamples=config.n_resamples, level=config.level)
    results = {
        "head": head,
        "baseline": BASELINE,
        "seed": config.seed,
        "data": test.about.get("data"),
        "images": {
            "train": len(cases),
            "failures": int(cases.failure.sum()),
            "fit_on": data.record["fit_on"],
        },
        "test": {"n": len(judged.failure), "n_failures": int(judged.failure.sum())},
        "level": config.level,
        "n_resamples": config.n_resamples,
        "scores": metrics,
        "doubt": None if doubt is None else {**doubt.to_record(), "sentences": doubt.sentences()},
        "val": None if data.val is None else metrics_of(judge(scores, data.val, export)),
    }
    test.save(folder.predictions, run=folder.mark)
    _save_uncertainties(judged, data, folder)
    write_text(folder.failures, failures_csv(data, export))
    write_text(folder.table, _table(results))
    save_figure(risk_coverage_figure(judged, head if doubt is None else DOUBT), folder.risk_coverage)
    write_json(folder.metrics, {**results, MARK: folder.mark})


def _table(results: Mapping[str, Any]) -> str:
    whole = tables(results["scores"])
    return f"{heading(results)}\n\n{short_report(results)}\n\nAll scores:\n\n{whole}\n"


@ranks.by_first
def look_at_texts(folder: RunFolder) -> None:
    """Say it where the table or the list of doubtful images beside a finished run is not its own."""
    written = folder.results()
    table = _table(written)
    warn_if_other(folder.table, lambda text: text == table)
    if not folder.uncertainties.is_file():
        return
    doubts, _ = load_tensors(folder.uncertainties, kind="uncertainties")
    shown = written["head"] if written["doubt"] is None else DOUBT
    values = sorted(doubts[f"uncertainty.{shown}"].tolist(), reverse=True)
    listed = [f"{value:.6f}" for value in values]
    warn_if_other(
        folder.failures,
        lambda text: [row.get("uncertainty") for row in csv.DictReader(io.StringIO(text))] == listed,
    )


def _save_uncertainties(judged: Judgements, data: FailureData, folder: RunFolder) -> None:
    tensors = {f"uncertainty.{name}": value for name, value in judged.values.items()}
    tensors |= {"failure": judged.failure, "predictions": data.test_cases.predictions[0]}
    if data.captions is not None:  # the block of each image, and whose captions the blocks hold
        tensors |= {"block": data.test_cases.source, "candidates": data.captions.test_rows}
    record = {"kind": "uncertainties", "version": 1, "ids": data.test.ids, "groups": data.test.groups}
    save_tensors(folder.uncertainties, tensors, record, run=folder.mark)
