"""The packaged features: what they hold, and that they are those of the images, where these are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from calib.backbones import create_backbone
from calib.data import check_overlap, encode_table, load_data

DATA = Path(__file__).parents[3] / "shared" / "data"  # beside the project, on machines that have it
FOLDERS = {"cxr3": "cxr3_224", "lc25000": "lc25000_unique_224"}
SIZES = {"cxr3": (262, 53, 545, 3), "lc25000": (200, 100, 500, 5)}


@pytest.fixture(scope="module")
def backbone():
    return create_backbone("embedded")


@pytest.mark.parametrize("name", FOLDERS)
def test_packaged_tasks_are_complete_and_disjoint(name: str, backbone) -> None:
    task = load_data(name)
    assert task.val is not None
    assert (len(task.train), len(task.val), len(task.test), len(task.class_names)) == SIZES[name]
    assert task.train.views == 8
    assert check_overlap(task).clean
    for table in (task.train, task.val, task.test):
        table.check_backbone(backbone)
        assert table.groups is not None
        assert table.meta["licence"]
        assert table.meta["source"]


@pytest.mark.parametrize("name", FOLDERS)
def test_packaged_features_are_those_of_the_images(name: str, backbone) -> None:
    folder = DATA / FOLDERS[name]
    if not folder.is_dir():
        pytest.skip(f"the images of {name} are not on this machine")
    packaged, images = load_data(name), load_data(name, folder)
    assert images.class_names == packaged.class_names
    for split, views in (("train", 2), ("test", 0)):
        features, table = getattr(packaged, split), getattr(images, split)
        assert table.ids == features.ids
        assert table.groups == features.groups
        assert torch.equal(table.labels, features.labels)
        some = [0, len(table) // 2, len(table) - 1]
        again = encode_table(backbone, table.subset(some), views=views)
        assert torch.allclose(again.image_features, features.image_features[some], atol=1e-5)
        if views:
            assert torch.allclose(
                again.augmented_features, features.augmented_features[some][:, :views], atol=1e-5
            )
