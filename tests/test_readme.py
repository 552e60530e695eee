"""README.md is short, its pictures small, and the Python of the pages runs; commands: tests/test_docs.py."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import calib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def examples(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_two_set_up_commands_are_marked_for_ci() -> None:
    for name, command in [
        ("main", "python -m pip install -e . && python train.py"),
        ("test", "python -m pip install -e '.[dev]' && python -m pytest"),
    ]:
        assert f"<!-- ci:{name} -->\n```bash\n{command}\n```" in README


def test_it_is_taken_in_at_one_sitting() -> None:
    assert len(README.splitlines()) <= 200
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / name).stat().st_size < 200_000 for name in pictures)


def test_every_use_of_the_site_is_linked() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("  - Use:\n")[1].split("  - Facts:\n")[0]
    pages = re.findall(r"\w+\.md", nav)
    assert not [page for page in pages if f"(docs/{page}" not in README]


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == calib.__version__
    assert cited["license"] == "MIT"


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_the_example_of_using_a_prompt_runs(
    page: str, runs: dict[int, Path], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs[1], tmp_path / "runs" / "embedded-cxr3-calibprompt-8shot-s1")
    Image.new("L", (300, 200), 90).save("scan.png")
    found: dict[str, Any] = {}
    exec(examples(page)[0], found)
    assert found["probs"].shape == (1, 3)
    assert float(found["probs"].sum()) == pytest.approx(1)


def test_the_examples_without_a_model_run(capsys) -> None:
    for example in examples("docs/python.md")[1:]:
        exec(example, {})
    ece, same, coverage = capsys.readouterr().out.splitlines()
    assert ece == same == "0.114"
    assert 0.8 < float(re.findall(r"[\d.]+", coverage)[0]) <= 1


@pytest.mark.slow
def test_the_example_of_training_from_python_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    example = examples("docs/python.md")[0]
    exec(example, {})
    ece, doubt, rival, reason = capsys.readouterr().out.splitlines()
    assert f"# {float(ece):.3f}, as in the table of Start" in example
    assert 0.5 < float(doubt) < 1
    assert 0.5 < float(rival) < 1
    assert reason.startswith("Predicted ")
    assert [path.name for path in tmp_path.iterdir()] == ["prompt.safetensors"]
