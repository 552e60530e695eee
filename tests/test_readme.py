"""The commands in README.md exist and take the arguments shown; what they need is named, not guessed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from calib.commands.search.grid import sweep_of
from calib.commands.search.space import search_of
from calib.config import load_config, task_of
from calib.losses import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("; done")[0]
    .removeprefix("for seed in 1 2 3; do ")
    .strip()
    .replace("$seed", "1")
    .replace("$task", "cxr3")
    for block in BLOCKS
    for line in block.splitlines()
    if "train.py" in line or "evaluate.py" in line
]


def settings_of(command: str) -> list[str]:
    words = shlex.split(command.split("&&")[-1])
    script = next(place for place, word in enumerate(words) if word in ("train.py", "evaluate.py"))
    return words[script + 1 :]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "train.py" in c])
def test_training_commands_are_valid_settings(command: str, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    task = task_of(settings_of(command))
    config = load_config(settings_of(command), task=task)
    assert config.task == task


def test_evaluation_commands_are_valid_settings() -> None:
    commands = [c for c in COMMANDS if "evaluate.py" in c]
    assert commands
    for command in commands:
        load_config([word for word in settings_of(command) if "=" in word], task="evaluate")


def test_sweep_commands_are_valid_settings() -> None:
    commands = [line for block in BLOCKS for line in block.splitlines() if line.startswith("calib sweep")]
    assert commands
    for command in commands:
        assert len(sweep_of(shlex.split(command)[2:]).points) > 1


def test_search_commands_are_valid_settings() -> None:
    commands = [line for block in BLOCKS for line in block.splitlines() if line.startswith("calib tune")]
    assert commands
    for command in commands:
        search = search_of(shlex.split(command)[2:])
        assert search.space
        assert search.settings.trials > 1


def test_the_two_set_up_commands_are_marked_for_ci() -> None:
    for name, command in [
        ("main", "python -m pip install -e . && python train.py"),
        ("test", "python -m pip install -e '.[dev]' && python -m pytest"),
    ]:
        assert f"<!-- ci:{name} -->\n```bash\n{command}\n```" in README


def test_files_and_presets_the_readme_names_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    table = README[README.index("| preset |") :].split("\n\n")[0]
    for name in re.findall(r"`([a-z+-]+)`", table):
        assert name in PRESETS, name
