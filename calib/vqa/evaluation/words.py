"""The findings of an evaluation in sentences."""

from __future__ import annotations

import math
from typing import Any

from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.result import Evaluation, joined_words
from calib.vqa.schema import ORIGINAL
from calib.vqa.uncertainty import METHODS

_MANY = 4  # systems that are told one by one; of more the table tells


def sentences(result: Evaluation, protocol: Protocol) -> list[str]:
    """Return what the tables say, the most important first.

    Args:
        result: An evaluation with its tables.
        protocol: How it was made.
    """
    said = [*_answers(result), *_errors(result, protocol), *_calibration(result)]
    said += [*_orders(result), *_shift(result, protocol)]
    said += [*_collapse(result, protocol), *_tracking(result, protocol), *_missing(result)]
    return said


def _name(row: dict[str, Any], several: bool) -> str:
    return f"{row['system']} on {row['dataset']}" if several else row["system"]


def _several(rows: list[dict[str, Any]]) -> bool:
    return len({row["dataset"] for row in rows}) > 1


def _percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %"


def _between(row: dict[str, Any], key: str) -> str:
    low, high = row.get(f"{key}_low", math.nan), row.get(f"{key}_high", math.nan)
    return "" if math.isnan(low) else f" ({100 * low:.0f} to {100 * high:.0f})"


def _answers(result: Evaluation) -> list[str]:
    rows = result.rows("overview", condition=ORIGINAL)
    several, said = _several(rows), []
    for row in rows[:_MANY]:
        none = f", {_percent(row['no_option'])} chose no option" if row["no_option"] > 0.005 else ""
        said.append(
            f"{_name(row, several)}: {row['n']:,} questions, {_percent(row['accuracy'])}"
            f"{_between(row, 'accuracy')} right{none}; guessing gives {_percent(row['chance'])}, always the "
            f"most frequent answer {_percent(row['majority'])}."
        )
    if len(rows) > _MANY:
        best, worst = max(row["accuracy"] for row in rows), min(row["accuracy"] for row in rows)
        said = [
            f"{len({row['system'] for row in rows})} systems on {len({row['dataset'] for row in rows})} data "
            f"set(s): accuracy from {_percent(worst)} to {_percent(best)}."
        ]
    return said


def _errors(result: Evaluation, protocol: Protocol) -> list[str]:
    rows = [row for row in result.rows("errors", condition=ORIGINAL) if "auroc" in row]
    own = [row for row in rows if not METHODS[row["method"]].baseline]
    if not own:
        why = next((row["why"] for row in result.rows("errors", condition=ORIGINAL) if row["why"]), "")
        return [f"No method could be ranked by its errors{': ' + why if why else ''}."]
    places = list(dict.fromkeys((row["system"], row["dataset"]) for row in own))
    if len(places) > _MANY:
        wins: dict[str, int] = {}
        for place in places:
            here = [row for row in own if (row["system"], row["dataset"]) == place]
            best = max(here, key=lambda row: row["auroc"])["method"]
            wins[best] = wins.get(best, 0) + 1
        order = sorted(wins, key=lambda name: -wins[name])
        told = joined_words([f"{name} in {wins[name]}" for name in order[:3]])
        return [f"Of {len(places)} systems and data sets, wrong answers are told best by {told} (AUROC)."]
    several, said = _several(own), []
    for place in places:
        here = [row for row in own if (row["system"], row["dataset"]) == place]
        best = max(here, key=lambda row: row["auroc"])
        better = [row["method"] for row in here if row.get("difference", 0) > 0 and row["p_holm"] <= 0.05]
        beyond = (
            f"; better than {protocol.reference} after correction: {joined_words(better)}"
            if better
            else f"; none is better than {protocol.reference} beyond chance"
        )
        said.append(
            f"{_name(best, several)}: wrong answers are told best by {best['method']}, AUROC "
            f"{_percent(best['auroc'])}{_between(best, 'auroc')}{beyond}."
        )
    return said


def _calibration(result: Evaluation) -> list[str]:
    rows = [
        row for row in result.rows("calibration", condition=ORIGINAL, method="option_msp") if "ece" in row
    ]
    if not rows:
        return []
    if len(rows) > _MANY:
        over = sum(row["gap"] > 0 for row in rows)
        before, after = (sorted(row[key] for row in rows if key in row) for key in ("ece", "ece_after"))
        fixed = f"; one temperature makes that {_percent(after[len(after) // 2], 1)}" if after else ""
        return [
            f"Confidence is above accuracy in {over} of {len(rows)} systems and data sets; median ECE "
            f"{_percent(before[len(before) // 2], 1)}{fixed}."
        ]
    several = _several(rows)
    return [
        f"{_name(row, several)}: confidence is {100 * row['gap']:+.0f} points beside accuracy, ECE "
        f"{_percent(row['ece'], 1)}"
        + (f"; one temperature makes that {_percent(row['ece_after'], 1)}" if "ece_after" in row else "")
        + f"; {_percent(row['confident_wrong'])} of the errors were given with high confidence."
        for row in rows
    ]


def _orders(result: Evaluation) -> list[str]:
    rows = result.rows("orders")
    several = _several(rows)
    said = [
        f"{_name(row, several)}: {_percent(row['changed'])} of the answers change with the order of the "
        f"options; {_percent(row['accuracy'])} are right in one order, {_percent(row['accuracy_all'])} in "
        "all."
        for row in rows[:_MANY]
    ]
    if len(rows) > _MANY:
        shares = sorted(row["changed"] for row in rows)
        said = [
            f"Between {_percent(shares[0])} and {_percent(shares[-1])} of a system's answers change with the "
            "order of the options."
        ]
    return said


def _shift(result: Evaluation, protocol: Protocol) -> list[str]:
    said = []
    rows = [row for row in result.rows("shift") if "change" in row]
    rows = [row for row in rows if not row["condition"].startswith(("rotation", "permuted"))]
    several = _several(rows)
    for row in rows[: 3 * _MANY]:
        nota = f", None of the above is chosen in {_percent(row['nota_rate'])}" if "nota_rate" in row else ""
        said.append(
            f"{_name(row, several)}, {row['condition']}: {_percent(row['accuracy_original'])} right before, "
            f"{_percent(row['accuracy'])} then (McNemar p {_p(row['p_mcnemar'])}){nota}."
        )
    tested = [row for row in result.rows("shift_uncertainty", condition="nota") if not math.isnan(row["p"])]
    own = [row for row in tested if not METHODS[row["method"]].baseline]
    if own:
        same = [row for row in own if row["equivalent"] == "yes"]
        said.append(
            f"Under nota, {len(same)} of {len(own)} uncertainties are as good as unchanged (within "
            f"{protocol.margin:g} standard deviations, tested for equivalence)."
        )
    return said


def _collapse(result: Evaluation, protocol: Protocol) -> list[str]:
    rows = result.rows("collapse", condition="nota")
    if not rows:
        return ["No question was asked with its right option hidden: collapse cannot be foreseen or not."]
    said = []
    for place in list(dict.fromkeys((row["system"], row["dataset"]) for row in rows))[:_MANY]:
        here = [row for row in rows if (row["system"], row["dataset"]) == place]
        name = f"{place[0]} on {place[1]}" if _several(rows) else place[0]
        ranked = [row for row in here if "auroc" in row and not METHODS[row["method"]].baseline]
        if not ranked:
            why = next((row["why"] for row in here if row["why"]), "nothing is known of them")
            said.append(f"{name}: collapse under nota cannot be ranked ({why}).")
            continue
        best = max(ranked, key=lambda row: row["auroc"])
        text = (
            f"{name}: of {best['n']:,} right answers {_percent(best['prevalence'])} fall under nota; "
            f"foreseen best by {best['method']}, AUROC {_percent(best['auroc'])}{_between(best, 'auroc')}"
        )
        if "null_mean" in best:
            beyond = "more than" if best["null_p_bh"] <= 0.05 else "no more than"
            text += (
                f", {beyond} the {_percent(best['null_mean'])} that the best rival's strength alone gives "
                f"(p {_p(best['null_p_bh'])})"
            )
        elif best["why_null"]:
            text += f"; how much of it is the best rival's strength alone is not known ({best['why_null']})"
        said.append(text + ".")
    return said


def _tracking(result: Evaluation, protocol: Protocol) -> list[str]:
    rows = [row for row in result.rows("tracking") if not math.isnan(row["p"])]
    own = [row for row in rows if not METHODS[row["method"]].baseline]
    if not own:
        return []
    with_it = [row for row in own if row["p_holm"] <= 0.05 and row["rho"] > 0]
    reference = next((row for row in own if row["method"] == protocol.reference), own[0])
    parts = result.tables["tracking"].note.rsplit("well. ", 1)[-1]
    return [
        f"Quality follows accuracy for {len(with_it)} of {len(own)} methods (Spearman of AUROC and accuracy "
        f"over {reference['systems']} systems within data sets, Holm); {reference['method']}: "
        f"{reference['rho']:+.2f}, p {_p(reference['p_holm'])}. {parts}".strip()
    ]


def _missing(result: Evaluation) -> list[str]:
    rows = [row for row in result.rows("methods") if not row["systems"]]
    if not rows:
        return []
    told = "; ".join(f"{row['method']}: {row['why']}" for row in rows)
    return [f"Not known here: {told}."]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
