"""`calib vqa items`, `perturb`, `answer`: from a task to outputs, and every wrong argument in a line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from calib import cli
from calib.commands.vqa.arguments import vqa_arguments
from calib.commands.vqa.subcommands import SUBCOMMANDS
from calib.vqa import Protocol, read_items, read_outputs


def test_from_a_task_to_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items, nota, out = (str(tmp_path / name) for name in ("items.parquet", "nota.jsonl", "answers"))
    assert cli.main(["vqa", "items", "source=task", "data=cxr3", "limit=40", f"out={items}"]) == 0
    assert "40 items (40 original) of 40 questions" in capsys.readouterr().out
    reasons = tmp_path / "left_out.json"
    words = [
        "vqa",
        "perturb",
        items,
        "kind=replace_correct",
        f"out={nota}",
        f"left_out={reasons}",
        "text=None of them",
    ]
    assert cli.main(words) == 0
    assert json.loads(reasons.read_text()).keys() == {"calib_crc32"}  # none is left out
    assert cli.main(["vqa", "answer", items, nota, "model=embedded", f"out={out}"]) == 0
    said = capsys.readouterr().out
    assert "embedded, nota: " in said
    assert "embedded, original: " in said
    outputs = read_outputs(Path(out) / "outputs.parquet", items=read_items(items, nota))
    assert len(outputs) == 80
    controls = ["nota=threshold", f"controls={items}", "false_rate=0.1", f"out={out}-threshold"]
    assert cli.main(["vqa", "answer", items, nota, "model=embedded", *controls]) == 0
    assert cli.main(["vqa", "perturb", items, "kind=two_by_two", f"out={tmp_path / 'four.parquet'}"]) == 0
    assert "160 items" in capsys.readouterr().out
    assert cli.main(["vqa", "answer", items, "model=embedded", "template=x {}", f"out={out}"]) == 1
    assert "holds answers of another run" in capsys.readouterr().err


def test_names_in_tables_of_others_give_a_terminal_no_commands(tmp_path: Path, capsys) -> None:
    rows = [
        {"item_id": f"i{k}", "option_ids": ["a", "b"], "correct_index": 0, "question": "?"} for k in (0, 1)
    ]
    rows = [{**row, "options": ["x", "y"], "condition": "cond\x1b[2J"} for row in rows]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [{"item_id": row["item_id"], "text": "A", "model_id": "m\x1b]0;x"} for row in rows]
    (tmp_path / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    words = ["answerer=recorded", f"answers={tmp_path / 'given.jsonl'}", f"out={tmp_path / 'o'}"]
    assert cli.main(["vqa", "answer", str(tmp_path / "items.jsonl"), *words]) == 0
    shown = capsys.readouterr().out
    assert "cond\\x1b[2J" in shown
    assert "\x1b" not in shown


def test_recorded_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"item_id": "a", "options": ["CT", "MRI"], "option_ids": ["o0", "o1"], "correct_index": 1}
    (tmp_path / "items.jsonl").write_text(json.dumps(row))
    requests = tmp_path / "requests.jsonl"
    assert cli.main(["vqa", "requests", str(tmp_path / "items.jsonl"), "samples=2", f"out={requests}"]) == 0
    assert "3 requests for 1 items" in capsys.readouterr().out
    (tmp_path / "gpt.jsonl").write_text(
        '{"item_id": "a", "text": "I cannot provide that."}\n{"item_id": "a", "text": "B"}'
    )
    words = ["answerer=recorded", f"answers={tmp_path / 'gpt.jsonl'}", f"out={tmp_path / 'gpt'}"]
    assert cli.main(["vqa", "answer", str(tmp_path / "items.jsonl"), *words]) == 0
    assert "gpt, original: 1 of 2 right (50.0 %), 1 chose no option (1 refusal)" in capsys.readouterr().out
    written = (tmp_path / "gpt" / "outputs.parquet").read_bytes()
    assert json.loads((tmp_path / "gpt" / "answers.json").read_text())["answerer"]["answerer"] == "recorded"
    assert cli.main(["vqa", "answer", str(tmp_path / "items.jsonl"), *words]) == 0  # the same once more
    (tmp_path / "gpt.jsonl").write_text('{"item_id": "a", "text": "A"}')
    assert cli.main(["vqa", "answer", str(tmp_path / "items.jsonl"), *words]) == 1
    assert "holds answers of another run: answers is" in capsys.readouterr().err
    assert (tmp_path / "gpt" / "outputs.parquet").read_bytes() == written
    (tmp_path / "gpt" / "answers.json").unlink()
    assert cli.main(["vqa", "answer", str(tmp_path / "items.jsonl"), *words]) == 1
    assert "holds outputs.parquet of another run, without answers.json" in capsys.readouterr().err


WRONG = [
    (["answr"], "Unknown subcommand of calib vqa 'answr'. Did you mean 'answer'?"),
    (["answer", "i.parquet", "modle=x", "out=o"], "Unknown setting of calib vqa answer 'modle'"),
    (["answer", "i.parquet", "out=o"], "model= is missing"),
    (["answer", "i.parquet", "model=x"], "out= is missing"),
    (["answer", "model=x", "out=o"], "Which items?"),
    (["answer", "i.parquet", "model=x", "out=o", "samples=3"], "samples= is read by answerer=hf only"),
    (["answer", "i.parquet", "model=x", "out=o", "chunk=0"], "chunk=0: at least 1 is allowed"),
    (["answer", "i.parquet", "model=x", "out=o", "chunk=x"], "chunk=x: expected a whole number"),
    (["answer", "i.parquet", "answerer=hf", "model=x", "out=o", "p_true=perhaps"], "expected true or false"),
    (["answer", "i.parquet", "answerer=gpt", "model=x", "out=o"], "Unknown value of answerer 'gpt'"),
    (["answer", "i.parquet", "answerer=recorded", "out=o"], "needs answers=FILE"),
    (
        ["answer", "i.parquet", "answerer=recorded", "answers=a", "model=x", "out=o"],
        "model= has no meaning for recorded",
    ),
    (
        ["answer", "i.parquet", "model=x", "nota=threshold", "out=o"],
        "nota=threshold and controls=FILE go together",
    ),
    (["answer", "i.parquet", "--model", "x"], "--model: settings are written name=value"),
    (["perturb", "i.parquet", "kind=drp", "out=o"], "Did you mean 'drop'?"),
    (["perturb", "i.jsonl", "kind=drop", "out=i.jsonl"], "out=i.jsonl would replace another file"),
    (["perturb", "i.jsonl", "kind=drop", "out=o.jsonl", "left_out=o.jsonl"], "out=o.jsonl would replace"),
    (["requests", "i.jsonl", "out=./i.jsonl"], "out=./i.jsonl would replace another file"),
    (["items", "source=task", "data=cxr3", "out=o.csv"], "expected a file that ends in .parquet or .jsonl"),
    (["items", "source=task", "data=cxr3", "split=tset", "out=o.jsonl"], "Did you mean 'test'?"),
    (["answer", "i", "model=x", "nota=thresold", "out=o"], "Did you mean 'threshold'?"),
    (["perturb", "none.parquet", "kind=drop", "out=o.parquet"], "There is no file none.parquet"),
    (["items", "source=task", "out=o"], "source=task and data=NAME go together"),
    (["items", "source=slake", "path=x", "limit=3", "out=o"], "limit= is read by source=task only"),
    (
        ["items", "source=slake", "out=o"],
        "path=FILE is the file of own questions (source=table) or of a published set",
    ),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_wrong_arguments_are_answered_in_a_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = "Unknown subcommand" in said or said.startswith("--")
    assert cli.main(["vqa", *words]) == (2 if usage else 1)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_setting_is_in_the_help_and_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vqa", name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {key}=" in shown for key in SUBCOMMANDS[name].options)
    module = Path(cli.__file__).parent / Path(
        *SUBCOMMANDS[name].main.split(":")[0].split(".")[1:]
    ).with_suffix(".py")
    answerers = Path(cli.__file__).parent / "vqa" / "answerers"
    source = module.read_text() + (answerers / "registry.py").read_text()
    handed_on = {field.name for field in dataclasses.fields(Protocol)} if name == "evaluate" else set()
    unread = [key for key in SUBCOMMANDS[name].options if f'"{key}"' not in source and key not in handed_on]
    assert not unread


def test_help_lists_the_subcommands_and_values_have_their_types(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vqa"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and row.summary in shown for name, row in SUBCOMMANDS.items())
    words = [
        "answer",
        "i",
        "answerer=hf",
        "model=m",
        "out=o",
        "scoring=letters",
        "temperature=1",
        "p_true=yes",
    ]
    given: dict[str, Any] = vqa_arguments(words).settings
    assert (given["scoring"], given["temperature"], given["p_true"], given["samples"]) == (
        ["letters"],
        1.0,
        True,
        0,
    )
