"""Whole jobs on a device against those on the CPU: prompts, heads, segmentation, answers, corruptions."""

from __future__ import annotations

import copy
import csv
import gc
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from pixel_files import write_pixels
from tests_shared import PLAIN, SHORT

import calib
from calib.commands.failure.run import train_failure
from calib.commands.train import train
from calib.config import load_config
from calib.core.float32 import exact_float32
from calib.data import ImageTable
from calib.data.predictions import Predictions
from calib.data.records import FileSource
from calib.io.files import read_json
from calib.prompts.module import PromptTuningModule
from calib.robustness import encode_corrupted

ROOT = Path(calib.__file__).parents[1]
LOGITS = 2e-3  # of a scale of some 20 to 100, after three epochs: the text features differ by some 1e-6
METRIC = 5e-3  # or what two images are of the accuracy


def settings_on(accelerator: str, *changes: str) -> list[str]:
    own = [each for each in SHORT if not each.startswith("trainer.accelerator")]
    return [*own, f"trainer.accelerator={accelerator}", *changes]


def run(out: Path, accelerator: str, *changes: str) -> Path:
    train(load_config(settings_on(accelerator, *changes, f"out={out}"), task="prompt"))
    return out


@pytest.fixture(scope="module")
def on_device(tmp_path_factory: pytest.TempPathFactory, accelerator: str) -> tuple[Path, float | None]:
    """Return a calibrated run on the device, and by how many bytes the memory taken there has grown."""
    before = _taken(accelerator)
    folder = run(tmp_path_factory.mktemp("device") / "run", accelerator)
    grown = None if before is None else _taken(accelerator) - before
    return folder, grown


def _taken(accelerator: str) -> float | None:
    gc.collect()
    return torch.cuda.memory_allocated() if accelerator == "gpu" else None


@pytest.mark.slow
def test_the_main_job_gives_the_numbers_of_the_cpu(on_device: Any, calibrated: Path) -> None:
    folder, grown = on_device
    for name in (".", "bare", "baselines/coop", "baselines/zero_shot"):
        here, there = calibrated / name, folder / name
        if not (here / "predictions.safetensors").is_file():
            continue
        own, found = (Predictions.load(each / "predictions.safetensors") for each in (here, there))
        assert torch.allclose(found.logits, own.logits, atol=LOGITS), name
        ours, theirs = (read_json(each / "metrics.json")["test"] for each in (here, there))
        for metric in ("accuracy", "ece", "nll", "brier"):
            allowed = max(METRIC, 2 / ours["n"])
            assert theirs[metric] == pytest.approx(ours[metric], abs=allowed), (name, metric)
    files = [{path.relative_to(each) for path in each.rglob("*")} for each in (calibrated, folder)]
    assert files[0] == files[1]
    curves = [list(csv.DictReader((each / "logs" / "metrics.csv").open())) for each in (calibrated, folder)]
    for ours, theirs in zip(*curves, strict=True):
        assert ours.keys() == theirs.keys()
        assert {key: float(value) for key, value in theirs.items() if value} == pytest.approx(
            {key: float(value) for key, value in ours.items() if value}, abs=METRIC
        )
    if grown is not None:
        assert grown < 2**20  # what the job took of the card's memory is given back


@pytest.mark.slow
def test_an_export_of_a_device_predicts_on_the_other(
    on_device: Any, calibrated: Path, device: torch.device
) -> None:
    for made, place in ((on_device[0], torch.device("cpu")), (calibrated, device)):
        prompt = calib.load(made / "prompt.safetensors")
        backbone = prompt.restore_backbone().to(place)
        images = torch.randn(3, 3, *[backbone.preprocess.image_size] * 2)
        features = backbone.encode_image(images).cpu()
        own = prompt.restore_backbone().encode_image(images)
        assert torch.allclose(prompt.logits(features), prompt.logits(own), atol=LOGITS)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [PLAIN, []], ids=["plain", "with folds"])
def test_a_run_that_was_interrupted_goes_on_to_the_same_bytes(
    changes: list[str], accelerator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calib.prompts.stack import PromptStackModule

    kind = PromptTuningModule if changes else PromptStackModule
    changes = [*changes, "baselines=[]"]
    whole = run(tmp_path / "whole", accelerator, *changes)
    began = kind.on_train_epoch_start

    def interrupt(module: Any) -> None:
        if module.current_epoch == 2:
            raise KeyboardInterrupt
        began(module)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "on_train_epoch_start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", accelerator, *changes)
    cut = run(tmp_path / "cut", accelerator, *changes)
    first, second = (Predictions.load(each / "predictions.safetensors") for each in (whole, cut))
    assert torch.equal(first.logits, second.logits)
    assert (whole / "logs" / "metrics.csv").read_bytes() == (cut / "logs" / "metrics.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_run_in_half_precision_is_near(
    precision: str, on_device: Any, accelerator: str, tmp_path: Path
) -> None:
    if accelerator == "cpu" and precision == "16-mixed":
        pytest.skip("PyTorch trains in float16 on cards alone")
    folder = run(tmp_path / "run", accelerator, "baselines=[]", f"trainer.precision={precision}")
    own, found = (Predictions.load(each / "predictions.safetensors").probs for each in (on_device[0], folder))
    assert (own - found).abs().mean() < 0.02
    assert not torch.equal(own, found)


@pytest.mark.slow
def test_images_are_encoded_in_every_step_without_a_cache(
    accelerator: str, image_folder: Path, tiny: str, tmp_path: Path
) -> None:
    """Without `data.cache` a step reads, augments and encodes its images on the device."""
    data = [tiny, "data.name=folder", f"data.root={image_folder}", "data.shots=3", "data.cache=false"]
    data += [f"data.cache_dir={tmp_path / 'cache'}", "baselines=[]", *PLAIN, "data.val_shots=2"]
    found = {
        name: Predictions.load(run(tmp_path / name, name, *data) / "predictions.safetensors").logits
        for name in {"cpu", accelerator}
    }
    assert torch.allclose(found["cpu"], found[accelerator], atol=LOGITS)


@pytest.mark.slow
def test_a_failure_head_of_a_device_is_that_of_the_cpu(accelerator: str, tmp_path: Path) -> None:
    found = {}
    for name in {"cpu", accelerator}:
        given = settings_on(name, f"out={tmp_path / name}", "n_resamples=20", "head.hidden=[16]")
        train_failure(load_config(given, task="failure"))
        found[name] = read_json(tmp_path / name / "metrics.json")
    own, other = found["cpu"], found[accelerator]
    assert numbers(own).keys() == numbers(other).keys()
    for key, value in numbers(own).items():
        assert numbers(other)[key] == pytest.approx(value, abs=0.02, nan_ok=True), key


def numbers(record: Any, place: str = "") -> dict[str, float]:
    """Return the numbers of a record that are fractions, by their place."""
    if isinstance(record, dict):
        parts = [numbers(each, f"{place}.{key}") for key, each in record.items()]
        return {key: value for part in parts for key, value in part.items()}
    return {place: record} if isinstance(record, float) and 0 <= record <= 1 else {}


def quiet(accelerator: str, epochs: int) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@pytest.mark.slow
def test_a_segmentation_network_of_a_device_is_near_that_of_the_cpu(
    accelerator: str, device: torch.device, tmp_path: Path
) -> None:
    from calib.segmentation.evaluation import evaluate
    from calib.segmentation.fit import fit_segmenter
    from calib.segmentation.tables import load_pixels

    tables = load_pixels(write_pixels(tmp_path), classes={"background": 0, "square": 1})
    given = {"channels": [4, 8], "size": 16, "batch_size": 2, "seed": 3, "warmup_epochs": 0}
    given["optimizer"] = {"name": "adamw", "lr": 0.02}
    with exact_float32(device):  # PyTorch may round the convolutions of a training, which is not asked here
        made = {
            name: fit_segmenter(tables["train"], tables["val"], trainer=quiet(name, 12), **given)  # type: ignore[arg-type]
            for name in {"cpu", accelerator}
        }
    dice = {
        name: evaluate(each, tables["test"]).metrics(n_resamples=20)["dice"] for name, each in made.items()
    }
    assert dice[accelerator] == pytest.approx(dice["cpu"], abs=0.1)
    image, _ = tables["test"].read(0)
    own = made["cpu"].probs(image)
    moved = replace(made["cpu"], network=copy.deepcopy(made["cpu"].network).to(device))
    assert torch.allclose(moved.probs(image), own, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2_vl", "llava"])
def test_a_language_model_answers_as_on_the_cpu(kind: str, device: torch.device, tmp_path: Path) -> None:
    from vqa.tiny_vlms import tiny_vlm

    from calib.vqa import HuggingFaceVLM, Items, answer

    rows = [
        {
            "item_id": f"q{k}#original",
            "question": "What is it?",
            "options": ["CT", "MRI scan"],
            "option_ids": ["o0", "o1"],
            "correct_index": 0,
            "image": image,
        }
        for k, image in enumerate([None, str(_picture(tmp_path))])
    ]
    model, processor = tiny_vlm(kind)
    found = []
    for place in (torch.device("cpu"), device):
        moved = HuggingFaceVLM(
            copy.deepcopy(model).to(place),
            processor,
            model_id=kind,
            greedy=True,
            p_true=True,
            samples=2,
            max_new_tokens=3,
            prompt="{question} {options}",
        )
        outputs = answer(moved, Items.of_rows(rows))
        found.append(outputs)
        assert (
            moved.describe()["weights"]
            == HuggingFaceVLM(model, processor, model_id=kind, prompt="{question} {options}").describe()[
                "weights"
            ]
        )
    for name in ("option_logit", "option_letter_logprob", "option_loglik", "p_true_logits"):
        for k in range(2):
            assert found[1].cell(name, k) == pytest.approx(found[0].cell(name, k), abs=2e-3), name
    for k in range(2):
        assert found[1].cell("answer_text", k) == found[0].cell("answer_text", k)
        drawn = [[each["text"] for each in outputs.cell("samples", k)] for outputs in found]
        assert drawn[0] == drawn[1]


def _picture(folder: Path) -> Path:
    from toy_steps import pictures

    path = folder / "picture.png"
    pictures(1, 56)[0].save(path)
    return path


def test_corrupted_images_are_encoded_as_on_the_cpu(small: Any, device: torch.device, tmp_path: Path) -> None:
    backbone = small("clip")
    table = ImageTable([FileSource(_picture(tmp_path))], [0], ["a"])
    moved = copy.deepcopy(backbone).to(device)
    found = encode_corrupted(moved, table, "blur", 3, cache=None).image_features
    own = encode_corrupted(backbone, table, "blur", 3, cache=None).image_features
    assert (found - own).abs().max() < 5e-6
    assert (own - calib.encode(backbone, table, cache=None).image_features).abs().max() > 1e-3


@pytest.mark.gpu
def test_two_processes_on_one_card_are_refused_and_on_two_cards_are_right(
    card: torch.device, tmp_path: Path
) -> None:
    several = torch.cuda.device_count() > 1
    words = [*settings_on("gpu", "trainer.devices=2", *PLAIN, "baselines=[]"), "out=two"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "calib.cli", "train", *words]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    if not several:
        assert ended.returncode == 1
        assert "trainer.devices=2 cannot be used here" in ended.stderr
        assert "Lower trainer.devices" in ended.stderr
        assert not (tmp_path / "two").exists()
        return
    assert ended.returncode == 0, ended.stderr
    one = run(tmp_path / "one", "gpu", *PLAIN, "baselines=[]")
    first, second = (Predictions.load(each / "predictions.safetensors") for each in (one, tmp_path / "two"))
    assert torch.allclose(first.logits, second.logits, atol=LOGITS)
    shutil.rmtree(tmp_path / "two")
