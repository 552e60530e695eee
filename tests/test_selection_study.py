"""The study of strategies, with few of them, two seeds and the smallest budget."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("selection_study", "calibration_study"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("selection_study")


def units(values: dict[tuple[str, int, str], list[float]]) -> dict[tuple[str, int, str], list[dict]]:
    return {
        key: [{"seed": seed, "x": {"accuracy": value}} for seed, value in enumerate(found, start=1)]
        for key, found in values.items()
    }


@pytest.mark.slow
def test_differences_are_paired_by_data_set_and_seed_and_averaged_over_budgets(study: ModuleType) -> None:
    cells = units(
        {
            ("a", 4, "random"): [0.5, 0.6],
            ("a", 8, "random"): [0.7, 0.8],
            ("a", 4, "epig"): [0.6, 0.6],
            ("a", 8, "epig"): [0.8, 0.6],
            ("b", 4, "epig"): [0.1, 0.1],  # nothing to pair with
        }
    )
    found = study.differences(cells, "x", "accuracy", "epig", None)
    assert found == pytest.approx(np.array([0.1, -0.1]))
    assert len(study.differences(cells, "x", "accuracy", "epig", "b")) == 0


@pytest.mark.slow
def test_the_grid_goes_on_and_its_tables_hold_every_way(study: ModuleType, tmp_path: Path, capsys) -> None:
    study.BUDGETS, study.WAYS = (4,), ("balanced", "random", "k_centre", "entropy in halves")
    words = ["probe", "cxr3", "--seeds", "2", "--out", str(tmp_path)]
    assert study.main([*words, "--minutes", "0"]) == 75
    assert study.main(words) == 0
    text = capsys.readouterr().out
    cell = tmp_path / "probe" / "cxr3-4-k_centre.json"
    before = cell.stat().st_mtime_ns
    assert study.main(words) == 0
    assert cell.stat().st_mtime_ns == before
    assert capsys.readouterr().out == text == (tmp_path / "study.md").read_text(encoding="utf-8")
    assert all(text.count(f"| {way} ") >= 4 for way in ("balanced", "k_centre", "entropy in halves"))
    record = study.read_cells(tmp_path / "probe")["cxr3", 4, "balanced"]
    assert [each["counts"] for each in record] == [[4, 4, 4]] * 2
    assert all(
        sum(each["counts"]) == 12 for each in study.read_cells(tmp_path / "probe")["cxr3", 4, "random"]
    )


@pytest.mark.slow
def test_the_probe_of_no_shots_is_zero_shot_and_of_many_it_learns(study: ModuleType) -> None:
    subject = next(iter(study.subjects(["cxr3"], Path("unused"))))
    weight = subject.weight.double()
    assert torch.allclose(study.probe_weight(weight, subject.train, [0, 1], 1e-6), weight, atol=1e-3)
    learned = study.probe_weight(weight, subject.train, range(len(subject.train)), 10.0)

    def right(weights: torch.Tensor) -> float:
        found = (subject.test.image_features.double() @ weights.T).argmax(dim=1)
        return float((found == subject.test.labels).double().mean())

    assert right(learned) > right(weight) + 0.05
    assert len(set(subject.pool(1)) ^ set(subject.pool(2))) > 20
