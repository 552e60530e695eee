"""Failure prediction on pairs of images and captions, from files written with numpy alone."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests_shared import SHORT

from calib.commands.failure.run import train_failure
from calib.config import FailureRun, ReportRun, load_config
from calib.data.predictions import Predictions
from calib.failure.export import FailureHead
from calib.io.files import read_json
from calib.metrics.failure import auroc
from calib.runs.reports import report_of

N, D = 90, 12
SETTINGS = [*SHORT, "n_resamples=20", "head.hidden=[8]", "data.batch_size=10", "embeddings.captions=true"]


def settings(*changes: str) -> FailureRun:
    return load_config([*SETTINGS, *changes], task="failure")


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def written(folder: Path, **changes: Any) -> tuple[Path, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(N, D))
    arrays = {
        "image_features": unit(texts + rng.uniform(0.2, 2, (N, 1)) * rng.normal(size=(N, D))),
        "text_features": unit(texts),
        "logit_scale": np.float32(np.log(20)),
        "split": np.array(["train"] * 50 + ["val"] * 12 + ["test"] * 28),
        "names": np.array([f"scan {i}" for i in range(N)]),
        **changes,
    }
    arrays = {name: value for name, value in arrays.items() if value is not None}
    np.savez(folder / "pairs.npz", **arrays)
    return folder / "pairs.npz", arrays


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    path, _ = written(folder)
    train_failure(settings(f"embeddings.train={path}", f"out={folder / 'run'}"))
    return folder / "run"


def test_every_test_image_is_judged_against_the_captions_of_its_block(run: Path, tmp_path: Path) -> None:
    _, arrays = written(tmp_path)
    images, texts = arrays["image_features"][62:], arrays["text_features"][62:]
    found = load_file(run / "uncertainties.safetensors")
    rows = found["candidates"][found["block"]]  # (28, 10)
    assert rows.shape == (28, 10)
    logits = 20 * np.einsum("nd,ncd->nc", images, texts[rows.numpy()])
    predictions = Predictions.load(run / "predictions.safetensors")
    assert np.allclose(predictions.logits, logits, atol=1e-4)
    nearest = np.take_along_axis(rows.numpy(), logits.argmax(1)[:, None], 1)[:, 0]
    wrong = nearest != np.arange(28)
    assert found["failure"].tolist() == wrong.tolist()
    head = FailureHead.load(run / "failure.safetensors")
    seen, said = torch.from_numpy(images), torch.from_numpy(texts)
    by_hand = torch.cat([head.uncertainty(seen[i : i + 1], text_features=said[rows[i]]) for i in range(28)])
    assert torch.allclose(by_hand, found["uncertainty.vilu-residual"], atol=1e-6)
    metrics = read_json(run / "metrics.json")
    assert metrics["test"] == {"n": 28, "n_failures": int(wrong.sum())}
    assert metrics["images"] == {"train": 50, "failures": metrics["images"]["failures"], "fit_on": "all"}
    expected = auroc(by_hand, torch.from_numpy(wrong)).item()
    assert metrics["scores"]["vilu-residual"]["auroc"] == pytest.approx(expected)
    assert metrics["val"]["mcp"]["n"] == 12


def test_scores_that_need_classes_are_left_out_with_the_reason(run: Path) -> None:
    scores = read_json(run / "metrics.json")["scores"]
    out = {name for name, row in scores.items() if "auroc" in row["undefined"]}
    assert out == {"rel_u", "image_prototypes", "class_gaussians", "logit_scaling"}
    assert "captions are other ones in every batch" in scores["rel_u"]["undefined"]["auroc"]
    assert scores["temperature_mcp"]["auroc"] > 0.5
    assert "the same classes for all images" in (run / "table.md").read_text()


def test_doubtful_images_name_the_rows_of_captions(run: Path) -> None:
    with (run / "failures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["name"] for row in rows) == sorted(f"scan {i}" for i in range(62, N))
    doubts = [float(row["uncertainty"]) for row in rows]
    assert doubts == sorted(doubts, reverse=True)
    found = load_file(run / "uncertainties.safetensors")
    for row in rows:
        assert row["label"] == row["name"]
        assert row["correct"] == ("yes" if row["prediction"] == row["name"] else "no")
        assert row["prediction"] in row["why"]
        block = found["candidates"][found["block"][int(row["name"].split()[1]) - 62]]
        weighed = [int(found) - 62 for found in re.findall(r"scan (\d+)", row["weighed against"])]
        assert len(weighed) == 3
        assert set(weighed) <= set(block.tolist())


def test_two_files_and_a_second_call(tmp_path: Path) -> None:
    _, arrays = written(tmp_path, split=None)
    parts = {"train": slice(0, 60), "test": slice(55, N)}  # five images are in both
    for name, part in parts.items():
        mine = {k: v if k == "logit_scale" else v[part] for k, v in arrays.items()}
        np.savez(tmp_path / f"{name}.npz", **mine)
    files = [f"embeddings.{name}={tmp_path / name}.npz" for name in parts]
    given = settings(*files, f"out={tmp_path / 'run'}", "scores=[mcp]", "head.residual=false")
    results = train_failure(given)
    assert results["images"]["train"] == 55
    assert read_json(tmp_path / "run" / "split.json")["test_copies_left_out"] == 5
    assert read_json(tmp_path / "run" / "metrics.json")["val"] is None
    assert train_failure(given)["reused"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.shots=8"], "data.shots counts images per class, and captions have none"),
        (["data.batch_size=1"], "number of candidates: at least 2"),
        (["embeddings.train=null"], "embeddings.captions=true was given without embeddings.train"),
        (["embeddings.captions=false"], "For pairs of images and captions set embeddings.captions=true"),
    ],
)
def test_what_captions_have_not_is_refused(changes: list[str], message: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    with pytest.raises(ValueError, match=message):
        train_failure(settings(f"embeddings.train={path}", f"out={tmp_path / 'run'}", *changes))
    assert not (tmp_path / "run").exists()


def test_captions_that_are_all_right_teach_nothing(tmp_path: Path) -> None:
    _, arrays = written(tmp_path)
    path, _ = written(tmp_path, image_features=arrays["text_features"])
    with pytest.raises(ValueError, match="All 50 training predictions are right"):
        train_failure(settings(f"embeddings.train={path}", f"out={tmp_path / 'run'}", "doubt=head"))


def test_captions_have_no_classes_to_report_on(run: Path) -> None:
    with pytest.raises(ValueError, match=r"judges images by captions.*Its tables are in table\.md"):
        report_of(ReportRun(runs=[str(run)]))
