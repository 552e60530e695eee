import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calib.core.hashing import stable_hash
from calib.data import ImageTable, cache_features, encode_table, encoding_parts
from calib.data.records import ArraySource, FileSource


def test_features_are_those_of_each_image_in_batches_of_one_size(backbone: Any, table: ImageTable) -> None:
    encoded = encode_table(backbone, table, batch_size=3, meta={"licence": "CC0"})
    assert backbone.batches == [3, 3, 3]  # 7 images: the last batch is filled up
    alone = torch.cat([backbone.encode_image(backbone.preprocess(table.open(row))[None]) for row in range(7)])
    torch.testing.assert_close(encoded.image_features, alone, rtol=0, atol=1e-6)
    assert encoded.labels.equal(table.labels)
    assert (encoded.ids, encoded.names, encoded.groups) == (table.ids, table.names, table.groups)
    assert encoded.augmented_features is None
    assert encoded.meta["backbone"] == backbone.describe()
    assert encoded.meta["licence"] == "CC0"
    assert not encoded.image_features.is_inference()  # so that losses can use them


def test_a_feature_does_not_depend_on_the_other_images(backbone: Any, table: ImageTable) -> None:
    whole = encode_table(backbone, table, views=2, batch_size=4)
    some = encode_table(backbone, table.subset([5, 1]), views=2, batch_size=4)
    # Which row of a batch an image stands in may change the last bit of a matrix product.
    torch.testing.assert_close(some.image_features, whole.image_features[[5, 1]], rtol=0, atol=1e-6)
    assert some.augmented_features is not None
    torch.testing.assert_close(
        some.augmented_features,
        whole.augmented_features[[5, 1]],  # type: ignore[index]
        rtol=0,
        atol=1e-6,
    )
    first = encode_table(backbone, table.subset([0, 1]), views=2, batch_size=4)
    assert first.image_features.equal(whole.image_features[:2])  # the same rows of their batches


def test_a_view_depends_on_the_seed_the_content_and_its_number(backbone: Any, table: ImageTable) -> None:
    encoded = encode_table(backbone, table, views=3, view_seed=11, batch_size=5)
    assert encoded.augmented_features is not None
    assert encoded.augmented_features.shape == (7, 3, 6)
    seed = int.from_bytes(hashlib.sha256(f"11:{table.ids[4]}:2".encode()).digest()[:8], "big") // 2
    assert stable_hash(11, table.ids[4], 2) == seed
    view = backbone.encode_image(backbone.preprocess.augment(table.open(4), seed)[None])[0]
    torch.testing.assert_close(encoded.augmented_features[4, 2], view, rtol=0, atol=1e-6)
    other = encode_table(backbone, table, views=3, view_seed=12).augmented_features
    assert other is not None
    assert (encoded.augmented_features - other).abs().amax(dim=(1, 2)).min() > 1e-3
    plain = encode_table(backbone, table)
    torch.testing.assert_close(encoded.image_features, plain.image_features, rtol=0, atol=1e-6)


def test_images_are_encoded_one_batch_at_a_time(backbone: Any) -> None:
    """At most a batch of images is held: the i-th batch is encoded before later images are opened."""
    opened: list[int] = []

    class Watched(ArraySource):
        def open(self, **how: Any) -> Image.Image:
            opened.append(self.index)
            assert len(opened) - 4 * len(backbone.batches) <= 4
            return super().open(**how)

    pixels = np.random.default_rng(0).integers(0, 256, (20, 5, 7), dtype=np.uint8)
    table = ImageTable(
        [Watched(pixels, row, "x") for row in range(20)], [0] * 20, [str(row) for row in range(20)]
    )
    encode_table(backbone, table, batch_size=4)
    assert sorted(opened) == list(range(20))


@pytest.mark.parametrize(("views", "what"), [(0, "images"), (2, "images, 2 views of each")])
def test_progress_says_that_views_are_encoded_too(
    backbone: Any, table: ImageTable, views: int, what: str, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr("calib.data.notices.FIRST_AFTER", 0.0)
    caplog.set_level("INFO", logger="calib")
    encode_table(backbone, table, views=views, batch_size=100, num_workers=0)
    said = caplog.messages[0].split(" (")[0]
    assert said == f"encoding {what}: {len(table)} of {len(table)}"


def test_an_image_with_undefined_features_is_named(backbone: Any, table: ImageTable) -> None:
    original = backbone.encode_image
    backbone.encode_image = lambda images: original(images) / (images.mean(dim=(1, 2, 3))[:, None] != spoilt)
    spoilt = backbone.preprocess(table.open(4)).mean()
    with pytest.raises(ValueError, match=r"'fake' returned NaN or infinite features for the image 4\.png"):
        encode_table(backbone, table, views=1, batch_size=4)


def test_wrong_settings_and_shapes_are_explained(backbone: Any, table: ImageTable) -> None:
    with pytest.raises(ValueError, match="views must be at least 0 and batch_size at least 1, not -1 and 32"):
        encode_table(backbone, table, views=-1)
    backbone.encode_image = lambda images: images.new_ones(len(images), 5)
    with pytest.raises(ValueError, match=r"'fake' returned features of shape \(7, 5\)"):
        encode_table(backbone, table)


def test_the_second_run_encodes_nothing(backbone: Any, table: ImageTable, tmp_path: Path) -> None:
    first = cache_features(backbone, table, tmp_path / "cache", views=2)
    backbone.batches.clear()
    second = cache_features(backbone, table, tmp_path / "cache", views=2, meta={"split": "train"})
    assert backbone.batches == []
    assert second.image_features.equal(first.image_features)
    assert second.augmented_features is not None
    assert second.augmented_features.equal(first.augmented_features)
    assert second.meta["split"] == "train"
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1


def test_the_cache_gives_what_encoding_gives(backbone: Any, table: ImageTable, tmp_path: Path) -> None:
    plain = encode_table(backbone, table, views=1)
    for _ in range(2):
        cached = cache_features(backbone, table, tmp_path / "cache", views=1)
        torch.testing.assert_close(cached.image_features, plain.image_features, rtol=0, atol=1e-6)
        assert (cached.ids, cached.names, cached.groups) == (plain.ids, plain.names, plain.groups)


def test_order_labels_names_and_copies_are_taken_from_the_table(
    backbone: Any, table: ImageTable, tmp_path: Path
) -> None:
    first = cache_features(backbone, table, tmp_path / "cache")
    backbone.batches.clear()
    sources = [table[row].source for row in (6, 0, 1, 2, 3, 4, 5, 0)]
    changed = ImageTable(sources, [1] * 8, [f"new{row}" for row in range(8)])
    second = cache_features(backbone, changed, tmp_path / "cache")
    assert backbone.batches == []
    assert second.image_features.equal(first.image_features[[6, 0, 1, 2, 3, 4, 5, 0]])
    assert (second.labels.tolist(), second.names[0], second.groups) == ([1] * 8, "new0", None)


def test_whatever_changes_features_changes_the_file(
    backbone: Any, make_backbone: Any, table: ImageTable, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    cache = tmp_path / "cache"
    other_weights, other_architecture, other_preprocessing = (
        make_backbone(seed=1),
        make_backbone(),
        make_backbone(),
    )
    other_architecture.architecture = {"kind": "projection", "activation": "quick_gelu"}
    other_preprocessing.preprocess.to_dict = lambda: {"image_size": 5}
    runs: list[tuple[Any, ImageTable, dict[str, int]]] = [
        (backbone, table, {}),
        (other_weights, table, {}),
        (other_architecture, table, {}),
        (other_preprocessing, table, {}),
        (backbone, table, {"views": 1}),
        (backbone, table, {"views": 2}),
        (backbone, table, {"views": 1, "view_seed": 1}),
        (backbone, table.subset(range(6)), {}),
    ]
    bright = table.subset(range(7))
    bright.grey16_max = 4095
    runs.append((backbone, bright, {}))
    for count, (model, images, options) in enumerate(runs, start=1):
        cache_features(model, images, cache, **options)
        assert len(list(cache.glob("*.safetensors"))) == count
    write_image(tmp_path / "set" / "3.png", seed=99)  # the file changes under the same name
    anew = ImageTable(
        [FileSource(tmp_path / "set" / name) for name in table.names], table.labels, table.names
    )
    cache_features(backbone, anew, cache)
    assert len(list(cache.glob("*.safetensors"))) == len(runs) + 1


def test_an_interrupted_run_leaves_no_cache_file(backbone: Any, table: ImageTable, tmp_path: Path) -> None:
    os.truncate(tmp_path / "set" / "5.png", 60)
    with pytest.raises(ValueError, match=r"5\.png is"):
        cache_features(backbone, table, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".locks"]


def test_a_part_of_batches_of_another_size_is_not_taken_up(
    backbone: Any, table: ImageTable, tmp_path: Path
) -> None:
    """Its place says the same images, and their features would differ in the last bits."""
    work = SimpleNamespace(batch_size=2)
    path = encoding_parts._place(tmp_path, 0, 4)
    encoding_parts._save(path, encode_table(backbone, table.subset(range(4))).image_features, 4)
    assert encoding_parts._read(work, 0, 4, tmp_path) is None  # type: ignore[arg-type]
    work.batch_size = 4
    assert encoding_parts._read(work, 0, 4, tmp_path) is not None  # type: ignore[arg-type]


def test_an_interrupted_encoding_goes_on(
    backbone: Any, table: ImageTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib.data.encoding_parts.BATCHES_PER_PART", 1)
    whole = encode_table(backbone, table, views=1, batch_size=2)
    original, calls = backbone.encode_image, 0

    def fails_later(images: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 5:  # in the middle of the third part of two images with a view each
            raise KeyboardInterrupt
        return original(images)

    monkeypatch.setattr(backbone, "encode_image", fails_later)
    with pytest.raises(KeyboardInterrupt):
        cache_features(backbone, table, tmp_path, views=1, batch_size=2)
    monkeypatch.setattr(backbone, "encode_image", original)
    backbone.batches.clear()
    cached = cache_features(backbone, table, tmp_path, views=1, batch_size=2)
    assert sum(backbone.batches) == 2 * 3  # of 7 images 4 were done; 3 with a view each are left
    torch.testing.assert_close(cached.image_features, whole.image_features, rtol=0, atol=1e-6)
    assert cached.augmented_features is not None
    assert (cached.ids, cached.groups) == (table.ids, table.groups)
    assert [
        path.suffix for path in tmp_path.iterdir() if not path.name.startswith(".") and path.is_file()
    ] == [".safetensors"]
    assert not list(tmp_path.glob("*.parts"))


def test_of_two_that_want_the_same_features_one_encodes(
    make_backbone: Any, table: ImageTable, tmp_path: Path
) -> None:
    backbones = [make_backbone(), make_backbone()]
    barrier = threading.Barrier(2)

    def encode(backbone: Any) -> torch.Tensor:
        barrier.wait()
        return cache_features(backbone, table, tmp_path, batch_size=2).image_features

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(encode, backbones)
    assert one.equal(other)
    assert sorted(len(backbone.batches) for backbone in backbones) == [0, 4]


def test_processes_that_read_ahead_change_nothing(backbone: Any, table: ImageTable) -> None:
    alone = encode_table(backbone, table, views=2, batch_size=4)
    ahead = encode_table(backbone, table, views=2, batch_size=4, num_workers=2)
    assert ahead.image_features.equal(alone.image_features)
    assert ahead.augmented_features is not None
    assert alone.augmented_features is not None
    assert ahead.augmented_features.equal(alone.augmented_features)
    os.truncate(table._sources[3].path, 40)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"3\.png has changed since") as error:
        encode_table(backbone, table, num_workers=2)
    assert "Traceback" not in str(error.value)  # as torch's loader would show it


def test_features_of_another_tower_are_refused(backbone: Any, make_backbone: Any, table: ImageTable) -> None:
    encoded = encode_table(backbone, table)
    encoded.check_backbone(make_backbone())  # the same numbers
    other = make_backbone(seed=1)
    other.preprocess.to_dict = lambda: {"image_size": 5}
    with pytest.raises(ValueError, match=r"made by fake with weights .*, and the backbone at hand is fake"):
        encoded.check_backbone(other)
    with pytest.raises(ValueError, match="made by an unknown backbone with weights None"):
        encoded.subset([0]).__class__(torch.eye(1, 6), torch.tensor([0]), ["0" * 64], ["a"]).check_backbone(
            backbone
        )
