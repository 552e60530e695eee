"""How a doubt is fitted: folds of the images, what each score says of those it has not seen, the stack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from calib.data.folds import make_folds
from calib.failure.cases import FailureCases, PlainCases
from calib.failure.doubt import HEAD, Doubt, OutOfFold, new_stack
from calib.scores import ReadyScore, fit, needs_same_classes

N_FOLDS = 5
T = TypeVar("T")
# Of many images not every one has to be judged by what has not seen it: a handful of weights is fitted.
ENOUGH, ENOUGH_OF_A_KIND = 2000, 100


def doubt_folds(cases: FailureCases, n_folds: int) -> list[list[int]]:
    """Return the rows that are left out in turn: groups stay together, wrong and right ones are spread.

    Of many images only so many folds that 2,000 images are judged, at least 100 of them wrong and 100 right.

    Args:
        cases: The predictions.
        n_folds: Parts of the images, at least 2.

    Raises:
        ValueError: All images are of one group: none can be left out.
    """
    classes = cases.logits.shape[2]
    kinds = cases.labels * 2 + cases.failure.long()
    names = [str(kind) for kind in range(2 * classes)]
    folds = make_folds(kinds, _owners(cases), n_folds, names, every_class=False)
    if len(folds) < 2:
        raise ValueError(
            f"All {len(cases)} images are of one group, so that none can be left out: a doubt of several "
            "scores needs images of two groups at least (doubt=head needs none)."
        )
    judged: list[int] = []
    for number, fold in enumerate(folds):
        judged += fold
        wrong = int(cases.failure[judged].sum())
        if len(judged) >= ENOUGH and min(wrong, len(judged) - wrong) >= ENOUGH_OF_A_KIND:
            return folds[: number + 1]
    return folds


def fold_of(folds: Sequence[Sequence[int]], n: int) -> Tensor:
    """Return the fold (N,) int64 of every row, -1 of one that is in none.

    Example:
        >>> fold_of([[0, 2], [3]], 4).tolist()
        [0, -1, 0, 1]
    """
    found = torch.full((n,), -1, dtype=torch.int64)
    for number, rows in enumerate(folds):
        found[list(rows)] = number
    return found


def fit_doubt(
    cases: FailureCases,
    folds: Sequence[Sequence[int]],
    names: Sequence[str],
    text_features: Tensor,
    *,
    head: Tensor | None = None,
) -> Doubt:
    """Return the doubt that the scores make together.

    Every score is fitted without each fold in turn and judges that fold; on what they say there, the stack is
    fitted. Then every score is fitted on all images. One that cannot be fitted is left out, with the reason.
    A fold without which a class has no image is not judged; where that leaves less than half of the images,
    scores that need every class are left out instead.

    Args:
        cases: The predictions; scores are fitted on the plain images.
        folds: From `doubt_folds`.
        names: The scores, from `parts_of`.
        text_features: (C, D) of the model that is judged.
        head: (N,) failure logits, each of a head trained without the row's fold. None: no part of it.

    Raises:
        ValueError: No score can be fitted.
    """
    plain, n = cases.plain, len(cases)
    rest = [_rest(fold, n) for fold in folds]
    wanted = [name for name in names if name != HEAD]
    left_out: dict[str, str] = {}
    scores: dict[str, ReadyScore] = {}
    for name in wanted:
        whole, reason = _tried(functools.partial(fit, name, plain, text_features=text_features))
        if whole is None:
            left_out[name] = reason
        else:
            scores[name] = whole
    numbers = list(range(len(folds)))
    if any(needs_same_classes(name) for name in scores):
        classes = range(len(text_features))
        every = [k for k in numbers if set(classes) <= set(plain.labels[rest[k]].tolist())]
        if 2 * sum(len(folds[k]) for k in every) >= sum(map(len, folds)):
            numbers = every
        else:
            for name in [name for name in scores if needs_same_classes(name)]:
                del scores[name]
                left_out[name] = "most images cannot be left out, for some class would have none"
    rows = [row for k in numbers for row in folds[k]]
    columns: dict[str, Tensor] = {}
    for name in list(scores):
        said, reason = _tried(functools.partial(_out_of_fold, name, plain, folds, numbers, text_features))
        if said is None:
            del scores[name]
            left_out[name] = f"without some images, {reason[0].lower()}{reason[1:]}"
        else:
            columns[name] = said
    if head is not None and HEAD in names:
        columns[HEAD] = head[rows].double()
    if not columns:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"No score can be fitted that a doubt could be made of ({why}).")
    kept = [name for name in names if name in columns]
    seen = OutOfFold(
        scores=torch.stack([columns[name] for name in kept], dim=1),
        failure=cases.failure[rows],
        folds=_ridge_folds(cases, rows, [folds[k] for k in numbers]),
    )
    stack = new_stack(kept).fit(seen.scores, seen.failure, folds=seen.folds)
    return Doubt(stack, scores, left_out, seen)


def _out_of_fold(
    name: str,
    plain: PlainCases,
    folds: Sequence[Sequence[int]],
    numbers: Sequence[int],
    text_features: Tensor,
) -> Tensor:
    """Return what a score says of the images of some folds, each fitted without it, one behind the other."""
    parts = []
    for number in numbers:
        rest = _picked(plain, _rest(folds[number], len(plain.labels)))
        score = fit(name, rest, text_features=text_features)
        parts.append(score(_picked(plain, folds[number]), text_features=text_features).cpu().double())
    said = torch.cat(parts)
    if not bool(said.isfinite().all()):
        raise ValueError("It is not finite.")
    return said


def _tried(run: Callable[[], T]) -> tuple[T | None, str]:
    """Return what a call returns and no reason; or nothing, and why it raised a ValueError."""
    try:
        return run(), ""
    except ValueError as error:
        return None, str(error)


def _rest(fold: Sequence[int], n: int) -> list[int]:
    return sorted(set(range(n)) - set(fold))


def _ridge_folds(cases: FailureCases, rows: Sequence[int], folds: Sequence[Sequence[int]]) -> Tensor:
    """Return the folds (N,) of the cross-validation by which the ridge is chosen: groups stay together."""
    if len(folds) >= N_FOLDS:
        return fold_of(folds, len(cases))[list(rows)]
    owners, index = _owners(cases), list(rows)
    kinds = cases.failure[index].long()
    parts = make_folds(kinds, [owners[row] for row in index], N_FOLDS, ["right", "wrong"], every_class=False)
    return fold_of(parts, len(index))


def _owners(cases: FailureCases) -> list[str]:
    return list(map(str, range(len(cases)))) if cases.owners is None else list(cases.owners)


def _picked(plain: PlainCases, rows: Sequence[int]) -> PlainCases:
    index = list(rows)
    return PlainCases(
        image_features=plain.image_features[index],
        labels=plain.labels[index],
        predictions=plain.predictions[index],
        logits=plain.logits[index],
    )
