"""Answers to one question from several prompts, runs, conditions or models as samples of one: votes."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from calib.core.errors import unknown_name
from calib.core.hashing import stable_hash
from calib.vqa.schema import ORIGINAL
from calib.vqa.tables import Items, Outputs

ACROSS = ("run_id", "prompt_id", "condition", "model_id")


def pooled(
    outputs: Outputs,
    *,
    across: Sequence[str] = ("run_id", "prompt_id"),
    onto: str = ORIGINAL,
    model_id: str | None = None,
    seed: int = 0,
) -> Outputs:
    """Return one output for each question, whose samples are the answers it got; its answer is the vote.

    Samples that the outputs have themselves are among them. So the share of the vote, its entropy and every
    other uncertainty of samples can be had of models that say nothing but an answer: over variants of a
    prompt, over runs, over languages or option orders (conditions), over the models of an ensemble.

    Args:
        outputs: Answers, to several variants of a question.
        across: What differs between the answers that are taken together, of `ACROSS`.
        onto: The condition whose item stands for a question, where `across` names conditions.
        model_id: What the model is called then. None: its own name, or "vote" of several.
        seed: Of ties, which are broken by a draw for each question: no option wins by its place.

    Raises:
        ValueError: A name is unknown, an item is missing, or an answer is no option of the item that stands
            for its question.

    Example:
        >>> row = {"item_id": "a", "option_ids": ["o0", "o1"], "correct_index": 1}
        >>> items = Items.of_rows([row])
        >>> said = {"model_id": "m", "item_id": "a"}
        >>> rows = [{**said, "run_id": str(k), "pred_index": k % 2} for k in range(3)]
        >>> one = pooled(Outputs.of_rows(rows, items))
        >>> one.choices.tolist(), one.sample_choices()[0].tolist()
        ([0], [0, 1, 0])
    """
    for name in across:
        if name not in ACROSS:
            raise unknown_name("what answers are pooled across", name, ACROSS)
    items = outputs.items
    over_conditions = "condition" in across
    stand_in = _stand_ins(items, onto) if over_conditions else {}
    columns = {name: outputs.texts(name) for name in ("model_id", "prompt_id", "run_id")}
    places, rows = outputs.sample_choices()
    own = defaultdict(list)
    for place, row in zip(places.tolist(), rows.tolist(), strict=True):
        own[row].append(place)
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, item in enumerate(outputs.item_rows.tolist()):
        names = ["" if name in across else str(columns[name][row]) for name in columns]
        names.append(str(items.bases[item] if over_conditions else items.ids[item]))
        groups[tuple(names)].append(row)
    ids = items.table.column("option_ids").to_pylist()
    made = []
    for key, members in groups.items():
        if over_conditions and key[-1] not in stand_in:
            raise ValueError(f"The question '{key[-1]}' has no item of the condition '{onto}'.")
        target = stand_in[key[-1]] if over_conditions else int(outputs.item_rows[members[0]])
        chosen: list[str | None] = []
        for row in members:
            listed = ids[outputs.item_rows[row]]
            answers = [int(outputs.choices[row]), *own[row]]
            chosen += [listed[place] if place >= 0 else None for place in answers]
        made.append(_vote(key, chosen, str(items.ids[target]), ids[target], model_id, seed, columns, members))
    return Outputs.of_rows(made, items, source=f"{outputs.origin.names[0]} (pooled)")


def _stand_ins(items: Items, onto: str) -> dict[str, int]:
    return {
        str(base): row
        for row, (base, condition) in enumerate(zip(items.bases, items.conditions, strict=True))
        if condition == onto
    }


def _vote(
    key: tuple[str, ...],
    chosen: Sequence[str | None],
    item_id: str,
    option_ids: Sequence[str],
    model_id: str | None,
    seed: int,
    columns: dict[str, Any],
    members: Sequence[int],
) -> dict[str, Any]:
    foreign = sorted({each for each in chosen if each is not None and each not in option_ids})
    if foreign:
        raise ValueError(
            f"The item '{item_id}' has the options {list(option_ids)}, and an answer of another variant is "
            f"'{foreign[0]}'. Pool onto a condition that has all options (onto)."
        )
    counts = Counter(each for each in chosen if each is not None)
    most = max(counts.values(), default=0)
    first = sorted(each for each, count in counts.items() if count == most)
    winner = first[stable_hash("tie", seed, item_id) % len(first)] if first else None
    models = {str(columns["model_id"][row]) for row in members}
    return {
        "model_id": model_id or key[0] or (models.pop() if len(models) == 1 else "vote"),
        "prompt_id": key[1] or "pooled",
        "run_id": key[2] or "pooled",
        "item_id": item_id,
        "pred_index": -1 if winner is None else list(option_ids).index(winner),
        "answer_text": json.dumps(dict(counts.most_common()), sort_keys=True),
        "samples": [{"pred_id": each} for each in chosen],
    }
