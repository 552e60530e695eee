"""What a changed question does: to the answers, and to their uncertainty."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from calib.stats import adjusted_p, equivalence_test, mcnemar_exact, sign_flip_test, signed_ranks
from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.study import Answers, doubtful, each
from calib.vqa.evaluation.tables import Field, ResultTable
from calib.vqa.resampling import summed
from calib.vqa.schema import ORIGINAL
from calib.vqa.uncertainty import METHODS


def accuracy_shift(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of answers under every condition beside those to the originals."""
    rows = [
        _accuracy(answers, dataset, condition)
        for answers, dataset, condition in each(found)
        if condition != ORIGINAL
    ]
    for row, p in zip(rows, adjusted_p([row["p_cluster"] for row in rows], "holm"), strict=True):
        row["p_holm"] = float(p)
    fields = (
        Field("system", "system"),
        Field("dataset", "data set"),
        Field("condition", "condition"),
        Field("n", "pairs", "count"),
        Field("accuracy_original", "accuracy %", "share"),
        Field("accuracy", "then %", "share"),
        Field("change", "change", "points"),
        Field("ratio", "then / before", "number"),
        Field("dual_accuracy", "right on both %", "share"),
        Field("collapse_rate", "of the right ones fall %", "share"),
        Field("nota_rate", "none of the above chosen %", "share"),
        Field("lost", "right to wrong", "count"),
        Field("won", "wrong to right", "count"),
        Field("p_mcnemar", "p (McNemar)", "p"),
        Field("p_holm", "p (clusters, Holm)", "p"),
    )
    note = (
        "Pairs are questions answered in both forms. McNemar's exact test takes questions as independent; "
        "the other p-value flips the signs of whole images or patients, and is corrected over all rows "
        "(Holm). Then / before is SURE-VQA's relative robustness. An automatic edit to None of the above is "
        "not always valid: of 100 such items of a medical examination, clinicians found 68 to be (Bedi et "
        "al. 2025)."
    )
    return ResultTable("What changed questions do to the answers", note, fields, rows)


def doubt_shift(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of uncertainties under every condition beside those of the originals."""
    rows = [
        _doubt(answers, dataset, condition, name)
        for answers, dataset, condition in each(found)
        if condition != ORIGINAL
        for name in doubtful(answers)
        if not METHODS[name].baseline or name == "best_distractor"
    ]
    for row, p in zip(rows, adjusted_p([row["p"] for row in rows], "holm"), strict=True):
        row["p_holm"] = float(p)
        row["equivalent"] = "yes" if p <= 0.05 else "n/a" if math.isnan(p) else "no"
    fields = (
        Field("system", "system"),
        Field("dataset", "data set"),
        Field("condition", "condition"),
        Field("method", "method"),
        Field("n", "pairs", "count"),
        Field("median_change", "median change", "number"),
        Field("effect", "mean change in SD", "number"),
        Field("rank_biserial", "rank-biserial", "number"),
        Field("p_wilcoxon", "p (Wilcoxon)", "p"),
        Field("p_holm", f"p of |change| < {protocol.margin:g} SD (Holm)", "p"),
        Field("equivalent", "as good as unchanged"),
        Field("why", "why no number"),
    )
    note = (
        "That uncertainty barely changes is a claim of equivalence: two one-sided tests against "
        f"{protocol.margin:g} standard deviations of the original uncertainty, with images or patients as "
        "clusters, corrected over all rows (Holm). A large p-value of Wilcoxon's test would not show it."
    )
    return ResultTable("What changed questions do to the uncertainty", note, fields, rows)


def _accuracy(answers: Answers, dataset: str, condition: str) -> dict[str, Any]:
    first, then = answers.pairs(dataset, condition)
    row: dict[str, Any] = {
        "system": answers.name,
        "dataset": dataset,
        "condition": condition,
        "n": len(first),
        "unpaired": len(answers.rows(dataset, condition)) - len(first),
        "p_mcnemar": math.nan,
        "p_cluster": math.nan,
    }
    if not len(first):
        return row
    nota, chosen = answers.nota[then], answers.choices[then]
    if (nota >= 0).any():
        row["nota_rate"] = float((chosen == nota)[nota >= 0].mean())
    can = bool(answers.answerable[then].any())
    if can:  # of the others no answer can be right
        first, then = (rows[answers.answerable[then]] for rows in (first, then))
        row["n"] = len(first)
    before, after = answers.right[first], answers.right[then]
    columns = [before, after, before & after, before & ~after]
    table = np.stack([*columns, np.ones(len(first))], axis=1).astype(np.float64)
    clusters = answers.cluster[first]
    boot = answers.layout.boots.get(dataset)
    names = ["accuracy_original", "accuracy", "dual_accuracy", "change", "collapse_rate", "ratio"]
    sums = table.sum(axis=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = _shares(sums)
    if boot is not None:
        values = boot.values(summed(names, table, clusters, boot.n_clusters, _shares))
    for i, name in enumerate(names):
        if not can and name not in ("accuracy_original",):
            continue
        row[name] = float(values[0, i])
        if boot is not None:
            row[f"{name}_low"], row[f"{name}_high"] = boot.interval(values[:, i])
    if can:
        row["lost"], row["won"] = int((before & ~after).sum()), int((after & ~before).sum())
        row["p_mcnemar"] = mcnemar_exact(row["lost"], row["won"])
        row["p_cluster"] = sign_flip_test(
            after.astype(np.float64) - before,
            clusters,
            n_permutations=2 * answers.layout.protocol.n_permutations + 1,
            seed=answers.layout.protocol.seed,
        )
    return row


def _shares(sums: np.ndarray) -> np.ndarray:
    """Return what follows from how many are right before, then, on both, on the first alone, and all."""
    before, after, both, lost, n = sums.T
    return np.stack(
        [before / n, after / n, both / n, (after - before) / n, lost / before, after / before], axis=1
    )


def _doubt(answers: Answers, dataset: str, condition: str, name: str) -> dict[str, Any]:
    first, then = answers.pairs(dataset, condition)
    doubt = answers.doubts[name]
    known = ~np.isnan(doubt[first]) & ~np.isnan(doubt[then])
    first, then = first[known], then[known]
    row: dict[str, Any] = {
        "system": answers.name,
        "dataset": dataset,
        "condition": condition,
        "method": name,
        "n": len(first),
        "p": math.nan,
        "why": "",
    }
    protocol = answers.layout.protocol
    if len(first) < protocol.min_cases:
        return row | {"why": f"{len(first)} pairs: {protocol.min_cases} are needed"}
    change = doubt[then] - doubt[first]
    row["median_change"], row["mean_change"] = float(np.median(change)), float(change.mean())
    if not np.isfinite(change).all():
        return row | {"why": "an uncertainty is infinite"}
    row["p_wilcoxon"], row["rank_biserial"] = signed_ranks(change)
    spread = float(doubt[first].std())
    if spread == 0:
        return row | {"why": "the original uncertainty is the same everywhere"}
    row["effect"] = row["mean_change"] / spread
    clusters = answers.cluster[first]
    if len(np.unique(clusters)) < 2:
        return row | {"why": "all questions are of one image"}
    test = equivalence_test(change, protocol.margin * spread, clusters)
    row |= {"p": test.p, "effect_low": test.low / spread, "effect_high": test.high / spread}
    return row
