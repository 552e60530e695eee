"""Recorded answers of any model: requests go out, answers come back, several of one question are a vote."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.vqa import (
    Items,
    join_items,
    perturb,
    pooled,
    read_prompts,
    read_recorded,
    recorded,
    write_requests,
)
from calib.vqa.answerers.requests import filled


@pytest.fixture
def items() -> Items:
    options = ["CT", "MRI", "US"]
    return Items.of_rows(
        [
            {
                "item_id": f"q{k}#original",
                "question": f"Question {k}?",
                "options": options,
                "option_ids": ["o0", "o1", "o2"],
                "correct_index": k,
                "image": f"{k}.png",
            }
            for k in range(3)
        ]
    )


def test_letters_stand_for_the_order_they_were_given_in(items: Items) -> None:
    rows = [
        {"item_id": "q0#original", "text": "A", "option_order": ["o2", "o0", "o1"]},
        {
            "item_id": "q1#original",
            "text": "B. MRI",
            "samples": ["A", {"text": "A", "option_order": ["o1", "o0", "o2"]}],
        },
        {"item_id": "q2#original", "text": None, "confidence": "70 %"},
    ]
    found = recorded(rows, items, model_id="m")
    assert found.choices.tolist() == [2, 1, -1]
    assert [each["pred_id"] for each in found.cell("samples", 1)] == ["o0", "o1"]
    assert found.texts("answer_status").tolist() == ["option", "option", "non_answer"]
    assert found.numbers("verbalized_confidence")[2] == pytest.approx(0.7)
    with pytest.raises(ValueError, match=r"row 1: option_order must name each of the item's option ids once"):
        recorded([{**rows[0], "option_order": ["o0", "o0", "o1"]}], items, model_id="m")


def test_log_probabilities_of_letters_are_summed_over_spellings(items: Items) -> None:
    top = [
        {"token": "A", "logprob": math.log(0.5)},
        {"token": " A", "logprob": math.log(0.2)},
        {"token": "C", "logprob": math.log(0.1)},
        {"token": "The", "logprob": math.log(0.1)},
    ]
    row: dict[str, Any] = {"item_id": "q0#original", "text": "A", "letter_logprobs": top}
    assert recorded([row], items, model_id="m").cell("option_letter_logprob", 0) is None  # B is not there
    found = recorded([row], items, model_id="m", absent_logprob=math.log(0.05))
    assert np.exp(found.padded("option_letter_logprob")[0]) == pytest.approx([0.7, 0.05, 0.1])
    turned = {**row, "option_order": ["o2", "o1", "o0"], "letter_logprobs": {"A": -0.5, "B": -1.5, "C": -2.5}}
    assert recorded([turned], items, model_id="m").cell("option_letter_logprob", 0) == [-2.5, -1.5, -0.5]
    far = {**row, "letter_logprobs": {"A": 0.0, "B": -9999.0, "C": -800.0}}  # as APIs say of the improbable
    assert recorded([far], items, model_id="m").cell("option_letter_logprob", 0) == [0.0, -9999.0, -800.0]


def test_tables_of_prompts_with_odd_marks(tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text("prompt_id,step,text\nchain,1,Look.\u2028Then say {letters}.\n", encoding="utf-8")
    assert read_prompts(table) == {"chain": ["Look.\u2028Then say {letters}."]}
    table.write_text("prompt_id,step,text\nchain,\u00b2,Look.\n", encoding="utf-8")
    with pytest.raises(ValueError, match="prompt 1: step '\u00b2' is no number"):
        read_prompts(table)
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('\n\n{"prompt_id": 3\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 3"):
        read_prompts(lines)


def test_what_is_put_into_a_prompt_is_not_filled_again() -> None:
    said = filled("{question} {letters} {other}", "What do {options} mean?", ["a {letters}", "b"])
    assert said == "What do {options} mean? A, B {other}"


def test_requests_become_answers_become_votes(items: Items, tmp_path: Path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text(
        'prompt_id,step,text\nchain,2,"{options}"\nchain,1,"{question}"\n'
        'plain,1,"{question} {options} {letters}"\n'
    )
    prompts = read_prompts(table)
    assert prompts == {"chain": ["{question}", "{options}"], "plain": ["{question} {options} {letters}"]}
    assert write_requests(items, tmp_path / "requests.jsonl", prompts=prompts, samples=4, seed=1) == 30
    requests = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert requests[0]["messages"] == ["Question 0?", "A. CT\nB. MRI\nC. US"]
    assert {tuple(each["option_order"]) for each in requests} != {("o0", "o1", "o2")}
    # A model that always says MRI, by whatever letter stands for it.
    answers = [{**each, "text": "ABC"[each["option_order"].index("o1")]} for each in requests]
    (tmp_path / "model.jsonl").write_text("".join(json.dumps(each) + "\n" for each in answers))
    found = read_recorded(tmp_path / "model.jsonl", items)
    assert found.choices.tolist() == [1] * 30
    one = pooled(found)
    assert len(one) == 3
    assert one.texts("model_id").tolist() == ["model"] * 3
    assert one.choices.tolist() == [1, 1, 1]
    assert one.sample_choices()[0].tolist() == [1] * 30


def test_answers_to_conditions_are_pooled_by_option_and_ties_are_not_won_by_place(items: Items) -> None:
    both = join_items([items, perturb(items, "permute", seed=1)])
    places = {row["item_id"]: row["option_ids"].index("o2") for row in both.rows()}
    said = [{"item_id": id_, "text": "ABC"[place]} for id_, place in places.items()]
    one = pooled(recorded(said, both, model_id="m"), across=["condition"])
    assert one.choices.tolist() == [2, 2, 2]
    assert one.texts("item_id").tolist() == [f"q{k}#original" for k in range(3)]
    many = Items.of_rows(
        [{"item_id": str(k), "option_ids": ["o0", "o1"], "correct_index": 0} for k in range(200)]
    )
    split = [{"item_id": str(k), "text": letter} for k in range(200) for letter in "AB"]
    share = pooled(recorded(split, many, model_id="m")).choices.mean()
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 200)
    ensemble = [{"item_id": "0", "text": t, "model_id": m} for m, t in (("x", "A"), ("y", "A"), ("z", "?"))]
    vote = pooled(recorded(ensemble, many, model_id="m"), across=["model_id"])
    assert (vote.models.tolist(), vote.choices.tolist()) == (["vote"], [0])
    assert [each["pred_id"] for each in vote.cell("samples", 0)] == ["o0", "o0", None]
    nota = join_items([items, perturb(items, "replace_correct")])
    bad = recorded([{"item_id": "q0#nota", "text": "A"}], nota, model_id="m")
    with pytest.raises(ValueError, match="and an answer of another variant is 'nota'"):
        pooled(bad, across=["condition"])


def test_bad_recorded_answers_are_refused_by_line(items: Items, tmp_path: Path) -> None:
    good = json.dumps({"item_id": "q0#original", "response": "A"})
    path = tmp_path / "answers.jsonl"
    for text, said in (
        (f"{good}\n{{", "line 2 is not valid JSON"),
        (f"{good}\n\n3", "line 3: expected a JSON object"),
        ('{"item_id": "zz", "response": "A"}', "line 1: there is no item 'zz'"),
        ('{"item_id": "q0#original", "response": 3}', "line 1: text must be a text, not 3"),
        ('{"item_id": "q0#original", "response": "A", "confidence": 80}', "confidence must be 0 to 1"),
        ('{"item_id": "q0#original", "answer": "A"}', "no row has the field 'response', which columns names"),
        ("", "has no answers"),
        ('{"item_id": ["q0"], "response": "A"}', "line 1: item_id must be a text, not .'q0'."),
        ('{"item_id": "q0#original", "response": "A", "model_id": {}}', "line 1: model_id must be a text"),
        (
            '{"item_id": "q0#original", "response": "A", "letter_logprobs": "A"}',
            "must be an object or a list",
        ),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_recorded(path, items, columns={"text": "response"})
    with pytest.raises(ValueError, match="Unknown field of recorded answers 'txt'"):
        read_recorded(path, items, columns={"txt": "response"})


def test_a_file_without_answers_is_refused_and_a_field_of_our_name_may_be_another_thing(
    items: Items, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"item_id": "q0#original", "answer": "A"}')
    with pytest.raises(
        ValueError, match="no row has text, samples or letter_logprobs; the first has item_id, "
    ):
        read_recorded(path, items)  # else every answer would count as none, and as wrong
    for row in ({"response": "B", "text": "A"}, {"text": "A", "response": "B"}):
        path.write_text(json.dumps({"item_id": "q0#original", **row}))
        assert read_recorded(path, items, columns={"text": "response"}).choices.tolist() == [1]


def test_nobody_is_asked_what_has_no_letters_or_no_image(items: Items, tmp_path: Path) -> None:
    row = items.rows()[0]
    many = {"options": [f"option {k}" for k in range(27)], "option_ids": [f"o{k}" for k in range(27)]}
    for change, said in (
        (many, "has 27 options; there are letters for 26"),
        ({"image": "packaged:cxr3/test/a"}, "shows an image of which only features come with this package"),
    ):
        with pytest.raises(ValueError, match=said):
            write_requests(Items.of_rows([{**row, **change}]), tmp_path / "requests.jsonl")
