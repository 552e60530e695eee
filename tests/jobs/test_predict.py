from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests_shared import SHORT

from calib.checkpoints import PromptCheckpoint
from calib.config import load_config
from calib.jobs.predict import find_images, predict
from calib.jobs.train import train
from calib.predictions import Predictions


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
    with pytest.raises(FileNotFoundError, match=r"'nothing/\*.png' names no image"):
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
    export = PromptCheckpoint.load(run / "prompt.safetensors")
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
        assert [float(x) for x in a[2:]] == pytest.approx([float(x) for x in b[2:]], abs=1e-4)
