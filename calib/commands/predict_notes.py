"""What `calib predict` says once of its columns: a line each on sets, decisions and unlike images."""

from __future__ import annotations

from collections.abc import Sequence

from calib.posthoc.conformal import PredictionSets
from calib.posthoc.familiarity import Familiarity
from calib.posthoc.review import ReviewThreshold
from calib.posthoc.review_words import result_of
from calib.posthoc.set_guarantee import percent

WHERE = "conditions: the report of the run, docs/{page}.md"


def on_sets(sets: PredictionSets) -> str:
    """Return what prediction sets promise, in a line; all of it, and its conditions, is in `guarantee`.

    Args:
        sets: Fitted.

    Raises:
        ValueError: Not fitted.

    Example:
        >>> import torch
        >>> labels = torch.arange(30) % 3
        >>> sets = PredictionSets(coverage=0.8).fit(torch.eye(3)[labels] * 0.7 + 0.1, labels)
        >>> on_sets(sets)[:75]
        'set: at least 80 % of new cases have their class in it, on average over cas'
    """
    cells = sets.cells
    if cells is None:
        raise ValueError("The prediction sets are not fitted: call their fit first.")
    full = cells.thresholds.isinf()
    if bool(full.all()):
        where = WHERE.format(page="sets")
        return f"set: every class is in every set, for too few cases were labelled ({where})."
    if cells.chosen:
        return f"set: {_chosen(cells.chosen)}"
    least = "about" if cells.left_out or cells.shares is not None else "at least"
    whom = "new cases of each class" if sets.per_class else "new cases"
    sure = "on average" if sets.confidence is None else f"with a probability of {percent(sets.confidence)}"
    alike = "cases like the labelled ones"
    if cells.shares is not None:
        alike += ", classes as frequent as stated"
    elif not sets.per_class:
        alike += ", classes as frequent as there"
    few = "; a class with too few labelled cases is in every set" if bool(full.any()) else ""
    return (
        f"set: {least} {percent(sets.coverage)} of {whom} have their class in it, {sure} over {alike}{few} "
        f"({WHERE.format(page='sets')})."
    )


def on_decision(review: ReviewThreshold) -> str:
    """Return what a review threshold promises, in a line; all of it, and its conditions, is in `guarantee`.

    Args:
        review: Fitted.

    Raises:
        ValueError: Not fitted.

    Example:
        >>> import torch
        >>> doubt, wrong = torch.arange(100).double() / 100, torch.arange(100) >= 80
        >>> on_decision(ReviewThreshold(0.1).fit(doubt, wrong))[:72]
        'decision: accept where the doubt is below 0.83; wrong 3 of 83 accepted c'
    """
    if review.achievable and review.chosen:
        return f"decision: {_chosen(review.chosen)}"
    said = dict(result_of(review))
    wrong = f"; wrong {said['Wrong']}, over cases like the labelled ones" if "Wrong" in said else ""
    return f"decision: accept {said['Accept']}{wrong} ({WHERE.format(page='review')})."


def on_unlike(familiarity: Familiarity) -> str:
    """Return what the mark means, in a line; all of it is in `guarantee`.

    Args:
        familiarity: Fitted.

    Raises:
        ValueError: Not fitted.

    Example:
        >>> import torch
        >>> shots = torch.nn.functional.normalize(torch.tensor([[9.0, 1], [9, 2], [1, 9], [2, 9]]), dim=1)
        >>> on_unlike(Familiarity().fit(shots, torch.tensor([0, 0, 1, 1])))
        'unlike: about 20 % of images like the 4 shots are marked too; strange images may go unnoticed.'
    """
    share = f"about {100 * familiarity.false_alarm_rate:.0f} % of images like the {familiarity.shots} shots"
    said = f"unlike: {share} are marked too; strange images may go unnoticed."
    if familiarity.chosen:
        how = " and ".join(familiarity.chosen)
        said += f" The shots were chosen ({how}): of images to come, another share is."
    return said


def _chosen(names: Sequence[str]) -> str:
    """Return why nothing is guaranteed of shots that a strategy chose."""
    return (
        f"no guarantee: the shots were chosen ({' and '.join(names)}), not drawn at random. Fit on labelled "
        "cases that were."
    )
