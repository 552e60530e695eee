"""What turns a prediction into a decision: review threshold, prediction sets, familiarity; part of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calib.core.hashing import json_digest
from calib.posthoc.conformal import PredictionSets
from calib.posthoc.familiarity import MEANS, Familiarity
from calib.posthoc.review import ReviewThreshold

VERSION = 1
KEYS = ("version", "review", "sets", "familiarity", "doubt", "about")
ACCEPT, REVIEW = "accept", "review"


@dataclass(frozen=True, eq=False)
class Decisions:
    """What an export holds to decide which of its predictions may pass.

    Attributes:
        review: The threshold on the export's doubt: of a prompt 1 - its confidence, of a failure head its
            P(wrong). None: there is none.
        sets: Prediction sets from the export's probabilities. None: there are none.
        familiarity: Which images are unlike those that were seen. None: nobody knows.
        doubt: Digest of what review and sets were fitted for, see `doubt_digest`. None: there are neither.
        about: What they were fitted on: for readers, nothing depends on it.
    """

    review: ReviewThreshold | None = None
    sets: PredictionSets | None = None
    familiarity: Familiarity | None = None
    doubt: str | None = None
    about: dict[str, Any] = field(default_factory=dict, repr=False)

    def check(self, digest: str, *, what: str) -> None:
        """Refuse review and sets that were fitted for another doubt.

        Args:
            digest: `doubt_digest` of the export at hand.
            what: What that is, e.g. "runs/mine/prompt.safetensors".

        Raises:
            ValueError: They were.
        """
        fitted = [name for name, part in (("review", self.review), ("sets", self.sets)) if part is not None]
        if fitted and self.doubt != digest:
            said = "none" if self.doubt is None else self.doubt[:12]
            raise ValueError(
                f"{what}: its {' and '.join(fitted)} were fitted for another prompt or doubt (digest {said}, "
                f"here {digest[:12]}), and guarantee nothing here. Fit them anew: "
                f"{' and '.join(f'calib {name}' for name in fitted)}."
            )

    def decide(self, doubt: Tensor, unlike: Tensor | None = None) -> tuple[Tensor, list[str]]:
        """Return which cases are accepted, (N,) bool, and N reasons.

        Args:
            doubt: (N,) of the export; by the batch rule, of the whole batch.
            unlike: (N,) bool, from `familiarity`. None: not known.

        Raises:
            ValueError: There is no review threshold, or the doubts are none.
        """
        if self.review is None:
            raise ValueError("There is no review threshold here: fit one (calib review).")
        if unlike is not None:
            doubt = doubt.masked_fill(unlike.to(doubt.device), torch.inf)
        accepted = self.review(doubt)
        return accepted, [self._reason(*row) for row in zip(doubt.tolist(), accepted.tolist(), strict=True)]

    def in_order(self, order: Sequence[int]) -> Decisions:
        """Return the decisions for the same classes in another order; sets are for one, and stay behind."""
        kept = self.sets if list(order) == sorted(order) else None
        return replace(self, sets=kept)

    def bare(self) -> Decisions | None:
        """Return what does not depend on confidences. None: nothing."""
        return None if self.familiarity is None else Decisions(familiarity=self.familiarity)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a file holds of them."""
        return {} if self.familiarity is None else self.familiarity.tensors()

    def to_record(self) -> dict[str, Any]:
        """Return what the record of a file says of them: plain values for JSON."""
        return {
            "version": VERSION,
            **{
                name: None if part is None else part.to_record()
                for name, part in (
                    ("review", self.review),
                    ("sets", self.sets),
                    ("familiarity", self.familiarity),
                )
            },
            "doubt": self.doubt,
            "about": self.about,
        }

    @classmethod
    def from_record(
        cls, record: Any, tensors: Mapping[str, Tensor], *, width: int | None = None, path: str | Path = ""
    ) -> Decisions | None:
        """Return the decisions in a file, checked. None: it has none.

        Args:
            record: What its record says under "decisions".
            tensors: Those of the file.
            width: D of the image features. None: not checked.
            path: The file, for messages.

        Raises:
            ValueError: They are not as `to_record` and `tensors` write them.
        """
        where = f"{path}: " if str(path) else ""
        known = record.get("familiarity") if isinstance(record, dict) else None
        if known is None and MEANS in tensors:
            raise ValueError(f"{where}there are {MEANS}, and the record does not say what they are for.")
        if record is None:
            return None
        if not isinstance(record, dict) or {*record} != {*KEYS}:
            raise ValueError(f"{where}decisions must have the keys {', '.join(KEYS)}.")
        if type(record["version"]) is not int or record["version"] != VERSION:
            raise ValueError(
                f"{where}its decisions have version {record['version']!r}; this version reads {VERSION}."
            )
        if not isinstance(record["about"], dict) or not (
            record["doubt"] is None or isinstance(record["doubt"], str)
        ):
            raise ValueError(f"{where}decisions must hold a digest under doubt and a mapping under about.")
        try:
            return cls(
                review=None if record["review"] is None else ReviewThreshold.from_record(record["review"]),
                sets=None if record["sets"] is None else PredictionSets.from_record(record["sets"]),
                familiarity=None
                if record["familiarity"] is None
                else Familiarity.from_record(record["familiarity"], tensors, width=width),
                doubt=record["doubt"],
                about=record["about"],
            )
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error

    def _reason(self, doubt: float, accepted: bool) -> str:
        assert self.review is not None
        if doubt == torch.inf:
            return "unlike the images seen"
        if not self.review.achievable:
            return "no threshold is shown to keep the error low enough"
        if self.review.rule == "batch":
            return "accepted with the batch" if accepted else "too doubtful in this batch"
        if self.review.threshold == torch.inf:
            return "all are accepted"
        return f"doubt {doubt:.4g} is {'' if accepted else 'not '}below {self.review.threshold:.4g}"


def doubt_digest(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Return the sha256 of what gives a doubt: names, shapes, types and bytes of tensors, and plain facts.

    Args:
        tensors: What is computed with.
        facts: JSON-able, the rest of it: class names, scale, backbone.

    Example:
        >>> doubt_digest({"w": torch.ones(2)}, {"scale": 4.6})[:8]
        'db734c25'
    """
    digest = hashlib.sha256(json_digest(dict(facts)).encode())
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
