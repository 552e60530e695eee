from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from calib.data.predictions import Predictions
from calib.io.tensors import load_tensors, save_tensors


def predictions() -> Predictions:
    return Predictions(
        logits=torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]),
        labels=torch.tensor([2, 1]),
        image_features=torch.eye(2, 8),
        ids=["a" * 64, "b" * 64],
        names=["x.png", "y.png"],
        class_names=["p", "q", "r"],
        groups=["g1", "g2"],
        about={"method": "coop"},
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    before = predictions()
    before.save(tmp_path / "p.safetensors")
    after = Predictions.load(tmp_path / "p.safetensors")
    for name in ("logits", "labels", "image_features"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    for name in ("ids", "names", "class_names", "groups", "about"):
        assert getattr(after, name) == getattr(before, name)


def test_probs_are_double_precision_softmax() -> None:
    probs = predictions().probs
    assert probs.dtype == torch.float64
    assert probs[1, 0].item() == pytest.approx(0.9094429985127419, abs=1e-15)  # e^3 / (e^3 + 2)


def test_same_images_compares_ids_and_labels() -> None:
    a = predictions()
    assert a.same_images(replace(a, logits=a.logits + 1))
    assert not a.same_images(replace(a, labels=torch.tensor([2, 0])))
    assert not a.same_images(replace(a, ids=a.ids[::-1]))


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 rows of logits, but 1 names"):
        replace(predictions(), names=["x"])
    with pytest.raises(ValueError, match=r"logits must be \(N, C\), not \(2,\)"):
        replace(predictions(), logits=torch.zeros(2))
    with pytest.raises(ValueError, match="3 columns of logits and 2 class names"):
        replace(predictions(), class_names=["p", "q"])
    path = tmp_path / "p.safetensors"
    predictions().save(path)
    tensors, record = load_tensors(path, kind="predictions")
    save_tensors(path, tensors, {**record, "ids": ["only one"]})
    with pytest.raises(ValueError, match=r"p\.safetensors.*but 1 ids"):
        Predictions.load(path)
    for change, message in (
        ({"version": 2}, r"p\.safetensors has version 2; this version reads 1"),
        ({"names": "xy"}, r"p\.safetensors: names must be a list of strings"),
        ({"groups": [1, 2]}, r"p\.safetensors: groups must be a list of strings"),
    ):
        save_tensors(path, tensors, {**record, **change})
        with pytest.raises(ValueError, match=message):
            Predictions.load(path)
    del record["groups"]
    save_tensors(path, tensors, record)
    with pytest.raises(ValueError, match=r"lacks groups"):
        Predictions.load(path)
