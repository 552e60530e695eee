"""The study of robustness on a few pictures: it stops, goes on, and its tables hold what was asked for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageDraw

from calib.robustness.corruptions import CORRUPTIONS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CLASSES = {"no_finding": 60, "pneumonia": 120, "covid19": 200}


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "robustness_study", raising=False)
    return importlib.import_module("robustness_study")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder in the layout of cxr3: two sites, of which one has a class alone."""
    root, lines = tmp_path / "cxr3", ["file,label,source,patient,split"]
    for label, grey in CLASSES.items():
        for split, count in (("train", 12), ("val", 6), ("test", 16)):
            for number in range(count):
                file = f"{label}/{split}{number}.png"
                site = "mhh" if label == "covid19" else "nih"
                lines.append(f"{file},{label},{site},{site}-{label}{split}{number},{split}")
                (root / label).mkdir(parents=True, exist_ok=True)
                image = Image.new("L", (40, 40), grey)
                ImageDraw.Draw(image).ellipse((5, 5, 12 + 1.5 * number, 30), fill=250 - grey)
                image.save(root / file)
    (root / "labels.csv").write_text("\n".join(lines))
    return root


@pytest.mark.slow
def test_the_study_goes_on_and_says_what_breaks(
    study: ModuleType, pictures: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SEVERITIES": (5,), "SEEDS": (1,), "SHOTS": 4, "EPOCHS": 1, "HEAD_EPOCHS": 1}.items():
        monkeypatch.setattr(study, name, value)
    few = {name: CORRUPTIONS[name] for name in ("noise", "contrast", "stain")}
    monkeypatch.setattr(study, "CORRUPTIONS", few)
    given = [f"cxr3={pictures}", "--out", str(tmp_path / "out"), "--images", "30"]
    with pytest.raises(SystemExit, match="3"):
        study.main([*given, "--seconds", "0"])
    assert study.main(given) == 0
    text = capsys.readouterr().out
    assert "30 of 48 test images" in text
    assert "stain and colour change nothing" in text
    for row in ("| zero-shot", "| calibrated + doubt", "| stack (P(wrong))", "| source: Hannover: CE"):
        assert row in text
    assert (tmp_path / "out" / "study.md").read_text(encoding="utf-8") == text
    assert {"cxr3.md", "cxr3.png", "cxr3-shift.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
