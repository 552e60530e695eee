"""What is cached are the features of the images that were hashed, under their own key, and none is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from calib.commands.cache import _file_entry
from calib.data import ImageTable, cache_features, encode_table
from calib.data.cached import features_key, is_of_its_key
from calib.data.features import FeatureTable


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "other images", "tower", "preprocessing", "seed", "white", "rules"]
)
def test_a_damaged_cache_file_is_reported_and_made_anew(
    backbone: Any,
    make_backbone: Any,
    table: ImageTable,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    first = cache_features(backbone, table, tmp_path / "cache", views=1)
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    whole = path.read_bytes()
    if damage not in ("cut", "empty"):  # a sound file of another key, as after a careless restore
        other, images, seed = make_backbone(seed=int(damage == "tower")), table.subset(range(7)), 0
        if damage == "preprocessing":
            other.preprocess.to_dict = lambda: {"image_size": 5}
        elif damage == "seed":
            seed = 1
        elif damage == "white":
            images.grey16_max = 4095
        elif damage == "other images":
            images = table.subset([0, 1])
        elif damage == "rules":
            monkeypatch.setattr("calib.data.encode.READING", 1)
        cache_features(other, images, tmp_path / "other", views=1, view_seed=seed)
        monkeypatch.undo()
        (moved,) = (tmp_path / "other").glob("*.safetensors")
        assert moved.name != path.name
        moved.replace(path)
        entry = _file_entry(path)
        assert entry.damaged
        assert "belong under another name" in entry.holds
    else:
        path.write_bytes(whole[:-40] if damage == "cut" else b"")
    with caplog.at_level(logging.WARNING):
        again = cache_features(backbone, table, tmp_path / "cache", views=1)
    assert "made anew" in caplog.text
    assert path.name in caplog.text
    assert again.image_features.equal(first.image_features)
    assert path.read_bytes() == whole
    assert not _file_entry(path).damaged


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", ["other image", "one byte behind the pixels", "gone"])
def test_an_image_that_changes_between_hashing_and_decoding_is_refused(
    backbone: Any,
    table: ImageTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_image: Callable[..., Path],
    change: str,
    workers: int,
) -> None:
    """Its features would be kept under the id of the image that was hashed, for good."""
    victim, kept = tmp_path / "set" / "5.png", (tmp_path / "set" / "5.png").read_bytes()
    ids = ImageTable.ids.fget  # type: ignore[attr-defined]

    def hashed(self: ImageTable) -> list[str]:
        found = ids(self)
        if change == "other image":
            write_image(victim, seed=99)
        elif change == "gone":
            victim.unlink(missing_ok=True)
        else:
            victim.write_bytes(kept + b"!")
        return found  # type: ignore[no-any-return]

    monkeypatch.setattr(ImageTable, "ids", property(hashed))
    with pytest.raises((ValueError, FileNotFoundError), match=r"5\.png"):
        cache_features(backbone, table, tmp_path / "cache", num_workers=workers)
    monkeypatch.undo()
    victim.write_bytes(kept)
    again = cache_features(backbone, table, tmp_path / "cache")
    torch.testing.assert_close(
        again.image_features, encode_table(backbone, table).image_features, rtol=0, atol=1e-6
    )


def test_an_image_that_changes_while_training_without_a_cache_is_refused(
    table: ImageTable, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    table.open(5)  # its id is not known yet: any image will do
    assert table.ids
    write_image(tmp_path / "set" / "5.png", seed=99)
    with pytest.raises(ValueError, match=r"5\.png has changed since this job first read it.*Start again"):
        table.open(5)


@pytest.mark.parametrize("moment", ["while it is written", "just after it was written"])
def test_finished_parts_stay_until_the_joined_file_is_on_the_disk(
    backbone: Any, table: ImageTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr("calib.data.encoding_parts.BATCHES_PER_PART", 1)
    save = FeatureTable.save

    def stopped(self: FeatureTable, path: Path) -> None:
        if moment == "just after it was written":
            save(self, path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FeatureTable, "save", stopped)
    with pytest.raises(OSError, match="No space"):
        cache_features(backbone, table, tmp_path, batch_size=2)
    assert len(list(tmp_path.glob("*.parts/*"))) == 4
    monkeypatch.setattr(FeatureTable, "save", save)
    backbone.batches.clear()
    again = cache_features(backbone, table, tmp_path, batch_size=2)
    assert backbone.batches == []  # nothing is encoded twice
    whole = encode_table(backbone, table, batch_size=2)
    torch.testing.assert_close(again.image_features, whole.image_features, rtol=0, atol=1e-6)
    assert not list(tmp_path.glob("*.parts"))


def test_features_without_the_views_that_they_say_are_of_another_key(
    table: ImageTable, backbone: Any
) -> None:
    whole = encode_table(backbone, table, views=1)
    path = Path(f"{features_key(whole.meta, whole.ids)}.safetensors")
    assert is_of_its_key(whole, path)
    assert not is_of_its_key(whole.with_views(0), path)
