"""The study behind the README's table of failure scores, with two seeds and one epoch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from calib.io.files import read_json
from calib.io.tensors import save_tensors

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "failure_study.py"


def load_study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("failure_study", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    return study


@pytest.mark.slow
def test_it_pools_seeds_and_says_what_is_left_out(tmp_path: Path, capsys) -> None:
    study = load_study()
    quick = ["trainer.max_epochs=1", "scores=[entropy]", "data.views=1", "n_resamples=50"]
    arguments = ["cxr3", "--out", str(tmp_path), "--seeds", "2", "--sizes", "8,500", "--settings", *quick]
    assert study.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "545 test images, 155 predictions wrong" in printed
    assert "training split: Class 0 ('no finding') has 85" in printed.split("### cxr3, 500 per class")[1]
    cell = read_json(tmp_path / "study.json")["cxr3, 8 per class"]
    assert set(cell) == {"mcp", "entropy", "vilu", "vilu-residual", "doubt"}
    low, middle, high = cell["entropy"]["auroc"]["minus_mcp"]
    assert low <= middle <= high
    assert abs(cell["entropy"]["auroc"]["mean"] - cell["mcp"]["auroc"]["mean"] - middle) < 1e-12
    assert cell["mcp"]["auroc"]["sd"] == 0  # zero-shot predictions depend on no seed
    assert "failure_study" not in sys.modules


def test_paths_are_folders_of_a_data_set_or_files_of_medmnist(tmp_path: Path) -> None:
    study, file = load_study(), tmp_path / "pneumonia.npz"
    assert study.source_of("cxr3") == ["data.name=cxr3"]
    assert study.source_of(f"lc25000={tmp_path}") == ["data.name=lc25000", f"data.root={tmp_path}"]
    assert study.source_of(f"mine={file}") == ["data.name=medmnist", f"data.root={file}"]
    with pytest.raises(FileNotFoundError, match=r"pneumonia\.npz"):
        study.main([f"mine={file}", "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match=r"Unknown data set 'cxr4'\. Did you mean 'cxr3'"):
        study.main(["cxr3", "cxr4", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_runs_on_different_images_are_not_pooled(tmp_path: Path) -> None:
    study = load_study()
    for i, ids in enumerate((["a", "b", "c"], ["a", "b", "d"])):
        tensors = {"uncertainty.mcp": torch.rand(3), "failure": torch.tensor([True, False, True])}
        record = {"kind": "uncertainties", "version": 1, "ids": ids, "groups": None}
        save_tensors(tmp_path / str(i) / "uncertainties.safetensors", tensors, record)
    with pytest.raises(ValueError, match="judged on different images"):
        study.pooled({"residual": [tmp_path / "0", tmp_path / "1"]})
