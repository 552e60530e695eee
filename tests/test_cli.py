"""The command line: one line for what went wrong, the exit status, help without heavy imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests_shared import SHORT

from calib.cli import COMMANDS, main, run


def test_train_prints_the_table_and_where_the_export_lies(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SHORT]) == 0
    printed = capsys.readouterr().out
    for text in (
        "zero-shot",
        "coop (CE)",
        "calibprompt (CE + SMAC + AS)",
        "ECE %",
        "545 test images, seed 1",
    ):
        assert text in printed
    export = "runs/embedded-cxr3-calibprompt-8shot-s1/prompt.safetensors"
    assert export in printed
    assert (tmp_path / export).is_file()
    assert main(["train", *SHORT]) == 0
    assert "finished before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "sed=1"], "calib train: argument 'sed=1': Unknown key 'sed'. Did you mean 'seed'?"),
        (["train", "nothing.yaml"], "calib train: There is no settings file 'nothing.yaml'"),
        (["evaluate", "nowhere"], "calib evaluate: There is no exported prompt at 'nowhere'"),
        (["predict", "nowhere", "x.png"], "calib predict: There is no exported prompt at 'nowhere'"),
    ],
)
def test_expected_errors_are_one_line(arguments: list[str], message: str, capsys) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_help_of_every_command(capsys) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) if command == "predict" else pytest.MonkeyPatch.context():
            assert run(command, ["--help"]) == 0
        assert "predict" in capsys.readouterr().out or command != "predict"


def test_interruption_says_how_to_go_on(capsys, monkeypatch) -> None:
    def interrupted(config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("calib.jobs.train.train", interrupted)
    assert run("train", []) == 130
    assert "goes on from the last finished epoch" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.argv = ['calib']; import calib.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
