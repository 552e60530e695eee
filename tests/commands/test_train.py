from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests_shared import SHORT

from calib.backbones import create_backbone
from calib.commands.train import train
from calib.config import load_config
from calib.data import load_data
from calib.data.predictions import Predictions
from calib.io.files import read_json
from calib.losses import Objective, resolve_terms
from calib.metrics import summarize
from calib.prompts.export import Prompt
from calib.prompts.learner import PromptLearner
from calib.prompts.zero_shot import zero_shot_features
from calib.runs.folder import RunFolder
from calib.runs.prompt_run import check_trainable

ROOT = Path(__file__).parents[2]


def test_the_run_folder_holds_what_the_readme_says(calibrated: Path, runs: dict[int, Path]) -> None:
    results = {"metrics.json", "prompt.safetensors", "predictions.safetensors"}
    whole = results | {"config.yaml", "split.json", "reliability.png", "table.md", "checkpoints", "logs"}
    for run, bare in ((calibrated, {"bare"}), (runs[1], set())):
        assert {path.name for path in run.iterdir()} - {".lock"} == whole | {"baselines"} | bare
        assert {path.name for path in (run / "baselines").iterdir()} == {"zero-shot", "coop"}
        assert not (run / "baselines" / "coop" / "bare").exists()
        assert {path.name for path in run.glob("bare/*")} == (results if bare else set())
        with (run / "logs" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["0", "1", "2"]
        assert all(float(row["train/total"]) > 0 for row in rows)
        assert {"val/ece" in row for row in rows} == {not bare}  # without validation images by default
        size = sum(path.stat().st_size for path in run.rglob("*.ckpt"))
        assert size < (600_000 if bare else 200_000)  # with the prompts of 3 folds


def test_the_written_settings_are_valid_input(runs: dict[int, Path], settings) -> None:
    written = load_config([str(runs[1] / "config.yaml")], task="prompt")
    assert written == settings("seed=1", f"out={runs[1]}")


def test_the_export_equals_the_trained_prompt(runs: dict[int, Path]) -> None:
    export = Prompt.load(runs[1] / "prompt.safetensors")
    backbone, task = create_backbone("embedded"), load_data("cxr3")
    learner = PromptLearner(backbone, task.class_names)
    with torch.no_grad():
        assert export.context is not None
        learner.context.copy_(export.context)
        text = learner(backbone)
        logits = backbone.logit_scale.exp() * task.test.image_features @ text.T
    export.check_backbone(backbone)
    assert torch.allclose(text, export.text_features, atol=1e-6)
    predictions = Predictions.load(runs[1] / "predictions.safetensors")
    assert torch.allclose(logits, predictions.logits, atol=1e-3)  # at a scale of 100
    assert predictions.ids == task.test.ids
    assert predictions.groups == task.test.groups
    metrics = read_json(runs[1] / "metrics.json")
    expected = summarize(logits, task.test.labels, class_names=task.class_names)
    assert metrics["test"]["nll"] == pytest.approx(expected["nll"], abs=1e-5)
    assert metrics["val"]["n"] == 12  # 4 validation shots of 3 classes


def test_zero_shot_is_the_template(runs: dict[int, Path]) -> None:
    export = Prompt.load(runs[1] / "baselines" / "zero-shot" / "prompt.safetensors")
    task = load_data("cxr3")
    text = zero_shot_features(create_backbone("embedded"), task.class_names, task.template)
    assert torch.equal(export.text_features, text)
    assert export.context is None


def test_baselines_share_the_shots_and_differ_in_the_losses(runs: dict[int, Path]) -> None:
    ours, theirs = (read_json(f / "split.json") for f in (runs[1], runs[1] / "baselines" / "coop"))
    assert ours.pop("run") != theirs.pop("run")
    assert ours == theirs
    assert read_json(runs[1] / "split.json")["train"] != read_json(runs[2] / "split.json")["train"]
    coop = Prompt.load(runs[1] / "baselines" / "coop" / "prompt.safetensors")
    ours = Prompt.load(runs[1] / "prompt.safetensors")
    assert (coop.training["method"], ours.training["method"]) == ("coop", "calibprompt")
    assert not torch.allclose(coop.text_features, ours.text_features, atol=1e-3)


def test_a_finished_run_is_read_back_and_a_new_baseline_added(runs, settings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[1], folder)
    before = (folder / "prompt.safetensors").stat().st_mtime_ns
    assert train(settings("seed=1", f"out={folder}"))["reused"]
    more = train(settings("seed=1", f"out={folder}", "baselines=[coop,ls]"))
    assert list(more["methods"]) == ["zero-shot", "coop", "ls", "calibprompt"]
    assert not more["reused"]
    assert (folder / "prompt.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_overwrite_trains_anew_and_keeps_the_baselines_it_trained(runs, settings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[1], folder)
    results = train(settings("seed=3", f"out={folder}", "overwrite=true"))
    assert not results["reused"]
    assert read_json(folder / "metrics.json")["seed"] == 3
    assert read_json(folder / "baselines" / "coop" / "metrics.json")["seed"] == 3
    assert not load_config([str(folder / "config.yaml")], task="prompt").overwrite


@pytest.mark.slow
def test_overwriting_a_calibrated_run_leaves_nothing_of_it(
    calibrated: Path, settings, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(calibrated, folder)
    with pytest.raises(ValueError, match=r"another configuration: calibrate\.method is 'auto' there"):
        train(settings(f"out={folder}"))
    results = train(settings(f"out={folder}", "baselines=[]", "overwrite=true"))
    assert list(results["methods"]) == ["zero-shot", "calibprompt"]
    assert (results["calibration"], (folder / "bare").exists()) == (None, False)


def test_changed_test_images_are_noticed_before_parts_are_mixed(
    image_folder: Path, settings, tiny: str, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    data = ["data.name=folder", f"data.root={images}", "data.shots=3", "data.val_shots=0", "data.views=0"]
    run = [*data, tiny, f"data.cache_dir={tmp_path / 'cache'}", f"out={tmp_path / 'run'}"]
    train(settings(*run))
    (tmp_path / "run" / "metrics.json").unlink()  # as if it had been stopped after the baseline
    shutil.copy(images / "train" / "class_0" / "5.png", images / "test" / "class_0" / "new.png")
    with pytest.raises(ValueError, match=r"data have changed.*differs in: overlap, test"):
        train(settings(*run))
    with pytest.raises(ValueError, match=r"data have changed"):
        train(settings(*run, "baselines=[coop,ls]"))
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_finished_run_is_not_shown_for_other_images(
    image_folder: Path, settings, tiny: str, tmp_path: Path, caplog
) -> None:
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    data = ["data.name=folder", f"data.root={images}", "data.shots=3", "data.val_shots=0", "data.views=0"]
    run = [*data, tiny, "baselines=[]", f"data.cache_dir={tmp_path / 'cache'}", f"out={tmp_path / 'run'}"]
    train(settings(*run))
    assert train(settings(*run))["reused"]
    (images / "test" / "class_0" / "0.png").rename(images / "test" / "class_1" / "moved.png")
    with pytest.raises(ValueError, match=r"data have changed.*differs in: test"):
        train(settings(*run))
    shutil.rmtree(images)
    assert train(settings(*run))["reused"]
    assert "could not be compared" in caplog.text


def test_a_finished_part_on_other_images_is_not_reused(runs, settings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[1], folder)
    shutil.copy(runs[2] / "split.json", folder / "baselines" / "coop" / "split.json")
    with pytest.raises(ValueError, match=r"baselines/coop/split.json belongs to another run"):
        train(settings("seed=1", f"out={folder}", "baselines=[coop,ls]"))


def test_a_lost_export_is_made_again_and_a_damaged_one_named(runs, settings, tmp_path: Path, caplog) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[1], folder)
    export = folder / "prompt.safetensors"
    before = Prompt.load(export)
    export.unlink()
    with caplog.at_level("INFO", logger="calib"):
        assert not train(settings("seed=1", f"out={folder}"))["reused"]
    assert "Going on after epoch 3" in caplog.text
    assert torch.equal(Prompt.load(export).text_features, before.text_features)
    export.write_bytes(export.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"prompt.safetensors cannot be read.*cut off"):
        train(settings("seed=1", f"out={folder}"))
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"metrics.json is not what a run writes. Delete it"):
        train(settings("seed=1", f"out={folder}"))


@pytest.mark.parametrize("name", ["prompt.safetensors", "metrics.json"])
def test_what_is_lost_of_the_bare_prompt_is_made_again(calibrated: Path, tmp_path: Path, name: str) -> None:
    """Once the calibrated prompt was then shown under the name of the bare one."""
    folder = tmp_path / "run"
    shutil.copytree(calibrated, folder)
    lost = folder / "bare" / name
    before = Prompt.load(folder / "bare").text_features, (folder / "bare" / "metrics.json").read_bytes()
    lost.unlink()
    results = train(load_config([*SHORT, f"out={folder}"], task="prompt"))
    assert not results["reused"]
    assert list(results["methods"]) == ["zero-shot", "coop", "calibprompt", "calibprompt calibrated"]
    assert torch.equal(Prompt.load(folder / "bare").text_features, before[0])
    assert (folder / "bare" / "metrics.json").read_bytes() == before[1]


def test_a_damaged_checkpoint_is_named(runs, settings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[1], folder)
    (folder / "metrics.json").unlink()
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last.ckpt cannot be read.*Delete it to train from the beginning"):
        train(settings("seed=1", f"out={folder}"))


def test_two_processes_do_not_share_a_run_folder(settings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunFolder(folder).locked(), pytest.raises(ValueError, match=r"Another process is at work in .*run'"):
        train(settings(f"out={folder}", "baselines=[]"))
    assert {path.name for path in folder.iterdir()} <= {".lock"}
    train(settings(f"out={folder}", "baselines=[]"))


def test_zs_norm_alone_is_refused_with_two_classes() -> None:
    alone = Objective(resolve_terms("zs-norm"))
    check_trainable(alone, ["a", "b", "c"])
    check_trainable(Objective(resolve_terms("zs-norm", {"ce": {}})), ["a", "b"])
    with pytest.raises(ValueError, match=r"zs-norm has no gradient with two classes.*loss.ce.weight=1"):
        check_trainable(alone, ["a", "b"])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    arguments = [*SHORT, "trainer.max_epochs=8", "baselines=[]"]  # with the prompts of folds
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, str(ROOT / "train.py"), *arguments, f"out={killed}"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    checkpoint = killed / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "metrics.json").exists()
    for folder in (killed, whole):
        train(load_config([*arguments, f"out={folder}"], task="prompt"))
    logs = [(folder / "logs" / "metrics.csv").read_bytes() for folder in (killed, whole)]
    assert logs[0] == logs[1]  # every epoch once
    for name in ("metrics.json", "bare/metrics.json"):
        assert read_json(killed / name) == read_json(whole / name)


def test_images_are_encoded_once_and_cached(
    image_folder: Path, settings, tiny: str, tmp_path: Path, monkeypatch
) -> None:
    data = [
        tiny,
        "data.name=folder",
        f"data.root={image_folder}",
        "data.shots=3",
        "data.val_shots=2",
        "data.views=2",
    ]
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    first = train(settings(*data, cache, f"out={tmp_path / 'a'}", "baselines=[]"))
    files = sorted((tmp_path / "cache").glob("*.safetensors"))
    assert len(files) == 3  # shots, validation shots, test
    monkeypatch.setattr("calib.data.encode.encode_table", None)  # encoding again would fail
    second = train(settings(*data, cache, f"out={tmp_path / 'b'}", "baselines=[]"))
    assert first["methods"] == second["methods"]


@pytest.mark.slow
def test_encoding_at_every_step_sees_fresh_views(
    image_folder: Path, settings, tiny: str, tmp_path: Path
) -> None:
    data = [
        tiny,
        "data.name=folder",
        f"data.root={image_folder}",
        "data.shots=1",
        "data.val_shots=0",
        "data.cache=false",
        "trainer.max_epochs=2",
    ]
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    results = train(settings(*data, cache, f"out={tmp_path / 'a'}", "baselines=[]"))
    again = train(settings(*data, cache, f"out={tmp_path / 'b'}", "baselines=[]"))
    plain = train(settings(*data, cache, f"out={tmp_path / 'c'}", "baselines=[]", "data.views=0"))
    assert results["methods"] == again["methods"]
    assert results["methods"]["calibprompt"] != plain["methods"]["calibprompt"]
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2  # the test split, and plain shots


@pytest.mark.slow
def test_official_metrics_are_added_by_name(settings, tmp_path: Path) -> None:
    results = train(settings(f"out={tmp_path / 'run'}", "baselines=[]", "parity.metrics=true"))
    values = results["methods"]["calibprompt"]
    assert values["mce_official"] <= values["ece"] <= values["mce"]
    assert values["ece_official"] == pytest.approx(values["ece"], abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["preset=calibpromt"], "Unknown loss preset 'calibpromt'. Did you mean 'calibprompt'"),
        (["loss.smak.alpha=1"], "Unknown loss 'smak'. Did you mean 'smac'"),
        (["loss.smac.alfa=1"], "Unknown setting of loss 'smac' 'alfa'. Did you mean 'alpha'"),
        (["backbone.name=plpi"], "Unknown backbone 'plpi'. Did you mean 'plip'"),
        (["data.name=cxr4"], "Did you mean 'cxr3'"),
        (["trainer.max_epoch=3"], "Unknown key 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'"),
        (["trainer.logger=false"], "trainer.logger cannot be set"),
        (["trainer.devices=2"], "Several devices need several processes"),
        (["trainer.max_epochs=0"], "trainer.max_epochs must be at least 1, got 0"),
        (["trainer.accelerator=tpu"], "trainer.accelerator=tpu cannot be used here"),
        (["trainer.precision=bf16-true"], "would round the frozen weights"),
        (["data.shots=100"], "Class 0 ('no finding') has 85 different images in 62 groups"),
        (["data.views=9"], "9 augmented views were asked for, but these features hold 8"),
        (["prompt.n_ctx=40"], "Class name 'no finding' does not fit: 40 context tokens"),
        (["backbone.weights=random"], "These image features were made by embedded with"),
        (["data.name=folder", "data.root=nowhere"], "nowhere"),
    ],
)
def test_bad_settings_say_what_is_wrong_and_write_nothing(changes, message, settings, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        train(settings(f"out={tmp_path / 'run'}", f"data.cache_dir={tmp_path / 'cache'}", *changes))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number_leaves_no_result(settings, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"stopped in epoch \d+.*ce = nan"):
        train(settings(f"out={tmp_path / 'run'}", "baselines=[]", "optim.lr=1e38", "optim.warmup_lr=1e38"))
    assert not (tmp_path / "run" / "prompt.safetensors").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_exactly_as_many_images_as_shots_are_enough_on_request(
    settings, image_folder, tiny: str, tmp_path: Path
) -> None:
    data = [
        tiny,
        "data.name=folder",
        f"data.root={image_folder}",
        "data.shots=6",
        "data.views=0",
        "baselines=[]",
        f"data.cache_dir={tmp_path / 'c'}",
    ]
    with pytest.raises(
        ValueError, match=r"has 6 different images .*data\.at_most=true takes what a class has"
    ):
        train(settings(*data, f"out={tmp_path / 'refused'}"))
    train(settings(*data, "data.at_most=true", f"out={tmp_path / 'run'}"))
    split = read_json(tmp_path / "run" / "split.json")
    assert (len(split["train"]), split["val"]) == (18, [])
    assert "test" in read_json(tmp_path / "run" / "metrics.json")
