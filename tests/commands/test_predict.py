from __future__ import annotations

import csv
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests_shared import SHORT

from calib.cli import main
from calib.commands.predict import find_images, predict
from calib.commands.train import train
from calib.config import load_config
from calib.data.predictions import Predictions
from calib.posthoc import PredictionSets, ReviewThreshold
from calib.prompts.export import Prompt
from calib.runs.decisions import keep_decisions


@pytest.fixture(scope="module")
def run(image_folder: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = [
        "data.name=folder",
        f"data.root={image_folder}",
        "data.shots=3",
        "data.val_shots=0",
        "data.views=0",
    ]
    cache = f"data.cache_dir={folder / 'cache'}"
    train(load_config([*SHORT, *data, cache, f"out={folder / 'run'}", "baselines=[]"], task="prompt"))
    return folder / "run"


def test_predictions_equal_those_of_the_run(run: Path, image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions.csv"
    predict(run, [str(image_folder / "test")], out=out)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    known = Predictions.load(run / "predictions.safetensors")
    assert len(rows) == 9
    for row in rows:
        name = Path(row["file"]).relative_to(image_folder / "test").as_posix()
        index = next(i for i, known_name in enumerate(known.names) if known_name.endswith(name))
        best = known.probs[index].argmax()
        assert row["prediction"] == known.class_names[best]
        assert float(row["confidence"]) == pytest.approx(known.probs[index, best].item(), abs=1e-4)
        total = sum(float(row[f"p({class_name})"]) for class_name in known.class_names)
        assert total == pytest.approx(1, abs=3e-6)


def test_files_folders_and_patterns(image_folder: Path) -> None:
    one = image_folder / "test" / "class_0" / "0.png"
    assert find_images([str(one), str(one)]) == [one]
    assert len(find_images([str(image_folder)])) == 27
    assert len(find_images([str(image_folder / "train" / "*" / "1.png")])) == 3
    with pytest.raises(FileNotFoundError, match=r"'nothing/\*.png' fits no image"):
        find_images(["nothing/*.png"])


def test_a_file_that_is_no_image_is_named_and_nothing_written(
    run: Path, image_folder: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("not an image")
    good = image_folder / "test" / "class_0" / "0.png"
    with pytest.raises(ValueError, match=r"bad\.png"):
        predict(run, [str(good), str(bad)], out=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_another_backbone_is_refused(run: Path, image_folder: Path, tmp_path: Path) -> None:
    export = Prompt.load(run / "prompt.safetensors")
    export.backbone["weights"]["digest"] = "0" * 64
    export.save(tmp_path / "prompt.safetensors")
    with pytest.raises(ValueError, match=r"made for embedded with weights 0{12}"):
        predict(tmp_path, [str(image_folder)])


def test_batches_do_not_change_predictions(run: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        pixels = torch.randint(0, 255, (40, 50, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{number}.png")
    whole, single = (
        [row.split(",") for row in predict(run, [str(tmp_path)], batch_size=size).splitlines()[1:]]
        for size in (3, 1)
    )
    assert [row[1] for row in whole] == [row[1] for row in single]
    for a, b in zip(whole, single, strict=True):
        assert [float(x) for x in a[2:6]] == pytest.approx([float(x) for x in b[2:6]], abs=1e-4)
        assert a[6:] == b[6:]


def test_what_is_wrong_with_the_arguments_is_said_before_any_work(
    run: Path, image_folder: Path, tmp_path: Path
) -> None:
    images = [str(image_folder / "test")]
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"--batch-size must be at least 1, not 0"):
        predict(run, images, batch_size=0)
    with pytest.raises(ValueError, match=r"--out .* cannot be written: it is a folder"):
        predict(run, images, out=tmp_path)
    with pytest.raises(ValueError, match=r"--out .* cannot be written: '.*file' is a file"):
        predict(run, images, out=tmp_path / "file" / "x.csv")
    for device in ("foo", "cuda:99", "meta", "hpu"):
        with pytest.raises(ValueError, match=f"--device {device} cannot be used here"):
            predict(run, images, device=device)
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'scan\.png'"):
        predict(run, ["scan.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"The folder '.*empty' holds no image"):
        predict(run, [str(tmp_path / "empty")])
    predict(run, images, out=tmp_path / "new" / "folder" / "x.csv")


def test_12_bit_images_are_read_as_in_training(run: Path, tmp_path: Path) -> None:
    export = Prompt.load(run / "prompt.safetensors")
    values = np.random.default_rng(0).integers(0, 4096, (40, 50)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "ct.png")
    Image.fromarray(np.rint(values * (255 / 4095)).astype(np.uint8)).save(tmp_path / "same.png")
    with pytest.raises(ValueError, match=r"ct\.png is a 16-bit image.*--grey16-max 4095 in predictions"):
        predict(run, [str(tmp_path / "ct.png")])
    given = predict(run, [str(tmp_path / "*.png")], grey16_max=4095).splitlines()
    assert given[1].split(",")[1:] == given[2].split(",")[1:]
    export.training["config"]["data"]["options"]["grey16_max"] = 4095
    export.save(tmp_path / "prompt.safetensors")
    assert predict(tmp_path, [str(tmp_path / "*.png")]).splitlines() == given


def test_unreadable_images_get_a_row_of_their_own_on_request(
    run: Path, image_folder: Path, tmp_path: Path, caplog
) -> None:
    (tmp_path / "a.png").write_text("not an image")
    good = image_folder / "test" / "class_0" / "0.png"
    Image.open(good).save(tmp_path / "b.png")
    rows = list(csv.DictReader(predict(run, [str(tmp_path)], skip_unreadable=True).splitlines()))
    assert [row["file"] for row in rows] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert "is not an image" in rows[0]["error"]
    assert (rows[0]["prediction"], rows[1]["error"]) == ("", "")
    assert float(rows[1]["confidence"]) > 1 / 3
    assert "1 of 2 images could not be read" in caplog.text
    with pytest.raises(ValueError, match=r"a\.png"):
        predict(run, [str(tmp_path)])


def test_names_cannot_become_formulas(run: Path, image_folder: Path, tmp_path: Path, monkeypatch) -> None:
    export = Prompt.load(run / "prompt.safetensors")
    export.class_names = ["=1+1", "@x", "+y"]
    export.save(tmp_path / "prompt.safetensors")
    Image.open(image_folder / "test" / "class_0" / "0.png").save(tmp_path / "=cmd.png")
    monkeypatch.chdir(tmp_path)
    row = next(iter(csv.DictReader(predict("prompt.safetensors", ["=cmd.png"]).splitlines())))
    assert row["file"] == "./=cmd.png"
    assert row["prediction"] in {"'=1+1", "'@x", "'+y"}


@pytest.fixture
def no_backbone(monkeypatch) -> None:
    """Fail a test in which a backbone is built: what is wrong at the door is said at the door."""

    def built(*args, **options) -> None:
        raise AssertionError("a backbone was built")

    monkeypatch.setattr(Prompt, "restore_backbone", built)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grey16_max": 65536}, "--grey16-max must lie between 1 and 65535, not 65536"),
        ({"out": "one.png"}, "--out one.png cannot be written: it is one of the files to read"),
        ({"out": "prompt.safetensors"}, "--out prompt.safetensors cannot be written: it is one of the files"),
        ({"out": "/dev/null"}, "--out /dev/null cannot be written: it is no ordinary file"),
    ],
)
@pytest.mark.usefixtures("no_backbone")
def test_no_other_file_is_replaced_by_the_table(
    options: dict[str, Any], message: str, run: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("one.png")
    shutil.copy(run / "prompt.safetensors", tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        predict("prompt.safetensors", ["one.png"], **options)


@pytest.mark.usefixtures("no_backbone")
def test_a_folder_that_may_not_be_written_to_is_refused_at_the_door(
    run: Path, image_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # the tests may run as root
    with pytest.raises(ValueError, match=rf"--out .*x\.csv .* '{tmp_path}' may not be written to"):
        predict(run, [str(image_folder)], out=tmp_path / "new" / "x.csv")


@pytest.mark.usefixtures("no_backbone")
def test_a_wrong_ending_is_refused_before_any_work(run: Path, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"notes\.txt does not end like an image"):
        predict(run, [str(image_folder), str(tmp_path / "notes.txt")])


@pytest.mark.parametrize("training", [{}, {"config": None}, {"config": {"data": {"options": None}}}])
def test_an_export_that_says_nothing_of_12_bit_images_still_predicts(
    training: dict[str, Any], run: Path, image_folder: Path, tmp_path: Path
) -> None:
    export = Prompt.load(run / "prompt.safetensors")
    replace(export, training=training).save(tmp_path / "prompt.safetensors")
    one = [str(image_folder / "test" / "class_0" / "0.png")]
    assert predict(tmp_path, one) == predict(run, one)


def test_only_images_that_were_read_are_counted(
    run: Path, image_folder: Path, tmp_path: Path, capsys
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("not an image")
    arguments = [str(run), str(image_folder / "test"), str(bad), "--out", str(tmp_path / "x.csv")]
    assert main(["predict", *arguments, "--skip-unreadable"]) == 0
    assert capsys.readouterr().out == f"9 predictions in {tmp_path / 'x.csv'}\n"


def test_a_pipe_or_a_device_is_said_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, kind in ((str(tmp_path / "pipe.png"), "a named pipe"), ("/dev/null", "a device")):
        with pytest.raises(ValueError, match=rf"'{name}' is {kind}, not an image file\."):
            find_images([name])


def test_progress_is_said_batch_by_batch(run: Path, image_folder: Path, caplog, monkeypatch) -> None:
    for name in ("FIRST_AFTER", "LOG_EVERY"):
        monkeypatch.setattr(f"calib.data.notices.{name}", 0.0)
    with caplog.at_level("INFO", logger="calib"):
        predict(run, [str(image_folder / "test")], batch_size=4)
    said = [line for line in caplog.messages if line.startswith("classifying images")]
    assert [line.split(" (")[0] for line in said] == [f"classifying images: {n} of 9" for n in (4, 8, 9)]
    assert "a second, about" in said[0]
    assert said[-1].endswith(" a second)")


def test_what_a_run_holds_is_loaded_from_its_folder(run: Path, tmp_path: Path) -> None:
    assert torch.equal(Prompt.load(run).text_features, Prompt.load(run / "prompt.safetensors").text_features)
    assert len(Predictions.load(run).labels) == 9
    with pytest.raises(FileNotFoundError, match=r"There is no file .*prompt\.safetensors"):
        Prompt.load(tmp_path)


def test_what_to_do_is_said_of_every_image(run: Path, image_folder: Path, tmp_path: Path, caplog) -> None:
    """Accepted, too doubtful, a copy, strange, unreadable: by the threshold and the sets in the export."""
    shutil.copy(run / "prompt.safetensors", tmp_path)
    good = image_folder / "test" / "class_0" / "0.png"
    shutil.copy(good, tmp_path / "a.png")
    shutil.copy(good, tmp_path / "b.png")
    shutil.copy(image_folder / "test" / "class_1" / "0.png", tmp_path / "c.png")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    (tmp_path / "z.png").write_text("not an image")
    path = tmp_path / "prompt.safetensors"
    plain = list(csv.DictReader(predict(path, [str(tmp_path)], skip_unreadable=True).splitlines()))
    assert list(plain[0])[-3:] == ["unlike", "note", "error"]
    doubts = sorted(round(1 - float(row["confidence"]), 6) for row in plain[:3])
    seen = torch.tensor([doubts[0] - 1e-6] * 60 + [doubts[-1] + 1e-3] * 60, dtype=torch.float64)
    review = ReviewThreshold(0.2).fit(seen, torch.arange(120) >= 60, unlabelled=torch.tensor(doubts).double())
    probs = torch.eye(3).double()[torch.arange(30) % 3] * 0.7 + 0.1
    sets = PredictionSets(coverage=0.8).fit(probs, torch.arange(30) % 3)
    keep_decisions(path, {}, review=review, sets=sets)
    caplog.set_level("INFO")
    rows = list(
        csv.DictReader(predict(path, [str(tmp_path)], skip_unreadable=True, batch_size=2).splitlines())
    )
    assert list(rows[0])[6:] == ["set", "decision", "reason", "unlike", "note", "error"]
    assert [row["note"] for row in rows] == ["", f"the same file as {tmp_path / 'a.png'}", "", "", ""]
    assert [row["unlike"] for row in rows[3:]] == ["yes", ""]
    assert (rows[3]["decision"], rows[3]["reason"]) == ("review", "unlike the images seen")
    assert (rows[4]["decision"], rows[4]["reason"], rows[4]["set"]) == ("review", "unreadable", "")
    assert review.threshold is not None
    for row in rows[:3]:
        assert row["prediction"] in (
            row["set"].split("; ") if row["set"] != "(none)" else [row["prediction"]]
        )
        passes = round(1 - float(row["confidence"]), 6) < review.threshold and row["unlike"] == "no"
        assert row["decision"] == ("accept" if passes else "review")
    lines = {each.partition(": ")[0]: each for each in caplog.messages}
    assert lines["decision"].startswith(f"decision: accept where the doubt is below {review.threshold:.6g}; ")
    assert "at most 20 % with probability 90 %" in lines["decision"]
    assert lines["set"].startswith("set: at least 80 % of new cases have their class in it, on average over ")
    assert "may go unnoticed" in lines["unlike"]
    assert all(len(lines[name]) < 250 for name in ("decision", "set", "unlike"))


def test_a_prompt_of_an_older_version_predicts_as_it_did(
    run: Path, image_folder: Path, tmp_path: Path
) -> None:
    replace(Prompt.load(run / "prompt.safetensors"), decisions=None).save(tmp_path / "prompt.safetensors")
    header, row = predict(tmp_path, [str(image_folder / "test" / "class_0" / "0.png")]).splitlines()
    assert header.split(",")[6:] == ["note"]
    assert row.endswith(",")


def test_the_patient_of_every_image_is_written_and_counted(
    run: Path, image_folder: Path, tmp_path: Path, capsys
) -> None:
    out, images = tmp_path / "predictions.csv", str(image_folder / "test")
    assert main(["predict", str(run), images, "--patients", "{patient}/*", "--out", str(out)]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["patient"] for row in rows] == [Path(row["file"]).parent.name for row in rows]
    assert list(rows[0])[:3] == ["file", "patient", "prediction"]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "label"])
        writer.writeheader()
        writer.writerows({**row, "label": row["prediction"]} for row in rows)
    capsys.readouterr()
    kept = tmp_path / "review.json"
    assert main(["review", str(out), "error=0.3", "--out", str(kept)]) == 0
    assert "9 labelled cases of 3 patients" in capsys.readouterr().out
    assert main(["review", str(out), "error=0.3", "--group", "note", "--out", str(kept)]) == 1  # empty
    capsys.readouterr()
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(["confidence,correct", *["0.9,1"] * 20]) + "\n")
    assert main(["review", str(bare), "error=0.3", "--out", str(kept)]) == 0
    assert "No column says whose a case is" in capsys.readouterr().out
    with pytest.raises(ValueError, match="fits 0 of 9 images"):
        predict(run, [images], patients="{patient}_nothing")
