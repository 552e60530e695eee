"""`calib robustness`: on a run with images, on packaged features by a column, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests_shared import PLAIN, SHORT

from calib.cli import run
from calib.config import load_config
from calib.data.specs import load_data

DATA = ["data.name=folder", "data.shots=2", "data.views=0", "data.val_shots=1", "calibrate.method=none"]
QUICK = ["n_resamples=50", "seed=1"]


@pytest.fixture(scope="module")
def trained(image_folder: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of the small model on pictures."""
    from calib.commands.train import train

    folder = tmp_path_factory.mktemp("robust") / "run"
    data = [*DATA, f"data.root={image_folder}", f"data.cache_dir={folder.parent / 'cache'}"]
    train(load_config([*SHORT, *PLAIN, tiny, *data, f"out={folder}", "trainer.max_epochs=1"], task="prompt"))
    return folder


def test_a_run_and_its_baselines_in_one_table(trained: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    out = tmp_path / "robust"
    settings = ["corruptions=[blur,noise,shadow]", "severities=[1,5]", f"out={out}", *QUICK]
    settings += [f"data.cache_dir={tmp_path / 'cache'}", "data.encode_batch_size=9"]
    assert run("robustness", [str(trained), *settings]) == 0
    shown = capsys.readouterr().out
    words = (
        "calibprompt",
        "coop",
        "zero-shot",
        "(class prior, calibrated)",
        "→",
        "confidence %",
        "change [95 %]",
        "worst under",
        "| all corruptions 5 ",
        f"Every condition with its intervals: {out / 'table.md'}",
    )
    assert all(word in shown for word in (*words, "calib sets and calib review would add them"))
    written = {path.name for path in out.iterdir()} - {".lock"}
    files = {"robustness.yaml", "robustness.csv", "metrics.json", "severities.png", "table.md"}
    assert written == files
    found = json.loads((out / "metrics.json").read_text())
    assert found["about"]["images"] == 9
    assert {row["condition"] for row in found["rows"]} >= {"as it is", "noise 5", "blur", "all corruptions"}
    assert {row["system"] for row in found["rows"]} == {"calibprompt", "coop", "zero-shot"}
    usual = {
        (row["system"], row["measure"]): row["value"][0] for row in found["rows"] if row["kind"] == "usual"
    }
    reported = json.loads((trained / "metrics.json").read_text())["test"]
    assert usual["calibprompt", "accuracy"] == pytest.approx(reported["accuracy"])
    assert usual["calibprompt", "ece"] == pytest.approx(reported["ece"])

    encoded: list[int] = []
    from calib.data import encode

    monkeypatch.setattr(encode._Looks, "encode", lambda *args: encoded.append(1))
    assert run("robustness", [str(trained), *settings]) == 0  # everything comes from the cache
    assert not encoded
    assert json.loads((out / "metrics.json").read_text()) == found


def test_a_shift_by_a_column_needs_no_images(runs: dict[int, Path], tmp_path: Path, capsys) -> None:
    test = load_data("cxr3").test
    sites = ["A" if name.endswith(("1.jpg", "2.jpg", "3.jpg")) else "B" for name in test.names]
    lines = [f"{name},{site}" for name, site in zip(test.names, sites, strict=True)]
    (tmp_path / "sites.csv").write_text("\n".join(["file,site", *lines]))
    settings = [
        f"metadata={tmp_path / 'sites.csv'}",
        "usual=[B]",
        "corruptions=[]",
        f"out={tmp_path / 'out'}",
    ]
    both = [str(folder) for folder in runs.values()]
    assert run("robustness", [*both, "shift_by=site", *settings, *QUICK, "images=300"]) == 0
    shown = capsys.readouterr().out
    assert "Each cell: site B (usual) (195 images) → site A (105 images)." in shown
    assert "300 of 545 images are judged" in shown
    assert "- site B (usual), 195 images: " in shown
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["about"]["seeds"]["calibprompt"] == [1, 2]
    rows = {(row["condition"], row["system"]): row for row in found["rows"] if row["measure"] == "accuracy"}
    assert rows["site: A", "calibprompt"]["sd"] is not None
    assert rows["site: A", "calibprompt"]["n"] + rows["site: usual", "calibprompt"]["n"] <= 300
    assert not (tmp_path / "out" / "severities.png").exists()
    (tmp_path / "few.csv").write_text("\n".join(["file,site", *lines[:5]]))
    few = [f"metadata={tmp_path / 'few.csv'}", "corruptions=[]", "shift_by=site"]
    assert run("robustness", [both[0], *few]) == 1
    assert "lacks 540 of 545 images in its column 'file'" in capsys.readouterr().err


def test_data_without_test_images_are_refused_with_what_to_do(
    trained: Path, image_folder: Path, tmp_path: Path, capsys
) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "images" / "train")
    assert run("robustness", [str(trained), f"data.root={tmp_path / 'images'}"]) == 1
    said = capsys.readouterr().err
    assert "has no 'test' folder" in said
    assert "give data with test images (data.root=IMAGES" in said


@pytest.mark.slow
def test_a_failure_head_is_judged_with_its_own_doubt(runs: dict[int, Path], tmp_path: Path, capsys) -> None:
    from calib.commands.failure.run import train_failure

    head = ["head.hidden=[16]", "doubt=head", "scores=[mcp]", "trainer.max_epochs=1"]
    quick = [*SHORT, "n_resamples=20", *head]
    train_failure(load_config([*quick, f"prompt={runs[1]}", f"out={tmp_path / 'head'}"], task="failure"))
    test = load_data("cxr3").test
    lines = [f"{name},{'AB'[row % 2]}" for row, name in enumerate(test.names)]
    (tmp_path / "sites.csv").write_text("\n".join(["name,site", *lines]))
    asked = ["shift_by=site", f"metadata={tmp_path / 'sites.csv'}", "usual=[A]", "corruptions=[]", *QUICK]
    assert run("robustness", [str(tmp_path / "head"), *asked, f"out={tmp_path / 'out'}"]) == 0
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    found = {row["measure"]: row["value"][0] for row in rows if row["condition"] == "as it is"}
    written = json.loads((tmp_path / "head" / "metrics.json").read_text())
    scores = written["scores"]
    assert {row["system"] for row in rows} == {"calibprompt + failure head"}
    assert found["auroc:confidence"] == pytest.approx(scores["mcp"]["auroc"], abs=1e-6)
    assert found["aurc"] == pytest.approx(scores[written["head"]]["aurc"], abs=1e-6)
    other = ["doubt=mcp", f"prompt={runs[1]}", f"out={tmp_path / 'other'}"]
    train_failure(load_config([*quick, *other], task="failure"))
    capsys.readouterr()
    assert run("robustness", [str(tmp_path / "head"), str(tmp_path / "other"), *asked]) == 1
    assert "are different heads, both of 'calibprompt + failure head' with seed 1" in capsys.readouterr().err


REFUSED: list[tuple[list[str], str]] = [
    ([], "Nothing to judge"),
    (["RUN", "corruptions=[blurr]"], "Unknown corruption 'blurr'. Did you mean 'blur'?"),
    (["RUN", "severities=[1,6]"], "severities must be whole numbers from 1 (mild) to 5 (strong), not 6"),
    (["RUN", "severities=[]"], "and there are none"),
    (["RUN", "corruptions=[]"], "shift_by=COLUMN"),
    (["RUN", "split=train"], "split must be one of test, val, not 'train'"),
    (["RUN", "corruptions=[blur]"], "features without their images, which cannot be corrupted"),
    (["RUN", "corruptions=[]", "shift_by=site"], "metadata=FILE.csv"),
    (["RUN", "out=RUN"], "is the folder of a run"),
    (["nowhere"], "There is no exported prompt at 'nowhere'"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=lambda each: str(each)[-30:])
def test_what_cannot_be_judged_is_refused(given: list[str], message: str, runs: Any, capsys) -> None:
    assert run("robustness", [each.replace("RUN", str(runs[1])) for each in given]) == 1
    assert message in capsys.readouterr().err
