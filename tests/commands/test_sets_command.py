"""`calib sets`: from labelled outputs or a run to sets, and from sets to a table."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from toy_outputs import outputs

from calib import cli
from calib.commands.sets_arguments import sets_arguments
from calib.data.set_file import SetFile
from calib.io.files import read_json, write_json
from calib.posthoc import PredictionSets
from calib.prompts.export import Prompt

NAMES = ["no finding", "=1+1", "covid"]


def write(path: Path, n: int = 90, seed: int = 0, *, labelled: bool = True, more: dict | None = None) -> Path:
    logits, labels = outputs(n, seed, 1.0)
    probs = logits.double().softmax(dim=1)
    more = more or {}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        label = ["label"] if labelled else []
        writer.writerow(["file", *(f"p({name})" for name in NAMES), *label, *more])
        for i, row in enumerate(probs.tolist()):
            cells = [NAMES[labels[i]]] if labelled else []
            writer.writerow([f"{i}.png", *row, *cells, *(each(i) for each in more.values())])
    return path


def run(*arguments: object) -> int:
    return cli.main(["sets", *map(str, arguments)])


def test_a_file_is_fitted_judged_and_applied(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "val.csv")
    write(tmp_path / "test.csv", 200, 3)
    write(tmp_path / "new.csv", 40, 4, labelled=False)
    assert run("val.csv", "coverage=0.8", "score=aps", "--test", "test.csv") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Sets:     ")
    assert re.search(
        r"none \(90 calibration cases\)\.\nCoverage: 80 % on average; of these very sets", printed
    )
    assert "90 labelled rows (no finding" in printed
    assert "At least 80 % of new cases have their class in their set" in printed
    assert "On test.csv: coverage with 95 % intervals" in printed
    assert re.search(r"chance alone makes [\d.]+ %", printed)
    file = SetFile.load("sets.json")
    assert file.class_names == NAMES
    assert (file.sets.score, file.sets.coverage) == ("aps", 0.8)
    low, high = file.sets.interval()
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in printed
    assert run("sets.json", "--apply", "new.csv", "--out", "done.csv") == 0
    said = capsys.readouterr()
    assert "none (40 rows)" in said.out
    assert "At least 80 %" in said.err
    logits, _ = outputs(40, 4, 1.0)
    wanted = file.sets(logits.double().softmax(dim=1)).tolist()
    with open("done.csv", newline="", encoding="utf-8") as done:
        rows = list(csv.DictReader(done))
    shown = ["no finding", "'=1+1", "covid"]
    for row, inside in zip(rows, wanted, strict=True):
        assert row["set"] == ("; ".join(n for n, i in zip(shown, inside, strict=True) if i) or "(none)")


def test_each_class_each_hospital_and_stated_shares(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    site = {"site": lambda i: ["north", "south"][i % 2]}
    write(tmp_path / "val.csv", more=site)
    write(tmp_path / "new.csv", 20, 5, labelled=False, more=site)
    write(tmp_path / "other.csv", 20, 5, labelled=False, more={"site": lambda i: "west"})
    write(tmp_path / "none.csv", 20, 5, labelled=False)
    assert run("val.csv", "by=site", "coverage=0.8") == 0
    assert "of each stratum" in capsys.readouterr().out
    assert run("sets.json", "--apply", "new.csv", "--out", "done.csv") == 0
    assert run("sets.json", "--apply", "other.csv", "--out", "more.csv") == 1
    assert "No calibration case was of the stratum 'west'" in capsys.readouterr().err
    assert run("sets.json", "--apply", "none.csv", "--out", "more.csv") == 1
    assert "no column 'site', which says the strata" in capsys.readouterr().err
    assert not (tmp_path / "more.csv").exists()
    assert run("val.csv", "by=class", "coverage=0.8") == 0
    assert "of each class, however frequent it is" in capsys.readouterr().out
    assert run("val.csv", "shares=no finding=0.8,=1+1=0.1,covid=0.1") == 0
    assert "=1+1 10 %" in capsys.readouterr().out
    assert run("val.csv", "shares=no finding=0.8,covid=0.2") == 1
    assert "must name every class once; missing: =1+1" in capsys.readouterr().err


def test_arrays_become_arrays(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    logits, labels = outputs(60)
    np.savez("val.npz", logits=logits.numpy(), labels=labels.numpy(), groups=np.arange(60) // 2)
    np.savez("new.npz", logits=logits.numpy()[:7])
    assert run("val.npz", "coverage=0.8", "--out", "mine.json") == 0
    assert "60 labelled rows of 30 groups" in capsys.readouterr().out
    assert run("mine.json", "--apply", "new.npz", "--out", "done.npz") == 0
    with np.load("done.npz") as done:
        assert done["sets"].shape == (7, 3)
        assert done["sets"].dtype == bool
    assert SetFile.load("mine.json").sets.table()[0]["cases"] == 30


def test_a_test_of_one_patient_is_judged(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "val.csv")
    write(tmp_path / "test.csv", 20, 3, more={"patient": lambda i: "p"})
    assert run("val.csv", "coverage=0.8", "--test", "test.csv") == 0
    printed = capsys.readouterr().out
    assert "On test.csv" in printed
    assert "independent" not in printed


def test_a_run_keeps_its_sets(calibrated: Path, tmp_path: Path, capsys) -> None:
    """From the left-out shots, as this run has no validation images, and from a file."""
    before = Prompt.load(calibrated / "prompt.safetensors")
    kept = (calibrated / "prompt.safetensors").read_bytes()
    try:
        assert run(calibrated, "coverage=0.8", "score=aps") == 0
        printed = capsys.readouterr().out
        assert "24 left-out shots" in printed
        assert "holds nearly, not exactly" in printed
        assert "balanced, 8 of each class" in printed
        after = Prompt.load(calibrated / "prompt.safetensors")
        assert after.decisions.sets.score == "aps"
        assert after.decisions.sets.cells.left_out
        assert after.decisions.about["sets"]["on"] == "left-out shots"
        assert (after.text_features == before.text_features).all()
        assert run(calibrated, "--on", calibrated / "predictions.safetensors", "by=class") == 0
        assert Prompt.load(calibrated / "prompt.safetensors").decisions.sets.per_class
        assert run(calibrated, "--group", "site") == 1
        assert "--group: no file is read here" in capsys.readouterr().err
        assert run(calibrated, "by=site") == 1
        assert "by=site" in capsys.readouterr().err
        assert run(calibrated, "cases=validation") == 1
        assert "data.val_shots=0" in capsys.readouterr().err
        metrics = read_json(calibrated / "metrics.json")
        damaged = {**metrics, "left_out": {**metrics["left_out"], "labels": [7]}}
        write_json(calibrated / "metrics.json", damaged)
        assert run(calibrated) == 1
        assert "left_out does not fit the prompt" in capsys.readouterr().err
        write_json(calibrated / "metrics.json", metrics)
    finally:
        (calibrated / "prompt.safetensors").write_bytes(kept)


def test_a_run_with_validation_images_is_fitted_on_these(runs: dict[int, Path], capsys) -> None:
    kept = (runs[1] / "prompt.safetensors").read_bytes()
    try:
        assert run(runs[1], "coverage=0.8") == 0
        assert "12 labelled rows" in capsys.readouterr().out
        assert run(runs[1], "cases=shots") == 1
        assert "holds no left-out shots" in capsys.readouterr().err
    finally:
        (runs[1] / "prompt.safetensors").write_bytes(kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.csv", "coverage=90"], "coverage must be a share above 0 and below 1"),
        (["a.csv", "coverage"], "is no setting"),
        (["a.csv", "coverge=0.9"], "Did you mean 'coverage'"),
        (["a.csv", "coverage=0.9", "coverage=0.8"], "given twice"),
        (["a.csv", "score=app"], "Did you mean 'aps'"),
        (["a.csv", "by="], "says nothing"),
        (["a.csv", "never_empty=yes"], "true or false"),
        (["a.csv", "seed=1.5"], "whole number"),
        (["a.csv", "penalty=0.1"], "settings of score=raps"),
        (["a.csv", "score=raps", "penalty=-1"], "at least 0"),
        (["a.csv", "cases=test"], "value of cases"),
        (["a.csv", "shares=a=0.5,b=0.5", "by=class"], "leave out by and confidence"),
        (["a.csv", "--kind", "logit"], "--kind"),
        (["a.csv", "--apply", "b.csv", "--out", "c.csv"], "--apply takes a sets.json"),
        (["sets.json"], "is applied with --apply"),
        (["sets.json", "--apply", "b.csv"], "--apply needs --out"),
        (["sets.json", "--apply", "b.csv", "--out", "c.csv", "coverage=0.8"], "coverage: nothing is fitted"),
        (["runs/mine", "--on", "b.csv", "--weights", "w"], "not for --on FILE"),
    ],
)
def test_arguments_that_cannot_be(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sets_arguments(arguments)


def test_files_that_cannot_be(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "val.csv")
    sets = PredictionSets(coverage=0.8).fit(outputs()[0].softmax(dim=1), outputs()[1])
    SetFile(NAMES, sets).save("sets.json")
    record = json.loads((tmp_path / "sets.json").read_text())
    record["sets"]["thresholds"] = [[0.1, 0.1, 0.1]]
    (tmp_path / "sets.json").write_text(json.dumps(record))
    assert run("sets.json", "--apply", "val.csv", "--out", "x.csv") == 1
    assert "its checksum is another" in capsys.readouterr().err
    for change, message in (
        ({"kind": "calibrator"}, "not a file of prediction sets"),
        ({"version": 2}, "version"),
        ({"class_names": ["a", "b"]}, "3 classes, and there are 2 names"),
        ({"by": "site"}, "by and strata"),
        ({"by": 3}, "by a string"),
        ({"sets": {}}, "keys"),
    ):
        SetFile(NAMES, sets).save("sets.json")
        whole = read_json("sets.json")
        write_json("sets.json", {**whole, **change})
        assert run("sets.json", "--apply", "val.csv", "--out", "x.csv") == 1
        assert message in capsys.readouterr().err
    SetFile(NAMES, sets).save("sets.json")
    for arguments, message in (
        (("val.csv", "--out", "x.csv"), "must end in .json"),
        (("val.csv", "--on", "val.csv"), "--on is for runs"),
        (("val.csv", "cases=shots"), "is for runs"),
        (("val.csv", "--out", "val.csv"), "one of the files to read"),
        (("val.csv", "--classes", "a,b,c"), "They must be the same"),
        (("absent.csv",), "no file"),
    ):
        assert run(*arguments) == 1
        assert message in capsys.readouterr().err
    write(tmp_path / "one.csv", 1)
    assert run("one.csv", "--out", "one.json") == 1
    assert "All 1 labels are of class" in capsys.readouterr().err
