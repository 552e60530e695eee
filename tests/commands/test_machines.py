"""What machines read: exit statuses, JSON, completion."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from calib.cli import main
from calib.commands import completion, exit_codes
from calib.commands.completion_arguments import words_of
from calib.commands.machine import to_json
from calib.commands.registry import COMMANDS
from calib.commands.vqa.subcommands import SUBCOMMANDS
from calib.config import SCHEMAS, keys_of
from calib.core.text import printable
from calib.data.notices import ProgressLog, pace


def test_the_help_lists_every_exit_status(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    for code, meaning in exit_codes.EXIT_CODES.items():
        assert f"  {code:3}  {meaning}\n" in printed
    assert len(printed.splitlines()) < 50  # a screen
    assert max(map(len, printed.splitlines())) <= 110


def test_statuses_are_those_of_the_table(monkeypatch, capsys) -> None:
    assert main(["train", "sed=1"]) == exit_codes.FAILED
    assert main([]) == exit_codes.USAGE
    assert main(["configs"]) == exit_codes.DONE

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("calib.cli._run", interrupt)
    rows = {name: [("x", row), *row.forms.items()] for name, row in COMMANDS.items()}
    for name, (word, row) in ((name, each) for name, forms in rows.items() for each in forms):
        capsys.readouterr()
        assert main([name, word]) == exit_codes.INTERRUPTED
        said = capsys.readouterr().err
        kept = row.after.told(row.after.interruption, name, [word])
        assert said == f"\ncalib {name}: interrupted.{kept}\n"
        assert row.after.interruption, f"calib {name} {word} does not say what is kept"
        assert row.after.stop, f"calib {name} {word} does not say what is kept"
    assert set(SUBCOMMANDS) - set(COMMANDS["vqa"].forms) == {"answer"}  # which alone goes on


def test_json_with_letters_that_command_a_terminal_is_json_without_them(tmp_path: Path, capsys) -> None:
    """They were spelt out as in Python, which no reader of JSON takes."""
    names = ["a\x7fb", "\x9b2J", "\u202ec", "\U000e0041d"]
    assert json.loads(to_json(names)) == names
    assert printable(to_json(names)) == to_json(names)
    assert main(["data", "check", str(tmp_path / "a\x9bb.csv"), "--json"]) == 1  # there is none
    (tmp_path / "a\x9bb.csv").write_text("file,label,split\nx.png,a,train\n")
    capsys.readouterr()
    assert main(["data", "check", str(tmp_path / "a\x9bb.csv"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["data"]["root"] == str(tmp_path / "a\x9bb.csv")


# Every command with a typo of its own, and what it says no to before it does anything.
WRONG = {
    "data": ["check", "nowhere"],
    "train": ["sed=1"],
    "sweep": ["sed=1..3"],
    "tune": ["sed=1..3"],
    "evaluate": ["nowhere"],
    "report": ["nowhere"],
    "robustness": ["nowhere"],
    "select": ["nowhere", "budget=3"],
    "export": ["nowhere", "out=x"],
    "configs": ["nothing"],
    "cache": ["nowhere"],
    "predict": ["nowhere", "x.png"],
    "calibrate": ["nowhere.csv"],
    "sets": ["nowhere.csv"],
    "review": ["nowhere.csv"],
    "segment": ["evaluate", "nowhere"],
    "vqa": ["answer", "nowhere.parquet", "model=embedded", "out=x"],
}
WITHOUT = {"completion": exit_codes.USAGE, "doctor": exit_codes.DONE}


def test_every_command_fails_with_one_line_and_status_1(tmp_path: Path, monkeypatch, capsys) -> None:
    assert {*WRONG, *WITHOUT} == {*COMMANDS}
    monkeypatch.chdir(tmp_path)
    for name, words in WRONG.items():
        assert main([name, *words]) == exit_codes.FAILED, name
        said = capsys.readouterr().err
        assert said.startswith(f"calib {name}: "), said
        assert said.count("\n") == 1, said
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_is_no_failure_and_an_unknown_option_is_wrong_usage(name: str, capsys) -> None:
    def status(*words: str) -> int:
        try:
            return main([name, *words])
        except SystemExit as stop:
            return int(stop.code or 0)

    assert status("--help") == exit_codes.DONE
    printed = capsys.readouterr().out
    assert "calib " in printed
    assert max(map(len, printed.splitlines())) <= 115
    searched = ["seed=1..2", "optim.lr=1e-4..1e-2"] if name == "tune" else []
    assert status(*searched, "--no-such-option") == exit_codes.USAGE


def test_evaluate_and_report_say_what_they_found_as_json(runs, tmp_path: Path, capsys) -> None:
    out = tmp_path / "evaluation"
    assert main(["evaluate", str(runs[1]), f"out={out}", "n_resamples=10", "--json", "report=false"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(out)
    assert found["methods"]["calibprompt"]["1"]["n"] == 545
    copy = shutil.copytree(runs[1], tmp_path / "run")
    assert main(["report", str(copy), "n_resamples=10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["page"]).stat().st_size == found["bytes"]
    assert all(Path(file).is_file() for file in found["files"])


def test_review_and_sets_say_what_they_found_as_json(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{0.9 if n % 3 else 0.4},{0.1 if n % 3 else 0.6},{'a' if n % 17 else 'b'}" for n in range(200)]
    Path("outputs.csv").write_text("p(a),p(b),label\n" + "\n".join(rows) + "\n")
    assert (
        main(["review", "outputs.csv", "error=0.2", "--apply", "outputs.csv", "--out", "r.csv", "--json"])
        == 0
    )
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["achievable"]
    assert found["applied"]["accepted"] + found["applied"]["to_review"] == 200
    assert found["written"] == "review.json"
    assert found["guarantee"] in printed.err  # the sentences are said all the same
    assert {"threshold", "error", "upper", "n"} <= found["at"].keys()
    assert main(["sets", "outputs.csv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["coverage"], found["cases"], found["written"]) == (0.9, 200, "sets.json")
    assert found["thresholds"][0]["cases"] == 200


def test_completion_knows_every_command_and_setting() -> None:
    made = completion.script("bash")
    for name in COMMANDS:
        assert f"      {name}) words=" in made
    train = set(words_of("train", COMMANDS["train"]))
    assert {f"{key}=" for key in keys_of(SCHEMAS["prompt"])} <= train
    assert {"preset=calibprompt", "data.name=cxr3", "task=failure", "paper/plip_kather"} <= train
    assert {"--out", "--window", "--failure"} <= set(words_of("predict", COMMANDS["predict"]))
    assert {"error=", "workload=", "--json"} <= set(words_of("review", COMMANDS["review"]))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_completion_in_bash(tmp_path: Path) -> None:
    (tmp_path / "calib.bash").write_text(completion.script("bash"))

    def completed(line: str) -> list[str]:
        asked = (
            f'source calib.bash; COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; COMP_WORDBREAKS=" ="; '
            '_calib 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert completed("calib tr") == ["train"]
    assert completed("calib train data.shots_") == ["data.shots_from="]
    assert completed("calib train preset=calibprompt-") == [
        "calibprompt-fl",
        "calibprompt-ls",
    ]  # what follows the last =
    assert completed("calib train seed=2 data.name=lc") == ["lc25000"]
    assert completed("calib data che") == ["check"]
    assert completed("calib predict run --win") == ["--window"]
    assert completed("calib predict calib.b") == ["calib.bash"]  # else files


ZSH_STUB = """
typeset -A kinds
compadd() {{ local name="$@[-1]"; print -rl -- "${{(@M)${{(@P)name}}:#$words[CURRENT]*}}" }}
compset() {{ words[CURRENT]="${{words[CURRENT]##*=}}" }}
_files() {{ print -rl -- "$words[CURRENT]"*(N) }}
compdef() {{ }}
source ./_calib
words=({line}); CURRENT=$#words
_calib
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_completion_in_zsh(tmp_path: Path) -> None:
    (tmp_path / "_calib").write_text(completion.script("zsh"))

    def completed(line: str) -> list[str]:
        shell = ZSH_STUB.format(line=line)
        done = subprocess.run(["zsh", "-f", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert "train" in completed("calib tr")
    assert "data.shots_from=" in completed("calib train data.shots_")
    assert {"preset=dice-ce-ace", "preset=dice-ce"} <= set(completed("calib segment preset=dice-ce"))


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_completion_in_fish(tmp_path: Path) -> None:
    (tmp_path / "calib.fish").write_text(completion.script("fish"))

    def completed(line: str) -> list[str]:
        asked = f"source calib.fish; complete -C '{line}'"
        done = subprocess.run(["fish", "-N", "-c", asked], cwd=tmp_path, capture_output=True, text=True)
        assert done.stderr == ""
        return [each.split("\t")[0] for each in done.stdout.splitlines()]

    assert completed("calib tr") == ["train"]
    assert completed("calib train data.shots_") == ["data.shots_from="]
    assert completed("calib segment preset=dice-ce-") == ["preset=dice-ce-ace", "preset=dice-ce-ace-soft"]
    assert completed("calib predict run --win") == ["--window"]
    assert "calib.fish" in completed("calib predict calib.f")


def test_zsh_and_fish_have_scripts_of_their_own(capsys) -> None:
    assert main(["completion", "zsh"]) == 0
    made = capsys.readouterr().out
    assert made.startswith("#compdef calib\n")
    assert all(f"      {name}) known=(" in made for name in COMMANDS)
    assert "COMP_LINE" not in made
    assert main(["completion", "fish"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        assert any(line.startswith(f"complete -c calib -n '__calib_is {name}' -a '") for line in lines)
    segment = next(line for line in lines if "__calib_is segment'" in line).split()
    assert {"predict", "evaluate", "preset=dice-ce-ace"} <= set(segment)
    assert "preset=calibprompt" not in segment
    with pytest.raises(SystemExit):
        main(["completion", "tcsh"])


def test_what_is_left_is_told_at_the_rate_so_far() -> None:
    assert pace(100, 200, 1.0) == " (100.0 a second, about 1 s left)"
    assert pace(1, 1001, 36.0) == " (0.03 a second, about 10.0 h left)"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ((0, 1, 1.5, 1.9), []),
        ((0, 3, 4, 5), ["1 of 3 (0.33 a second, about 6 s left)", "3 of 3 (0.75 a second)"]),
    ],
)
def test_progress_that_was_said_is_said_to_its_end(seconds, said: list[str], monkeypatch, caplog) -> None:
    """It once ended at "94 of 100": the last line was said where ten seconds had just passed."""
    caplog.set_level("INFO", logger="calib")
    clock = iter(seconds)
    monkeypatch.setattr("calib.data.notices.time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = ProgressLog(logging.getLogger("calib.data"), "items", 3)
    for done in (1, 3, 3):
        progress.update(done)
    assert caplog.messages == [f"items: {line}" for line in said]


@pytest.mark.parametrize(("first", "said"), [(True, "training, steps: 1 of 8"), (False, "")])
def test_training_without_a_bar_says_how_far_it_is(first: bool, said: str, monkeypatch, caplog) -> None:
    from calib.runs.trainer import _ProgressLines

    caplog.set_level("INFO", logger="calib")
    monkeypatch.setattr("calib.data.notices.FIRST_AFTER", 0.0)
    trainer = SimpleNamespace(max_epochs=3, num_training_batches=4, current_epoch=1, is_global_zero=first)
    lines = _ProgressLines()
    lines.on_train_start(trainer, None)
    lines.on_train_batch_end()
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [said] * bool(said)
