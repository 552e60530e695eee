"""Calibration: confidences as they are, and after a correction that was fitted on other answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from calib.core.binning import bin_indices
from calib.metrics.calibration import expected_calibration_error
from calib.posthoc import TemperatureWithPrior, TwoSignalPlatt
from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.study import Answers, doubtful, each
from calib.vqa.evaluation.tables import Field, ResultTable
from calib.vqa.resampling import summed
from calib.vqa.schema import ORIGINAL
from calib.vqa.uncertainty import METHODS, Missing
from calib.vqa.uncertainty.options import softmax_rows

_PADDING = 1e12  # by how much an option that is not there lies below the best: probability 0 at any scale
_EDGE = 1e-12


def calibration(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of confidences before and after, fitted on other originals by cluster.

    "option_msp" is corrected by one temperature; every other method by a logistic regression of being right
    on it, and by one on the confidence of the chosen option as well (`TwoSignalPlatt`, HAC).
    """
    rows = [
        _row(answers, dataset, condition, name)
        for answers, dataset, condition in each(found)
        for name in doubtful(answers)
        if not METHODS[name].baseline
    ]
    fields = (
        Field("system", "system"),
        Field("dataset", "data set"),
        Field("condition", "condition"),
        Field("method", "method"),
        Field("n", "n", "count"),
        Field("ece", f"ECE-{protocol.n_bins} %", "share"),
        Field("gap", "confidence - accuracy", "points"),
        Field("brier", "Brier", "number"),
        Field("confident_wrong", f"errors with confidence >= {protocol.confident:g}, % of errors", "share"),
        Field("ece_after", "ECE after %", "share"),
        Field("gap_after", "gap after", "points"),
        Field("brier_after", "Brier after", "number"),
        Field("ece_hac", "ECE of both %", "share"),
        Field("brier_hac", "Brier of both", "number"),
        Field("why", "why no number"),
    )
    note = (
        "As they are, only methods that mean a probability have an ECE. After: one temperature (option_msp) "
        f"or a logistic regression, fitted on the originals of other images ({protocol.folds} parts) and "
        "used as it is under every condition. Of both: confidence of the chosen option and method together "
        f"(HAC). Intervals allow for the bias of the ECE ({100 * protocol.level:g} %, basic bootstrap): "
        "lower ends may lie below 0."
    )
    return ResultTable("Are confidences true", note, fields, rows)


def transfer(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return what the temperature of one data set does on the others: fitted at home, used abroad."""
    rows = []
    for answers in found:
        fitted = {}
        for dataset in dict.fromkeys(answers.dataset.tolist()):
            known = _scored(answers, answers.rows(dataset, ORIGINAL))
            if len(known) >= protocol.min_cases:
                fitted[dataset] = _temperature(answers, known), known
        for source, (temperature, _) in fitted.items():
            for target, (_, known) in fitted.items():
                if source == target:
                    continue
                right = answers.right[known]
                before, after = (_top(answers, known, t) for t in (1.0, temperature))
                rows.append(
                    {"system": answers.name, "source": source, "target": target, "temperature": temperature}
                    | {"n": len(known), "ece": _ece(before, right, protocol.n_bins)}
                    | {"ece_after": _ece(after, right, protocol.n_bins)}
                    | {"gap_after": float(after.mean() - right.mean())}
                )
    fields = (
        Field("system", "system"),
        Field("source", "fitted on"),
        Field("target", "used on"),
        Field("n", "n", "count"),
        Field("temperature", "temperature", "number"),
        Field("ece", "ECE before %", "share"),
        Field("ece_after", "ECE after %", "share"),
        Field("gap_after", "gap after", "points"),
    )
    note = "One temperature per system, fitted on all originals of one data set. It changes no ranking."
    return ResultTable("Does a correction travel", note, fields, rows)


def _row(answers: Answers, dataset: str, condition: str, name: str) -> dict[str, Any]:
    protocol, boot = answers.layout.protocol, answers.layout.boots.get(dataset)
    rows = answers.rows(dataset, condition)
    known = rows[~np.isnan(answers.doubts[name][rows]) & answers.answerable[rows]]
    row: dict[str, Any] = {
        "system": answers.name,
        "dataset": dataset,
        "condition": condition,
        "method": name,
        "n": len(known),
        "why": "",
    }
    if len(known) < protocol.min_cases:
        return row | {"why": f"{len(known)} answers: {protocol.min_cases} are needed"}
    right = answers.right[known]
    if METHODS[name].probabilistic:
        confidence = np.clip(1 - answers.doubts[name][known], 0, 1)
        row |= _numbers(confidence, right, protocol.n_bins, "")
        sure = confidence >= protocol.confident
        row["confident_wrong"] = float((sure & ~right).sum() / (~right).sum()) if (~right).any() else math.nan
        if boot is not None:
            gaps = _gaps(confidence, right, protocol.n_bins)
            ece = summed(["ece"], gaps, answers.cluster[known], boot.n_clusters, _ece_of_sums)
            row["ece_low"], row["ece_high"] = boot.interval(boot.values(ece)[:, 0], "basic")
    try:
        after, hac = _corrected(answers, dataset, known, name)
        row |= _numbers(after, right, protocol.n_bins, "_after")
        if hac is not None:
            row |= _numbers(hac, right, protocol.n_bins, "_hac")
    except ValueError as error:
        row["why"] = f"no correction: {error}"
    return row


def _corrected(
    answers: Answers, dataset: str, rows: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return confidences corrected by what other parts of the originals say; of one signal and of two."""
    layout = answers.layout
    original = answers.rows(dataset, ORIGINAL)
    original = original[~np.isnan(answers.doubts[name][original]) & answers.answerable[original]]
    clusters = int(layout.cluster[layout.datasets == dataset].max()) + 1
    part = np.random.default_rng(layout.protocol.seed).permutation(clusters) % layout.protocol.folds
    after, hac = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    both = name != "option_msp" and _has_scores(answers)
    for k in range(layout.protocol.folds):
        fit = original[part[answers.cluster[original]] != k]
        use = part[answers.cluster[rows]] == k
        if not use.any():
            continue
        if not len(fit):
            raise ValueError("all originals are of one image")
        key = (dataset, name, k)
        if name == "option_msp":
            if key not in answers.fitted:
                answers.fitted[key] = _temperature(answers, _scored(answers, fit))
            after[use] = _top(answers, rows[use], answers.fitted[key])
            continue
        after[use] = _platt(answers, fit, rows[use], name, key, both=False)
        if both:
            hac[use] = _platt(answers, fit, rows[use], name, key, both=True)
    return after, hac if both and not np.isnan(hac).any() else None


def _platt(
    answers: Answers, fit: np.ndarray, use: np.ndarray, name: str, key: tuple[object, ...], *, both: bool
) -> np.ndarray:
    """Return the logistic regression of being right on a doubt, and on the log-odds of the chosen option."""

    def signals(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        doubt = torch.from_numpy(answers.doubts[name][rows])
        if not both:
            return torch.zeros_like(doubt), doubt
        top = np.clip(_top(answers, rows, 1.0), _EDGE, 1 - _EDGE)
        return torch.from_numpy(np.log(top / (1 - top))), doubt

    fitted = (*key, both)
    if fitted not in answers.fitted:
        model = TwoSignalPlatt().fit(*signals(fit), torch.from_numpy(answers.right[fit]))
        answers.fitted[fitted] = model
    return answers.fitted[fitted](*signals(use)).numpy()


def _has_scores(answers: Answers) -> bool:
    try:
        return not np.isnan(answers.evidence.option_scores).all(axis=1).any()
    except Missing:
        return False


def _scored(answers: Answers, rows: np.ndarray) -> np.ndarray:
    """Return those rows that have scores of their options and a right option."""
    try:
        scores = answers.evidence.option_scores
    except Missing:
        return rows[:0]
    return rows[~np.isnan(scores[rows]).all(axis=1) & answers.answerable[rows]]


def _temperature(answers: Answers, rows: np.ndarray) -> float:
    """Return the temperature of these rows' scores."""
    scores = answers.evidence.option_scores[rows]
    top = np.nanmax(scores, axis=1, keepdims=True)
    filled = np.where(np.isfinite(scores), scores - top, -_PADDING)
    labels = torch.from_numpy(answers.layout.items.correct[answers.item[rows]])
    fitted = TemperatureWithPrior().fit(torch.from_numpy(filled), labels)
    return float(fitted.parameters["temperature"])


def _top(answers: Answers, rows: np.ndarray, temperature: float) -> np.ndarray:
    """Return the largest probability of an option at a temperature: of the chosen one where scores chose."""
    probs = softmax_rows(answers.evidence.option_scores[rows] / temperature)
    top: np.ndarray = np.nanmax(probs, axis=1)
    return top


def _numbers(confidence: np.ndarray, right: np.ndarray, n_bins: int, suffix: str) -> dict[str, float]:
    return {
        f"ece{suffix}": _ece(confidence, right, n_bins),
        f"gap{suffix}": float(confidence.mean() - right.mean()),
        f"brier{suffix}": float(((confidence - right) ** 2).mean()),
    }


def _gaps(confidence: np.ndarray, right: np.ndarray, n_bins: int) -> np.ndarray:
    """Return confidence - right in the column of each answer's bin, and a column of ones, (n, n_bins + 1)."""
    found = np.zeros((len(right), n_bins + 1))
    index = bin_indices(torch.from_numpy(confidence), n_bins).numpy()
    found[np.arange(len(right)), index] = confidence - right
    found[:, -1] = 1
    return found


def _ece_of_sums(sums: np.ndarray) -> np.ndarray:
    value: np.ndarray = np.abs(sums[:, :-1]).sum(axis=1, keepdims=True) / sums[:, -1:]
    return value


def _ece(confidence: np.ndarray, right: np.ndarray, n_bins: int) -> float:
    values = torch.from_numpy(np.clip(confidence, 0, 1))
    return float(expected_calibration_error(values, torch.from_numpy(right), n_bins=n_bins))
