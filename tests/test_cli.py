"""The command line: one line for what went wrong, the exit status, help without heavy imports."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests_shared import SHORT

import calib.cli
from calib.backbones import create_backbone
from calib.cli import main, run
from calib.commands.exit_codes import FAILED, UNREAD, USAGE
from calib.commands.failure.run import loss_settings
from calib.commands.registry import COMMANDS, After, Command
from calib.config import SCHEMAS, DataConfig, FailureLossConfig, dataclass_of, load_config
from calib.config.names import LAYOUTS, check_root
from calib.data import load_data
from calib.failure.evaluation import score_names
from calib.losses import LOSSES, Objective, resolve_terms


def test_train_prints_the_table_and_where_the_export_lies(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SHORT]) == 0
    printed = capsys.readouterr().out
    for text in (
        "zero-shot",
        "coop (CE)",
        "calibprompt (CE + SMAC + AS)",
        "calibprompt calibrated (experts)",
        "ECE %",
        "545 test images, seed 1",
    ):
        assert text in printed
    assert re.search(r"^Calibrated by its own 24 shots: experts \(prompt \d+ %, images \d+ %", printed, re.M)
    assert "\nNegative log-likelihood of the shots, each left out: none " in printed
    export = re.search(r"runs/embedded-cxr3-calibprompt-8shot-s1-\w{6}/prompt.safetensors", printed)
    assert export is not None
    assert (tmp_path / export.group()).is_file()
    assert main(["train", *SHORT]) == 0
    assert "finished before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "sed=1"], "calib train: argument 'sed=1': Unknown key 'sed'. Did you mean 'seed'?"),
        (["train", "nothing.yaml"], "calib train: There is no settings file 'nothing.yaml'"),
        (["evaluate", "nowhere"], "calib evaluate: There is no exported prompt at 'nowhere'"),
        (["predict", "nowhere", "x.png"], "calib predict: There is no exported prompt at 'nowhere'"),
        (
            ["train", "images"],
            "calib train: There is no settings file 'images' (settings are changed as key=v",
        ),
        (["train", "backbone.name=PLIP"], "calib train: Unknown backbone 'PLIP'. Did you mean 'plip'?"),
        (
            ["train", "backbone.weights=hf://a/b"],
            "calib train: backbone.weights=hf://a/b is of another model",
        ),
        (["predict", "a.png", "images"], "calib predict: 'a.png' is an image, where a run or its export is"),
        (["predict", "begun", "a.png"], "calib predict: There is no exported prompt at 'begun/prompt.safete"),
        (
            ["predict", "run", "a.png", "out=p.csv"],
            "calib predict: calib predict takes options, not settings",
        ),
        (
            ["review", "run", "--error", "0.05"],
            "calib review: There is no option --error; it is a setting: e",
        ),
        (["sets", "run", "--by=class"], "calib sets: There is no option --by; it is a setting: by=VALUE."),
        (
            ["review", "semi.csv"],
            "calib review: semi.csv has a single column, 'confidence;label': save it with",
        ),
        (
            ["export", "begun", "out=e"],
            "calib export: 'begun' is a run that is not finished: the command that",
        ),
        (["export", "images", "out=e"], "calib export: 'images' is no run: there is nothing to share."),
        (["sets", "runs/x"], "calib sets: There is no run and no file 'runs/x'."),
    ],
)
def test_expected_errors_are_one_line(
    arguments: list[str], message: str, capsys, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images", "begun"):
        Path(name).mkdir()
    Path("begun/config.yaml").touch()
    Path("a.png").touch()
    Path("semi.csv").write_text("confidence;label\n0,9;a\n")
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert "begun" not in arguments or "is a run that is not finished" in error


@pytest.mark.parametrize(
    ("arguments", "task"),
    [
        (["train"], "prompt"),
        (["train", "task=failure"], "failure"),
        (["evaluate", "runs/x"], "evaluate"),
        (["segment"], "segment"),
    ],
)
def test_help_explains_every_setting(arguments: list[str], task: str, capsys) -> None:
    assert main([*arguments, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"calib {arguments[0]} " in printed
    shown = set(re.findall(r"^  ([\w.]+)=", printed, flags=re.MULTILINE))
    assert shown == set(keys_of(SCHEMAS[task]))
    assert all(line.startswith("      ") for line in printed.splitlines() if line.startswith("   "))
    settings = " ".join(printed.partition("Settings and their defaults")[2].split())
    assert "None" not in settings  # not a word of YAML or of the command line
    assert ("under a cosine that spans the run" in settings) == (task == "failure")  # said of its optim


def keys_of(schema: type, prefix: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(schema).items():
        inner = dataclass_of(hint)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from keys_of(inner, f"{prefix}{name}.")


def test_help_names_every_loss_with_its_settings(capsys) -> None:
    assert main(["train", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "smac (alpha=0.05, n_bins=1, soft=false), as, mdca" in printed
    assert "mmce (kernel_width=0.4, official=false)" in printed


def test_without_a_command_the_commands_are_listed(capsys) -> None:
    assert main([]) == 2
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed for name in COMMANDS)


def test_help_of_failure_prediction_is_about_it(capsys) -> None:
    assert main(["train", "task=failure", "--help"]) == 0
    assert "Learns which predictions" in capsys.readouterr().out


def test_help_of_predict(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    assert "--skip-unreadable" in capsys.readouterr().out


ANSWERED_AT_ONCE = [
    (["train", "sed=1"], 1),
    (["evaluate", "runs/x", "n_bin=3"], 1),
    (["train", "data.name=folder", "data.root=no/such"], 1),
    (["train", "-h"], 0),
    (["predict", "runs/x", "x.png", "--batch-size", "0"], 1),
    (["predict", "runs/x", "x.png", "--devise", "cpu"], 2),
    (["predict", "-h"], 0),
    (["segment", "preset=dice-cee"], 1),
    (["segment", "evaluate", "runs/x", "--level", "2"], 1),
    (["segment", "predict", "-h"], 0),
    (["--version"], 0),
]


def test_a_typo_and_help_are_answered_before_anything_heavy_is_imported() -> None:
    """All in one process: what is not there at the end was imported by none."""
    code = (
        "import sys; from calib.cli import main\n"
        f"for arguments, wanted in {ANSWERED_AT_ONCE}:\n"
        "    try: status = main(arguments)\n"
        "    except SystemExit as stop: status = stop.code\n"
        "    assert status == wanted, (arguments, status)\n"
        "assert not {'torch', 'lightning'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_that_are_not_there_are_answered_in_the_words_of_the_reader(name: str, tmp_path: Path) -> None:
    said = []
    for ask in (
        lambda: check_root(DataConfig(name=name, root=str(tmp_path / "no"))),
        lambda: load_data(name, tmp_path / "no"),
    ):
        with pytest.raises(FileNotFoundError, match=r"\(data\.root\)") as caught:
            ask()
        said.append(str(caught.value))
    assert said[0] == said[1]
    check_root(DataConfig(name=name, root=str(tmp_path)))


# What is typed, and what says no to that name where it is used.
TYPOS: list[tuple[list[str], Callable[[], object]]] = [
    (["train", "loss.smack.alpha=1"], lambda: resolve_terms("coop", {"smack": {}})),
    (["train", "loss.smac.alhpa=1"], lambda: Objective({"smac": {"alhpa": 1}})),
    (["train", "loss.smac.alpha=x"], lambda: Objective({"smac": {"alpha": "x"}})),
    (["train", "preset=calibpromt"], lambda: resolve_terms("calibpromt")),
    (["train", "baselines=[copo]"], lambda: resolve_terms("copo")),
    (["train", "backbone.name=plipp"], lambda: create_backbone("plipp")),
    (["train", "backbone.name=open_clipp:ViT-B-32"], lambda: create_backbone("open_clipp:ViT-B-32")),
    (["train", "data.name=kahter"], lambda: load_data("kahter")),
    (["train", "task=failure", "loss.name=bec"], lambda: loss_settings(FailureLossConfig(name="bec"))),
    (
        ["train", "task=failure", "loss.weighting=adaptve"],
        lambda: loss_settings(FailureLossConfig(weighting="adaptve")),
    ),
    (["train", "task=failure", "scores=[mpc]"], lambda: score_names(["mpc"])),
    (["train", "task=failure", "backbone.name=plipp"], lambda: create_backbone("plipp")),
    (["sweep", "preset=coop,calibpromt"], lambda: resolve_terms("calibpromt")),
    (["tune", "loss.smack.alpha=0.1..0.2"], lambda: resolve_terms("coop", {"smack": {}})),
    (["evaluate", "runs/x", "data.name=kahter"], lambda: load_data("kahter")),
]


def test_a_command_that_does_not_exist_is_answered_with_the_one_meant(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["predct", "x.png"])
    assert end.value.code == 2
    assert "Unknown command 'predct'. Did you mean 'predict'? Known: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["failure"])
    assert "Did you mean 'train task=failure'?" in capsys.readouterr().err


def test_an_unknown_name_is_answered_alike_before_and_after_torch_is_imported() -> None:
    code = (
        "import sys; from calib.cli import main\n"
        f"assert [main(argv) for argv in {[argv for argv, _ in TYPOS]}] == [1] * {len(TYPOS)}\n"
        "assert not {'torch', 'lightning'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for line, (argv, use) in zip(done.stderr.splitlines(), TYPOS, strict=True):
        with pytest.raises(ValueError) as refused:  # noqa: PT011  the whole message is compared
            use()
        assert line == f"calib {argv[0]}: {refused.value}"


def test_a_name_that_a_program_added_is_known(monkeypatch) -> None:
    def spread(logits, *, width=1.0): ...

    monkeypatch.setitem(LOSSES, "spread", spread)
    assert load_config(["loss.spread.width=2"], task="prompt").loss == {"spread": {"width": 2}}
    with pytest.raises(ValueError, match=r"Did you mean 'width'\?"):
        load_config(["loss.spread.wdith=2"], task="prompt")


def test_interruption_says_how_to_go_on(capsys, monkeypatch) -> None:
    def interrupted(config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("calib.commands.train.train", interrupted)
    assert run("train", []) == 130
    assert "goes on from the last finished epoch: calib train\n" in capsys.readouterr().err
    assert run("train", ["seed=2", "out=my run"]) == 130
    assert capsys.readouterr().err.endswith(" epoch: calib train seed=2 'out=my run'\n")
    assert run("train", [f"out={'x' * 200}"]) == 130
    assert capsys.readouterr().err.endswith(" goes on from the last finished epoch.\n")
    monkeypatch.setattr("calib.commands.predict.main", interrupted)
    assert run("predict", ["prompt", "image"]) == 130
    assert capsys.readouterr().err == "\ncalib predict: interrupted. Nothing was written.\n"


TOY = """
def main(argv):
    if argv == ["stop"]:
        raise KeyboardInterrupt
    print("greets", *argv)
    return 7
"""


def test_a_command_is_a_function_and_a_row(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "toy_command.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    row = Command(summary="greet", main="toy_command:main", after=After(interruption=" Greet again."))
    monkeypatch.setitem(COMMANDS, "toy", row)
    assert main(["toy", "you", "-x", "two"]) == 7
    assert capsys.readouterr().out == "greets you -x two\n"
    assert main(["toy", "stop"]) == 130
    assert capsys.readouterr().err == "\ncalib toy: interrupted. Greet again.\n"
    assert main([]) == 2
    assert re.search(r"\n  toy +greet\n", capsys.readouterr().out)


def test_a_command_gets_what_was_read_of_its_arguments_once(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "sum_command.py").write_text("def main(numbers):\n    return sum(numbers)\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen = []

    def read(argv) -> list[int]:
        seen.append(argv)
        return [int(word) for word in argv]

    row = Command(
        summary="", main="sum_command:main", read=read, usage="calib toy NUMBERS\n", task="evaluate"
    )
    monkeypatch.setitem(COMMANDS, "toy", row)
    assert run("toy", ["3", "4"]) == 7
    assert seen == [["3", "4"]]
    assert run("toy", ["3", "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("calib toy NUMBERS\n\nSettings and their defaults (task evaluate)")
    assert run("toy", ["x"]) == 1
    assert capsys.readouterr().err == "calib toy: invalid literal for int() with base 10: 'x'\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_imported_and_is_called_with_what_is_read(name: str) -> None:
    for row in (COMMANDS[name], *COMMANDS[name].tasks.values(), *COMMANDS[name].forms.values()):
        (parameter,) = inspect.signature(row.function(), eval_str=True).parameters.values()
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if row.task and name not in ("sweep", "tune"):
            assert parameter.annotation is SCHEMAS[row.task]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_one_line(error: BaseException, monkeypatch, capsys) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(calib.cli, "_run", fail)
    assert run("evaluate", []) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "memory" in said


def test_other_errors_of_a_library_stay_what_they_are(monkeypatch) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("The size of tensor a must match the size of tensor b.")

    monkeypatch.setattr(calib.cli, "_run", fail)
    with pytest.raises(RuntimeError, match="size of tensor"):
        run("evaluate", [])


def test_a_lost_standard_output_is_said_to_be_it(tmp_path: Path) -> None:
    """On a full device, closed: what is said is about it, and no traceback follows."""
    command = [sys.executable, "-m", "calib", "train", "--help"]
    if Path("/dev/full").exists():
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        said = "calib train: standard output is full (No space left on device), so that results cannot be"
        assert (done.returncode, done.stderr.count("\n")) == (FAILED, 1), done.stderr
        assert done.stderr.startswith(said)
    shell = f"'{sys.executable}' -m calib train --help >&-"
    done = subprocess.run(["sh", "-c", shell], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ["train --help", "--help", "predict --help", "configs prompt"])
def test_a_reader_that_has_seen_enough_is_no_error(arguments: str) -> None:
    """`calib ... | head -n 0`, with a real pipe: nothing is said, and the status is that of other tools."""
    shell = f"set -o pipefail; '{sys.executable}' -m calib {arguments} | head -n 0"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (UNREAD, "", "")


def test_an_error_beside_a_lost_standard_output_is_said(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "calib", "train", "nothing.yaml"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.stderr.startswith("calib train: There is no settings file 'nothing.yaml'")


def test_the_package_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "calib", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"calib {calib.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--brief"], "There is no option '--brief': this command takes settings"),
        (["train", "--verbose"], "There is no option '--verbose': this command takes settings (key=value)"),
        (["train", "--seed"], "Settings are written without dashes: 'seed=value' instead of '--seed'."),
        (["train", "--data.shots=4"], "without dashes: 'data.shots=value' instead of '--data.shots=4'."),
        (["train", "configs/failur.yaml"], "Did you mean 'failure'? 'calib configs' lists those that come"),
        (["train", "sweeps/prompt_grid"], "is a search for W&B's agent, not settings of a run: wandb sweep"),
    ],
)
def test_what_is_no_setting_is_answered(
    arguments: list[str], message: str, capsys, monkeypatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == (USAGE if arguments[-1].startswith("-") else FAILED)
    assert message in capsys.readouterr().err


def test_the_task_is_what_its_settings_file_holds(monkeypatch) -> None:
    """So that it can be said where that file is not, in an installed package."""
    root = Path(__file__).parents[1]
    for task in ("prompt", "failure"):
        assert load_config([str(root / f"configs/{task}.yaml")], task=task) == load_config([], task=task)
