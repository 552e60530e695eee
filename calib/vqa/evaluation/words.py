"""The findings of an evaluation in sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.result import Evaluation
from calib.vqa.schema import ORIGINAL
from calib.vqa.uncertainty import METHODS

MANY = 4  # systems and data sets that are told one by one; of more, what they have in common
Row = dict[str, Any]
Place = tuple[str, str]


def sentences(result: Evaluation, protocol: Protocol) -> list[str]:
    """Return what the tables say: of each system and data set where they are few, and of all together.

    Args:
        result: An evaluation with its tables.
        protocol: How it was made.
    """
    places = [(row["system"], row["dataset"]) for row in result.rows("overview", condition=ORIGINAL)]
    if len(places) <= MANY:
        said = [_of_place(result, place, protocol, len({name for _, name in places}) > 1) for place in places]
    else:
        said = _of_many(result, places)
    said += [_equivalence(result, protocol), _collapse_of_many(result, places), _tracking(result, protocol)]
    return [each for each in [*said, _missing(result)] if each]


def _rows(result: Evaluation, table: str, place: Place, **where: str) -> list[Row]:
    return result.rows(table, system=place[0], dataset=place[1], **where)


def _own(rows: list[Row]) -> list[Row]:
    """Return rows of methods that have a number and are no baselines."""
    return [row for row in rows if "auroc" in row and not METHODS[row["method"]].baseline]


def _of_place(result: Evaluation, place: Place, protocol: Protocol, several: bool) -> str:
    """Return what is found of one system on one data set."""
    (row,) = _rows(result, "overview", place, condition=ORIGINAL)
    none = f", {_percent(row['no_option'])} chose no option" if row["no_option"] > 0.005 else ""
    parts = [
        f"{row['n']:,} questions, {_percent(row['accuracy'])}{_between(row, 'accuracy')} right{none} "
        f"(guessing {_percent(row['chance'])}, always the most frequent answer {_percent(row['majority'])})"
    ]
    parts.append(_errors(_rows(result, "errors", place, condition=ORIGINAL), protocol))
    for row in _rows(result, "calibration", place, condition=ORIGINAL, method="option_msp"):
        if "ece" in row:
            after = f", after one temperature {_percent(row['ece_after'], 1)}" if "ece_after" in row else ""
            side = "above" if row["gap"] > 0 else "below"
            parts.append(
                f"confidence lies {abs(100 * row['gap']):.0f} points {side} accuracy (ECE "
                f"{_percent(row['ece'], 1)}{after})"
            )
    parts += [
        f"{_percent(row['changed'])} of the answers change with the order of the options"
        for row in _rows(result, "orders", place)
    ]
    for row in _rows(result, "shift", place):
        if "change" in row and not row["condition"].startswith(("rotation", "permuted")):
            nota = f", None of the above chosen in {_percent(row['nota_rate'])}" if "nota_rate" in row else ""
            parts.append(
                f"under {row['condition']} {_percent(row['accuracy'])} instead of "
                f"{_percent(row['accuracy_original'])} are right (McNemar p {_p(row['p_mcnemar'])}{nota})"
            )
    parts += _collapse(_rows(result, "collapse", place, condition="nota"))
    name = f"{place[0]} on {place[1]}" if several else place[0]
    return f"{name}: {'; '.join(parts)}."


def _errors(rows: list[Row], protocol: Protocol) -> str:
    own = _own(rows)
    if not own:
        why = next((row["why"] for row in rows if row["why"]), "nothing is known of them")
        return f"no method can be ranked by its errors ({why})"
    best = max(own, key=lambda row: row["auroc"])
    better = [row["method"] for row in own if row.get("difference", 0) > 0 and row["p_holm"] <= 0.05]
    beyond = "none is better than" if not better else f"{_listed(better)} better than"
    return (
        f"wrong answers are told best by {best['method']}, AUROC {_percent(best['auroc'])}"
        f"{_between(best, 'auroc')}, {beyond} {protocol.reference} after correction"
    )


def _collapse(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    own = _own(rows)
    if not own:
        why = next((row["why"] for row in rows if row["why"]), "nothing is known of them")
        return [f"what foresees collapse under nota cannot be ranked ({why})"]
    best = max(own, key=lambda row: row["auroc"])
    text = (
        f"of {best['n']:,} right answers {_percent(best['prevalence'])} fall under nota, foreseen best by "
        f"{best['method']}, AUROC {_percent(best['auroc'])}{_between(best, 'auroc')}"
    )
    if "null_mean" in best:
        beyond = "more than" if best["null_p_bh"] <= 0.05 else "no more than"
        text += (
            f": {beyond} the {_percent(best['null_mean'])} that the strength of the best rival alone gives "
            f"(p {_p(best['null_p_bh'])}{'; ' if best['why_null'] else ''}{best['why_null']})"
        )
    elif best["why_null"]:
        text += f"; what the best rival alone gives is not known ({best['why_null']})"
    return [text]


def _of_many(result: Evaluation, places: list[Place]) -> list[str]:
    """Return what many systems and data sets have in common."""
    rows = result.rows("overview", condition=ORIGINAL)
    accuracy = sorted(row["accuracy"] for row in rows)
    names, datasets = ({place[i] for place in places} for i in (0, 1))
    said = [
        f"{len(names)} systems on {len(datasets)} data set(s): accuracy from {_percent(accuracy[0])} to "
        f"{_percent(accuracy[-1])}."
    ]
    wins: dict[str, int] = {}
    ranked = [_own(_rows(result, "errors", place, condition=ORIGINAL)) for place in places]
    for own in ranked:
        if own:
            best = max(own, key=lambda row: row["auroc"])["method"]
            wins[best] = wins.get(best, 0) + 1
    if wins:
        order = sorted(wins, key=lambda name: -wins[name])
        told = _listed([f"{name} in {wins[name]}" for name in order[:3]])
        said.append(f"Wrong answers are told best by {told} of {sum(wins.values())} cases (AUROC).")
    rows = [
        row for row in result.rows("calibration", condition=ORIGINAL, method="option_msp") if "ece" in row
    ]
    if rows:
        over = sum(row["gap"] > 0 for row in rows)
        after = [row["ece_after"] for row in rows if "ece_after" in row]
        fixed = f", after one temperature {_percent(_median(after), 1)}" if after else ""
        said.append(
            f"Confidence lies above accuracy in {over} of {len(rows)} cases; median ECE "
            f"{_percent(_median([row['ece'] for row in rows]), 1)}{fixed}."
        )
    shares = sorted(row["changed"] for row in result.rows("orders"))
    if shares:
        said.append(
            f"From {_percent(shares[0])} to {_percent(shares[-1])} of a system's answers change with the "
            "order of the options."
        )
    for condition in dict.fromkeys(row["condition"] for row in result.rows("shift")):
        changes = [row["change"] for row in result.rows("shift", condition=condition) if "change" in row]
        if changes and not condition.startswith(("rotation", "permuted")):
            said.append(
                f"Under {condition} accuracy changes by {100 * min(changes):+.0f} to "
                f"{100 * max(changes):+.0f} points."
            )
    return said


def _equivalence(result: Evaluation, protocol: Protocol) -> str:
    rows = [row for row in result.rows("shift_uncertainty", condition="nota") if not math.isnan(row["p"])]
    own = [row for row in rows if not METHODS[row["method"]].baseline]
    if not own:
        return ""
    same = sum(row["equivalent"] == "yes" for row in own)
    return (
        f"Under nota, {same} of {len(own)} uncertainties are as good as unchanged (within "
        f"{protocol.margin:g} standard deviations, tested for equivalence)."
    )


def _collapse_of_many(result: Evaluation, places: list[Place]) -> str:
    rows = result.rows("collapse", condition="nota")
    if not rows:
        return "No question was asked with its right option hidden: nothing is known of collapse."
    own = [row for row in _own(rows) if "null_p_bh" in row and not math.isnan(row["null_p_bh"])]
    if len(places) <= MANY or not own:
        return ""
    beyond = sum(row["null_p_bh"] <= 0.05 for row in own)
    return (
        f"Collapse under nota is foreseen beyond the strength of the best rival in {beyond} of {len(own)} "
        "methods and cases."
    )


def _tracking(result: Evaluation, protocol: Protocol) -> str:
    rows = [row for row in result.rows("tracking") if not math.isnan(row["p"])]
    own = [row for row in rows if not METHODS[row["method"]].baseline]
    if not own:
        return ""
    with_it = sum(row["p_holm"] <= 0.05 and row["rho"] > 0 for row in own)
    reference = next((row for row in own if row["method"] == protocol.reference), own[0])
    parts = result.tables["tracking"].note.rsplit("well. ", 1)[-1]
    return (
        f"Quality follows accuracy for {with_it} of {len(own)} methods (Spearman of AUROC and accuracy over "
        f"{reference['models']} models within data sets, Holm); {reference['method']}: "
        f"{reference['rho']:+.2f}, p {_p(reference['p_holm'])}. {parts}"
    ).strip()


def _missing(result: Evaluation) -> str:
    by_reason: dict[str, list[str]] = {}
    for row in result.rows("methods"):
        if not row["systems"]:
            by_reason.setdefault(row["why"], []).append(row["method"])
    told = [f"{_listed(names)} ({why})" for why, names in by_reason.items()]
    return f"Not known here: {'; '.join(told)}." if told else ""


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


def _between(row: Row, key: str) -> str:
    low, high = row.get(f"{key}_low", math.nan), row.get(f"{key}_high", math.nan)
    return "" if math.isnan(low) else f" ({100 * low:.0f} to {100 * high:.0f})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence.

    Example:
        >>> _listed(["a", "b", "c"])
        'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
