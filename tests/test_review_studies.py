"""The studies of review thresholds and of strange images: what they call true is true, and they run."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from toy_outputs import outputs

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load_study(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    sys.modules[name] = study  # its dataclasses look their module up
    spec.loader.exec_module(study)
    return study


def test_the_true_error_is_that_of_the_formula(monkeypatch) -> None:
    study = load_study("review_study")
    monkeypatch.setattr(study, "REFERENCE", 20_000)
    truth, worse = study.Truth(study.WORLDS["continuous"]), study.Truth(study.WORLDS["continuous"], 1.5)
    for share in (0.2, 0.52, 1.0):
        found, error = truth(study.TOP * share**study.STEEP + 1e-9)
        assert found == pytest.approx(share, abs=0.02)
        assert error == pytest.approx(0.23 * share**study.STEEP, abs=0.01)
        assert worse(study.TOP * share**study.STEEP)[1] == pytest.approx(1.5 * error, rel=0.02)
    assert truth(None) == (0.0, 0.0)
    assert truth(math.inf)[0] == 1.0
    patients = study.Truth(study.WORLDS["patients"])
    assert 0 < patients(0.1)[1] < patients(0.2)[1] < 1


def test_it_runs_with_simulations_and_with_recorded_outputs(monkeypatch, tmp_path: Path, capsys) -> None:
    study = load_study("review_study")
    monkeypatch.setattr(study, "REFERENCE", 2000)
    monkeypatch.setattr(study, "LEVELS", ((0.2, 0.1), (0.1, 0.1)))
    assert study.main(["--draws", "3", "--sizes", "40"]) == 0
    printed = capsys.readouterr().out
    for world in (*study.WORLDS, "shift", "batch rule, batches of 300"):
        assert f"### {world}, 3 draws" in printed
    logits, labels = outputs(300)
    np.savez(tmp_path / "toy.npz", logits=logits.numpy(), labels=labels.numpy())
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    assert study.main(["--draws", "3", "--real-sizes", "50", "200", "--", f"toy={tmp_path / 'toy.npz'}"]) == 0
    printed = capsys.readouterr().out
    assert "### toy, thresholds with 90 % confidence" in printed
    assert len([line for line in printed.splitlines() if line.startswith("| toy (")]) == 4


@pytest.mark.slow
def test_strange_images_are_marked(capsys, monkeypatch) -> None:
    study = load_study("familiarity_study")
    monkeypatch.setattr(study, "TASKS", ("cxr3", "lc25000"))
    assert study.main(["--seeds", "1"]) == 0
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()
    ]
    found = {(row[0], row[1]): row[3] for row in cells[2:] if len(row) == 5}
    for kind in ("noise", "photographs", "smooth colours"):
        assert found["cxr3", kind] == found["lc25000", kind] == "100.0"
    assert float(found["cxr3", "own test"]) < 15
