"""The files of a run folder are described once, and nobody else spells their names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from calib.config import PromptRun
from calib.runs.folder import FILES, RunFile, RunFolder

PACKAGE = Path(__file__).parents[2] / "calib"
PARTS = {part for file in FILES.values() for part in Path(file.path).parts}
ENDING = {part for part in PARTS if "." in part[1:]}
WORDS = PARTS - ENDING  # such as predictions, which tensors are called as well: only where a path is made


def spelt(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text where code writes a file's name: as a path, or one of the words in one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and ENDING & set(str(node.value).split("/")):
            yield node.lineno, str(node.value)
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.right]
        elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute):  # path.name == "..."
            parts = node.comparators
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parts = node.args if node.func.attr in ("glob", "rglob", "joinpath", "with_name") else []
        for part in parts:
            if isinstance(part, ast.Constant) and WORDS & set(str(part.value).split("/")):
                yield part.lineno, str(part.value)


def test_no_other_module_spells_the_name_of_a_file() -> None:
    own = {PACKAGE / "vqa", PACKAGE / "commands" / "vqa"}  # its folders are no runs
    # Messages that propose finished runs are made where folders are unknown.
    home = {PACKAGE / "runs" / "folder.py", PACKAGE / "core" / "errors.py"}
    files = [p for p in PACKAGE.rglob("*.py") if p not in home and not own & {*p.parents}]
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text!r}"
        for path in files
        for line, text in spelt(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


PATHS = ("x / 'metrics.json'", "f'{x}/table.md'", "x / 'folds'", "x.name == 'baselines'", "x.glob('wandb/*')")


@pytest.mark.parametrize("code", PATHS)
def test_the_search_sees_what_it_is_for(code: str) -> None:
    assert list(spelt(ast.parse(code)))


def test_a_file_is_one_row(tmp_path: Path, monkeypatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(PromptRun(), {"digest": "d"})
    with pytest.raises(AttributeError, match="Unknown file of a run folder 'review'"):
        folder.review.is_file()
    monkeypatch.setitem(FILES, "review", RunFile("decisions/review.json", by=("prompt",), report=True))
    assert folder.review == tmp_path / "run" / "decisions" / "review.json"
    folder.review.parent.mkdir()
    folder.review.write_text("{}")
    reports = [name for name, file in FILES.items() if file.report and "prompt" in file.by]
    for name in [name for name in reports if name != "review"]:
        assert folder.lacks_report("prompt")
        getattr(folder, name).write_text("")
    assert not folder.lacks_report("prompt")
    folder.claim(PromptRun(seed=2, overwrite=True), {"digest": "d"})
    assert {path.name for path in folder.path.iterdir()} == {"config.yaml", "split.json"}


def test_overwriting_removes_metrics_first_and_the_settings_last(tmp_path: Path, monkeypatch) -> None:
    folder = RunFolder(tmp_path)
    removed: list[str] = []
    folder.claim(PromptRun(), {"digest": "d"})
    unlink = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    folder.claim(PromptRun(overwrite=True), {"digest": "d"})
    removed = [name for name in removed if name in PARTS]
    assert (removed[0], removed[-1]) == ("metrics.json", "config.yaml")
    owned = {Path(file.path).parts[0] for file in FILES.values() if file.removed}
    assert owned == set(removed)


def test_what_a_run_leaves_has_rows_that_name_its_task(runs) -> None:
    for folder in (runs[1], runs[1] / "baselines" / "coop"):
        rows = {Path(file.path).parts[0]: file for file in FILES.values()}
        left = {path.name for path in folder.iterdir()}
        assert {"config.yaml", "metrics.json", "prompt.safetensors"} <= left
        assert all("prompt" in rows[name].by for name in left)
