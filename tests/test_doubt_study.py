"""The study behind the README's table of the doubt: its numbers, and a cell of it with one epoch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from calib.io.files import read_json
from calib.io.tensors import save_tensors
from calib.metrics.failure import auroc

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("doubt_study", FOLDER / "doubt_study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "doubt_study", module)  # its dataclasses look there
    spec.loader.exec_module(module)
    monkeypatch.delitem(sys.modules, "calibration_study", raising=False)
    monkeypatch.setattr(module, "RESAMPLES", 100)
    return module


def written(folder: Path, seed: int, misled: bool) -> Path:
    """Write the file of a cell in which `best` tells wrong ones and mcp does not, or seemed not to."""
    draw = torch.Generator().manual_seed(seed)
    failure = torch.rand(200, generator=draw) < 0.3
    best = failure.double() + 0.5 * torch.randn(200, generator=draw)
    mcp = torch.randn(200, generator=draw).double()
    tensors = {"score|doubt": mcp.clone(), "score|best": best, "score|mcp": mcp, "failure": failure}
    tensors |= {"prob|doubt": mcp.sigmoid(), "prob|mcp": mcp.sigmoid()}
    told, other = torch.randn(2, 100, generator=draw).double()
    tensors |= {"seen|mcp": told if misled else other, "seen|best": other.clone() if misled else told.clone()}
    tensors |= {"seen_failure": told > 0.5, "seen_folds": torch.arange(100) % 5}
    stack = {"names": ["mcp", "best"], "ridge": 1.0, "how": "cross_validated", "rows": 40, "wrong": 9}
    record = {"kind": "doubt-study", "groups": None, "stack": stack, "weights": {}, "images": 40, "wrong": 9}
    path = folder / f"{seed}.safetensors"
    save_tensors(path, tensors, record)
    return path


@pytest.mark.parametrize("behind", [False, True])
def test_the_aim_is_met_or_the_table_says_where_not(study: ModuleType, tmp_path: Path, behind: bool) -> None:
    files = [written(tmp_path, seed, behind) for seed in (1, 2)]
    cell = study.compared(files)
    assert cell["minus"]["auroc"]["best"] == "best"
    low, middle, high = cell["minus"]["auroc"]["mcp"]
    assert low <= middle <= high
    tensors = [study.load_tensors(file, kind="doubt-study")[0] for file in files]
    probs = [torch.from_numpy(study.stacked(each, ["mcp", "best"])[0]) for each in tensors]
    ours = sum(float(auroc(p, t["failure"])) for p, t in zip(probs, tensors, strict=True)) / 2
    theirs = sum(float(auroc(t["score|mcp"], t["failure"])) for t in tensors) / 2
    assert middle == pytest.approx(ours - theirs)
    text = study.study_text({"toy, zero-shot, 8 per class": cell})
    assert ("clearly behind the best single score in 1: toy" in text) == behind
    assert "clearly better than mcp in 1" in text or behind


def test_ways_of_stacking_are_judged_on_what_was_seen(study: ModuleType, tmp_path: Path) -> None:
    found = study.variants([written(tmp_path, 1, False)])
    assert {"default", "asinh", "prior equal", "without best", "single: best"} <= found.keys()
    assert all(0 <= values[0] <= 1 for values in found.values())
    assert "| default " in study.development_text({"toy": found})


@pytest.mark.slow
def test_a_cell_is_computed_once_and_read_back(study: ModuleType, tmp_path: Path, capsys) -> None:
    given = ["cxr3", "--out", str(tmp_path), "--seeds", "2", "--sizes", "8", "--epochs", "1"]
    assert study.main([*given, "--kinds", "zero-shot"]) == 0
    first = capsys.readouterr().out
    assert "cxr3, zero-shot, 8 per class" in first
    cell = read_json(tmp_path / "study.json")["cxr3, zero-shot, 8 per class"]
    assert {"doubt", "head", "mcp", "class_gaussians"} <= cell["scores"].keys()
    assert cell["images"] == 24
    times = [path.stat().st_mtime_ns for path in tmp_path.glob("cxr3/*.safetensors")]
    assert study.main([*given, "--kinds", "zero-shot"]) == 0
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("cxr3/*.safetensors")] == times
    assert capsys.readouterr().out == first
