"""One doubt of a prediction, P(wrong): a stack of scores, each judged on images it was not fitted on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from calib.core.errors import unknown_name
from calib.data.folds import make_folds
from calib.failure.cases import FailureCases, PlainCases
from calib.scores import SCORES, ReadyScore, fit, needs_same_classes, restored, state
from calib.scores.stack import DoubtStack

WHOLE = ("stack", "head")  # what a doubt may be besides a single score, see `parts_of`
STACK, HEAD = WHOLE
PARTS = ("mcp", "class_gaussians", "image_prototypes", "logit_scaling")  # of the stack, beside the head
# Prior weights in log-odds per standard deviation, chosen on images of training and validation splits
# (`benchmarks/doubt_study.py --development`): of scores that few images can teach, the class Gaussians, in
# which the confidence counts as well, order best. Without them, equal weights.
PRIOR = {"class_gaussians": 1.2, "mcp": 0.3, HEAD: 0.1}
N_FOLDS = 5
T = TypeVar("T")
# Of many images not every one has to be judged by what has not seen it: a handful of weights is fitted.
ENOUGH, ENOUGH_OF_A_KIND = 2000, 100


def parts_of(doubt: str) -> tuple[str, ...]:
    """Return the scores that a doubt is made of, the head's own among them; of "head" none.

    Args:
        doubt: "stack", "head" (the failure head's own score, no stack), or a key of SCORES, which alone is
            then turned into a probability.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> parts_of("stack")
        ('mcp', 'class_gaussians', 'image_prototypes', 'logit_scaling', 'head')
        >>> parts_of("entropy"), parts_of("head")
        (('entropy',), ())
    """
    if doubt == STACK:
        return (*PARTS, HEAD)
    if doubt == HEAD:
        return ()
    if doubt not in SCORES:
        raise unknown_name("doubt", doubt, [*WHOLE, *SCORES])
    return (doubt,)


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What the parts of a doubt said of images that they had not seen.

    Attributes:
        scores: (n, P), in the order of the stack's names.
        failure: (n,) bool.
        folds: (n,) int64, of the cross-validation that chose the ridge.
    """

    scores: Tensor
    failure: Tensor
    folds: Tensor


@dataclass(frozen=True, eq=False)
class Doubt:
    """P(wrong) from several scores, ready to judge.

    Attributes:
        stack: The weights, by the names of the scores.
        scores: The scores by name, fitted on all images; without the head's, which the head has.
        left_out: Score to the reason why it is no part.
        seen: What the stack was fitted on. None: it was read from a file, which does not hold it.
    """

    stack: DoubtStack
    scores: dict[str, ReadyScore] = field(repr=False)
    left_out: dict[str, str] = field(default_factory=dict)
    seen: OutOfFold | None = field(default=None, repr=False)

    def values(
        self,
        *,
        image_features: Tensor,
        logits: Tensor,
        predictions: Tensor,
        text_features: Tensor,
        head: Tensor | None = None,
    ) -> Tensor:
        """Return what every part says of N predictions, (N, P) float64 in the order of `stack.names`.

        Args:
            image_features: (N, D) unit norm.
            logits: (N, C) of the model that is judged.
            predictions: (N,) int64.
            text_features: (C, D).
            head: (N,), the failure logit of the head. None: it is no part.

        Raises:
            ValueError: The head is a part, and its logits are missing; or an input does not fit a score.
        """
        if head is None and HEAD in self.stack.names:
            raise ValueError("The head is a part of this doubt: its failure logits are needed.")
        plain = {"image_features": image_features, "logits": logits, "predictions": predictions}
        columns = [
            head
            if name == HEAD and head is not None
            else self.scores[name](**plain, text_features=text_features)
            for name in self.stack.names
        ]
        return torch.stack([column.double().cpu() for column in columns], dim=1)

    def sentences(self) -> list[str]:
        """Return how it was fitted, the weights, and what was left out why, in plain words."""
        weights = zip(self.stack.names, self.stack.weights.tolist(), strict=True)
        told = ", ".join(f"{name} {weight:.2f}" for name, weight in weights)
        return [
            self.stack.sentence(),
            f"Weights in log-odds per standard deviation of a part: {told}.",
            *(f"Without {name}: {reason.rstrip('.')}." for name, reason in self.left_out.items()),
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return all numbers by name, for a file."""
        found = {f"doubt.{name}": value for name, value in self.stack.tensors().items()}
        for name, score in self.scores.items():
            found |= {f"score.{name}.{key}": value for key, value in state(score).items()}
        return found

    def to_record(self) -> dict[str, Any]:
        """Return the rest as plain values for JSON."""
        return {"stack": self.stack.to_record(), "left_out": self.left_out}

    @classmethod
    def read(
        cls,
        tensors: Mapping[str, Tensor],
        record: Any,
        *,
        classes: int,
        dim: int,
        path: str | Path,
    ) -> Doubt | None:
        """Return what `tensors` and `to_record` have written, checked. None: a file without.

        Args:
            tensors: All tensors of the file.
            record: What its record says under "doubt".
            classes: C.
            dim: D.
            path: The file, for messages.

        Raises:
            ValueError: They are not as above.
        """
        ours = {name: value for name, value in tensors.items() if name.startswith(("doubt.", "score."))}
        if record is None:
            if ours:
                raise ValueError(f"{path} has tensors of a doubt ({min(ours)}), and its record none.")
            return None
        try:
            if not isinstance(record, dict) or {*record} != {"stack", "left_out"}:
                raise ValueError("The record of a doubt has the keys left_out, stack.")
            left_out = record["left_out"]
            if not isinstance(left_out, dict) or not all(isinstance(v, str) for v in left_out.values()):
                raise ValueError("left_out of a doubt must hold reasons by name.")
            own = {name.removeprefix("doubt."): v for name, v in ours.items() if name.startswith("doubt.")}
            stack = DoubtStack.from_record(record["stack"], own)
            scores = {}
            for name in stack.names:
                if name == HEAD:
                    continue
                start = f"score.{name}."
                its = {key.removeprefix(start): ours.pop(key) for key in list(ours) if key.startswith(start)}
                scores[name] = restored(name, its, classes=classes, dim=dim)
            strange = sorted(name for name in ours if name.startswith("score."))
            if strange:
                raise ValueError(f"There are tensors of scores that are no part of it: {strange[0]}.")
        except ValueError as error:
            raise ValueError(f"{path}: the doubt cannot be read: {error}") from error
        return cls(stack, scores, left_out)


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


def new_stack(names: Sequence[str], **settings: Any) -> DoubtStack:
    """Return a stack of these scores with the prior weights of a doubt.

    Args:
        names: The scores.
        **settings: Others of `DoubtStack`.

    Example:
        >>> new_stack(["mcp", "class_gaussians", "logit_scaling"]).prior.tolist()
        [0.3, 1.2, 0.0]
        >>> new_stack(["mcp", "entropy"]).prior.tolist()
        [0.5, 0.5]
    """
    return DoubtStack(
        names, prior=PRIOR if "class_gaussians" in names and len(names) > 1 else None, **settings
    )


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
        parts.append(score(_picked(plain, folds[number]), text_features=text_features).double().cpu())
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
