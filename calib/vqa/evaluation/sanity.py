"""What has to be looked at first: answers at all, better than guessing, no love of a letter, the image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from calib.vqa.columns import ABSENT
from calib.vqa.evaluation.errors import too_few
from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.study import Answers, each
from calib.vqa.evaluation.tables import Field, ResultTable
from calib.vqa.resampling import mean_of_first, ranked, summed
from calib.vqa.schema import ORIGINAL
from calib.vqa.uncertainty.samples import answer_entropy


def overview(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of accuracy beside guessing, the most frequent answer, and answers that are none."""
    rows = [_overview(answers, dataset, condition) for answers, dataset, condition in each(found)]
    fields = (
        Field("system", "system"),
        Field("dataset", "data set"),
        Field("condition", "condition"),
        Field("n", "n", "count"),
        Field("clusters", "images or patients", "count"),
        Field("accuracy", "accuracy %", "share"),
        Field("chance", "guessing %", "share"),
        Field("majority", "most frequent answer %", "share"),
        Field("no_option", "no option chosen %", "share"),
        Field("refusals", "refused %", "share"),
    )
    note = (
        "No answer is left out: what is no option (unparsed, refused, ambiguous) counts as wrong. Guessing "
        "is the mean of 1 / K. The most frequent answer is the right place or text that is most frequent "
        "among the questions, as if it was always given."
    )
    return ResultTable("Answers", note, fields, rows)


def letters(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of places: how often each is right, how often it is chosen."""
    rows = []
    for answers, dataset, condition in each(found):
        if condition != ORIGINAL:
            continue
        at = answers.rows(dataset, condition)
        gold = answers.layout.items.correct[answers.item[at]]
        rows += _letters(answers, dataset, gold, answers.choices[at], answers.right[at])
    fields = (
        Field("system", "system"),
        Field("dataset", "data set"),
        Field("place", "place"),
        Field("gold", "right there %", "share"),
        Field("chosen", "chosen %", "share"),
        Field("excess", "chosen - right", "points"),
        Field("accuracy", "accuracy where right there %", "share"),
    )
    note = "A model that prefers a place chooses it more often than it is right."
    return ResultTable("Places of answers", note, fields, rows)


def orders(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of questions that were asked in several orders of their options.

    The answers of one question to all its orders are compared by option, never by letter; their entropy is an
    uncertainty of the answer to the original order.
    """
    rows = []
    for answers in found:
        for dataset in dict.fromkeys(answers.dataset.tolist()):
            rows += _orders(answers, dataset)
    fields = (
        Field("system", "system"),
        Field("dataset", "data set"),
        Field("n", "questions", "count"),
        Field("orders", "orders each", "mean"),
        Field("changed", "answer changes %", "share"),
        Field("accuracy", "accuracy %", "share"),
        Field("accuracy_all", "right in every order %", "share"),
        Field("accuracy_vote", "accuracy of the vote %", "share"),
        Field("auroc", "AUROC of the entropy %", "share"),
        Field("why", "why no number"),
    )
    note = (
        "Questions asked in their original order and in others (conditions permuted, rotation). The entropy "
        "is that of the options chosen in all orders, for being wrong in the original one; ties of the vote "
        "count as wrong."
    )
    return ResultTable("The same options in other orders", note, fields, rows)


def robustness(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of a real shift: what is unusual beside what is usual, in one column of the items."""
    rows: list[dict[str, Any]] = []
    column, usual = protocol.shift or ("", "")
    for answers in found:
        for dataset in dict.fromkeys(answers.dataset.tolist()):
            every = answers.rows(dataset, ORIGINAL)
            every = every[answers.answerable[every]]
            said = answers.layout.slices(column)[answers.item[every]]
            if usual in said:
                others = sorted(set(said.tolist()) - {usual, ""})
                rows += [_robust(answers, dataset, every, said, usual, value) for value in others]
    fields = (
        Field("system", "system"),
        Field("dataset", "data set"),
        Field("shift", column or "shift"),
        Field("n", "n", "count"),
        Field("accuracy_usual", f"accuracy {usual} %", "share"),
        Field("accuracy", "accuracy there %", "share"),
        Field("ratio", "relative robustness", "number"),
        Field("auroc_usual", f"AUROC {usual} %", "share"),
        Field("auroc", "AUROC there %", "share"),
        Field("auroc_change", "change", "points"),
        Field("why", "why no number"),
    )
    note = (
        f"Relative robustness is accuracy there / accuracy on {usual or 'usual items'} (SURE-VQA). AUROC is "
        f"that of {protocol.reference}."
    )
    return ResultTable("A real shift", note, fields, rows)


def _overview(answers: Answers, dataset: str, condition: str) -> dict[str, Any]:
    at = answers.rows(dataset, condition)
    items, item = answers.layout.items, answers.item[at]
    boot = answers.layout.boots.get(dataset)
    row: dict[str, Any] = {
        "system": answers.name,
        "dataset": dataset,
        "condition": condition,
        "n": len(at),
        "clusters": len(np.unique(answers.cluster[at])),
        "no_option": float((answers.choices[at] < 0).mean()),
        "chance": math.nan,
        "majority": math.nan,
        "accuracy": math.nan,
    }
    if answers.outputs.has("answer_status"):
        said = answers.outputs.texts("answer_status")[at]
        row["refusals"] = float((said == "refusal").mean())
    can = answers.answerable[at]
    if not can.any():
        return row
    right = answers.right[at][can]
    row["accuracy"] = float(right.mean())
    row["chance"] = float((1 / items.n_options[item][can]).mean())
    gold = items.correct[item][can]
    texts = answers.layout.gold_texts[item][can]
    row["majority"] = float(
        max(np.unique(each, return_counts=True)[1].max() for each in (gold, texts)) / can.sum()
    )
    if boot is not None:
        table = np.stack([right, np.ones(len(right))], axis=1).astype(np.float64)
        values = boot.values(
            summed(["accuracy"], table, answers.cluster[at][can], boot.n_clusters, mean_of_first)
        )
        row["accuracy_low"], row["accuracy_high"] = boot.interval(values[:, 0])
    return row


def _letters(
    answers: Answers, dataset: str, gold: np.ndarray, chosen: np.ndarray, right: np.ndarray
) -> list[dict[str, Any]]:
    made = []
    for place in range(int(max(gold.max(initial=0), chosen.max(initial=0))) + 1):
        there = gold == place
        row: dict[str, Any] = {
            "system": answers.name,
            "dataset": dataset,
            "place": chr(ord("A") + place) if place < 26 else str(place + 1),
            "gold": float(there.mean()),
            "chosen": float((chosen == place).mean()),
            "accuracy": float(right[there].mean()) if there.any() else math.nan,
        }
        made.append(row | {"excess": row["chosen"] - row["gold"]})
    return made


def _orders(answers: Answers, dataset: str) -> list[dict[str, Any]]:
    # What also changes the image or the options, "permuted+black_image", is no mere order.
    names = [
        name
        for name in answers.conditions(dataset)
        if name.startswith(("permuted", "rotation")) and "+" not in name
    ]
    pairs = [answers.pairs(dataset, name) for name in names]
    none = np.zeros(0, dtype=np.int64)
    first, later = (np.concatenate([none, *(pair[side] for pair in pairs)]) for side in (0, 1))
    can = answers.answerable[first]  # of others no answer can be right
    first, later = first[can], later[can]
    if not len(first):
        return []
    rows, index = np.unique(first, return_inverse=True)
    codes = answers.layout.items.option_codes
    count = np.bincount(index)
    at = np.argsort(index, kind="stable")
    slot = np.arange(len(at)) - np.repeat(np.cumsum(count) - count, count)
    chosen = np.full((len(rows), int(count.max()) + 1), ABSENT, dtype=np.int64)
    answer = np.where(answers.choices >= 0, codes[answers.item, np.maximum(answers.choices, 0)], -10)
    chosen[:, 0] = answer[rows]
    # Answers that are no option are none of them alike: -10 in the original order, then -11, -12, ...
    chosen[index[at], 1 + slot] = np.where(answer[later[at]] == -10, -11 - slot, answer[later[at]])
    absent = chosen == ABSENT
    clusters = np.where(absent, -1, np.where(chosen < 0, chosen - 100, chosen))
    entropy = answer_entropy(clusters)
    right = answers.right[rows]
    all_right = right.copy()
    np.logical_and.at(all_right, index, answers.right[later])
    gold = codes[answers.item[rows], np.maximum(answers.layout.items.correct[answers.item[rows]], 0)]
    votes = (clusters == gold[:, None]).sum(axis=1)
    best_other = np.zeros(len(rows), dtype=np.int64)
    for place in range(clusters.shape[1]):
        same = (clusters == clusters[:, place, None]).sum(axis=1)
        best_other = np.maximum(
            best_other, np.where((clusters[:, place] != gold) & ~absent[:, place], same, 0)
        )
    row: dict[str, Any] = {
        "system": answers.name,
        "dataset": dataset,
        "n": len(rows),
        "orders": float(1 + count.mean()),
        "changed": float((entropy > 0).mean()),
        "accuracy": float(right.mean()),
        "accuracy_all": float(all_right.mean()),
        "accuracy_vote": float((votes > best_other).mean()),
    }
    wrong = int((~right).sum())
    row["why"] = too_few(wrong, len(rows) - wrong, answers.layout.protocol.min_cases)
    boot = answers.layout.boots.get(dataset)
    if not row["why"] and boot is not None:
        values = boot.values(ranked(["auroc"], entropy, ~right, answers.cluster[rows]))[:, 0]
        row["auroc"] = float(values[0])
        row["auroc_low"], row["auroc_high"] = boot.interval(values)
    return [row]


def _robust(
    answers: Answers, dataset: str, every: np.ndarray, said: np.ndarray, usual: str, value: str
) -> dict[str, Any]:
    protocol, boot = answers.layout.protocol, answers.layout.boots.get(dataset)
    row: dict[str, Any] = {"system": answers.name, "dataset": dataset, "shift": value, "why": ""}
    found = {}
    for key, name in (("_usual", usual), ("", value)):
        at = every[said == name]
        right = answers.right[at]
        row[f"accuracy{key}"] = float(right.mean())
        if boot is None:
            continue
        table = np.stack([right, np.ones(len(at))], axis=1).astype(np.float64)
        share = summed(["accuracy"], table, answers.cluster[at], boot.n_clusters, mean_of_first)
        found[f"accuracy{key}"] = boot.values(share)[:, 0]
        known = (
            at[~np.isnan(answers.doubts[protocol.reference][at])]
            if protocol.reference in answers.doubts
            else at[:0]
        )
        failure = ~answers.right[known]
        why = too_few(int(failure.sum()), int((~failure).sum()), protocol.min_cases)
        row["why"] = row["why"] or why
        if not why:
            doubt = answers.doubts[protocol.reference][known]
            values = boot.values(ranked(["auroc"], doubt, failure, answers.cluster[known]))[:, 0]
            found[f"auroc{key}"], row[f"auroc{key}"] = values, float(values[0])
    row["n"] = int((said == value).sum())
    row["ratio"] = row["accuracy"] / row["accuracy_usual"] if row["accuracy_usual"] else math.nan
    if boot is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = found["accuracy"] / found["accuracy_usual"]
        row["ratio_low"], row["ratio_high"] = boot.interval(ratio)
    if boot is not None and {"auroc", "auroc_usual"} <= found.keys():
        change = found["auroc"] - found["auroc_usual"]
        row["auroc_change"] = float(change[0])
        row["auroc_change_low"], row["auroc_change_high"] = boot.interval(change)
    return row
