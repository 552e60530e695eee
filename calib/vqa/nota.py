"""None of the above: which questions can carry it, and what their options become."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from calib.core.errors import unknown_name
from calib.core.hashing import stable_hash
from calib.vqa.schema import NOTA

TEXT = "None of the above"  # Tam et al. 2503.01550 found that the wording matters little
MODES = ("replace_correct", "replace_distractor", "add", "drop")
POSITIONS = ("in_place", "last", "random")
REASONS = {
    "fewer_than_3_options": "of two options one is left beside None of the above (all yes/no questions)",
    "duplicate_options": "two options have the same text, capitals and spaces aside",
    "nota_like_option": "an option says none, all, both or cannot be determined, or names other options",
    "no_right_option": "no option is right, so that none can be hidden",
    "options_withheld": "the texts of the options are not there",
}
_LIKE = re.compile(
    r"\b(none|neither|nil)\s+(of\s+)?(the\s+)?(above|these|those|others?|options?|other answers)\b"
    r"|\ball (of )?(the |these |those )?(above|these|those|options|answers)\b|\bboth\b"
    r"|\bcannot (be )?determine|\bnot (listed|given|among)\b|\bany of the above\b",
    re.I,
)
_NAMES_OTHERS = re.compile(r"\(?[A-J]\)?(\s*(,|and|&|or)\s*\(?[A-J]\)?)+\.?")


class NotaIneligibleError(ValueError):
    """A question cannot carry None of the above.

    Args:
        reason: A key of `REASONS`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"This question cannot carry None of the above: {REASONS[reason]} ({reason}).")
        self.reason = reason


@dataclass(frozen=True)
class Choices:
    """The options of a question.

    Attributes:
        options: K texts.
        option_ids: K ids.
        correct_index: The place of the right one, -1: none is right.
        replaced_id: The option that is gone; empty where none is.
    """

    options: list[str]
    option_ids: list[str]
    correct_index: int
    replaced_id: str = ""


def nota_eligibility(options: Sequence[str] | None, correct_index: int = 0) -> str:
    """Return why a question cannot carry None of the above, a key of `REASONS`; empty: it can.

    Args:
        options: K texts. None: they are not there.
        correct_index: The place of the right one, -1: none is right.

    Example:
        >>> nota_eligibility(["CT", "MRI", "X-ray"]), nota_eligibility(["yes", "no"])
        ('', 'fewer_than_3_options')
        >>> nota_eligibility(["Left", "Right", "Both"]), nota_eligibility(["CT", "ct ", "MRI"])
        ('nota_like_option', 'duplicate_options')

    Source: NOTA on yes/no sets leaves no question; existing None-of-the-above options as in MM-UPD
        (2403.20331), where they were filtered as well.
    """
    if options is None:
        return "options_withheld"
    if len(options) < 3:
        return "fewer_than_3_options"
    if any(_LIKE.search(text) or _NAMES_OTHERS.fullmatch(text.strip()) for text in options):
        return "nota_like_option"
    if len({" ".join(text.casefold().split()) for text in options}) < len(options):
        return "duplicate_options"
    return "" if correct_index >= 0 else "no_right_option"


def nota_choices(
    options: Sequence[str],
    correct_index: int,
    *,
    mode: str = "replace_correct",
    option_ids: Sequence[str] | None = None,
    index: int | None = None,
    text: str = TEXT,
    position: str = "in_place",
    seed: int | str = 0,
) -> Choices:
    """Return the options of a question with None of the above among them, or without the right one.

    Args:
        options: K texts.
        correct_index: The place of the right one.
        mode: "replace_correct": it becomes None of the above, which is then right. "replace_distractor": a
            wrong one does, the control: the right answer stays. "add": it stands beside all. "drop": the
            right one is gone, and none is right.
        option_ids: K ids. None: o0, o1, ...
        index: Which distractor. None: drawn with the seed.
        text: How None of the above is worded.
        position: "in_place" of what it replaces (added: last), "last", or "random".
        seed: Of draws; a number or a text.

    Raises:
        NotaIneligibleError: The question cannot carry it.
        ValueError: A mode, position or index that there is not; the wording is that of an option.

    Example:
        >>> nota_choices(["CT", "MRI", "X-ray"], 1, position="last")
        Choices(options=['CT', 'X-ray', 'None of the above'], option_ids=['o0', 'o2', 'nota'], \
correct_index=2, replaced_id='o1')
    """
    if mode not in MODES:
        raise unknown_name("mode of None of the above", mode, MODES)
    if position not in POSITIONS:
        raise unknown_name("position of None of the above", position, POSITIONS)
    reason = nota_eligibility(options, correct_index)
    if reason:
        raise NotaIneligibleError(reason)
    if not text.strip() or text.strip().casefold() in {option.strip().casefold() for option in options}:
        raise ValueError(f"The wording {text!r} of None of the above is empty or that of an option.")
    texts = list(options)
    ids = [f"o{k}" for k in range(len(texts))] if option_ids is None else list(option_ids)
    right = ids[correct_index]
    gone = correct_index
    if mode == "replace_distractor":
        others = [k for k in range(len(texts)) if k != correct_index]
        gone = others[stable_hash("distractor", seed) % len(others)] if index is None else index
        if gone not in others:
            raise ValueError(
                f"The distractor to be replaced is option {gone}; the wrong options are {others} (from 0)."
            )
    at = len(texts) if mode == "add" else gone
    replaced = "" if mode == "add" else ids[gone]
    if mode != "add":
        del texts[gone], ids[gone]
    if mode == "drop":
        return Choices(texts, ids, -1, replaced)
    if position != "in_place":
        at = len(texts) if position == "last" else stable_hash("position", seed) % (len(texts) + 1)
    texts.insert(at, text)
    ids.insert(at, NOTA)
    return Choices(texts, ids, at if mode == "replace_correct" else ids.index(right), replaced)
