"""Collapse: does the uncertainty of a right answer foresee that it falls when the question is changed?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from calib.stats import adjusted_p, delong
from calib.vqa.collapse import CollapseNull, collapse_null, nested_regression
from calib.vqa.columns import ABSENT
from calib.vqa.evaluation.errors import ranking, too_few
from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.study import Answers, doubtful, each
from calib.vqa.evaluation.tables import Field, ResultTable
from calib.vqa.schema import ORIGINAL
from calib.vqa.uncertainty import METHODS, Missing

RIVAL = "best_distractor"
ONE_LOGIT = "by construction: None of the above has the same logit everywhere"


def collapse(found: list[Answers], protocol: Protocol) -> ResultTable:
    """Return the table of how methods on the original question foresee collapse under each condition."""
    rows: list[dict[str, Any]] = []
    for answers, dataset, condition in each(found):
        first, then = answers.pairs(dataset, condition)
        if condition != ORIGINAL and answers.answerable[then].any():
            rows += _rows(answers, dataset, condition, first, then)
    for key in ("null_p", "added_p"):
        tested = [row.get(key, math.nan) for row in rows]
        for row, p in zip(rows, adjusted_p(tested, "bh"), strict=True):
            row[f"{key}_bh"] = float(p)
    fields = (
        Field("system", "system"),
        Field("dataset", "data set"),
        Field("condition", "condition"),
        Field("method", "method"),
        Field("n", "right before", "count"),
        Field("n_collapse", "fall", "count"),
        Field("prevalence", "fall %", "share"),
        Field("auroc", "AUROC %", "share"),
        Field("null_mean", "AUROC by the rival alone %", "share"),
        Field("null_p_bh", "p of more (BH)", "p"),
        Field("over_rival", f"less {RIVAL}", "points"),
        Field("added_p_bh", "p of adding to it (BH)", "p"),
        Field("added_auroc", "adds", "points"),
        Field("aupr", "AUPR %", "share"),
        *[
            Field(f"capture_{budget:g}", f"found in {100 * budget:g} % reviewed, %", "share")
            for budget in protocol.budgets
        ],
        Field("auroc_all", "AUROC among all %", "share", shown=False),
        Field("why", "why no number"),
        Field("why_null", "what to know of the rival alone"),
    )
    note = (
        "Among the questions answered rightly in the original form: does the uncertainty there foresee that "
        "the answer is wrong in the changed form? An answer falls where None of the above scores below its "
        "best rival, and every uncertainty contains that rival: the AUROC by the rival alone remains when "
        f"the logits of None of the above are exchanged between questions ({protocol.n_permutations} times), "
        "and p of more says whether the data are above it. Where it is not below 0.05, the method foresees "
        f"nothing but the rival. Adding to it: logistic regression on {RIVAL} and the method. p-values are "
        "corrected over all rows (BH). AUPR starts from the share that falls. The method no_image, where "
        "shown, is the same uncertainty without the image."
    )
    return ResultTable("What foresees collapse", note, fields, rows)


def _rows(
    answers: Answers, dataset: str, condition: str, first: np.ndarray, then: np.ndarray
) -> list[dict[str, Any]]:
    protocol = answers.layout.protocol
    can = answers.answerable[then]
    everyone, changed = first[can], then[can]
    right = answers.right[everyone]
    rows, later = everyone[right], changed[right]
    fallen = ~answers.right[later]
    made, values, kept = [], {}, {}
    for name in doubtful(answers):
        known = ~np.isnan(answers.doubts[name][rows])
        lost = int(fallen[known].sum())
        row: dict[str, Any] = {
            "system": answers.name,
            "dataset": dataset,
            "condition": condition,
            "method": name,
            "n": int(known.sum()),
            "n_collapse": lost,
            "prevalence": lost / int(known.sum()) if known.any() else math.nan,
            "why": "",
            "why_null": "",
        }
        made.append(row)
        what = ("fallen", "surviving")
        row["why"] = too_few(lost, int(known.sum()) - lost, protocol.min_cases, what)
        if row["why"]:
            continue
        numbers, values[name] = ranking(answers, dataset, rows[known], name, fallen[known])
        kept[name] = known
        wanted: tuple[str, ...] = ("auroc", "auroc_low", "auroc_high", "aupr")
        row |= {
            key: numbers[key]
            for key in (*wanted, *(f"capture_{b:g}" for b in protocol.budgets))
            if key in numbers
        }
        doubt = answers.doubts[name][rows[known]][:, None]
        row["delong_se"] = math.sqrt(delong(doubt, fallen[known])[1][0, 0])
        row["auroc_all"] = _unconditional(answers, everyone, changed, name)
    if kept:
        _beside_the_rival(answers, dataset, made, values, kept)
        _beside_the_null(answers, made, rows, later, fallen, kept)
    return made


def _unconditional(answers: Answers, first: np.ndarray, then: np.ndarray, name: str) -> float:
    """Return the AUROC for being wrong in the changed form, right before or not: error detection again."""
    known = ~np.isnan(answers.doubts[name][first])
    wrong = ~answers.right[then[known]]
    if wrong.all() or not wrong.any():
        return math.nan
    return float(delong(answers.doubts[name][first[known]][:, None], wrong)[0][0])


def _beside_the_rival(
    answers: Answers, dataset: str, made: list[dict[str, Any]], values: dict[str, Any], kept: dict[str, Any]
) -> None:
    boot = answers.layout.boots.get(dataset)
    for row in made:
        name = row["method"]
        if boot is None or name == RIVAL or RIVAL not in values or name not in values:
            continue
        if not np.array_equal(kept[name], kept[RIVAL]):
            continue
        difference = values[name] - values[RIVAL]
        row["over_rival"] = float(difference[0])
        row["over_rival_low"], row["over_rival_high"] = boot.interval(difference)


def _beside_the_null(
    answers: Answers,
    made: list[dict[str, Any]],
    rows: np.ndarray,
    later: np.ndarray,
    fallen: np.ndarray,
    kept: dict[str, Any],
) -> None:
    """Put beside every method what the rival alone would give, and what the method adds to the rival."""
    logits, clusters = _logits(answers, rows, later), answers.cluster[rows]
    by_name = {row["method"]: row for row in made if row["method"] in kept}
    if isinstance(logits, str):
        for row in by_name.values():
            row["why_null"] = logits
    else:
        alike: dict[bytes, list[str]] = {}  # methods that know the same answers share the permutations
        for name in by_name:
            if name != RIVAL:
                alike.setdefault(kept[name].tobytes(), []).append(name)
        for names in alike.values():
            both = kept[names[0]]
            try:
                null = collapse_null(
                    np.stack([answers.doubts[name][rows[both]] for name in names], axis=1),
                    *(each[both] for each in logits[:2]),
                    level=logits[2][both],
                    groups=clusters[both],
                    n_permutations=answers.layout.protocol.n_permutations,
                    seed=answers.layout.protocol.seed,
                )
            except ValueError as error:
                for name in names:
                    by_name[name]["why_null"] = str(error)
                continue
            differ = float(((logits[0] < logits[1])[both] != fallen[both]).mean())
            for i, name in enumerate(names):
                by_name[name].update(_of_null(null, i))
                if np.ptp(logits[0][both]) == 0:
                    by_name[name]["why_null"] = ONE_LOGIT
                if differ > 0.01:
                    by_name[name]["why_null"] = (
                        f"known, but of the fall by logits, which {100 * differ:.1f} % of answers contradict"
                    )
    if RIVAL not in kept:
        return
    for name, row in by_name.items():
        if METHODS[name].baseline:
            continue
        known = kept[name] & kept[RIVAL]
        rival = [answers.doubts[RIVAL][rows[known]], _level(answers, rows[known])]
        base = np.column_stack([*rival, _places(answers, later[known])])
        try:
            doubt = answers.doubts[name][rows[known]]
            added = nested_regression(fallen[known], base, doubt, clusters[known])
        except ValueError as error:
            row["why_added"] = str(error)
            continue
        row.update(added_p=added.p, added_lr=added.lr, added_lr_p=added.lr_p, added_slope=added.slope)
        row["added_auroc"] = added.auroc_both - added.auroc_baseline


def _of_null(null: CollapseNull, i: int) -> dict[str, float]:
    return {
        "null_mean": float(null.null_mean[i]),
        "null_sd": float(null.null_sd[i]),
        "null_p": float(null.p[i]),
        "null_auroc": float(null.auroc[i]),
        "level_slope": null.level_slope,
    }


def _level(answers: Answers, rows: np.ndarray) -> np.ndarray:
    """Return the mean score of each question's options."""
    level: np.ndarray = np.nanmean(answers.evidence.option_scores[rows], axis=1)
    return level


def _logits(
    answers: Answers, rows: np.ndarray, later: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | str:
    """Return the logits of None of the above and of its rival, and the logits' level; or why not."""
    if (answers.nota[later] < 0).any() or (
        answers.layout.items.correct[answers.item[later]] != answers.nota[later]
    ).any():
        return "None of the above is not the right answer of this condition"
    try:
        scores = answers.evidence.option_scores
    except Missing as missing:
        return str(missing)
    if answers.evidence.scores != "logit":
        return "it takes raw logits (option_logit): log-probabilities are tied to each other by their sum"
    before, after = scores[rows], scores[later]
    if not (np.isfinite(before).any(axis=1) & np.isfinite(after).any(axis=1)).all():
        return "some answers have no logits"
    at = np.arange(len(later))
    nota = after[at, answers.nota[later]]
    others = after.copy()
    others[at, answers.nota[later]] = -np.inf
    rival = np.where(np.isnan(others), -np.inf, others).max(axis=1)
    # How the logits of the options in both forms have moved as a whole: 0 where nothing else is asked.
    codes = answers.layout.items.option_codes
    mine, theirs = codes[answers.item[rows]], codes[answers.item[later]]
    moved, shared = np.zeros(len(rows)), np.zeros(len(rows))
    for place in range(before.shape[1]):  # other systems may have been asked questions of more options
        same = (theirs == mine[:, place, None]) & (mine[:, place, None] != ABSENT)
        there = same.any(axis=1)
        moved += np.where(there, after[at, same.argmax(axis=1)] - before[:, place], 0.0)
        shared += there
    level = [np.nanmean(before, axis=1), moved / np.maximum(shared, 1)]
    return nota, rival, np.column_stack([*level, _places(answers, later)])


def _places(answers: Answers, later: np.ndarray) -> np.ndarray:
    """Return a column of 0 and 1 for every place of None of the above but the first, (n, places - 1).

    It takes the right option's place, and its logit what the model gives to that letter anyway: without these
    columns a mere love of a letter would look like fragility.
    """
    place = answers.nota[later]
    return (place[:, None] == np.unique(place)[None, 1:]).astype(np.float64)
