"""Published sets as they lie on disk: a few rows of each layout become items."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from calib.vqa import nota_eligibility, perturb, read_option_logits, read_source
from calib.vqa.adapters.sources import SOURCES


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (10, 20, 30)).save(buffer, format="PNG")
    return buffer.getvalue()


def table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_pmc_vqa_in_both_spellings(tmp_path: Path) -> None:
    row = {
        "Figure_path": "a.jpg",
        "Question": " What? ",
        "Choice A": " A:Focal lesion ",
        "Choice B": "B: Mass",
        "Choice C": "C:Cyst",
        "Choice D": "D:None",
    }
    first = read_source(
        "pmc_vqa", table(tmp_path / "1.csv", [{**row, "Anwser": "Cyst", "Anwser_label": "C"}]), root="images"
    )
    assert first.cell("options", 0) == ["Focal lesion", "Mass", "Cyst", "None"]
    assert (first.cell("correct_index", 0), first.cell("image", 0)) == (2, "images/a.jpg")
    second = read_source(
        "pmc_vqa", table(tmp_path / "2.csv", [{**row, "Answer": "Mass"}, {**row, "Answer": "?"}])
    )
    assert second.correct.tolist() == [1]


def test_omnimedvqa_with_options_that_are_missing(tmp_path: Path) -> None:
    row = {
        "dataset": "X",
        "question_id": "X_1",
        "question_type": "Modality",
        "question": "Which?",
        "modality_type": "CT",
    }
    rows = [
        {**row, "gt_answer": "MRI.", "image_path": "a.png", "option_A": "CT", "option_B": "MRI"},
        {
            **row,
            "question_id": "X_2",
            "gt_answer": "CT",
            "image_path": "a.png",
            "option_A": "CT",
            "option_B": "CT",
            "option_C": "US",
        },
    ]
    (tmp_path / "X.json").write_text(json.dumps(rows))
    items = read_source("omnimedvqa", tmp_path)
    assert (items.ids.tolist(), items.correct.tolist()) == (["omnimedvqa/X_1#original"], [1])
    assert items.texts("modality").tolist() == ["CT"]
    assert items.groups.tolist() == ["omnimedvqa/a.png"]
    for each in rows:
        del each["dataset"]
    (tmp_path / "X.json").write_text(json.dumps(rows))
    assert read_source("omnimedvqa", tmp_path).texts("subset").tolist() == [None]


def test_gmai_mmbench_with_images_in_the_table(tmp_path: Path) -> None:
    row = {
        "index": "7",
        "image": base64.b64encode(png()).decode(),
        "question": "Q",
        "A": "x",
        "B": "y",
        "C": "",
        "answer": "B",
    }
    path = table(tmp_path / "v.tsv", [{**row, "modality": "MR", "clinical vqa task": "Diagnosis"}], "\t")
    with pytest.raises(ValueError, match=r"line 2: images stand in the file itself"):
        read_source("gmai_mmbench", path)
    items = read_source("gmai_mmbench", path, folder=tmp_path / "png")
    assert (items.cell("options", 0), items.cell("correct_index", 0)) == (["x", "y"], 1)
    assert Path(items.cell("image", 0)).read_bytes() == png()
    assert items.cell("question_type", 0) == "Diagnosis"


def test_medxpertqa_and_worldmedqa(tmp_path: Path) -> None:
    row = {
        "id": "MM-1",
        "question": "Q?\nAnswer Choices: (A) x",
        "options": {"A": "x", "B": "y", "C": "z"},
        "label": "C",
    }
    (tmp_path / "m.jsonl").write_text(
        json.dumps({**row, "images": ["i.jpeg", "j.jpeg"], "medical_task": "Diagnosis"})
    )
    items = read_source("medxpertqa_mm", tmp_path / "m.jsonl", root=tmp_path)
    assert (items.cell("question", 0), items.cell("correct_index", 0)) == ("Q?", 2)
    assert items.cell("image", 0) == str(tmp_path / "i.jpeg")
    world = {
        "index": 3,
        "question": "Q",
        "A": "w",
        "B": "x",
        "C": "y",
        "D": "z",
        "correct_option": "D",
        "lang": "pt",
    }
    path = tmp_path / "w.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({key: [value] for key, value in {**world, "image": {"bytes": png()}}.items()}), path
    )
    made = read_source("worldmedqa_v", path, folder=tmp_path / "png")
    assert (made.ids.tolist(), made.correct.tolist()) == (["worldmedqa_v/pt-3#original"], [3])


@pytest.mark.parametrize("name", ["vqa_rad", "slake", "pathvqa"])
def test_closed_questions_are_taken_and_cannot_carry_nota(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"qid": 1, "image_name": "a.jpg", "question": "Is it?", "answer": "Yes"},
        {"qid": 2, "image_name": "a.jpg", "question": "What?", "answer": "the liver"},
        {"qid": 3, "image_name": "b.jpg", "question": "Is it?", "answer": "no."},
    ]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    items = read_source(name, tmp_path / "q.json", root="images")
    assert items.correct.tolist() == [0, 1]
    assert "1 of 3 questions are left out: 1 open" in caplog.text
    assert not SOURCES[name].nota
    assert nota_eligibility(items.cell("options", 0)) == "fewer_than_3_options"
    with pytest.raises(ValueError, match="2 fewer_than_3_options"):
        perturb(items, "replace_correct")


def test_stored_logits_with_standing_options(tmp_path: Path) -> None:
    row = {
        "item": "a/0",
        "base": "a",
        "dataset": "d",
        "question": "Q",
        "n_listed": 4,
        "n_real_options": 3,
        "gold": 1,
    }
    rows = [
        {**row, "rotation": 0, "options": ["x", "y", "z", "pad"], "option_id": [0, 1, 2, None]},
        {
            **row,
            "item": "a/1",
            "rotation": 1,
            "options": ["z", "y", "x", "else"],
            "option_id": [2, 1, 0, None],
        },
        {
            **row,
            "item": "b/0",
            "base": "b",
            "rotation": 0,
            "n_listed": 3,
            "options": ["x", "y", "z"],
            "option_id": [0, 1, 2],
        },
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    logits = [{"item": each["item"], "option_logits": [1, 2, 3, 0, 0.5, 4.0]} for each in rows]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(each) + "\n" for each in logits))
    items, outputs = read_option_logits(tmp_path)
    assert items.ids.tolist() == ["a#original", "a#rotation1"]  # of b the last letters were not listed
    assert items.cell("option_ids", 1) == ["o2", "o1", "o0", "pad1-3", "idk", "nota"]
    assert outputs.choices.tolist() == items.places("nota").tolist() == [5, 5]
    every, said = read_option_logits(tmp_path, all_rows=True)
    assert every.cell("option_ids", 2) == ["o0", "o1", "o2", "idk", "nota", "unlisted5"]
    assert said.choices.tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_listed": "four"}, "line 1: n_listed must be a whole number, not 'four'"),
        ({"gold": 1.5}, "line 1: gold must be a whole number, not 1.5"),
        ({"option_id": 3}, "line 1: option_id must be a list, not 3"),
    ],
)
def test_stored_logits_that_are_broken_are_refused_by_line(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    row = {"item": "a/0", "base": "a", "dataset": "d", "question": "Q", "rotation": 0, "n_listed": 4}
    row |= {"options": ["x", "y", "z", "w"], "option_id": [0, 1, 2, 3], "n_real_options": 3, "gold": 1}
    (tmp_path / "items.jsonl").write_text(json.dumps(row | change) + "\n")
    with pytest.raises(ValueError, match=said):
        read_option_logits(tmp_path)
    (tmp_path / "items.jsonl").write_text(json.dumps({"item": "a/0", "n_listed": 4, "option_id": []}) + "\n")
    with pytest.raises(ValueError, match="line 1 has no base; it has"):
        read_option_logits(tmp_path)


def test_what_is_no_such_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Did you mean 'pmc_vqa'"):
        read_source("pmcvqa", tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError):
        read_source("pmc_vqa", tmp_path / "a.csv")
    with pytest.raises(ValueError, match="line 2 has no Choice A; it has x"):
        read_source("pmc_vqa", table(tmp_path / "a.csv", [{"x": 1}]))
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no list of questions"):
        read_source("slake", tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl is no UTF-8 text"):
        read_source("medxpertqa_mm", tmp_path / "a.jsonl")


@pytest.mark.parametrize("cell", ["['a.png'", "[undefined]", "[7]"])
def test_an_image_cell_that_is_no_image_is_refused_by_line(cell: str, tmp_path: Path) -> None:
    row = {"index": "7", "image": cell, "question": "Q", "A": "x", "B": "y", "C": "", "answer": "B"}
    path = table(tmp_path / "v.tsv", [{**row, "modality": "MR", "clinical vqa task": "Diagnosis"}], "\t")
    with pytest.raises(ValueError, match="line 2: "):
        read_source("gmai_mmbench", path)
