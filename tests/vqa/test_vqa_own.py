"""Tables of own questions become items; what cannot is refused whole, by column or by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from calib.vqa import read_items, read_source

HEADER = "image,question,option_a,option_b,option_c,answer,patient\n"
ROWS = """\
i/1.png,"What, here?",CT,MRI,X-ray,B,p1
i/2.png,Which?,yes,no,,Yes,p1
i/3.png,Which?,1,2,,option_b,p2
"""


def written(tmp_path: Path, text: str, name: str = "own.csv") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match="own") as caught:
        read_source("table", path)
    return str(caught.value)


def test_answers_are_letters_columns_or_texts(tmp_path: Path) -> None:
    items = read_source("table", written(tmp_path, HEADER + ROWS))
    assert items.correct.tolist() == [1, 0, 1]
    assert items.column("options").to_pylist() == [["CT", "MRI", "X-ray"], ["yes", "no"], ["1", "2"]]
    assert items.groups.tolist() == ["p1", "p1", "p2"]
    assert items.texts("image").tolist()[0] == str(tmp_path / "i/1.png")
    assert all(id_.startswith("own/") for id_ in items.ids)
    assert items.conditions.tolist() == ["original"] * 3
    elsewhere = read_source("table", tmp_path / "own.csv", root="there")
    assert elsewhere.texts("image").tolist()[0] == "there/i/1.png"
    assert elsewhere.ids.tolist() == items.ids.tolist()  # of the content, wherever the images are


def test_lists_of_options_and_further_columns_in_every_kind_of_file(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "q1", "question": "Q?", "options": ["a", "b"], "answer": "b", "type": "T", "modality": "CT"},
        {"id": "q2", "question": "Q?", "options": ["CT", "MRI"], "answer": "A", "site": "Graz"},
    ]
    lines = written(tmp_path, "\n".join(map(json.dumps, rows)), "own.jsonl")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows[:1], rows[1]]), tmp_path / "own.parquet")
    cells = [[row["question"], json.dumps(row["options"]), row["answer"], row["id"]] for row in rows]
    text = "\n".join("\t".join(row) for row in [["Question ", "OPTIONS", "answer", "id"], *cells])
    tabs = written(tmp_path, text + "\n", "own.tsv")
    for path in (lines, tmp_path / "own.parquet", tabs):
        items = read_source("table", path)
        assert items.ids.tolist() == ["own/q1#original", "own/q2#original"]
        assert (items.correct.tolist(), items.groups.tolist()) == ([1, 0], ["own/q1", "own/q2"])
    items = read_source("table", lines)
    assert items.texts("question_type").tolist() == ["T", None]
    assert items.texts("site").tolist() == [None, "Graz"]


def test_missing_columns_are_named_all_at_once_with_an_example(tmp_path: Path) -> None:
    said = refusal(written(tmp_path, "text,label\na,b\n"))
    assert "lacks the columns question, answer, option_a, option_b, ... (or one column options)" in said
    example = "\n".join(line.strip() for line in said.splitlines()[1:4])
    assert read_source("table", written(tmp_path, example)).correct.tolist() == [0, 1]  # it is one
    assert "lacks the column option_b; it has" in refusal(
        written(tmp_path, "question,option_a,option_c,answer\nQ,x,y,A\n")
    )
    assert "by semicolons: save it with commas" in refusal(
        written(tmp_path, "question;options;answer\nQ;x;y\n")
    )
    assert "leave one out" in refusal(written(tmp_path, "question,options,option_a,answer\nQ,x,y,A\n"))
    assert "own.csv has condition among its columns" in refusal(
        written(tmp_path, "question,a,b,answer,condition\nQ,x,y,A,nota\n")
    )
    assert "are read from .csv" in refusal(written(tmp_path, "", "own.xlsx"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            "i.png,Q,CT,MRI,,D,p",
            "line 2: answer 'D' is none of the options; it is a letter A to B, or the text",
        ),
        ("i.png,Q,CT,MRI,,,p", "line 2: answer is empty"),
        ("i.png,Q,B,A,,A,p", "line 2: answer 'A' may be option A, B"),
        ("i.png,Q,CT,CT,MRI,A,p", "line 2: answer 'A': the option 'CT' stands there twice"),
        ("i.png,Q,CT,,MRI,A,p", "line 2: option_b is empty; only the last option columns may be"),
        ("i.png,Q,CT,,,A,p", "line 2: 2 to 26 options are needed, here 1 are filled"),
        ("i.png, ,CT,MRI,,A,p", "line 2: question is empty"),
        ("i.png,Q,CT,MRI,,A,", "line 2: patient is empty"),
        ("i.png,Q,x,y,,A,p\ni.png,Q,x,y,,B,p", "line 3 asks the same as"),
        ("\n".join(["i.png,Q,x,y,,Z,p"] * 12), "12 of 12 rows cannot be questions:"),
    ],
)
def test_a_row_that_is_no_question_is_refused_by_line_and_value(row: str, said: str, tmp_path: Path) -> None:
    told = refusal(written(tmp_path, f"{HEADER}{row}\n"))
    assert said in told
    assert ("and 2 more." in told) == (row.count("\n") == 11)


def test_an_own_table_read_as_items_is_told_the_command(tmp_path: Path) -> None:
    lines = written(tmp_path, '{"question": "Q", "options": ["x", "y"], "answer": "A"}', "own.jsonl")
    with pytest.raises(ValueError, match="no columns 'item_id', 'option_ids', 'correct_index'") as caught:
        read_items(lines)
    assert f"calib vqa items source=table path={lines} out=items.jsonl" in str(caught.value)
    with pytest.raises(ValueError, match=r"calib vqa items source=table path=.*own\.csv out="):
        read_items(written(tmp_path, HEADER + ROWS))
