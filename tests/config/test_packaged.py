"""Settings files by name: from any folder, before anything that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib.cli import main
from calib.config import load_config, task_of
from calib.config.packaged import FOLDER, packaged_file, packaged_names

ROOT = Path(__file__).parents[2]


def test_a_name_is_what_a_clone_has_as_a_path(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sorted(path.name for path in (ROOT / "configs").iterdir()) == sorted(
        path.name for path in FOLDER.iterdir()
    )
    by_name, by_path = (
        load_config([word, "seed=3"], task="prompt")
        for word in ("paper/plip_kather", str(ROOT / "configs/paper/plip_kather.yaml"))
    )
    assert by_name == by_path == load_config(["configs/paper/plip_kather.yaml", "seed=3"], task="prompt")
    assert by_name.backbone.name == "plip"
    assert task_of(["failure"]) == "failure"


def test_a_file_that_is_there_comes_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompt").write_text("seed: 9\n")
    assert load_config(["prompt"], task="prompt").seed == 9


@pytest.mark.parametrize("name", ["../pyproject", "/etc/passwd", "paper", "", "paper/", "paper/../prompt"])
def test_what_is_no_name_leads_nowhere(name: str) -> None:
    assert packaged_file(name) is None


def test_they_are_listed_and_printed(capsys) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == packaged_names()
    assert main(["configs", "sweeps/prompt_grid"]) == 0
    assert capsys.readouterr().out == (FOLDER / "sweeps/prompt_grid.yaml").read_text()
    assert main(["configs", "paper/plip_kathr"]) == 1
    assert "comes with calib. Did you mean 'paper/plip_kather'?" in capsys.readouterr().err
