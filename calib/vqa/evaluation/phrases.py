"""What the sentences of an evaluation say of one case or one number: rounded, and no difference as none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.uncertainty import METHODS

CHANCE = "random"  # one draw: told is the 50 % that its draws have in the mean
ASK_NOTHING = ("number_of_options", "dataset_prior", "no_image")  # baselines that look at no answer
NAMED = 3  # cases that are named where they differ from the others
THAN = {"better": "better than", "same": "no difference to tell from", "worse": "worse than"}
CONDITIONS = {  # what a reader who has not asked the questions would not know
    "nota": "Right option replaced by None of the above (nota)",
    "nota_control": "A wrong option replaced by None of the above (nota_control)",
}
Row = dict[str, Any]
Place = tuple[str, str]  # a case: a system on a data set


def beside(row: Row, key: str, value: float) -> str:
    """Return how a number's interval stands to a value: a key of THAN; empty: there is no interval.

    Example:
        >>> beside({"auroc_low": 0.6, "auroc_high": 0.8}, "auroc", 0.5)
        'better'
    """
    low, high = row.get(f"{key}_low", math.nan), row.get(f"{key}_high", math.nan)
    if math.isnan(low) or math.isnan(high) or math.isnan(value):
        return ""
    return "better" if low > value else "worse" if high < value else "same"


def of_reference(row: Row, protocol: Protocol) -> str:
    """Return how the reference method stands to the method of a row of errors: a key of THAN; empty: unknown.

    Example:
        >>> of_reference({"difference": -0.002, "p_holm": 1.0}, Protocol())
        'same'
    """
    p, difference = row.get("p_holm", math.nan), row.get("difference", math.nan)
    if math.isnan(p) or math.isnan(difference):
        return ""
    return "same" if not apart(p, protocol) else "worse" if difference > 0 else "better"


def apart(p: float, protocol: Protocol) -> bool:
    """Return whether a p-value tells a difference from none at the level of the intervals."""
    return p <= 1 - protocol.level + 1e-12


def verdicts(name: str, found: Mapping[Place, str]) -> str:
    """Return in how many cases something is better than what is named, worse, or not to be told from it.

    Example:
        >>> verdicts("chance", {("m", "a"): "better", ("m", "b"): "better", ("m", "c"): "same"})
        'better than chance in 2 of 3, no difference to tell in 1 (m on c)'
    """
    told = {place: verdict for place, verdict in found.items() if verdict}
    parts: list[str] = []
    for verdict, than in THAN.items():
        places = [place for place, each in told.items() if each == verdict]
        if places and not parts:
            parts.append(f"{than} {name} in {len(places)} of {len(told)}")
        elif places:
            names = f" ({listed([case(place) for place in places])})" if len(places) <= NAMED else ""
            parts.append(f"{than.removesuffix(' than').removesuffix(' from')} in {len(places)}{names}")
    return ", ".join(parts)


def what(name: str) -> str:
    """Return a method's name, of a baseline with what it is: a reader need not know it.

    Example:
        >>> what("option_msp"), what("other_models")
        ('option_msp', 'other_models (share of other models that are wrong on it)')
    """
    return f"{name} ({METHODS[name].title})" if METHODS[name].baseline else name


def ranked_rows(rows: Sequence[Row]) -> list[Row]:
    """Return rows of methods that have an AUROC and are no baselines."""
    return [row for row in rows if "auroc" in row and not METHODS[row["method"]].baseline]


def chosen(rows: Sequence[Row], protocol: Protocol) -> Row:
    """Return the row of the reference method, or else the first: never the best, which luck would choose."""
    return next((row for row in rows if row["method"] == protocol.reference), rows[0])


def why_not(rows: Sequence[Row]) -> str:
    """Return the first reason that rows give for having no number."""
    return next((row["why"] for row in rows if row["why"]), "nothing is known of them")


def shift(row: Row, protocol: Protocol) -> str:
    """Return what a condition does to the answers."""
    nota = f"; None of the above is chosen in {percent(row['nota_rate'])}" if "nota_rate" in row else ""
    p = row["p_holm"]
    told = (
        ""
        if math.isnan(p)
        else f" ({probability(p)})"
        if apart(p, protocol)
        else f" (no difference to tell, {probability(p)})"
    )
    return f"{percent(row['accuracy'])} instead of {percent(row['accuracy_original'])} are right{told}{nota}"


def collapse(rows: Sequence[Row], protocol: Protocol) -> str:
    """Return how many right answers of a case fall under None of the above, and whether it is foreseen."""
    own = ranked_rows(rows)
    if not own:
        return f"what foresees it cannot be ranked ({why_not(rows)})"
    row = chosen(own, protocol)
    text = (
        f"of {row['n']:,} right answers {percent(row['prevalence'])} fall, which {row['method']} foresees "
        f"with AUROC {percent(row['auroc'])}{between(row, 'auroc')}"
    )
    if "null_mean" in row:
        beyond = "more than" if apart(row["null_p_bh"], protocol) else "no more than"
        text += (
            f": {beyond} the {percent(row['null_mean'])} that the strength of the best rival alone gives "
            f"({probability(row['null_p_bh'])}{'; ' if row['why_null'] else ''}{row['why_null']})"
        )
    elif row["why_null"]:
        text += f"; what the best rival alone gives is not known ({row['why_null']})"
    return text


def condition(name: str) -> str:
    """Return what a condition is called in a sentence."""
    return CONDITIONS.get(name, f"Condition {name}")


def place_of(row: Row) -> Place:
    """Return the case that a row is of."""
    return row["system"], row["dataset"]


def case(place: Place) -> str:
    """Return what a case is called."""
    return f"{place[0]} on {place[1]}"


def counted(count: int, word: str) -> str:
    """Return a count with its word.

    Example:
        >>> counted(1, "system"), counted(3, "data set")
        ('1 system', '3 data sets')
    """
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def percent(value: float) -> str:
    """Return a fraction in percent, without tenths: no interval here is as narrow."""
    return f"{100 * value:.0f} %"


def between(row: Row, key: str) -> str:
    """Return the interval of a number in percent, in brackets; empty: it has none."""
    low, high = row.get(f"{key}_low", math.nan), row.get(f"{key}_high", math.nan)
    return "" if math.isnan(low) else f" ({100 * low:.0f} to {100 * high:.0f})"


def probability(value: float) -> str:
    """Return a p-value as it is told.

    Example:
        >>> probability(0.0004), probability(0.0204), probability(0.34)
        ('p < 0.001', 'p 0.020', 'p 0.34')
    """
    return "p < 0.001" if value < 0.001 else f"p {value:.3f}" if value < 0.1 else f"p {value:.2f}"


def listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
