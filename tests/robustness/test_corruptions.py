"""Corruptions: the same in any order, stronger with severity, grey stays grey; tables of them are cached."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import calib
from calib.core.tables import names_in
from calib.data import encoding_parts
from calib.robustness.corrupted import corrupted, encode_corrupted, of_grey_images
from calib.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt, is_grey

KEYS = ("a1", "b2")


def picture(*, grey: bool = False) -> Image.Image:
    """Return a picture of 140 x 112 pixels with edges, a slope, dark and bright parts."""
    y, x = np.mgrid[0:112, 0:140]
    planes = [90 + x, 60 + 1.5 * y, 40 + 100 * ((x // 7 + y // 9) % 2)]
    pixels = np.stack(planes, axis=-1).astype(np.uint8)
    image = Image.fromarray(pixels)
    return image.convert("L").convert("RGB") if grey else image


def distance(image: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(image, dtype=float) - np.asarray(other, dtype=float)).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption(name: str) -> None:
    image, state = picture(), torch.random.get_rng_state()
    assert corrupt(image, name, 0, key="a1") is image
    strong = [corrupt(image, name, 5, key=key, size=112) for key in KEYS]
    corrupt(image, "noise", 3, key="other")
    again = [corrupt(image, name, 5, key=key, size=112) for key in reversed(KEYS)][::-1]
    assert [each.tobytes() for each in strong] == [each.tobytes() for each in again]
    assert torch.equal(state, torch.random.get_rng_state())
    moved = [
        np.mean([distance(image, corrupt(image, name, severity, key=key, size=112)) for key in KEYS])
        for severity in SEVERITIES[::2]
    ]
    assert 0 < moved[0] < moved[1] < moved[2]
    assert all(each.size == image.size and each.mode == "RGB" for each in strong)
    grey = corrupt(picture(grey=True), name, 5, key="a1", size=112)
    assert is_grey(grey)
    assert (distance(grey, picture(grey=True)) == 0) == CORRUPTIONS[name].of_colour


def test_severities_are_the_same_disturbance_for_small_and_large_images() -> None:
    large = picture().resize((560, 448), Image.Resampling.BICUBIC)
    found = [corrupt(each, "blur", 3, key="a", size=112) for each in (picture(), large)]
    assert found[0].size == found[1].size == (140, 112)
    assert distance(*found) < 2
    assert corrupt(large, "blur", 3, key="a", size=None).size == (560, 448)
    assert corrupt(Image.new("RGB", (28, 28)), "noise", 1, key="a").size == (224, 224)


def test_values_by_hand() -> None:
    flat = Image.new("RGB", (224, 224), (128, 128, 128))
    noisy = np.asarray(corrupt(flat, "noise", 2, key="k"), dtype=float)
    assert abs(noisy.std() / 255 - 0.08) < 0.002
    halves = Image.fromarray(np.repeat([[0] * 112 + [200] * 112], 224, axis=0).astype(np.uint8)).convert(
        "RGB"
    )
    washed = np.asarray(corrupt(halves, "contrast", 5, key="k"))  # 0.2 of the distance to the mean of 100
    assert (int(washed[0, 0, 0]), int(washed[0, -1, 0])) == (80, 120)
    dark = np.asarray(corrupt(Image.new("RGB", (224, 224), "white"), "vignetting", 5, key="k"), dtype=int)
    assert dark.max() > 250
    assert dark[[0, 0, -1, -1], [0, -1, 0, -1]].mean() < 40
    point = np.zeros((224, 224), dtype=np.uint8)
    point[112, 112] = 255
    trace = np.asarray(corrupt(Image.fromarray(point), "motion", 1, key="k"), dtype=float)[..., 0]
    assert abs(trace.sum() / 255 - 1) < 0.05
    assert 3 <= (trace > 10).sum() <= 9
    blocks = np.asarray(corrupt(picture(), "pixelation", 5, key="k", size=112))  # 9 / 224 of 112: 4.5 pixels
    assert len(np.unique(blocks.reshape(-1, 3), axis=0)) <= 31 * 25
    stained = np.asarray(corrupt(Image.new("RGB", (9, 9), "white"), "stain", 5, key="k", size=9))
    assert stained.min() >= 254  # where there is no tissue there is no stain


@pytest.mark.parametrize("severity", [-1, 6, 2.0, True, "3"])
def test_what_is_no_severity_is_refused(severity: Any) -> None:
    with pytest.raises(ValueError, match=r"whole number from 1 \(mild\) to 5"):
        corrupt(picture(), "blur", severity, key="a")


def test_an_unknown_corruption_is_refused_and_names_are_known_before_torch() -> None:
    with pytest.raises(ValueError, match=r"Unknown corruption 'blurr'. Did you mean 'blur'"):
        corrupt(picture(), "blurr", 1, key="a")
    assert names_in("calib.robustness.corruptions", "CORRUPTIONS") == list(CORRUPTIONS)


def test_a_table_of_corrupted_images_goes_on_and_is_cached_by_corruption(
    image_folder: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding_parts, "BATCHES_PER_PART", 1)
    backbone = calib.create_backbone(tiny.partition("=")[2])
    table = calib.load_data("folder", str(image_folder)).test
    assert corrupted(table, "blur", 0) is table
    kinds = itertools.product(("blur", "noise"), (1, 2), (32, 48))
    digests = {corrupted(table, name, severity, size=size).ids[0] for name, severity, size in kinds}
    assert len(digests | {table.ids[0]}) == 9
    assert not of_grey_images(table)
    batches: list[int] = []

    def stopped() -> None:
        batches.append(1)
        if len(batches) == 3:
            raise KeyboardInterrupt

    plain = encode_corrupted(backbone, table, "noise", 4, cache=None, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        encode_corrupted(backbone, table, "noise", 4, cache=tmp_path, batch_size=2, on_batch=stopped)
    found = encode_corrupted(
        backbone, table, "noise", 4, cache=tmp_path, batch_size=2, on_batch=lambda: batches.append(2)
    )
    assert batches == [1, 1, 1, 2, 2, 2]  # of 5 batches, two were there
    assert found.ids == table.ids
    assert torch.equal(found.image_features, plain.image_features)
    encode_corrupted(backbone, table, "noise", 4, cache=tmp_path, batch_size=2, on_batch=stopped)  # cached
    features = calib.encode(backbone, table, cache=None)
    assert not torch.allclose(found.image_features, features.image_features, atol=1e-4)
    with pytest.raises(ValueError, match=r"data.root=IMAGES"):
        corrupted(features, "noise", 4)  # type: ignore[arg-type]
