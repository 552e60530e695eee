"""The study of prediction sets, with few draws."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from toy_outputs import outputs

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("sets_study", "posthoc_study"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("sets_study")


def cells(text: str, start: str) -> list[str]:
    return [cell.strip() for cell in next(r for r in text.splitlines() if r.startswith(start)).split("|")]


@pytest.mark.slow
def test_coverage_is_kept_lost_under_a_shift_and_repaired(study: ModuleType, tmp_path: Path, capsys) -> None:
    study.SIZES = (256,)
    assert study.main(["simulate", "--draws", "60", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "simulate.md").read_text(encoding="utf-8") == text
    kept = cells(text, "| lac, ties")
    assert float(kept[3]) > 0.9 - float(kept[4])
    shifted, repaired = (
        float(cells(text, f"| {name}")[3])
        for name in ("aps, fitted on balanced cases", "aps, on balanced cases, shares stated")
    )
    assert abs(repaired - 0.9) < 0.01 < abs(shifted - 0.9)


@pytest.mark.slow
def test_outputs_and_shots_have_a_line_for_each_way(study: ModuleType, tmp_path: Path, capsys) -> None:
    logits, labels = outputs(300)
    np.savez(tmp_path / "toy.npz", logits=logits.numpy(), labels=labels.numpy())
    words = ["outputs", f"toy={tmp_path / 'toy.npz'}", "--draws", "2", "--sizes", "20"]
    assert study.main([*words, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.count("| 20 (60)") == 2 * len(study.OF_OUTPUTS)
    assert study.main(["shots", "cxr3", "--draws", "1", "--sizes", "8", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert all(f"| {way} " in text for way in ("full, left out (SS-Text)", "Conf-OT", "LATA, per class"))
