"""The commands in README.md exist and take the arguments shown; what they need is named, not guessed."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

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


EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_of_using_a_prompt_runs(runs: dict[int, Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs[1], tmp_path / "runs" / "embedded-cxr3-calibprompt-8shot-s1")
    Image.new("L", (300, 200), 90).save("scan.png")
    found: dict[str, Any] = {}
    exec(EXAMPLES[0], found)
    assert found["probs"].shape == (1, 3)
    assert float(found["probs"].sum()) == pytest.approx(1)


@pytest.mark.slow
def test_the_example_of_training_from_python_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    exec(EXAMPLES[1], {})
    ece, doubt, rival, reason = capsys.readouterr().out.splitlines()
    assert f"# {float(ece):.3f}, as in the table above" in EXAMPLES[1]
    assert 0.5 < float(doubt) < 1
    assert 0.5 < float(rival) < 1
    assert reason.startswith("Predicted ")
    assert [path.name for path in tmp_path.iterdir()] == ["prompt.safetensors"]
