"""`calib vqa evaluate`: files told apart by their columns, results in a folder, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib.cli import main
from calib.commands.vqa.evaluate import TABLES
from calib.io.files import read_json
from calib.vqa import Items, Outputs

QUICK = ["n_resamples=20", "n_permutations=20", "methods=option_msp"]


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    rows = [{"item_id": f"q{i}", "option_ids": ["o0", "o1"], "correct_index": i % 2} for i in range(60)]
    items = Items.of_rows(rows)
    said = [{"model_id": "m", "item_id": f"q{i}", "option_logit": [i % 7 - 3.0, 0.0]} for i in range(60)]
    items.write(tmp_path / "items.jsonl")
    (tmp_path / "answers").mkdir()
    Outputs.of_rows(said, items).write(tmp_path / "answers" / "outputs.parquet")
    return tmp_path / "items.jsonl", tmp_path / "answers"


def test_items_and_a_folder_of_answers(
    tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, answers = tables
    # In any order: outputs are known by their columns.
    given = [str(answers), str(items), *QUICK, f"out={tmp_path / 'found'}", "show=overview,errors"]
    assert main(["vqa", "evaluate", *given]) == 0
    said = capsys.readouterr().out
    assert "m on data: 60 questions" in said
    assert "### Which answers are wrong" in said
    record = read_json(tmp_path / "found" / "metrics.json")
    assert record["about"]["protocol"]["n_resamples"] == 20
    assert tuple(record["tables"]) == TABLES
    assert {path.name for path in (tmp_path / "found").iterdir()} == {
        "metrics.json",
        "report.html",
        "tables",
        "tables.md",
    }


def test_what_cannot_be_evaluated_is_said(
    tables: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, answers = tables
    (tmp_path / "cut.parquet").write_bytes((answers / "outputs.parquet").read_bytes()[:300])
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("begun", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "begun" / "answers.json").write_text("{}")
    (tmp_path / "cut.jsonl").write_text('{"item_id": "q0", "opt')
    for given, told in (
        ([], "Which answers?"),
        ([str(items)], "is a table of outputs: it would have a column model_id"),
        ([str(answers)], "is a table of items: it would have a column option_ids"),
        ([str(items), str(tmp_path / "none.parquet")], "There is no file"),
        ([str(items), str(tmp_path / "cut.parquet")], "cannot be read as Parquet"),
        ([str(tmp_path / "cut.jsonl"), str(answers)], "first line: no JSON"),
        ([str(items), str(tmp_path / "begun")], "begun are not finished: the same calib vqa answer goes on"),
        ([str(items), str(tmp_path / "empty")], "empty holds no answers (outputs.parquet)"),
        ([str(items), str(answers), "methods="], "methods names none; allowed: panel, all, option_msp"),
        ([str(items), str(tmp_path / "empty.jsonl")], "empty.jsonl has no rows"),
        ([str(items), str(answers), f"out={items}/found"], "there is a file"),
        ([str(items), str(answers), "shift=scanner"], "expected COLUMN:VALUE"),
        ([str(items), str(answers), "show=error"], "Did you mean 'errors'"),
        ([str(items), str(answers), "budgets=a"], "budgets=a: expected"),
        ([str(items), str(answers), "methods=option_mps"], "Did you mean 'option_msp'"),
        ([str(items), str(answers), "resamples=5"], "Did you mean 'n_resamples'"),
    ):
        assert main(["vqa", "evaluate", *given]) == 1
        assert told in capsys.readouterr().err, given


def test_the_demonstration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vqa", "evaluate", "demo", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "4 systems on 4 data sets, together 8 cases" in said
    assert "Collapse under nota, embedded on lc25000: of 467 right answers 22 % fall" in said
    assert "calib vqa perturb items.parquet kind=replace_correct" in said  # what to type next
