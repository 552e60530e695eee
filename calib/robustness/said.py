"""What a model says of images, with all that is judged under a shift: doubt, prediction sets, decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from calib.core.checks import check_labels, check_logits
from calib.core.names import name_key
from calib.core.text import few
from calib.data.features import FeatureTable
from calib.data.judged import rounded_doubt
from calib.failure.export import FailureHead
from calib.posthoc.conformal import PredictionSets
from calib.posthoc.decisions import Decisions
from calib.posthoc.review import ReviewThreshold
from calib.prompts.export import Prompt


@dataclass(frozen=True, eq=False)
class Said:
    """What a model says of N images.

    Attributes:
        logits: (N, C) whose softmax is the model's probabilities.
        labels: (N,) true classes, numbered as the logits.
        doubt: (N,), higher = more likely wrong. None: 1 - confidence.
        others: Further doubts (N,) by name, which are judged beside it.
        sets: (N, C) bool, prediction sets. None: there are none.
        accepted: (N,) bool, what the review threshold accepts. None: there is none.

    Raises:
        ValueError: Shapes differ, or logits and labels are none.
    """

    logits: Tensor
    labels: Tensor
    doubt: Tensor | None = None
    others: Mapping[str, Tensor] = field(default_factory=dict)
    sets: Tensor | None = None
    accepted: Tensor | None = None

    def __post_init__(self) -> None:
        check_logits(self.logits)
        check_labels(self.labels, self.logits)
        n = len(self.labels)
        parts = {"doubt": self.doubt, "sets": self.sets, "accepted": self.accepted, **self.others}
        wrong = {
            name: tuple(part.shape) for name, part in parts.items() if part is not None and len(part) != n
        }
        if wrong:
            raise ValueError(f"There are {n} rows of logits, and of other sizes: {wrong}.")

    @property
    def probs(self) -> Tensor:
        """Softmax of the logits (N, C), in double precision."""
        return self.logits.double().softmax(dim=1)

    @property
    def failure(self) -> Tensor:
        """Which predictions are wrong, (N,) bool."""
        return self.logits.argmax(dim=1) != self.labels

    @property
    def doubts(self) -> dict[str, Tensor]:
        """All doubts by name; the first, "", is the model's own."""
        own = 1 - self.probs.max(dim=1).values if self.doubt is None else self.doubt
        return {"": own, **self.others}


System: TypeAlias = Callable[[FeatureTable], Said]
"""A model that is judged: from image features with labels to what it says of them."""


@dataclass(frozen=True, eq=False)
class PromptSystem:
    """A prompt that is judged, with its prediction sets and review threshold, or those of its failure head.

    Attributes:
        prompt: The prompt; its calibration is part of it.
        head: A failure head for it, whose uncertainty is the doubt then. None: the doubt is 1 - confidence.
        class_names: The classes in the order of the data's labels. None: that of the prompt.

    Raises:
        ValueError: The head judges another prompt, or the classes are others.
    """

    prompt: Prompt
    head: FailureHead | None = None
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.head is not None:
            self.head.check_prompt(self.prompt)
        self._numbers()

    @property
    def sets(self) -> PredictionSets | None:
        """The prediction sets; None where there are none, or they need to know strata."""
        found = None if self.prompt.decisions is None else self.prompt.decisions.sets
        strata = found is not None and found.cells is not None and found.cells.strata is not None
        return None if strata else found

    @property
    def review(self) -> ReviewThreshold | None:
        """The review threshold: the head's, else the prompt's. None: there is none."""
        judge, _ = self._judge()
        return None if judge is None else judge.review

    def __call__(self, features: FeatureTable) -> Said:
        """Return what it says of images, as `calib predict` would."""
        images = features.image_features
        logits = self.prompt.logits(images).double()
        probs = logits.softmax(dim=1)
        own = 1 - probs.max(dim=1).values
        doubt = None if self.head is None else self.head.uncertainty(images, logits.argmax(dim=1)).cpu()
        judge, by_head = self._judge()
        accepted = None
        if judge is not None:
            known = None if self.prompt.decisions is None else self.prompt.decisions.familiarity
            judged = rounded_doubt(doubt if by_head and doubt is not None else own)
            accepted, _ = judge.decide(judged, None if known is None else known(images))
        return Said(
            logits,
            self._numbers()[features.labels],
            doubt,
            {} if doubt is None else {"confidence": own},
            None if self.sets is None else self.sets(probs),
            accepted,
        )

    def renumbered(self, features: FeatureTable) -> FeatureTable:
        """Return features with the labels that the prompt gives to the classes of the data."""
        return replace(features, labels=self._numbers()[features.labels])

    def reordered(self, counts: Tensor) -> Tensor:
        """Return (C,) counts of the data's classes in the order of the prompt's."""
        found = torch.zeros_like(counts)
        found[self._numbers()] = counts
        return found

    def _judge(self) -> tuple[Decisions | None, bool]:
        """Return whose decisions hold, and whether they are the head's."""
        own, theirs = self.prompt.decisions, None if self.head is None else self.head.decisions
        if theirs is not None and theirs.review is not None:
            return theirs, True
        return (own, False) if own is not None and own.review is not None else (None, False)

    def _numbers(self) -> Tensor:
        """Return the prompt's number of every class of the data."""
        names = self.prompt.class_names if self.class_names is None else self.class_names
        place = {name_key(name): index for index, name in enumerate(self.prompt.class_names)}
        if sorted(map(name_key, names)) != sorted(place):
            raise ValueError(
                f"The prompt knows the classes {few(self.prompt.class_names)}, and the data have "
                f"{few(list(names))}. They must be the same; data.class_names sets those of the data."
            )
        return torch.tensor([place[name_key(name)] for name in names])
