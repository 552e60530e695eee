"""The study of segmentation: its plain formula is that of the loss, its tables hold what was trained."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pixel_files import write_pixels

from calib.losses import ml1_ace

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "segmentation_study", raising=False)
    return importlib.import_module("segmentation_study")


@pytest.mark.parametrize("soft", [False, True])
def test_the_formula_written_down_plainly_is_the_loss(study: ModuleType, soft: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 9, generator=generator).requires_grad_()
    labels = torch.randint(0, 3, (2, 8, 9), generator=generator)
    values = [loss(logits, labels, soft=soft) for loss in (study.plain_ace, ml1_ace)]
    torch.testing.assert_close(*values)
    gradients = [torch.autograd.grad(value, logits)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_cells_are_trained_once_and_tables_compare_them(study: ModuleType, tmp_path: Path, capsys) -> None:
    root = write_pixels(tmp_path / "data", {"x": 8})
    splits = ["train", "train", "val", "val", "test", "test", "test", "test"]
    kinds = ["fluorescence"] * 6 + ["stained_light"] * 2
    lines = [
        f"x/images/{n}.png,x/masks/{n}.png,{split},{kind}"
        for n, (split, kind) in enumerate(zip(splits, kinds, strict=True))
    ]
    (root / "labels.csv").write_text("\n".join(["file,mask,split,kind", *lines]))
    study.SEEDS, study.CLASSES = range(1, 3), {"background": 0, "nucleus": 1}
    study.SETTINGS = {**study.SETTINGS, "channels": [4, 8], "size": 16, "batch_size": 2, "epochs": 20}
    out = ["--out", str(tmp_path / "out")]
    assert study.main(["train", str(root), *out, "--seconds", "0"]) == 3  # one cell each time at least
    assert "11 cells are left" in capsys.readouterr().out
    assert study.main(["train", str(root), *out]) == 0
    assert study.main(["train", str(root), *out]) == 0  # nothing is trained again
    assert capsys.readouterr().out.count("All cells are done") == 2
    assert study.main(["table", str(root), *out]) == 0
    text = capsys.readouterr().out
    assert "2 test images of stained_light (NOT trained on)" in text
    assert text.count("| Dice + CE, temperature") == 4
    assert (tmp_path / "out" / "fluorescence-on-stained_light.png").is_file()
