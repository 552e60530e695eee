"""What a review threshold promises, and what it does not, in plain sentences."""

from __future__ import annotations

import math

from calib.posthoc.not_drawn import not_drawn
from calib.posthoc.review_fitted import FittedReview
from calib.stats.bounds import fewest_cases

LIKE = (
    "It holds for cases drawn as the labelled ones were: not after a change of scanner, site or patients, "
    "nor for each class or subgroup by itself, nor once thresholds were tried until one pleased."
)
ORDER = (
    "The thresholds tried were quantiles of the labelled cases' own doubts: this takes for granted that past "
    "the point where too many are wrong, more doubt does not mean fewer errors. Doubts of other, unlabelled "
    "cases need no such condition."
)

NONE_WRONG = "No prediction is wrong: what makes one wrong was not seen."
FEW = 100  # labelled cases below which nothing is said of how good the best threshold could be


def guarantee_of(fitted: FittedReview) -> str:
    """Return what a fitted threshold promises, and on what condition."""
    if fitted.chosen:
        said = _guarantee_of(fitted)
        return f"{not_drawn(fitted.chosen)} For cases that were drawn as new ones are: {said}"
    return _guarantee_of(fitted)


def _guarantee_of(fitted: FittedReview) -> str:
    if fitted.rule == "batch":
        return _of_batch(fitted)
    if fitted.rule == "workload":
        return _of_workload(fitted)
    if fitted.threshold is None:
        return f"Nothing is guaranteed: {_not_achievable(fitted)}"
    more = [] if fitted.unlabelled else [ORDER]
    return " ".join(
        [
            f"Of {_accepted(fitted)}, at most {percent(fitted.max_error)} are wrong: true with probability "
            f"{percent(1 - fitted.delta)}, over the draw of the {_labelled(fitted)} it was fitted on.",
            LIKE,
            *more,
        ]
    )


def summary_of(fitted: FittedReview) -> str:
    """Return what was found, with its numbers."""
    if fitted.rule == "batch":
        least = f"{1 / (fitted.units + 1):.2g}"
        return (
            f"Fitted on {_labelled(fitted)}, {len(fitted._wrong)} of them wrong. What is accepted depends on "
            f"the batch; nothing can be where max_error is below {least}."
        )
    at = fitted.at
    if at is None:
        said = _not_achievable(fitted)
        return f"{said[0].upper()}{said[1:]}"
    units = _units(fitted)
    where = "all" if at.accepted == 1 else "all but what is unlike the images seen"
    if at.threshold < math.inf:
        where = f"where the doubt is below {at.threshold:.6g}"
    return (
        f"Accept {where}: {percent(at.accepted)} of the labelled cases, and "
        f"{percent(1 - at.accepted)} go to review. Of {at.n} accepted {units}, {at.wrong} "
        f"{'was' if at.wrong == 1 else 'were'} wrong ({percent(at.error)}; exact upper bound "
        f"{percent(at.upper)})."
    )


def result_of(fitted: FittedReview) -> list[tuple[str, str]]:
    """Return what was found in two or three short lines, each with its title, for who reads no more."""
    units, sure = _units(fitted), f"with probability {percent(1 - fitted.delta)}"
    wanted = f"at most {percent(fitted.max_error)} wrong"
    none = f"is not achievable with {fitted.units} labelled {units}"
    if fitted.rule == "batch" and not fitted.achievable:
        least = math.ceil(1 / fitted.max_error - 1e-9) - 1
        return [("Accept", f"nothing: {wanted} on average {none}"), ("Needed", f"at least {least} {units}")]
    if fitted.rule == "batch":
        said = "what the batch allows as a whole, which is decided when one comes"
        return [("Accept", said), ("Wrong", f"{wanted}, on average over batches")]
    at = fitted.at
    if at is None:
        return [
            ("Accept", f"nothing: {wanted} {sure} {none}"),
            ("Passes", "0 %: every case goes to review"),
            ("Needed", _needed(fitted)),
            *_counted(fitted),
        ]
    promised = percent(at.upper if fitted.rule == "workload" else fitted.max_error)
    where = "all" if at.accepted == 1 else "all but what is unlike the images seen"
    if at.threshold < math.inf:
        where = f"where the doubt is below {at.threshold:.6g}"
    wrong = f"{at.wrong} of {at.n} accepted {units} ({percent(at.error)})"
    return [
        ("Accept", where),
        ("Passes", f"{percent(at.accepted)} of the labelled cases; {percent(1 - at.accepted)} go to review"),
        ("Wrong", f"{wrong}; at most {promised} {sure}"),
        *_counted(fitted),
    ]


def _counted(fitted: FittedReview) -> list[tuple[str, str]]:
    """Return what makes a patient wrong, where some have several cases."""
    if not fitted.grouped or fitted.cases == fitted.units:
        return []
    if fitted.patients == "one":
        return [("Counted", "one case of each patient, drawn at random")]
    said = "patients: one is wrong if any accepted case of theirs is (patients=one counts one case of each)"
    return [("Counted", said)]


def _needed(fitted: FittedReview) -> str:
    """Return what would do instead of labels that do not suffice."""
    units, needed = _units(fitted), fitted.needed
    least = fewest_cases(fitted.max_error, fitted.delta)
    if needed is None and fitted.units >= FEW:
        return f"a better model or doubt, or a larger error: more {units} alone will not do"
    if needed is None:
        first = f"at least {least} accepted {units}, all of them right; " if fitted.units < least else ""
        return f"{first}how many cannot be told from so few"
    if needed > fitted.units:
        said = f"about {_about(needed)} labelled {units}, judging by the errors seen so far"
        at = fitted.foreseen
        return (
            said if at is None else f"{said}; then about {percent(round(at.accepted, 2))} of the cases pass"
        )
    return f"somewhat more labelled {units} are likely to do"


def percent(share: float) -> str:
    """Return a share as percent, with as many digits as it needs.

    Example:
        >>> percent(0.05), percent(0.123), percent(0.999), percent(1.0), percent(0.0004)
        ('5 %', '12.3 %', '99.9 %', '100 %', '0.04 %')
    """
    value = 100 * share
    return f"{value:.1f}".removesuffix(".0") + " %" if value >= 0.1 or value == 0 else f"{value:.2g} %"


def _not_achievable(fitted: FittedReview) -> str:
    r, units = percent(fitted.max_error), _units(fitted)
    least = fewest_cases(fitted.max_error, fitted.delta)
    said = (
        f"an error of at most {r} with probability {percent(1 - fitted.delta)} is not achievable with "
        f"{fitted.units} labelled {units}; nothing is accepted."
    )
    if fitted.units < least:
        said += f" It takes {least} accepted {units} even if all of them are right."
    needed = fitted.needed
    if needed is None and fitted.units < FEW:
        return f"{said} How many would do cannot be told from so few."
    if needed is None:
        return (
            f"{said} More {units} alone will not do: at no threshold does the error look lower than {r}. It "
            "takes a better model or doubt, or a larger error."
        )
    if needed > fitted.units:
        return f"{said} About {_about(needed)} would be needed, judging by the errors seen so far."
    return (
        f"{said} By the errors seen so far so many can be enough; with somewhat more labelled {units} it is "
        "likely."
    )


def _about(number: int) -> str:
    """Return a number by its first two digits.

    Example:
        >>> _about(1862), _about(47)
        ('1,900', '47')
    """
    return f"{float(f'{number:.2g}'):,.0f}"


def _of_workload(fitted: FittedReview) -> str:
    from scipy.special import betaincinv  # takes a while to import

    at, workload = fitted.at, fitted.workload
    assert at is not None
    assert workload is not None
    of = f"{fitted.unlabelled} unlabelled cases" if fitted.unlabelled else f"{fitted.cases} labelled cases"
    said = f"At most {percent(workload)} of the {of} go to review"
    if not fitted.unlabelled and 1 - at.accepted > workload + 1e-9:
        said = (
            f"{percent(1 - at.accepted)} of the {of} go to review, more than {percent(workload)}: so many "
            "are unlike the images seen, and never accepted"
        )
    elif not fitted.grouped:
        n = fitted.unlabelled or fitted.cases
        kept = math.ceil((1 - workload) * n - 1e-9)
        low, high = (float(betaincinv(n - kept + 1e-9, kept + 1.0, q)) for q in (0.025, 0.975))
        said += f"; of further cases like them {percent(low)} to {percent(high)} (95 % interval)"
    shown = "shown" if at.upper <= fitted.max_error else "not shown"
    bound = (
        f"{said}. No error was asked for: of {_accepted(fitted)}, at most {percent(at.upper)} are wrong, "
        f"true with probability {percent(1 - fitted.delta)} (at most {percent(fitted.max_error)} is {shown})."
        f" {LIKE}"
    )
    if fitted.tied and not fitted.unlabelled:
        bound += " Several cases have the very doubt the threshold falls on: the bound is approximate."
    elif fitted.grouped and not fitted.unlabelled:
        bound += " The threshold is a doubt of one of these patients: the bound is approximate."
    return bound


def _of_batch(fitted: FittedReview) -> str:
    if not fitted.achievable:
        return (
            f"Nothing is guaranteed: with {fitted.units} labelled {_units(fitted)} an expected error of "
            f"{percent(fitted.max_error)} is not achievable; it takes at least "
            f"{math.ceil(1 / fitted.max_error - 1e-9) - 1}."
        )
    patients = ", one of each patient," if fitted.grouped else ""
    return (
        f"On average over batches, and over the draw of the {_labelled(fitted)} it was fitted on, at most "
        f"{percent(fitted.max_error)} of the accepted cases of a batch are wrong. A single batch may have "
        "more; of a single case it only bounds the chance of being accepted and wrong. Cases of the "
        f"batch{patients} and labelled ones must be exchangeable, and the batch be judged as a whole. {LIKE}"
    )


def _units(fitted: FittedReview) -> str:
    return "patients" if fitted.grouped else "cases"


def _labelled(fitted: FittedReview) -> str:
    if fitted.grouped:
        return f"{fitted.units} patients ({fitted.cases} labelled cases)"
    return f"{fitted.units} labelled cases"


def _accepted(fitted: FittedReview) -> str:
    """Return what the error is a share of."""
    if not fitted.grouped:
        return "the accepted cases"
    if fitted.patients == "one":
        return "the accepted cases, where every patient counts by one case drawn at random"
    return "the patients with an accepted case, counting as wrong who has an accepted case that is wrong"
