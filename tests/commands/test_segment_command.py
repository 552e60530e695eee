"""`calib segment`: trains, exports, measures, goes on; `predict` and `evaluate`; what is refused, and how."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pixel_files import square, write_pixels
from run_facts import metric_names

import calib
from calib.cli import main
from calib.commands.segment.predict import write_predictions
from calib.commands.segment.train import segment
from calib.config import load_config
from calib.core.optional import OPTIONAL
from calib.runs.folder import RunFolder
from calib.runs.results import results_of
from calib.segmentation.evaluation import Evaluated
from calib.segmentation.export import Segmenter
from calib.segmentation.masks import MaskClasses

QUICK = [
    "data.size=16",
    "data.batch_size=2",
    "data.classes={background: 0, square: 1}",
    "network.channels=[4,8]",
    "optim.lr=0.02",
    "optim.warmup_epochs=0",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "n_resamples=50",
]


ACE = "preset=dice-ce-ace"


def config(root: Path, out: Path, *more: str):
    return load_config([f"data.root={root}", f"out={out}", *QUICK, *more], task="segment")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_pixels(tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("segment") / "ace"
    return folder, segment(config(root, folder, ACE))


def test_a_run_leaves_network_numbers_table_and_figure(run):
    folder, results = run
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "config.yaml",
        "split.json",
        "checkpoints",
        "logs",
        "segment.safetensors",
        "image_sums.safetensors",
        "images.csv",
        "unit_reliability.png",
        "metrics.json",
        "table.md",
    }
    written = json.loads((folder / "metrics.json").read_text())
    assert written["test"]["n"] == 3
    assert written["still_rising"] in (True, False)
    mean, share = written["test"]["classes"]["square"]["given"]["all"]
    assert 0 < mean < 1
    assert 0 < share < 1
    assert written["losses"] == {name: {"weight": 1.0} for name in ("dice", "ce", "ml1_ace")}
    low, high = written["test"]["intervals"]["square"]["dice"]
    assert low <= written["test"]["classes"]["square"]["dice"] == results["test"]["dice"] <= high
    assert np.array(written["test"]["histogram"]["square"]["histogram"]).shape == (20, 20)
    with (folder / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["6.png", "7.png", "8.png"]
    assert np.mean([float(row["dice"]) for row in rows]) == pytest.approx(written["test"]["dice"], abs=1e-6)
    curves = (folder / "logs" / "metrics.csv").read_text().splitlines()
    assert curves[0] == "epoch,step,train/ce,train/dice,train/ml1_ace,train/total,val/ace,val/dice,val/ece"
    assert len(curves) == 3
    assert isinstance(calib.load(folder), Segmenter)
    logged = results_of(RunFolder(folder))
    assert (logged.columns, [row[0] for row in logged.rows]) == (
        ["class", "dice", "ace", "ece", "mce"],
        ["background", "square"],
    )
    names = metric_names(config(Path("x"), folder, ACE))
    assert {
        f"test/{name}" for name in written["test"] if name not in ("classes", "intervals", "groups")
    } - names == {"test/histogram"}
    assert set(curves[0].split(",")) - {"epoch", "step"} <= names


def test_a_finished_run_is_read_back_and_its_figures_are_made_again(run, root):
    folder, results = run
    before = (folder / "table.md").read_text(), (folder / "images.csv").read_bytes()
    for name in ("table.md", "images.csv", "unit_reliability.png"):
        (folder / name).unlink()
    again = segment(config(root, folder, ACE))
    assert again["reused"]
    assert "dice-ce-ace (Dice + CE + mL1-ACE), seed 1" in again["text"]
    assert again["text"] == results["text"]
    assert ((folder / "table.md").read_text(), (folder / "images.csv").read_bytes()) == before
    assert (folder / "unit_reliability.png").is_file()
    with pytest.raises(ValueError, match="belongs to another configuration: preset is 'dice-ce-ace' there"):
        segment(config(root, folder))


def test_a_run_that_was_stopped_goes_on_to_the_same_network(run, root, tmp_path):
    """What remains after a kill in the first epoch: settings, split, a checkpoint of one epoch."""
    folder, _ = run
    out = tmp_path / "again"
    segment(config(root, out, ACE))
    whole = (out / "segment.safetensors").read_bytes()
    for path in (out / "metrics.json", out / "segment.safetensors", out / "checkpoints" / "last.ckpt"):
        path.unlink()
    segment(config(root, out, ACE))  # from the beginning
    assert (out / "segment.safetensors").read_bytes() == whole
    assert whole != (folder / "segment.safetensors").read_bytes()  # its own folder is in it
    (out / "metrics.json").unlink()
    (out / "segment.safetensors").unlink()
    segment(config(root, out, ACE))  # from the last checkpoint: nothing is left to train
    assert (out / "segment.safetensors").read_bytes() == whole


def test_masks_that_changed_since_are_noticed(run, root, tmp_path):
    folder, _ = run
    mask = root / "test" / "masks" / "6.png"
    before = mask.read_bytes()
    Image.fromarray(1 - square(6)[1]).save(mask)
    try:
        with pytest.raises(ValueError, match=r"The data have changed since .*: test\)"):
            segment(config(root, folder, ACE))
    finally:
        mask.write_bytes(before)


def test_predict_writes_masks_in_the_values_of_the_masks(run, tmp_path, capsys):
    folder, _ = run
    Image.new("RGB", (20, 12), (30, 30, 30)).save(tmp_path / "new.png")
    out = tmp_path / "masks"
    assert main(["segment", "predict", str(folder), str(tmp_path / "new.png"), "--out", str(out)]) == 0
    assert f"Written to {out}: 1 mask, with the probabilities" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["new.png", "new.square.png", "predictions.csv"]
    mask, probability = (np.asarray(Image.open(out / name)) for name in ("new.png", "new.square.png"))
    assert mask.shape == probability.shape == (12, 20)
    assert np.array_equal(mask == 1, probability > 127)
    picture = Image.open(out / "new.png")  # numbers to a reader, colours to the eye
    assert picture.mode == "P"
    assert picture.getpalette()[:6] == [0, 0, 0, 255, 230, 0]
    assert np.array_equal(Segmenter.load(folder / "segment.safetensors").classes.read(out / "new.png"), mask)
    with (out / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["share(square)"]) == pytest.approx((mask == 1).mean(), abs=1e-6)
    assert main(["segment", "predict", str(folder), str(tmp_path / "new.png"), "--out", str(out)]) == 1
    assert "holds files, which are not replaced" in capsys.readouterr().err


def test_predict_replaces_no_file_by_another(run, tmp_path, capsys):
    """The probability of one image's class took the place of another image's mask, without a word."""
    for name in ("new.png", "new.square.png"):
        Image.new("RGB", (20, 12), (30, 30, 30)).save(tmp_path / name)
    out = tmp_path / "masks"
    assert main(["segment", "predict", str(run[0]), str(tmp_path), "--out", str(out)]) == 1
    assert "new.square.png: two files would be called so" in capsys.readouterr().err
    assert not out.exists()


def test_predict_writes_every_mask_alike(run, tmp_path):
    segmenter = Segmenter.load(run[0] / "segment.safetensors")
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8), (30, 30, 30)).save(image)
    deep = replace(segmenter, classes=MaskClasses.given({"background": 0, "square": 300}))
    assert write_predictions(deep, [image], tmp_path / "out") == 1
    with Image.open(tmp_path / "out" / "a.png") as mask:
        assert mask.mode == "I;16"  # also of an image without a pixel of 300
    large = replace(segmenter, classes=MaskClasses.given({"background": 0, "square": 70000}))
    with pytest.raises(ValueError, match="The value 70000 of a class does not fit into a PNG"):
        write_predictions(large, [image], tmp_path / "none")


def test_what_a_segmentation_run_is_for_is_said_where_a_prompt_was_expected(run, tmp_path, capsys):
    folder = str(run[0])
    image = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(image)
    for words in (
        ["report", folder],
        ["export", folder, f"out={tmp_path / 'e'}"],
        ["predict", folder, str(image)],
    ):
        assert main(words) == 1
        said = capsys.readouterr().err
        assert f"'{folder}' is a run of calib segment: its results are table.md" in said
        assert f"calib segment predict {folder} IMAGES --out FOLDER" in said
    assert not (tmp_path / "e").exists()


def test_evaluate_sets_runs_beside_each_other_on_their_own_images_or_others(run, root, tmp_path, capsys):
    folder, results = run
    plain = tmp_path / "plain"
    segment(config(root, plain))  # Dice + CE is the default: no loss that may unlearn a rare kind of image
    assert json.loads((plain / "metrics.json").read_text())["method"] == "dice-ce"
    capsys.readouterr()
    assert main(["segment", "evaluate", str(plain), str(folder), "--resamples", "50"]) == 0
    text = capsys.readouterr().out
    assert "ACE minus first" in text
    assert "the first run, plain, are paired" in text
    assert f"{100 * results['test']['dice']:.1f}" in text
    other = write_pixels(tmp_path / "other", {"x": 2}, size=24) / "x"
    out = tmp_path / "shift"
    given = ["segment", "evaluate", str(folder), "--data", str(other), "--out", str(out), "--resamples", "50"]
    assert main(given) == 0
    found = json.loads((out / "metrics.json").read_text())["runs"]["ace"]
    assert found["n"] == 2
    assert sum(found["histogram"]["square"]["counts"]) == 2 * 24 * 24
    assert {path.name for path in out.iterdir()} == {
        "metrics.json",
        "table.md",
        "images.csv",
        "unit_reliability.png",
    }
    assert main([*given[:-3], str(out)]) == 1
    edge = replace(Segmenter.load(folder), classes=MaskClasses.given({"background": 0, "edge": 1}))
    edge.save(tmp_path / "edge" / "segment.safetensors")
    capsys.readouterr()
    assert main(["segment", "evaluate", str(folder), str(tmp_path / "edge"), "--data", str(other)]) == 1
    said = capsys.readouterr().err
    assert "'ace' knows the classes background, square, and 'edge' background, edge: judge them one" in said
    sums = plain / "image_sums.safetensors"
    Evaluated.load(sums).save(sums, run="of another run")
    assert main(["segment", "evaluate", str(plain)]) == 1
    assert f"{sums} belongs to another run than its folder" in capsys.readouterr().err


def test_a_table_elsewhere_is_evaluated_where_it_is_allowed_to_lead_there(run, tmp_path, capsys):
    folder, _ = run
    images = write_pixels(tmp_path / "images", {"x": 2}, size=24) / "x"
    table = tmp_path / "one_kind" / "table.csv"
    table.parent.mkdir()
    pairs = zip(sorted((images / "images").iterdir()), sorted((images / "masks").iterdir()), strict=True)
    table.write_text("\n".join(["file,mask", *(f"{image},{mask}" for image, mask in pairs)]))
    given = ["segment", "evaluate", str(folder), "--data", str(table), "--resamples", "20"]
    assert main(given) == 1
    said = capsys.readouterr().err
    assert f"leads out of '{table.parent}'" in said
    assert "calib segment evaluate: --allow-outside)" in said
    assert main([*given, "--allow-outside"]) == 0
    assert "2 images" in capsys.readouterr().out
    assert main(["segment", "evaluate", str(folder), "--allow-outside"]) == 1
    assert "--allow-outside: no images are read here" in capsys.readouterr().err


def refused(root: Path, out: Path, *more: str) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        segment(config(root, out, *more))
    assert not out.exists()  # nothing was written
    return str(caught.value)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path):
    root, out = write_pixels(tmp_path / "data", {"train": 2, "test": 1}), tmp_path / "out"
    assert "Say where images and masks are" in refused_without_root(out)
    assert "calibrate=temperature is fitted to validation images" in refused(
        root, out, "calibrate=temperature"
    )
    assert "data.size must be a multiple of 2" in refused(root, out, "data.size=17")
    classes = 'data.classes={background: 0, square: 1, "no such": 5}'
    assert "No training mask has a pixel of no such" in refused(root, out, classes)
    Image.fromarray(np.full((16, 16), 9, dtype=np.uint8)).save(root / "test" / "masks" / "2.png")
    assert "256 pixels have the value 9, which is no class" in refused(root, out)
    (root / "test" / "masks" / "2.png").unlink()
    assert "have no mask of the same name" in refused(root, out)
    assert "has no images for training" in refused(root / "train", out)


def test_a_missing_monai_is_said_before_an_image_is_read_and_needed_by_no_finished_run(
    run, root, tmp_path, monkeypatch
):
    monkeypatch.setitem(OPTIONAL, "segment", replace(OPTIONAL["segment"], modules=("no_such_module",)))
    bad = write_pixels(tmp_path / "bad", {"train": 1}, value=9)
    assert "calib segment needs no_such_module: pip install" in refused(bad, tmp_path / "out")
    assert segment(config(root, run[0], ACE))["reused"]


def refused_without_root(out: Path) -> str:
    with pytest.raises(ValueError, match=r"data\.root") as caught:
        segment(load_config([f"out={out}", *QUICK], task="segment"))
    return str(caught.value)


def test_one_training_image_without_test_images_is_enough_and_said(tmp_path, capsys):
    root = write_pixels(tmp_path / "data", {"train": 1})
    out = tmp_path / "out"
    results = segment(config(root, out, "trainer.max_epochs=1", "preset=dice-ce"))
    assert "neither test nor validation images" in results["text"]
    assert not (out / "unit_reliability.png").exists()
    assert segment(config(root, out, "trainer.max_epochs=1", "preset=dice-ce"))["reused"]
    assert main(["segment", "evaluate", str(out)]) == 1
    assert "has no test images of its own" in capsys.readouterr().err
    assert main(["segment", "evaluate", str(out), "--data", str(root), "--split", "train"]) == 0
    assert "[" not in capsys.readouterr().out.splitlines()[2]  # of one image there is no interval


def test_the_same_masks_from_a_table_with_patients(tmp_path):
    root = write_pixels(tmp_path / "data", {"x": 6})
    lines = [f"x/images/{n}.png,x/masks/{n}.png,{'train' if n < 2 else 'test'},p{n % 3}" for n in range(6)]
    (root / "t.csv").write_text("\n".join(["file,mask,split,patient", *lines]))
    results = segment(config(root, tmp_path / "out", "trainer.max_epochs=1"))
    assert results["test"]["groups"] == 3
    assert "over the choice of groups" in results["text"]
    with (tmp_path / "out" / "images.csv").open() as file:
        assert [row["group"] for row in csv.DictReader(file)] == ["p2", "p0", "p1", "p2"]


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(root, tmp_path):
    """Through the command, with gloo: the same losses and probabilities but for rounding, each image once.

    Weights may differ: the biases before a normalisation have no gradient but rounding, which Adam scales up.
    """
    words = [f"data.root={root}", *QUICK, "data.batch_size=3"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(["segment", *words, f"out={alone}"]) == 0
    assert main(["segment", *words, f"out={together}", "trainer.devices=2"]) == 0
    curves = [(each / "logs" / "metrics.csv").read_text().splitlines() for each in (alone, together)]
    assert curves[0][0] == curves[1][0]
    for mine, theirs in zip(*(lines[1:] for lines in curves), strict=True):
        assert [float(x) for x in theirs.split(",")] == pytest.approx(
            [float(x) for x in mine.split(",")], rel=0.01
        )
    sums = [Evaluated.load(RunFolder(each).image_sums) for each in (alone, together)]
    assert sums[0].names == sums[1].names
    totals = [each.sums.prob_sums.sum(-1) for each in sums]
    np.testing.assert_allclose(totals[1].numpy(), totals[0].numpy(), rtol=0.01)
