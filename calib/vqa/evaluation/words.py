"""The findings of an evaluation in sentences."""

from __future__ import annotations

import math
from statistics import median

from calib.vqa.evaluation.phrases import (
    ASK_NOTHING,
    CHANCE,
    NAMED,
    THAN,
    Place,
    Row,
    apart,
    beside,
    between,
    case,
    chosen,
    collapse,
    condition,
    counted,
    listed,
    of_reference,
    percent,
    place_of,
    probability,
    ranked_rows,
    shift,
    verdicts,
    what,
    why_not,
)
from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.result import Evaluation
from calib.vqa.schema import ORIGINAL
from calib.vqa.uncertainty import METHODS

MANY = 4  # cases that are told one by one; of more, what they have in common


def sentences(result: Evaluation, protocol: Protocol) -> list[str]:
    """Return what the tables say, of each case (a system on a data set) where they are few, or of all.

    The reference method is told, chosen before the answers were seen, not the one that turned out best. It
    is better than a baseline or another method where the paired difference is told from none after
    correction within the case; else there is no difference to tell.

    Args:
        result: An evaluation with its tables.
        protocol: How it was made.
    """
    places = [place_of(row) for row in result.rows("overview", condition=ORIGINAL)]
    if not places:
        said = [
            "No answer to an original question was given: nothing is said in words. What changed questions "
            "do is seen beside the originals; give their answers, too."
        ]
        return [*said, *filter(None, [_missing(result)])]
    if len(places) == 1:
        said = [f"{about}: {it}." for about, it in _of_place(result, places[0], protocol)]
    elif len(places) <= MANY:
        told = {place: _of_place(result, place, protocol) for place in places}
        said = [" ".join(f"{about}: {it}." for about, it in parts) for parts in told.values()]
    else:
        said = _of_many(result, places, protocol)
    said += [_hidden(result), _equivalence(result, protocol), _tracking(result, protocol), _missing(result)]
    return [each for each in said if each]


def in_short(result: Evaluation, protocol: Protocol) -> list[str]:
    """Return plain sentences to begin with, and what their words mean; none where cases are few.

    Args:
        result: An evaluation with its tables.
        protocol: How it was made.
    """
    cases = len(result.rows("overview", condition=ORIGINAL))
    if cases <= MANY:
        return []
    name = protocol.reference
    said: list[str] = []
    ranked = result.rows("errors", condition=ORIGINAL, method=name)
    if quality := [row["auroc"] for row in ranked if "auroc" in row]:
        said.append(
            f"Are wrong answers the less sure ones? AUROC {_range(quality)} in {len(quality)} of {cases} "
            "cases (50 % is chance); where few answers are wrong, none is given."
        )
    sure = result.rows("calibration", condition=ORIGINAL, method="option_msp")
    if points := [round(100 * abs(row["gap"])) for row in sure if "ece" in row]:
        said.append(
            f"Is the confidence true? It is up to {max(points)} points from the share of right answers."
        )
    if changed := [row["changed"] for row in result.rows("orders")]:
        said.append(f"Does the order of the options matter? {_range(changed)} of the answers change with it.")
    return [
        *said,
        f"Below, {name} is {METHODS[name].title}; nota (NOTA) is None of the above; 'of 5' says that "
        "5 cases have both numbers that are compared: with too few wrong answers, or one model alone, "
        "there is none.",
    ]


def _of_place(result: Evaluation, place: Place, protocol: Protocol) -> list[tuple[str, str]]:
    """Return what is found of one case, each thing with what it is about."""

    def rows(table: str, **where: str) -> list[Row]:
        return result.rows(table, system=place[0], dataset=place[1], **where)

    (row,) = rows("overview", condition=ORIGINAL)
    parts = [
        (case(place), _answers(row)),
        ("Wrong answers", _errors(rows("errors", condition=ORIGINAL), protocol)),
    ]
    for row in rows("calibration", condition=ORIGINAL, method="option_msp"):
        if "ece" in row:
            after = f", after one temperature {percent(row['ece_after'])}" if "ece_after" in row else ""
            points = round(100 * abs(row["gap"]))
            side = "above" if row["gap"] > 0 else "below"
            lies = f"{points} points {side} accuracy" if points else "as high as accuracy"
            parts.append(("Confidence", f"{lies} in the mean (ECE {percent(row['ece'])}{after})"))
    parts += [
        ("Order of the options", f"{percent(row['changed'])} of the answers change with it")
        for row in rows("orders")
    ]
    parts += [(condition(row["condition"]), shift(row, protocol)) for row in rows("shift") if _is_told(row)]
    fallen = rows("collapse", condition="nota")
    return [*parts, ("Collapse under nota", collapse(fallen, protocol))] if fallen else parts


def _answers(row: Row) -> str:
    """Return how many answers are right, beside what asks nothing."""
    if math.isnan(row["accuracy"]):
        return f"{row['n']:,} questions, none with a right option"
    none = f", {percent(row['no_option'])} chose no option" if row["no_option"] > 0.005 else ""
    verdict = beside(row, "accuracy", row["majority"])
    than = {"better": "more than by ", "worse": "fewer than by ", "same": f"{THAN['same']} "}.get(verdict, "")
    return (
        f"{row['n']:,} questions, {percent(row['accuracy'])}{between(row, 'accuracy')} right{none}; {than}"
        f"always giving the most frequent answer ({percent(row['majority'])}); guessing gives "
        f"{percent(row['chance'])}"
    )


def _errors(rows: list[Row], protocol: Protocol) -> str:
    """Return how the reference method tells wrong answers, beside chance, baselines and other methods."""
    own = ranked_rows(rows)
    if not own:
        return f"no method can be ranked by its errors ({why_not(rows)})"
    row = chosen(own, protocol)
    quality = f"{percent(row['auroc'])}{between(row, 'auroc')}"
    said = f"{row['method']} tells them from right ones with AUROC {quality}"
    others: dict[str, list[str]] = {}
    verdict = beside(row, "auroc", 0.5)
    if verdict:
        others[verdict] = ["chance (50 %)"]
    for other in rows:
        verdict = of_reference(other, protocol)
        if verdict and other["method"] != CHANCE:
            others.setdefault(verdict, []).append(f"{what(other['method'])}: {percent(other['auroc'])}")
    return "; ".join(
        [said, *(f"{than} {listed(others[key])}" for key, than in THAN.items() if key in others)]
    )


def _is_told(row: Row) -> bool:
    """Return whether a shift of accuracy is told: orders of the options are a table of their own."""
    return "change" in row and not row["condition"].startswith(("rotation", "permuted"))


def _of_many(result: Evaluation, places: list[Place], protocol: Protocol) -> list[str]:
    """Return what many cases have in common, and the few that were asked changed questions one by one."""
    said = [_answers_of_many(result, places), *_errors_of_many(result, places, protocol)]
    rows = [
        row for row in result.rows("calibration", condition=ORIGINAL, method="option_msp") if "ece" in row
    ]
    if rows:
        points = [round(100 * row["gap"]) for row in rows]
        both = [row for row in rows if "ece_after" in row]
        after = f", after one temperature {percent(median(row['ece_after'] for row in both))}" if both else ""
        said.append(
            f"Confidence: above accuracy in {sum(each > 0 for each in points)} of {len(rows)}, below it in "
            f"{sum(each < 0 for each in points)}, by up to {max(map(abs, points))} points; median ECE "
            f"{percent(median(row['ece'] for row in both or rows))}{after}."
        )
    orders = sorted(result.rows("orders"), key=lambda row: row["changed"])
    if orders:
        ends = [f"{percent(row['changed'])} ({case(place_of(row))})" for row in (orders[0], orders[-1])]
        said.append(f"Order of the options: {' to '.join(ends)} of the answers change with it.")
    for name in dict.fromkeys(row["condition"] for row in result.rows("shift") if _is_told(row)):
        rows = [row for row in result.rows("shift", condition=name) if _is_told(row)]
        if len(rows) <= MANY:
            told = [f"{case(place_of(row))}: {shift(row, protocol)}" for row in rows]
            said.append(f"{condition(name)}: {'; '.join(told)}.")
        else:
            changes = [round(100 * row["change"]) for row in rows]
            said.append(
                f"{condition(name)}: accuracy changes by {min(changes):+d} to {max(changes):+d} points "
                f"in {len(rows)} cases."
            )
    return said + _collapse_of_many(result, protocol)


def _answers_of_many(result: Evaluation, places: list[Place]) -> str:
    rows = [row for row in result.rows("overview", condition=ORIGINAL) if not math.isnan(row["accuracy"])]
    systems, datasets = (len({place[i] for place in places}) for i in (0, 1))
    text = (
        f"Answers: {counted(systems, 'system')} on {counted(datasets, 'data set')}, together {len(places)} "
        "cases (a system on a data set)"
    )
    if not rows:
        return f"{text}; no question has a right option."
    accuracy = [row["accuracy"] for row in rows]
    text += f"; {_range(accuracy)} are right"
    found = [(beside(row, "accuracy", row["majority"]), row) for row in rows]
    told = [(verdict, row) for verdict, row in found if verdict]
    if told:
        better = sum(verdict == "better" for verdict, _ in told)
        text += f", more than by always giving the most frequent answer in {better} of {len(told)}"
    for key, word in (("worse", "fewer"), ("same", "no difference to tell")):
        cases = [
            f"{case(place_of(row))}: {percent(row['accuracy'])} beside {percent(row['majority'])}"
            for verdict, row in told
            if verdict == key
        ]
        if cases:
            names = f" ({'; '.join(cases)})" if len(cases) <= NAMED else ""
            text += f", {word} in {len(cases)}{names}"
    return f"{text}."


def _errors_of_many(result: Evaluation, places: list[Place], protocol: Protocol) -> list[str]:
    """Return how the reference method stands to what asks nothing of an answer, then to the other methods."""
    reference = protocol.reference
    by_place = {
        place: result.rows("errors", system=place[0], dataset=place[1], condition=ORIGINAL)
        for place in places
    }
    known = {
        place: row
        for place, rows in by_place.items()
        for row in rows
        if "auroc" in row and row["method"] == reference
    }
    lacking = [place for place in places if place not in known]
    if not known:
        why = why_not([row for rows in by_place.values() for row in rows])
        return [f"Wrong answers: {reference} cannot be ranked in any case ({why})."]
    quality = [row["auroc"] for row in known.values()]
    clauses = [
        f"{reference} tells them from right ones with AUROC {_range(quality)}",
        verdicts("chance (50 %)", {place: beside(row, "auroc", 0.5) for place, row in known.items()}),
    ]
    others: list[str] = []
    for name in dict.fromkeys(row["method"] for rows in by_place.values() for row in rows):
        found = {
            place: of_reference(row, protocol)
            for place, rows in by_place.items()
            for row in rows
            if row["method"] == name != CHANCE
        }
        (clauses if name in ASK_NOTHING else others).append(verdicts(what(name), found))
    if lacking:
        why = why_not(by_place[lacking[0]])
        each = "" if len(lacking) == 1 else "e.g. "
        clauses.append(f"not ranked in {len(lacking)} ({each}{case(lacking[0])}: {why})")
    said = [f"Wrong answers: {'; '.join(filter(None, clauses))}."]
    beside_others = "; ".join(filter(None, others))
    return [*said, f"{reference} beside others: {beside_others}."] if beside_others else said


def _collapse_of_many(result: Evaluation, protocol: Protocol) -> list[str]:
    rows = result.rows("collapse", condition="nota")
    places = list(dict.fromkeys(map(place_of, rows)))
    if len(places) <= MANY:
        return [
            f"Collapse under nota, {case(place)}: "
            f"{collapse([row for row in rows if place_of(row) == place], protocol)}."
            for place in places
        ]
    own = [row for row in ranked_rows(rows) if not math.isnan(row.get("null_p_bh", math.nan))]
    if not own:
        return []
    beyond = sum(apart(row["null_p_bh"], protocol) for row in own)
    return [
        f"Collapse under nota: foreseen beyond the strength of the best rival in {beyond} of {len(own)} "
        "methods and cases."
    ]


def _hidden(result: Evaluation) -> str:
    if result.rows("collapse", condition="nota"):
        return ""
    return (
        "No question was asked with its right option hidden: nothing is known of collapse. Such questions: "
        "calib vqa perturb ITEMS kind=replace_correct out=FILE."
    )


def _equivalence(result: Evaluation, protocol: Protocol) -> str:
    rows = [row for row in result.rows("shift_uncertainty", condition="nota") if not math.isnan(row["p"])]
    own = [row for row in rows if not METHODS[row["method"]].baseline]
    if not own:
        return ""
    same = sum(row["equivalent"] == "yes" for row in own)
    return (
        f"Uncertainty under nota: {same} of {len(own)} are as good as unchanged (within {protocol.margin:g} "
        "standard deviations, tested for equivalence)."
    )


def _tracking(result: Evaluation, protocol: Protocol) -> str:
    rows = [row for row in result.rows("tracking") if not math.isnan(row["p"])]
    own = [row for row in rows if not METHODS[row["method"]].baseline]
    if not own:
        return ""
    with_it = sum(apart(row["p_holm"], protocol) and row["rho"] > 0 for row in own)
    row = chosen(own, protocol)
    return (
        f"Quality follows accuracy for {with_it} of {len(own)} methods (Spearman of AUROC and accuracy over "
        f"{row['models']} models within data sets, Holm); {row['method']}: {row['rho']:+.2f}, "
        f"{probability(row['p_holm'])}. {result.tables['tracking'].finding}"
    ).strip()


def _range(values: list[float]) -> str:
    return f"{100 * min(values):.0f} to {percent(max(values))}"


def _missing(result: Evaluation) -> str:
    names = [row["method"] for row in result.rows("methods") if not row["systems"]]
    return f"Not known here, and why stands in the table methods: {listed(names)}." if names else ""
