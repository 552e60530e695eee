"""Recorded answers of any model, an API's for example, as outputs: texts are read, nothing is asked again.

A row of the JSON-lines file is one answer:

| field | |
|:--|:--|
| item_id | the item |
| text | the answer, as it was written; none: the model did not answer |
| model_id, prompt_id, run_id | left out: the argument, "default", a number per answer of a prompt |
| option_order | option ids as the letters A, B, ... stood for them; left out: as in the item |
| samples | further answers: texts, or objects with text, option_order, seed, logprob_sum, n_tokens |
| confidence | what the model says of it: 0 to 1, or a text such as "85 %"; left out: what its JSON says |
| letter_logprobs | {"A": -0.1, ...}, or an API's top_logprobs: [{"token": "A", "logprob": -0.1}, ...] |
| token_logprobs | log-probabilities of the answer's tokens |
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calib.core.errors import meant_path, unknown_name
from calib.core.text import few
from calib.io.strictjson import parse_json
from calib.vqa.parsing import LETTERS, Parsed, parse_answer, parse_confidence
from calib.vqa.tables import Items, Outputs

FIELDS = (
    "item_id",
    "text",
    "model_id",
    "prompt_id",
    "run_id",
    "option_order",
    "samples",
    "confidence",
    "letter_logprobs",
    "token_logprobs",
)
ANSWERS = ("text", "samples", "letter_logprobs")  # fields that can hold an answer
log = logging.getLogger(__name__)


def read_recorded(
    path: str | Path,
    items: Items,
    *,
    model_id: str | None = None,
    columns: Mapping[str, str] | None = None,
    absent_logprob: float | None = None,
) -> Outputs:
    """Return recorded answers as outputs; see the head of this module.

    Args:
        path: A .jsonl file.
        items: What was asked.
        model_id: The model. None: the file's name, where its rows do not say it.
        columns: Field to what it is called in the file, e.g. {"text": "response"}.
        absent_logprob: What a letter gets that is not among the top_logprobs, e.g. that of the last one
            there. None: nothing; such a row has no log-probabilities.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no JSON object (its number is said), an item or an option is unknown, or no row
            has an answer: a field text, samples or letter_logprobs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.{meant_path(path)}")
    for name in columns or {}:
        if name not in FIELDS:
            raise unknown_name("field of recorded answers", name, FIELDS)
    rows: list[dict[str, Any]] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}).") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = parse_json(line, source=f"{path}, line {number}")
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:40]!r}.")
            rows.append({"_where": f"{path}, line {number}", **row})
    names = dict(columns or {})
    for ours, theirs in names.items():
        if rows and not any(theirs in row for row in rows):
            raise ValueError(f"{path}: no row has the field {theirs!r}, which columns names for {ours!r}.")
    # A field of one of our names that is called otherwise in this file is something else there.
    others = [{k: v for k, v in row.items() if k not in names and k not in names.values()} for row in rows]
    read = [{ours: row[theirs] for ours, theirs in names.items() if theirs in row} for row in rows]
    return recorded(
        [before | after for before, after in zip(others, read, strict=True)],
        items,
        model_id=model_id or path.stem,
        absent_logprob=absent_logprob,
        source=str(path),
    )


def recorded(
    rows: Sequence[Mapping[str, Any]],
    items: Items,
    *,
    model_id: str,
    absent_logprob: float | None = None,
    source: str = "recorded answers",
) -> Outputs:
    """Return recorded answers as outputs; see the head of this module.

    Args:
        rows: The answers.
        items: What was asked.
        model_id: The model, where a row does not say it.
        absent_logprob: See `read_recorded`.
        source: What messages call them.

    Raises:
        ValueError: There are none, none has a field of ANSWERS, or an item or an option is unknown.

    Example:
        >>> row = {"item_id": "a", "options": ["CT", "MRI"], "option_ids": ["o0", "o1"], "correct_index": 1}
        >>> items = Items.of_rows([row])
        >>> answers = [{"item_id": "a", "text": "(B) MRI"}, {"item_id": "a", "text": "I cannot tell."}]
        >>> found = recorded(answers, items, model_id="m")
        >>> found.choices.tolist(), found.texts("run_id").tolist()
        ([1, -1], ['0', '1'])
    """
    if not rows:
        raise ValueError(f"{source} has no answers.")
    if not any(name in row for row in rows for name in ANSWERS):
        raise ValueError(
            f"{source}: no row has {', '.join(ANSWERS[:-1])} or {ANSWERS[-1]}; the first has "
            f"{few([name for name in rows[0] if name != '_where'], 20)}. The answer's field is called text."
        )
    for number, row in enumerate(rows, start=1):
        for name in ("item_id", "model_id", "prompt_id"):
            if not isinstance(row.get(name), str | None):
                where = row.get("_where", f"{source}, row {number}")
                raise ValueError(f"{where}: {name} must be a text, not {row[name]!r}.")
    wanted = {row.get("item_id") for row in rows}
    known = {row["item_id"]: row for row in items.take([id_ in wanted for id_ in items.ids]).rows()}
    asked: Counter[tuple[Any, ...]] = Counter()
    made = []
    for number, row in enumerate(rows, start=1):
        where = row.get("_where", f"{source}, row {number}")
        item = known.get(row.get("item_id", ""))
        if item is None:
            raise ValueError(f"{where}: there is no item {row.get('item_id')!r} in {items.origin.names[0]}.")
        key = (row.get("model_id") or model_id, row.get("prompt_id") or "default", row["item_id"])
        run = row.get("run_id")
        made.append(
            {
                "model_id": key[0],
                "prompt_id": key[1],
                "run_id": str(asked[key] if run is None else run),
                "item_id": key[2],
                **_answer(row, item, where, absent_logprob),
            }
        )
        asked[key] += 1
    outputs = Outputs.of_rows(made, items, source=source)
    counts = Counter(outputs.texts("answer_status").tolist())
    log.info("%s: %s", source, ", ".join(f"{count} {status}" for status, count in counts.most_common()))
    return outputs


def _answer(
    row: Mapping[str, Any], item: Mapping[str, Any], where: str, absent: float | None
) -> dict[str, Any]:
    order = _order(row.get("option_order"), item, where)
    said = _parsed(row.get("text"), item, order, where)
    given = row.get("confidence")
    sure = said.confidence if given is None else _confidence(given, where)
    return {
        "pred_index": said.place,
        "answer_status": said.status,
        "answer_text": row.get("text"),
        "verbalized_confidence": sure,
        "verbalized_text": given if isinstance(given, str) else None,
        "option_letter_logprob": _letters(row.get("letter_logprobs"), order, where, absent),
        "answer_token_logprobs": row.get("token_logprobs"),
        "samples": _samples(row.get("samples"), item, where),
    }


def _order(given: Any, item: Mapping[str, Any], where: str) -> list[int]:
    """Return for every letter the place of its option in the item."""
    ids = item["option_ids"]
    if given is None:
        return list(range(len(ids)))
    if not isinstance(given, list) or sorted(map(str, given)) != sorted(ids):
        raise ValueError(f"{where}: option_order must name each of the item's option ids once: {ids}.")
    return [ids.index(str(each)) for each in given]


def _parsed(text: Any, item: Mapping[str, Any], order: Sequence[int], where: str) -> Parsed:
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}: text must be a text, not {text!r}.")
    options = item["options"]
    said = parse_answer(text, None if options is None else [options[k] for k in order], len(order))
    place = order[said.place] if said.place >= 0 else -1
    return Parsed(place, said.status, said.how, said.confidence)


def _samples(given: Any, item: Mapping[str, Any], where: str) -> list[dict[str, Any]] | None:
    if given is None:
        return None
    if not isinstance(given, list):
        raise ValueError(f"{where}: samples must be a list of texts or objects.")
    made = []
    for each in given:
        sample = {"text": each} if isinstance(each, str) or each is None else each
        if not isinstance(sample, Mapping):
            raise ValueError(f"{where}: a sample must be a text or an object, not {each!r}.")
        order = _order(sample.get("option_order"), item, where)
        said = _parsed(sample.get("text"), item, order, where)
        made.append({**sample, "pred_id": item["option_ids"][said.place] if said.place >= 0 else None})
    return made


def _confidence(given: Any, where: str) -> float | None:
    if isinstance(given, str):
        return parse_confidence(given)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
        raise ValueError(f"{where}: confidence must be 0 to 1, or a text such as '85 %'; it is {given!r}.")
    return float(given)


def _letters(given: Any, order: Sequence[int], where: str, absent: float | None) -> list[float] | None:
    """Return the log-probability of every option's letter; spellings of one letter are summed."""
    if given is None:
        return None
    if not isinstance(given, Mapping | list):
        raise ValueError(f"{where}: letter_logprobs must be an object or a list, not {given!r}.")
    pairs = (
        given.items()
        if isinstance(given, Mapping)
        else [(each.get("token"), each.get("logprob")) for each in given if isinstance(each, Mapping)]
    )
    found: dict[str, list[float]] = {}
    for token, logprob in pairs:
        if isinstance(logprob, bool) or not isinstance(logprob, int | float):
            raise ValueError(f"{where}: the log-probability of the token {token!r} is {logprob!r}.")
        letter = str(token).strip(" \n\t▁Ġ().*:").upper()
        if len(letter) == 1:
            found.setdefault(letter, []).append(float(logprob))
    values: list[float] = [0.0] * len(order)
    for letter, place in zip(LETTERS, order, strict=False):
        if letter in found:
            top = max(found[letter])  # an API may say -9999 of what is improbable, whose exp is 0
            values[place] = min(top + math.log(sum(math.exp(each - top) for each in found[letter])), 0.0)
        elif absent is None:
            return None
        else:
            values[place] = absent
    return values
