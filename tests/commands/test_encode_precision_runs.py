"""Runs on images encoded in bfloat16: what is learned there says so, and is used in no other precision."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calib.backbones.base import Backbone
from calib.cli import main
from calib.commands.cache import cache_entries
from calib.commands.evaluate import evaluate
from calib.commands.failure.run import train_failure
from calib.commands.predict import predict
from calib.commands.train import train
from calib.config import load_config
from calib.data import FeatureTable
from calib.data.images import open_image
from calib.data.predictions import Predictions
from calib.failure.export import FailureHead
from calib.io.files import read_json
from calib.posthoc import ReviewThreshold
from calib.posthoc.decisions import Decisions
from calib.prompts.export import Prompt

BF16 = "backbone.encode_precision=bf16"


def digest_of(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Return how often each input was encoded, by precision and content; fillings of a batch aside."""
    counts: Counter[tuple[str, str]] = Counter()
    real = Backbone.encode_image

    def counted(self: Backbone, images: Tensor) -> Tensor:
        counts.update({(self.encode_precision, digest_of(each)) for each in images})
        return real(self, images)

    monkeypatch.setattr(Backbone, "encode_image", counted)
    return counts


@pytest.fixture(scope="module")
def common(tiny: str, image_folder: Path, tmp_path_factory) -> list[str]:
    cache = tmp_path_factory.mktemp("cache") / "features"
    data = ["data.name=folder", f"data.root={image_folder}", "data.shots=2", "data.views=2"]
    return [tiny, *data, f"data.cache_dir={cache}", "trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def run(common: list[str], settings: Callable[..., Any], tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("bf16") / "run"
    train(settings(*common, "data.val_shots=2", BF16, f"out={folder}"))
    return folder


@pytest.fixture(scope="module")
def wide_run(common: list[str], settings: Callable[..., Any], tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("fp32") / "run"
    own = [each for each in common if not each.startswith("data.cache_dir")]
    changes = ["data.val_shots=2", "baselines=[]", f"data.cache_dir={folder.parent / 'cache'}"]
    train(settings(*own, *changes, f"out={folder}"))
    return folder


def test_the_export_says_it_and_is_used_in_it(
    run: Path, wide_run: Path, image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = Prompt.load(run / "prompt.safetensors")
    assert prompt.backbone["encode_precision"] == prompt.backbone["build"]["encode_precision"] == "bf16"
    assert prompt.restore_backbone().encode_precision == prompt.encode_precision == "bf16"
    known = Predictions.load(run / "predictions.safetensors")
    caplog.set_level("INFO", logger="calib")
    assert Prompt.load(wide_run / "prompt.safetensors").encode_precision == "fp32"
    predict(wide_run, [str(image_folder / "test")])
    said = "Images are encoded in bf16 (backbone.encode_precision)."
    assert said not in caplog.messages
    rows = list(csv.DictReader(io.StringIO(predict(run, [str(image_folder / "test")]))))
    assert said in caplog.messages
    assert len(rows) == len(known.names) == 9
    for row in rows:
        (index,) = (i for i, name in enumerate(known.names) if row["file"].endswith(name))
        for c, name in enumerate(known.class_names):
            assert float(row[f"p({name})"]) == pytest.approx(known.probs[index, c].item(), abs=2e-6)


def test_no_export_is_used_in_another_precision(run: Path, wide_run: Path, tmp_path: Path) -> None:
    ours, theirs = (Prompt.load(each / "prompt.safetensors") for each in (run, wide_run))
    assert "encode_precision" not in theirs.backbone
    assert "encode_precision" not in theirs.backbone["build"]
    narrow, wide = ours.restore_backbone(), theirs.restore_backbone()
    for prompt, backbone in ((ours, wide), (theirs, narrow)):
        with pytest.raises(ValueError, match=r"made for .*backbone\.encode_precision .*Use the same"):
            prompt.check_backbone(backbone)
    moved = {**ours.backbone, "build": {**ours.backbone["build"], "encode_precision": "fp32"}}
    ours.backbone = moved  # a file that somebody changed
    with pytest.raises(ValueError, match=r"with backbone\.encode_precision bf16, and .* fp32"):
        ours.restore_backbone()
    # A threshold that was fitted by the confidences of one precision lies beside no prompt of the other.
    doubt = torch.linspace(0, 1, 60)
    review = ReviewThreshold(max_error=0.2).fit(doubt, doubt > 0.9)
    bound = Decisions(review=review, doubt=ours.doubt_digest())
    replace(ours, decisions=bound).save(tmp_path / "prompt.safetensors")
    with pytest.raises(ValueError, match="were fitted for another"):
        replace(ours, backbone=theirs.backbone, decisions=bound).save(tmp_path / "prompt.safetensors")


def test_a_cached_feature_is_read_in_its_precision_only(
    run: Path,
    wide_run: Path,
    common: list[str],
    settings: Callable[..., Any],
    encoded: Counter[tuple[str, str]],
    tmp_path: Path,
) -> None:
    cache = Path(next(each.partition("=")[2] for each in common if each.startswith("data.cache_dir")))
    before, other = (
        {path.name for path in each.glob("*.safetensors")} for each in (cache, wide_run.parent / "cache")
    )
    assert len(before) == len(other) == 3
    assert not before & other
    assert all(" in bf16, " in entry.holds for entry in cache_entries(cache))
    assert not any(" in bf16, " in entry.holds for entry in cache_entries(wide_run.parent / "cache"))
    changes = [*common, "baselines=[]", "data.val_shots=2"]
    for path in (wide_run.parent / "cache").glob("*.safetensors"):  # in one folder neither is in the way
        shutil.copy(path, cache)
    train(settings(*changes, BF16, f"out={tmp_path / 'again'}", "trainer.max_epochs=1"))
    assert not encoded  # all of it is there from the first run
    narrow = FeatureTable.load(cache / min(before))
    with pytest.raises(ValueError, match=r"made by .* with backbone\.encode_precision bf16"):
        narrow.check_backbone(Prompt.load(wide_run / "prompt.safetensors").restore_backbone())


def test_packaged_features_are_refused_by_the_settings_name(
    settings: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"encode_precision fp32, and .*encode_precision bf16.*data\.root"):
        train(settings(BF16, f"out={tmp_path / 'run'}"))


@pytest.mark.slow
def test_a_failure_head_is_bound_to_it(
    run: Path, common: list[str], image_folder: Path, encoded: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    quick = ["trainer.max_epochs=2", "trainer.accelerator=cpu", "scores=[mcp]", "data.views=0", "doubt=head"]
    quick += [*common[1:3], *common[5:], f"prompt={run}", "n_resamples=20"]
    with pytest.raises(ValueError, match=r"with backbone\.encode_precision=bf16; leave out"):
        train_failure(
            load_config([*quick, "backbone.encode_precision=fp32", f"out={tmp_path / 'x'}"], task="failure")
        )
    train_failure(load_config([*quick, f"out={tmp_path / 'f'}"], task="failure"))
    assert not encoded.keys() & of_test_images(run, image_folder, "bf16")  # known from the prompt's run
    head = FailureHead.load(tmp_path / "f" / "failure.safetensors")
    assert head.backbone is not None
    assert head.backbone["encode_precision"] == "bf16"
    wide = {key: value for key, value in head.backbone.items() if key != "encode_precision"}
    before = head.doubt_digest()
    prompt = Prompt.load(run / "prompt.safetensors")
    head.check_prompt(prompt)
    prompt.backbone = wide
    with pytest.raises(ValueError, match=r"trained for .*encode_precision bf16, and the prompt was made for"):
        head.check_prompt(prompt)
    head.backbone = wide
    assert head.doubt_digest() != before


@pytest.mark.slow
def test_images_are_chosen_in_the_prompt_s_precision(
    run: Path, image_folder: Path, common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "select",
        str(image_folder / "train"),
        "strategy=entropy",
        "budget=3",
        f"prompt={run}",
        common[5],
    ]
    out = f"out={tmp_path / 'chosen'}"
    assert main([*words, out, "backbone.encode_precision=fp32"]) == 1
    assert "with backbone.encode_precision=bf16; leave out" in capsys.readouterr().err
    assert main([*words, out]) == 0
    assert read_json(tmp_path / "chosen" / "record.json")["backbone"]["encode_precision"] == "bf16"


def test_without_a_cache_steps_encode_in_it(
    common: list[str], settings: Callable[..., Any], encoded: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    train(
        settings(
            *common, BF16, "data.cache=false", "baselines=[]", "data.val_shots=0", f"out={tmp_path / 'r'}"
        )
    )
    assert {precision for precision, _ in encoded} == {"bf16"}
    assert Prompt.load(tmp_path / "r" / "prompt.safetensors").backbone["encode_precision"] == "bf16"


@pytest.mark.slow
def test_runs_of_both_precisions_are_told_apart_in_a_table(run: Path, wide_run: Path, tmp_path: Path) -> None:
    cache = f"data.cache_dir={wide_run.parent / 'cache'}"
    many = [f"runs=[{run},{wide_run}]", cache, f"out={tmp_path / 'both'}", "n_resamples=20"]
    found = evaluate(load_config(many, task="evaluate"))
    assert "encode_precision=bf16" in found["text"]
    assert "encode_precision=fp32" in found["text"]
    assert "images encoded in" in (tmp_path / "both" / "report.html").read_text()


def of_test_images(run: Path, images: Path, precision: str) -> set[tuple[str, str]]:
    """Return what `encoded` counts the test images under."""
    preprocess = Prompt.load(run / "prompt.safetensors").restore_backbone().preprocess
    inputs = [preprocess(open_image(path)) for path in sorted((images / "test").rglob("*.png"))]
    return {(precision, digest_of(each)) for each in inputs}


def test_an_image_is_encoded_once_in_a_run_and_in_what_follows(
    common: list[str], image_folder: Path, encoded: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    """Training with its folds, the zero-shot prompt and the baselines; then an evaluation of all of them."""
    own = [each for each in common if not each.startswith("data.cache_dir")]
    own += [f"data.cache_dir={tmp_path / 'cache'}", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
    train(load_config([*own, "data.val_shots=2", f"out={tmp_path / 'run'}"], task="prompt"))
    tested = of_test_images(tmp_path / "run", image_folder, "fp32")
    assert len(tested) == 9
    assert {encoded[each] for each in tested} == {1}
    assert set(encoded.values()) == {1}  # shots with their views and validation images, too
    before = encoded.copy()
    given = [f"runs=[{tmp_path / 'run'}]", "n_resamples=20", f"data.cache_dir={tmp_path / 'cache'}"]
    evaluate(load_config([*given, f"out={tmp_path / 'e'}"], task="evaluate"))
    assert encoded == before
