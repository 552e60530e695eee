"""What users name their classes, files and methods is not run: in Markdown, CSV, diagrams, terminals."""

from __future__ import annotations

import csv
import io
import logging
import shutil
from pathlib import Path

import pytest
import torch

from calib import cli
from calib.commands.predict import predict
from calib.commands.shown import SafeFormatter
from calib.core.text import printable, safe_path, safe_text
from calib.io.tensors import load_tensors, save_tensors
from calib.report.plots import reliability_panels, risk_coverage_diagram
from calib.report.tables import aligned, markdown, results_table

NASTY = "a|b\n<script>alert(1)</script>[x](javascript:1)\x1b[2J"


def test_a_method_cannot_break_out_of_its_cell() -> None:
    lines = aligned(["method", "x"], [[NASTY, "1"], ["plain", "2"]]).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[2].replace("\\|", "").count("|") == 3
    for forbidden in ("<script", "](", "\x1b", "\n"):
        assert forbidden not in lines[2]
    columns = dict.fromkeys(
        ("accuracy", "balanced_accuracy", "macro_f1", "ece", "ace", "nll", "brier", "confidence_gap"), 0.5
    )
    assert "<script" not in results_table({NASTY: columns})


def test_intervals_in_cells_stay_as_they_are() -> None:
    assert markdown("+1.0 [-0.5, +2.5]") == "+1.0 [-0.5, +2.5]"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_begins_as_a_formula(start: str) -> None:
    assert safe_text(f"{start}cmd|'/c calc'!A1").startswith("'")
    assert safe_path(f"{start}1.png") == printable(f"./{start}1.png")
    assert safe_text("-1.5") == "-1.5"


@pytest.mark.parametrize("name", [r"$\frac{", "$$", "a$b$c", r"\$", "{}", "%s", "\x1b[2J"])
def test_names_with_marks_of_formulas_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    probs, labels = torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 1])
    figure = reliability_panels({name: (probs, labels)})
    figure.savefig(tmp_path / "a.png", dpi=20)
    assert figure.axes[0].get_title() == name.replace("\x1b", "\\x1b")
    scores = torch.tensor([0.1, 0.2, 0.9]), torch.tensor([False, False, True])
    risk_coverage_diagram({name: scores}, title=name).savefig(tmp_path / "b.png", dpi=20)


def test_errors_and_log_lines_hold_no_terminal_commands_and_no_passwords(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret-token")
    assert cli.run("train", ["\x1b[2J.yaml"]) == 1
    assert cli.run("train", ["nowhere-a-secret-token.yaml"]) == 1
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert "\\x1b[2J.yaml" in shown
    assert "a-secret-token" not in shown
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(SafeFormatter("%(message)s"))
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s: a-secret-token", ("\x1b[31m.png",), None)
    handler.emit(record)
    assert stream.getvalue() == "\\x1b[31m.png: ***\n"


COMMANDS = (
    "\x1b]0;pwn\x07red\x1b[31m", "\u202eevil", "\x9b2J", "a\x7fb", "a\u2066b\u2069", "\ufeff=1+1", "a\r=1",
    "\udc9b",
)  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_cells_of_tables_hold_no_terminal_commands(name: str) -> None:
    for shown in (safe_text(name), safe_path(name), safe_text(f"p({name})"), safe_path(f"x/{name}.png")):
        assert printable(shown) == shown
        shown.encode()
    assert safe_text("\r=1") == "'\\r=1"


def test_the_table_of_predictions_holds_none_in_header_and_cells(
    runs: dict[int, Path], image_folder: Path, tmp_path: Path
) -> None:
    tensors, record = load_tensors(runs[1] / "prompt.safetensors", kind="prompt")
    save_tensors(tmp_path / "p.safetensors", tensors, record | {"class_names": list(COMMANDS[:3])})
    (tmp_path / "images").mkdir()
    image = next((image_folder / "test").rglob("*.png"))
    shutil.copy(image, tmp_path / "images" / "a\x1b[2J\u202e.png")
    predict(tmp_path / "p.safetensors", [str(tmp_path / "images")], out=tmp_path / "p.csv")
    text = (tmp_path / "p.csv").read_text(encoding="utf-8")
    assert printable(text) == text
    header, row = csv.reader(io.StringIO(text))
    assert header[-2:] == ["unlike", "note"]
    assert header[3:-2] == ["p(\\x1b]0;pwn\\x07red\\x1b[31m)", "p(\\u202eevil)", "p(\\x9b2J)"]
    assert row[0].endswith("a\\x1b[2J\\u202e.png")
