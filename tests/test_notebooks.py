"""notebooks/: pairs that say the same, use what `import calib` offers, and run."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import calib

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path for path in FOLDER.glob("*.py") if path.name != "run.py")
IMPORTS = {"calib", "torch", "matplotlib", "PIL"}  # beside the standard library
LARGEST = 200_000


def cells(path: Path) -> list[tuple[str, str]]:
    jupytext = pytest.importorskip("jupytext")
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def test_there_are_pairs() -> None:
    assert len(NOTEBOOKS) >= 5
    assert {path.stem for path in NOTEBOOKS} == {path.stem for path in FOLDER.glob("*.ipynb")}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_both_of_a_pair_say_the_same(path: Path) -> None:
    """`jupytext --sync notebooks/*.py` makes them do so; notebooks/run.py also runs them."""
    assert cells(path) == cells(path.with_suffix(".ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_what_the_door_offers(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    third = {name for name in imported if name.split(".")[0] in IMPORTS}
    assert imported - third <= {"math", "random", "shutil", "tempfile", "pathlib"}
    assert {name for name in third if name.startswith("calib")} == {"calib"}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "calib"
    }
    assert used - {"__file__"} <= set(calib.__all__)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_shows_is_small_and_of_no_machine(path: Path) -> None:
    text = path.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert any(cell["outputs"] for cell in code)
    streams = [out for cell in code for out in cell["outputs"] if out["output_type"] == "stream"]
    assert {out["name"] for out in streams} <= {"stdout"}  # nothing is warned of
    assert not re.search(r"/(tmp|home|root|work|usr)/", "".join("".join(out["text"]) for out in streams))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm's, without ipywidgets
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any(out.output_type == "stream" for out in said)
    assert not [out.text for out in said if out.output_type == "stream" and out.name == "stderr"]
