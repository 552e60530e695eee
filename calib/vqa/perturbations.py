"""Questions changed on purpose, each beside its original: None of the above, no image, other words, order."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from calib.core.byname import settings
from calib.core.errors import unknown_name
from calib.core.hashing import stable_hash
from calib.vqa.nota import REASONS, TEXT, Choices, NotaIneligibleError, nota_choices
from calib.vqa.schema import ORIGINAL
from calib.vqa.tables import Items, join_items

BLACK = "black:"  # before the path of an image: black, in its size
WHY = REASONS | {  # an item cannot be changed, beside why it cannot carry None of the above
    "no_image": "the item has no image",
    "no_other_image": "no item of another image and group is there to take one from",
    "no_question": "the question is not there, or has fewer than two words",
}
Row = dict[str, Any]
log = logging.getLogger(__name__)


class _IneligibleError(ValueError):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def replace_correct(
    row: Row, others: Sequence[Row], *, seed: int, text: str = TEXT, position: str = "in_place"
) -> Row:
    """Return the right option replaced by None of the above, which is then right: condition nota."""
    return _with_nota(row, "replace_correct", seed, text, position)


def replace_distractor(
    row: Row, others: Sequence[Row], *, seed: int, text: str = TEXT, position: str = "in_place"
) -> Row:
    """Return a wrong option replaced by None of the above: the control, condition nota_control."""
    return _with_nota(row, "replace_distractor", seed, text, position)


def add(row: Row, others: Sequence[Row], *, seed: int, text: str = TEXT, position: str = "last") -> Row:
    """Return None of the above beside all options: condition nota_added."""
    return _with_nota(row, "add", seed, text, position)


def drop(row: Row, others: Sequence[Row], *, seed: int) -> Row:
    """Return the options without the right one: condition hidden; no answer is right."""
    return _with_nota(row, "drop", seed, TEXT, "in_place")


def permute(row: Row, others: Sequence[Row], *, seed: int) -> Row:
    """Return the options in another order, never the same: condition permuted."""
    count = len(row["option_ids"])
    shuffled = order_of(count, "permute", seed, row["base_id"])
    if shuffled == list(range(count)):
        shuffled = shuffled[1:] + shuffled[:1]
    return in_order(row, shuffled)


def no_image(row: Row, others: Sequence[Row], *, seed: int) -> Row:
    """Return the question without its image: condition no_image."""
    _needs_image(row)
    return {**row, "image": None}


def black_image(row: Row, others: Sequence[Row], *, seed: int) -> Row:
    """Return a black image of the same size: condition black_image."""
    image = _needs_image(row)
    return {**row, "image": image if image.startswith(BLACK) else f"{BLACK}{image}"}


def swapped_image(row: Row, others: Sequence[Row], *, seed: int, within: str | None = None) -> Row:
    """Return the image of another item, of another group: condition swapped_image.

    Args:
        row: The item.
        others: All items.
        seed: Of the draw.
        within: A column that must be the same, e.g. modality: the swap is then harder to see.
    """
    image, group = _needs_image(row), row["group_id"] or row["base_id"]
    found = stable_hash("swap", seed, row["base_id"]) % len(others)
    for step in range(len(others)):
        other = others[(found + step) % len(others)]
        if (
            other["image"]
            and other["image"] != image
            and (other["group_id"] or other["base_id"]) != group
            and (within is None or other.get(within) == row.get(within))
        ):
            return {**row, "image": other["image"], "image_id": other["image_id"]}
    raise _IneligibleError("no_other_image")


def corrupted_text(row: Row, others: Sequence[Row], *, seed: int) -> Row:
    """Return the words of the question in a drawn order; options stay: condition corrupted_text."""
    words = (row["question"] or "").split()
    if len(set(words)) < 2:
        raise _IneligibleError("no_question")
    order = order_of(len(words), "words", seed, row["base_id"])
    shuffled = [words[k] for k in order]
    if shuffled == words:
        shuffled = words[1:] + words[:1]
    return {**row, "question": " ".join(shuffled)}


# Name -> (condition, function of an item, all items and its settings).
PERTURBATIONS: dict[str, tuple[str, Callable[..., Row]]] = {
    "replace_correct": ("nota", replace_correct),
    "replace_distractor": ("nota_control", replace_distractor),
    "add": ("nota_added", add),
    "drop": ("hidden", drop),
    "permute": ("permuted", permute),
    "no_image": ("no_image", no_image),
    "black_image": ("black_image", black_image),
    "swapped_image": ("swapped_image", swapped_image),
    "corrupted_text": ("corrupted_text", corrupted_text),
}


def perturb(
    items: Items,
    kind: str,
    *,
    seed: int = 0,
    condition: str | None = None,
    left_out: dict[str, str] | None = None,
    **options: Any,
) -> Items:
    """Return items changed on purpose; those that cannot be are left out, and how many is said.

    What is drawn depends on the seed and the question alone, not on the other items or their order (a swapped
    image depends on which others there are).

    Args:
        items: What is changed; usually originals. Of changed items, conditions add up: black_image+permuted.
        kind: A key of `PERTURBATIONS`.
        seed: Of draws.
        condition: What the condition is called. None: its own name; other wordings, positions or seeds of one
            kind need names of their own to stand in one table.
        left_out: Filled with the reason of every item that is left out, from its id.
        options: Settings of the kind: `text`, `position`, `within`.

    Raises:
        ValueError: The kind or a setting is unknown, or no item can be changed so.

    Example:
        >>> row = {"item_id": "a", "options": ["CT", "MRI", "US"], "option_ids": ["o0", "o1", "o2"]}
        >>> nota = perturb(Items.of_rows([{**row, "correct_index": 1}]), "replace_correct").rows()[0]
        >>> nota["item_id"], nota["options"], nota["option_ids"]
        ('a#nota', ['CT', 'None of the above', 'US'], ['o0', 'nota', 'o2'])
    """
    if kind not in PERTURBATIONS:
        raise unknown_name("perturbation", kind, PERTURBATIONS)
    name, change = PERTURBATIONS[kind]
    allowed = {key: value for key, value in settings(change).items() if key != "seed"}
    for option in options:
        if option not in allowed and not allowed:
            raise ValueError(f"The perturbation '{kind}' has no setting {option}: it takes a seed only.")
        if option not in allowed:
            raise unknown_name(f"setting of the perturbation '{kind}'", option, allowed)
    within = options.get("within")
    if within is not None and within not in items.columns:
        raise unknown_name("column", within, items.columns)
    rows, made, refused = items.rows(), [], dict[str, str]()
    for row in rows:
        try:
            changed = change(row, rows, seed=seed, **options)
        except (NotaIneligibleError, _IneligibleError) as error:
            refused[row["item_id"]] = error.reason
            continue
        made.append(_named(row, changed, kind, condition or name, seed, allowed | options))
    counts = ", ".join(
        f"{count} {reason} ({WHY[reason]})" for reason, count in Counter(refused.values()).most_common()
    )
    if left_out is not None:
        left_out.update(refused)
    if not made:
        raise ValueError(f"None of the {len(rows)} items can be changed by '{kind}': {counts}.")
    if refused:
        log.warning("%s: %d of %d items are left out: %s.", kind, len(refused), len(rows), counts)
    return Items.of_rows(made, source=f"{items.origin.names[0]} ({kind})")


def two_by_two(items: Items, *, seed: int = 0, left_out: dict[str, str] | None = None) -> Items:
    """Return image as it is or black, times question as it is or in a drawn order: four conditions.

    Items that cannot be changed in both ways are left out of all four, so that they can be compared in pairs.

    Args:
        items: Originals.
        seed: Of the order of words.
        left_out: Filled with the reason of every item that is left out, from its id.

    Raises:
        ValueError: No item can be changed so.

    Source: the design of 2606.27023 (image real or black, text intact or corrupted).
    """
    left_out = {} if left_out is None else left_out
    text = perturb(items, "corrupted_text", seed=seed, left_out=left_out)
    black = perturb(items, "black_image", seed=seed, left_out=left_out)
    both = perturb(black, "corrupted_text", seed=seed)
    parts = [items, black, text, both]
    bases = set.intersection(*(set(part.bases.tolist()) for part in parts))
    return join_items([part.take([base in bases for base in part.bases]) for part in parts])


def in_order(row: Row, order: Sequence[int]) -> Row:
    """Return an item with its options in another order.

    Args:
        row: The item.
        order: For every new place the present place of the option that stands there.

    Example:
        >>> row = {"options": ["a", "b"], "option_ids": ["o0", "o1"], "correct_index": 0}
        >>> in_order(row, [1, 0])
        {'options': ['b', 'a'], 'option_ids': ['o1', 'o0'], 'correct_index': 1}
    """
    right, options = row["correct_index"], row["options"]
    return {
        **row,
        "options": None if options is None else [options[k] for k in order],
        "option_ids": [row["option_ids"][k] for k in order],
        "correct_index": right if right < 0 else list(order).index(right),
    }


def order_of(count: int, *parts: object) -> list[int]:
    """Return an order of `count` things drawn with what it is drawn for, the same on every machine.

    Example:
        >>> order_of(4, "permute", 0, "a"), order_of(4, "permute", 1, "a")
        ([1, 0, 2, 3], [2, 3, 0, 1])
    """
    return sorted(range(count), key=lambda k: stable_hash(*parts, k))


def _with_nota(row: Row, mode: str, seed: int, text: str, position: str) -> Row:
    if row["options"] is None:
        raise NotaIneligibleError("options_withheld")
    made: Choices = nota_choices(
        row["options"],
        row["correct_index"],
        mode=mode,
        option_ids=row["option_ids"],
        text=text,
        position=position,
        seed=f"{seed}:{row['base_id']}",
    )
    return {
        **row,
        "options": made.options,
        "option_ids": made.option_ids,
        "correct_index": made.correct_index,
        "replaced_id": made.replaced_id,
    }


def _needs_image(row: Row) -> str:
    if not row["image"]:
        raise _IneligibleError("no_image")
    image: str = row["image"]
    return image


def _named(before: Row, row: Row, kind: str, condition: str, seed: int, used: Mapping[str, Any]) -> Row:
    row = dict(row)
    about: dict[str, Any] = {"kind": kind, "seed": seed, **used}
    if "replaced_id" in row:
        about["replaced_id"] = row.pop("replaced_id")
    if before["condition"] != ORIGINAL:
        condition = f"{before['condition']}+{condition}"
        if before["perturbation"]:
            about["after"] = _plain(before["perturbation"])
    row["perturbation"] = json.dumps(about, sort_keys=True, ensure_ascii=False)
    row["condition"] = condition
    row["item_id"] = f"{before['base_id']}#{condition}"
    return row


def _plain(said: str) -> Any:
    """Return what a column says of a change: a record of ours, or somebody's own words."""
    try:
        return json.loads(said)
    except ValueError:
        return said
