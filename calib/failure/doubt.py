"""One doubt of a prediction, P(wrong): a stack of scores, each judged on images it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.core.errors import unknown_name
from calib.failure.explain import NEGLIGIBLE, Explanation
from calib.scores import SCORES, ReadyScore, restored, state
from calib.scores.stack import DoubtStack

WHOLE = ("stack", "head")  # what a doubt may be besides a single score, see `parts_of`
STACK, HEAD = WHOLE
PARTS = ("mcp", "class_gaussians", "image_prototypes", "logit_scaling")  # of the stack, beside the head
# Prior weights in log-odds per standard deviation, chosen on images of training and validation splits
# (`benchmarks/doubt_study.py --development`): of scores that few images can teach, the class Gaussians, in
# which the confidence counts as well, order best. Without them, equal weights.
PRIOR = {"class_gaussians": 1.2, "mcp": 0.3, HEAD: 0.1}


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
        return torch.stack([column.cpu().double() for column in columns], dim=1)

    def likeness(self, image_features: Tensor) -> dict[str, Tensor]:
        """Return how alike images are to those of each class, (N, C) float64 by the parts that compare them.

        Of `class_gaussians` it is the softmax of the log-densities, of `image_prototypes` the cosine to the
        average image of the class; both are what these scores themselves compute with. Other parts, and
        those without weight, have none.

        Args:
            image_features: (N, D) unit norm.
        """
        weights = dict(zip(self.stack.names, self.stack.weights.tolist(), strict=True))
        return {
            name: score.call.function.likeness(image_features)
            for name, score in self.scores.items()
            if weights[name] > 0 and hasattr(score.call.function, "likeness")
        }

    def explanation(self, of_head: Explanation, parts: Tensor, image_features: Tensor) -> Explanation:
        """Return the reasons of this doubt: what each part adds to the log-odds of being wrong.

        Args:
            of_head: The reasons of the head by itself.
            parts: (N, P) from `values`.
            image_features: (N, D) unit norm, of the same images.
        """
        values = self.stack.contributions(parts)
        weights = dict(zip(self.stack.names, self.stack.weights.tolist(), strict=True))
        return replace(
            of_head,
            failure_logit=self.stack.intercept_of_fit() + values.sum(dim=1),
            contributions=dict(zip(self.stack.names, values.unbind(dim=1), strict=True)),
            baseline=self.stack.intercept_of_fit(),
            of_stack=True,
            counts=weights.get(HEAD, 0.0) >= NEGLIGIBLE,
            likeness=self.likeness(image_features),
        )

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
