"""Is the quality of an uncertainty a property of the method, or does it follow the model's accuracy?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from calib.stats import adjusted_p, spearman_test
from calib.vqa.evaluation.errors import too_few
from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.study import Answers, doubtful
from calib.vqa.evaluation.tables import Field, ResultTable
from calib.vqa.resampling import ranked
from calib.vqa.schema import ORIGINAL
from calib.vqa.uncertainty import METHODS

FEWEST = 5  # models: of fewer no order is unlikely


def cells(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of accuracy and AUROC in every cell: system, data set, and what `by` names."""
    rows = []
    for answers in found:
        for dataset in dict.fromkeys(answers.dataset.tolist()):
            every = answers.rows(dataset, ORIGINAL)
            every = every[answers.answerable[every]]
            said = answers.layout.cells[answers.item[every]]
            for cell in sorted(set(said.tolist())):
                at = every[said == cell]
                rows += [_cell(answers, dataset, cell, at, name) for name in doubtful(answers)]
    fields = (
        Field("system", "system"),
        Field("model", "model", shown=False),
        Field("dataset", "data set"),
        Field("cell", " / ".join(protocol.by) or "cell"),
        Field("method", "method"),
        Field("n", "n", "count"),
        Field("accuracy", "accuracy %", "share"),
        Field("auroc", "AUROC %", "share"),
        Field("why", "why no number"),
    )
    return ResultTable("Accuracy and AUROC cell by cell", "Originals only.", fields, rows)


def tracking(table: ResultTable, protocol: Protocol) -> ResultTable:
    """Return whether AUROC rises with accuracy, method by method, from the table of cells.

    Args:
        table: As from `cells`.
        protocol: How it is tested.
    """
    rows = []
    models = list(dict.fromkeys(row["model"] for row in table.rows))  # prompts and runs are not independent
    columns = list(dict.fromkeys((row["dataset"], row["cell"]) for row in table.rows))
    every: list[tuple[str, np.ndarray]] = []
    for name in dict.fromkeys(row["method"] for row in table.rows):
        own = [row for row in table.rows if row["method"] == name]
        at = [(models.index(row["model"]), columns.index((row["dataset"], row["cell"]))) for row in own]
        accuracy, auroc = (
            _means(at, [row.get(key, math.nan) for row in own], (len(models), len(columns)))
            for key in ("accuracy", "auroc")
        )
        known = np.isfinite(auroc)
        made: dict[str, Any] = {
            "method": name,
            "models": int(known.any(axis=1).sum()),
            "cells": int(known.sum()),
            "p": math.nan,
            "why": "",
        }
        rows.append(made)
        if not known.any():
            made["why"] = "no cell has enough wrong and enough right answers"
            continue
        made |= {"auroc_mean": float(auroc[known].mean()), "auroc_sd": float(auroc[known].std())}
        if not METHODS[name].baseline:
            every.append((name, auroc.ravel()))
        if made["models"] < FEWEST:
            made["why"] = f"{made['models']} models: {FEWEST} are needed for a test"
            continue
        try:
            test = spearman_test(
                accuracy, auroc, n_permutations=2 * protocol.n_permutations + 1, seed=protocol.seed
            )
        except ValueError as error:
            made["why"] = str(error)
            continue
        made |= {"rho": test.rho, "p": test.p, "columns": test.columns}
    for row, p in zip(rows, adjusted_p([row["p"] for row in rows], "holm"), strict=True):
        row["p_holm"] = float(p)
    fields = (
        Field("method", "method"),
        Field("models", "models", "count"),
        Field("cells", "cells", "count"),
        Field("auroc_mean", "mean AUROC %", "share"),
        Field("auroc_sd", "SD over cells", "share"),
        Field("rho", "Spearman with accuracy", "number"),
        Field("p_holm", "p (Holm)", "p"),
        Field("why", "why no number"),
    )
    note = (
        "Spearman's correlation of accuracy and AUROC over models, within each data set and cell, then "
        "averaged; tested by exchanging whole models, so that one which is good everywhere counts once. "
        "Prompts and runs of one model are averaged first. By AUROC alone: AURC, PRR and ECE change with "
        "accuracy even where wrong and right answers are told apart equally well."
    )
    parts = _parts(every)
    return ResultTable("Does quality follow accuracy", f"{note} {parts}".strip(), fields, rows, parts)


def _cell(answers: Answers, dataset: str, cell: str, at: np.ndarray, name: str) -> dict[str, Any]:
    doubt = answers.doubts[name][at]
    known = ~np.isnan(doubt)
    failure = ~answers.right[at[known]]
    row: dict[str, Any] = {"system": answers.name, "model": answers.model, "dataset": dataset, "cell": cell}
    row |= {"method": name, "n": len(failure), "why": ""}
    if not len(failure):
        return row | {"why": "no answer is judged"}
    row["accuracy"] = float(1 - failure.mean())
    wrong = int(failure.sum())
    row["why"] = too_few(wrong, len(failure) - wrong, answers.layout.protocol.min_cases)
    if not row["why"]:
        one = ranked(["auroc"], doubt[known], failure, np.arange(len(failure)))
        row["auroc"] = float(one.of_counts(np.ones((1, len(failure)), dtype=np.uint8))[0, 0])
    return row


def _means(at: list[tuple[int, int]], values: list[float], shape: tuple[int, int]) -> np.ndarray:
    """Return the mean of the known values of every place of a table; NaN where there is none."""
    total, count = np.zeros(shape), np.zeros(shape)
    for place, value in zip(at, values, strict=True):
        if math.isfinite(value):
            total[place] += value
            count[place] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _parts(every: list[tuple[str, np.ndarray]]) -> str:
    """Return in words how much of the spread of AUROC lies between cells, and between methods."""
    if len(every) < 2:
        return ""
    table = np.stack([values for _, values in every])  # (methods, cells)
    table = table[:, np.isfinite(table).all(axis=0)]
    if table.shape[1] < 2 or table.var() == 0:
        return ""
    total = float(((table - table.mean()) ** 2).sum())
    of_methods = float(((table.mean(axis=1) - table.mean()) ** 2).sum()) * table.shape[1] / total
    of_cells = float(((table.mean(axis=0) - table.mean()) ** 2).sum()) * table.shape[0] / total
    return (
        f"Of the variance of AUROC over {table.shape[0]} methods and {table.shape[1]} cells that all know, "
        f"{100 * of_cells:.0f} % lies between cells and {100 * of_methods:.0f} % between methods."
    )
