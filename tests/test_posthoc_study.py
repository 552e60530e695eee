"""The study of calibrators from few rows, on toy outputs."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from toy_outputs import outputs

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "posthoc_study.py"


def load_study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("posthoc_study", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    return study


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped_and_counts_each_draw_once(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    study = load_study()
    few = {name: study.CALIBRATORS[name] for name in (*study.DEFAULT, "isotonic")}
    monkeypatch.setattr(study, "CALIBRATORS", few)
    monkeypatch.setattr(study, "METHODS", (study.NONE, *few, *study.CHOSEN))
    logits, labels = outputs(150)
    np.savez(tmp_path / "toy.npz", logits=logits.numpy(), labels=labels.numpy())
    arguments = [
        f"toy={tmp_path / 'toy.npz'}",
        "--out",
        str(tmp_path / "out"),
        "--sizes",
        "4",
        "--draws",
        "2",
    ]
    assert study.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "### toy, 4 rows per class (12 rows, 138 test), no shares, 2 draws" in printed
    assert "told the true class shares, 2 draws" in printed
    file = tmp_path / "out" / "draws.csv"
    before = file.read_text(encoding="utf-8")
    lines = before.splitlines()
    assert len(lines) == 4 * len(study.METHODS)
    file.write_text("\n".join([*lines[: 2 * len(study.METHODS) + 3], lines[-1][:20]]), encoding="utf-8")
    assert study.main(arguments) == 0
    rows = study.read_rows(file)
    assert len(rows) == len(lines)
    written = {tuple(line) for line in csv.reader(lines)}
    assert {tuple(row[name] for name in study.FIELDS) for row in rows} == written
    assert (tmp_path / "out" / "study.md").read_text(encoding="utf-8") == printed
    assert study.main([*arguments, "--minutes", "0"]) == 0


def test_draws_leave_rows_of_every_class_for_the_test_and_depend_on_their_number() -> None:
    study = load_study()
    labels = torch.tensor([0] * 10 + [1] * 5 + [2])
    shown = study.drawn(labels, 4, 0)
    assert torch.bincount(labels[shown]).tolist() == [4, 2, 1]
    assert torch.equal(shown, study.drawn(labels, 4, 0))
    assert not torch.equal(shown, study.drawn(labels, 4, 1))


def test_option_logits_are_those_of_first_rotations_with_four_options(tmp_path: Path) -> None:
    study = load_study()
    items = [
        {"item": "a", "dataset": "mmbench_dev", "rotation": 0, "n_listed": 4, "gold": 2},
        {"item": "b", "dataset": "mmbench_dev", "rotation": 1, "n_listed": 4, "gold": 2},
        {"item": "c", "dataset": "mmbench_dev", "rotation": 0, "n_listed": 3, "gold": 2},
        {"item": "d", "dataset": "oodcv", "rotation": 0, "n_listed": 4, "gold": 1},
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    answers = [{"item": name, "option_logits": [1, 2, 3, 4, 5, 6]} for name in "abcd"]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, answers)), encoding="utf-8")
    logits, labels = study.load(tmp_path / "m.jsonl")
    assert logits.tolist() == [[1, 2, 3, 4]]
    assert labels.tolist() == [2]
    np.savez(tmp_path / "x.npz", probs=np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="no array labels"):
        study.load(tmp_path / "x.npz")
