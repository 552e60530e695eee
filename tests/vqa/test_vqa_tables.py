"""The tables of items and outputs: what is read, what is refused and how the row is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib.vqa import Items, Outputs, join_items, join_outputs, originals, read_items, read_outputs
from calib.vqa.files import _lines
from calib.vqa.schema import ITEMS, STATUSES

ITEM: dict[str, Any] = {
    "item_id": "a#original",
    "question": "Which modality?",
    "options": ["CT", "MRI", "US"],
    "option_ids": ["o0", "o1", "o2"],
    "correct_index": 1,
}
NOTA = {
    **ITEM,
    "item_id": "a#nota",
    "condition": "nota",
    "options": ["CT", "None", "US"],
    "option_ids": ["o0", "nota", "o2"],
}
OUTPUT = {"model_id": "m", "item_id": "a#original"}


@pytest.fixture(scope="module")
def items() -> Items:
    return Items.of_rows([ITEM, NOTA])


def test_what_is_left_out_is_filled_and_other_columns_stay(items: Items) -> None:
    own = Items.of_rows([{**ITEM, "scanner": "X"}])
    assert own.bases.tolist() == ["a"]
    assert own.conditions.tolist() == ["original"]
    assert own.groups.tolist() == ["a"]
    assert own.texts("scanner").tolist() == ["X"]
    assert items.places("nota").tolist() == [-1, 1]
    assert items.places("o2").tolist() == [2, 2]
    assert repr(items) == "<Items: 2 rows of items>"


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_table_is_read_as_it_was_written(items: Items, tmp_path: Path, suffix: str) -> None:
    samples = [{"pred_id": "o1", "option_order": ["o2", "o1", "o0"], "seed": 3}, {"text": "?"}]
    row = {**OUTPUT, "option_logit": [1.5, -2.0, 0.25], "samples": samples, "p_true_logits": [0.5, -1.0]}
    outputs = Outputs.of_rows([row, {**OUTPUT, "item_id": "a#nota", "site": "B"}], items)
    items.write(tmp_path / f"items{suffix}")
    outputs.write(tmp_path / f"outputs{suffix}")
    again = read_items(tmp_path / f"items{suffix}")
    assert again.table.equals(items.table)
    read = read_outputs(tmp_path / f"outputs{suffix}", items=again)
    assert read.table.equals(outputs.table)
    assert read.choices.tolist() == [0, -1]
    assert read.right.tolist() == [False, False]


def test_lines_are_read_the_same_by_arrow_and_line_by_line(tmp_path: Path) -> None:
    rows = [{**ITEM, "item_id": f"{k}", "perturbation": '{"kind":"x"}', "extra": k} for k in range(5)]
    plain, odd = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows[0]["question"] = "Which modality?"
    odd.write_text("".join(json.dumps(row) + "\n" for row in rows).replace("Which", "\\ud83d\\ude00Which"))
    assert set(_lines(plain, ITEMS).column_names) == set(_lines(odd, ITEMS).column_names)
    first, second = read_items(plain).rows(), read_items(odd).rows()
    assert [{**row, "question": ""} for row in first] == [{**row, "question": ""} for row in second]


def test_places_of_samples_become_ids(items: Items) -> None:
    rows = [{**OUTPUT, "sample_pred_index": [2, -1, 0]}, {**OUTPUT, "item_id": "a#nota"}]
    outputs = Outputs.of_rows(rows, items)
    assert [each["pred_id"] for each in outputs.cell("samples", 0)] == ["o2", None, "o0"]
    assert outputs.cell("samples", 1) is None
    places, of = outputs.sample_choices()
    assert places.tolist() == [2, -1, 0]
    assert of.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"row 1: column 'sample_pred_index' has \[3\]; allowed are 0 to 2"):
        Outputs.of_rows([{**OUTPUT, "sample_pred_index": [3]}], items)


def test_an_answer_is_the_argmax_of_the_first_scores_there_are(items: Items) -> None:
    rows = [
        {**OUTPUT, "run_id": 0, "option_loglik": [-3.0, -1.0, -2.0]},
        {
            **OUTPUT,
            "run_id": 1,
            "option_loglik": [-3.0, -1.0, -2.0],
            "option_letter_logprob": [-1.0, -2.0, -3.0],
        },
        {**OUTPUT, "run_id": 2, "option_logit": [0.0, 0.1, 9.0], "pred_index": -1},
        {**OUTPUT, "run_id": 3},
    ]
    outputs = Outputs.of_rows(rows, items)
    assert outputs.choices.tolist() == [1, 0, -1, -1]
    assert outputs.right.tolist() == [True, False, False, False]
    assert outputs.texts("run_id").tolist() == ["0", "1", "2", "3"]


BAD_ITEMS = [
    ([], "items has no rows"),
    ([ITEM, ITEM], "row 2: the item_id 'a#original' stands twice, before in items, row 1"),
    ([{**ITEM, "options": ["CT", "US"]}], "row 1: column 'options' has 2 texts, and option_ids names 3"),
    ([{**ITEM, "option_ids": ["o0", "o0", "o1"]}], "row 1: column 'option_ids' names an option twice"),
    ([{**ITEM, "options": ["CT", " CT", "US"]}], "the right option ' CT' stands twice"),
    ([{**ITEM, "options": ["CT", None, "US"]}], "row 1: column 'options' has an empty entry"),
    ([{**ITEM, "option_ids": ["o1"], "options": None, "correct_index": 0}], "names 1 options"),
    ([{**ITEM, "correct_index": 3}], "'correct_index' is 3; allowed are 0 to 2"),
    ([{**ITEM, "correct_index": 1.5}], "row 1, column 'correct_index': expected a whole number, got '1.5'"),
    ([{**ITEM, "correct_index": None}], "row 1: column 'correct_index' is empty"),
    ([{**ITEM, "options": "CT"}], "column 'options': expected a list of texts"),
    ([{**ITEM, "schema_version": 2}], "is of version 2"),
    ([{"item_id": "a"}], "has no columns 'option_ids', 'correct_index'; it has item_id"),
]


@pytest.mark.parametrize(("rows", "said"), BAD_ITEMS, ids=[said[:40] for _, said in BAD_ITEMS])
def test_items_that_cannot_be_right_are_refused(rows: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){_plain(said)}"):
        Items.of_rows(rows)


BAD_OUTPUTS: list[tuple[dict[str, Any], str]] = [
    ({"item_id": "b"}, "column 'item_id': there is no item 'b'"),
    (
        {"option_logit": [1.0, 2.0]},
        "column 'option_logit' has 2 numbers, and the item 'a#original' has 3 options",
    ),
    ({"option_logit": [0.5, 0.25, 0.25]}, "column 'option_logit' of model 'm' holds probabilities"),
    ({"option_logit": [1.0, 2.0, float("nan")]}, "number 3, is nan"),
    ({"option_logit": [1.0, 2.0, float("-inf")]}, "number 3, is -inf"),
    ({"option_logit": [1.0, None, 2.0]}, "number 2, is missing"),
    ({"option_letter_logprob": [0.5, -2.0, -3.0]}, "a log-probability is never above 0"),
    ({"option_letter_logprob": [-0.1, -0.1, -0.1]}, "probabilities sum to 2.71451, above 1"),
    ({"option_n_tokens": [1, 0, 2]}, "a number below 1"),
    ({"pred_index": 3}, "'pred_index' is 3; allowed are 0 to 2"),
    ({"pred_index": 1, "answer_status": "refusal"}, "'answer_status' is 'refusal', and 'pred_index' names"),
    ({"pred_index": -1, "answer_status": "option"}, "'answer_status' is 'option', and 'pred_index' is -1"),
    ({"answer_status": "refused"}, "allowed: option, refusal, non_answer, ambiguous, unparsed"),
    ({"p_true_logits": [1.0]}, "'p_true_logits' has 1 numbers"),
    ({"p_true": 1.2}, "'p_true' is 1.2"),
    ({"verbalized_confidence": 80.0}, "percent are divided by 100"),
    ({"samples": [{"pred_id": "o0"}, {"pred_id": "B"}]}, "column 'samples', sample 2, names the option 'B'"),
    ({"samples": [{"pred_id": "nota"}]}, "sample 1, names the option 'nota'"),
    ({"samples": [{"option_order": ["o0", "o1"]}]}, "has the option_order o0, o1; it must name each"),
    ({"samples": [{"letter": "A"}]}, "column 'samples': expected a list of objects with text, pred_id"),
    ({"samples": [], "sample_pred_index": [1]}, "both columns 'samples' and 'sample_pred_index'"),
]


@pytest.mark.parametrize(("change", "said"), BAD_OUTPUTS, ids=[said[:40] for _, said in BAD_OUTPUTS])
def test_outputs_that_cannot_be_right_are_refused(items: Items, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)row 1.*{_plain(said)}"):
        Outputs.of_rows([{**OUTPUT, **change}], items)


def test_the_same_output_twice_is_refused_and_a_probability_of_zero_is_not(items: Items) -> None:
    with pytest.raises(
        ValueError, match=r"row 2: model 'm', prompt 'default', run '0', item 'a#original' stands"
    ):
        Outputs.of_rows([OUTPUT, OUTPUT], items)
    row = {**OUTPUT, "option_letter_logprob": [-np.inf, -0.5, -1.0]}
    assert Outputs.of_rows([row], items).choices.tolist() == [1]


def test_scores_beside_a_refusal_choose_nothing(items: Items) -> None:
    rows = [
        {**OUTPUT, "run_id": status, "answer_status": status, "option_logit": [0.0, 2.5, -1.0]}
        for status in STATUSES
    ]
    assert Outputs.of_rows(rows, items).choices.tolist() == [1, -1, -1, -1, -1]


def test_one_row_of_logits_may_look_like_probabilities(items: Items) -> None:
    rows = [
        {**OUTPUT, "option_logit": [0.5, 0.25, 0.25]},
        {**OUTPUT, "run_id": "1", "option_logit": [5.0, 1, 2]},
    ]
    assert len(Outputs.of_rows(rows, items)) == 2


def test_nota_needs_its_original(items: Items) -> None:
    assert originals(items).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"row 2: the item 'a#nota' \(condition nota\) has no original"):
        originals(items.take([1]))
    two = Items.of_rows([ITEM, {**ITEM, "item_id": "a#again"}])
    with pytest.raises(ValueError, match="has two items of condition original"):
        originals(two)
    for change, said in (
        ({"option_ids": ["o0", "nota", "o9"]}, "must have the options of its original with one replaced"),
        ({"correct_index": 0}, "condition nota means that nota is right"),
    ):
        with pytest.raises(ValueError, match=said):
            originals(join_items([items.take([0]), Items.of_rows([{**NOTA, **change}])]))


def test_messages_name_file_and_line_also_of_some_rows_of_several_files(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 3)):
        rows = [{**ITEM, "item_id": f"q{first + k}"} for k in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = read_items(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert items.where(4).endswith("b.jsonl, line 2")
    assert items.take([5, 0]).where(0).endswith("b.jsonl, line 3")
    with pytest.raises(
        ValueError, match=r"a.jsonl, line 1: the item_id 'q0' stands twice, before in .*line 1"
    ):
        join_items([items, items])
    outputs = Outputs.of_rows([{"model_id": "m", "item_id": "q1", "pred_index": 1}], items)
    other = Outputs.of_rows([{"model_id": "n", "item_id": "q4", "pred_index": 0}], items)
    assert join_outputs([outputs, other]).right.tolist() == [True, False]


def test_damaged_files_are_refused_by_name_and_line(items: Items, tmp_path: Path) -> None:
    line = json.dumps(ITEM)
    for text, said in (
        (line + "\n{bad\n", "line 2 is not valid JSON"),
        (line + "\n\n" + line, "line 2: expected a JSON object"),
        (line + line, "line 1 is not valid JSON"),
        ('{"item_id":"a","item_id":"b"}', "line 1 is not valid JSON .the key 'item_id' stands twice"),
        (line.replace("1", "NaN"), "line 1 is not valid JSON .NaN"),
        ("[1]", "line 1: expected a JSON object"),
        ("", "has no rows"),
        (line.replace('"CT"', "3"), "line 1, column 'options': expected a list of texts"),
    ):
        path = tmp_path / "items.jsonl"
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_items(path)
    items.write(tmp_path / "items.parquet")
    whole = (tmp_path / "items.parquet").read_bytes()
    (tmp_path / "items.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"items\.parquet cannot be read as Parquet"):
        read_items(tmp_path / "items.parquet")
    with pytest.raises(ValueError, match=r"are read from .parquet, .jsonl"):
        read_items(_touched(tmp_path / "items.csv"))
    with pytest.raises(FileNotFoundError):
        read_items(tmp_path / "none.parquet")


def _touched(path: Path) -> Path:
    path.write_text("x")
    return path


def _plain(said: str) -> str:
    return said.replace("(", ".").replace(")", ".").replace("[", ".").replace("]", ".").replace("+", ".")


def test_texts_that_look_like_times_and_objects_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    row = {**ITEM, "perturbation": {"kind": "x", "seed": 1}, "taken": "2024-05-01", "extra": {"b": 1}}
    path.write_text(
        json.dumps(row) + "\n" + json.dumps({**ITEM, "item_id": "b", "perturbation": {"kind": "y"}})
    )
    first, second = read_items(path).rows()
    assert json.loads(first["perturbation"]) == {"kind": "x", "seed": 1}
    assert json.loads(second["perturbation"]) == {"kind": "y"}
    assert (first["taken"], first["extra"]) == ("2024-05-01", '{"b": 1}')
