"""The columns of `calib predict` that say what to do: the set of classes, accept or review, unlike, notes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calib.commands.predict_notes import on_decision, on_sets, on_unlike
from calib.core.text import safe_text
from calib.data.judged import rounded_doubt
from calib.data.set_file import COLUMN, listed
from calib.failure.export import FailureHead
from calib.posthoc.decisions import ACCEPT, REVIEW
from calib.prompts.export import Prompt

UNREADABLE = "unreadable"


class DecisionColumns:
    """What an export's decisions say of images, collected batch by batch: some rules need all of them.

    Args:
        prompt: The prompt, with what it holds.
        head: A failure head for it. None: there is none. Its own threshold comes before the prompt's.

    Attributes:
        header: The columns there are.
        notes: What is to be said once, in sentences.
    """

    def __init__(self, prompt: Prompt, head: FailureHead | None) -> None:
        own, theirs = prompt.decisions, None if head is None else head.decisions
        self.by_head = theirs is not None and theirs.review is not None
        judge = theirs if self.by_head else own
        self._judge = None if judge is None or judge.review is None else judge
        self._familiarity = None if own is None else own.familiarity
        self._sets = None if own is None else own.sets
        self._names = prompt.class_names
        self.notes: list[str] = []
        if self._sets is not None and self._sets.cells is not None and self._sets.cells.strata is not None:
            self._sets = None
            self.notes.append(
                "No prediction sets: those of this prompt need to know the stratum of every image."
            )
        if own is not None:
            own.check(prompt.doubt_digest(), what="This prompt")
        if head is not None and theirs is not None:
            theirs.check(head.doubt_digest(), what="This failure head")
        self.header = [
            *([COLUMN] if self._sets is not None else []),
            *(["decision", "reason"] if self._judge is not None else []),
            *(["unlike"] if self._familiarity is not None else []),
        ]
        self.notes += self._promises()
        self._set_cells: list[str] = []
        self._doubts: list[Tensor] = []
        self._unlike: list[Tensor] = []

    def add(self, features: Tensor, probs: Tensor, uncertainty: Tensor | None) -> list[bool]:
        """Take in a batch, and return which of its images are unlike those the prompt knows.

        Args:
            features: (B, D) unit norm.
            probs: (B, C) float64.
            uncertainty: (B,) of the head. None: there is none.
        """
        if self._sets is not None:
            self._set_cells += listed(self._sets(probs), self._names)
        doubt = uncertainty if self.by_head else 1 - probs.max(dim=1).values
        assert doubt is not None
        self._doubts.append(rounded_doubt(doubt.cpu()))
        if self._familiarity is None:
            return [False] * len(features)
        self._unlike.append(self._familiarity(features))
        return self._unlike[-1].tolist()

    def rows(self) -> list[list[str]]:
        """Return the cells of every image that was taken in, in order."""
        count = sum(map(len, self._doubts))
        columns: list[Sequence[str]] = []
        unlike = torch.cat(self._unlike) if self._unlike else None
        if self._sets is not None:
            columns.append(self._set_cells)
        if self._judge is not None and count:
            accepted, reasons = self._judge.decide(torch.cat(self._doubts), unlike)
            columns.append([ACCEPT if each else REVIEW for each in accepted.tolist()])
            columns.append([safe_text(reason) for reason in reasons])
        if unlike is not None:
            columns.append(["yes" if each else "no" for each in unlike.tolist()])
        return (
            [list(cells) for cells in zip(*columns, strict=True)] if columns else [[] for _ in range(count)]
        )

    def unreadable(self) -> list[str]:
        """Return the cells of an image that could not be read: a person must look at it."""
        known = {"decision": REVIEW, "reason": UNREADABLE}
        return [known.get(name, "") for name in self.header]

    def _promises(self) -> list[str]:
        review = None if self._judge is None else self._judge.review
        return [
            *([] if self._sets is None else [on_sets(self._sets)]),
            *([] if review is None else [on_decision(review)]),
            *([] if self._familiarity is None else [on_unlike(self._familiarity)]),
        ]


class Copies:
    """Which files hold the same bytes as an earlier one."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def note(self, id: str, name: str) -> str:
        """Return what is to be said of a file: nothing, or whose copy it is.

        Args:
            id: Its content id.
            name: What it is called.

        Example:
            >>> copies = Copies()
            >>> copies.note("a1", "1.png"), copies.note("a1", "2.png")
            ('', 'the same file as 1.png')
        """
        first = self._first.setdefault(id, name)
        return "" if first == name else f"the same file as {first}"
