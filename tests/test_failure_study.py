"""The study behind the README's table of failure scores, with two seeds and one epoch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from calib.files import read_json

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "failure_study.py"


def test_it_pools_seeds_and_says_what_is_left_out(tmp_path: Path, capsys) -> None:
    spec = importlib.util.spec_from_file_location("failure_study", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    quick = ["trainer.max_epochs=1", "scores=[entropy,logit_scaling]", "data.views=1"]
    arguments = ["cxr3", "--out", str(tmp_path), "--seeds", "2", "--sizes", "8,500", "--settings", *quick]
    assert study.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "545 test images, 155 predictions wrong" in printed
    assert "training split: Class 0 ('no finding') has 85" in printed.split("### cxr3, 500 per class")[1]
    cell = read_json(tmp_path / "study.json")["cxr3, 8 per class"]
    assert set(cell) == {"mcp", "entropy", "logit_scaling", "vilu", "vilu-residual"}
    low, middle, high = cell["entropy"]["auroc"]["minus_mcp"]
    assert low <= middle <= high
    assert abs(cell["entropy"]["auroc"]["mean"] - cell["mcp"]["auroc"]["mean"] - middle) < 1e-12
    assert cell["mcp"]["auroc"]["sd"] == 0  # zero-shot predictions depend on no seed
    assert "failure_study" not in sys.modules
