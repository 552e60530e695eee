import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from calib.data import FeatureTable, TaskData, check_overlap, load_data

MakeFolder = Callable[..., Path]


@pytest.fixture
def root(make_folder: MakeFolder) -> Path:
    return make_folder({f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("a", "b")})


def test_different_images_are_clean(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report = check_overlap(load_data("folder", root))
    assert report.clean
    assert report.to_dict() == {
        "repeated_images": {},
        "shared_images": {},
        "shared_groups": {},
        "conflicting_images": {"count": 0, "first": []},
    }
    assert not caplog.records


def test_copies_within_and_across_splits_are_found(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(root / "train/a/0.png", root / "train/a/copy.png")
    shutil.copy(root / "train/a/0.png", root / "test/a/other_name.png")
    shutil.copy(root / "val/b/0.png", root / "test/a/wrong_class.png")
    with caplog.at_level(logging.WARNING):
        report = check_overlap(load_data("folder", root))
    assert not report.clean
    assert report.repeated_images == {"train": ["train/a/copy.png"]}
    assert report.shared_images == {
        "train/test": ["test/a/other_name.png"],
        "val/test": ["test/a/wrong_class.png"],
    }
    assert report.conflicting_images == ["val/b/0.png", "test/a/wrong_class.png"]
    assert json.loads(json.dumps(report.to_dict()))["shared_images"]["train/test"]["count"] == 1
    assert (
        "folder: 1 images are in both of train/test: test/a/other_name.png. They stay there and flatter the "
        "results; split.json lists them. Take them out of one of the two."
    ) in caplog.text
    assert (
        "2 images occur under different labels: val/b/0.png, test/a/wrong_class.png. Those with"
        in caplog.text
    )


def test_all_that_is_to_be_taken_out_is_listed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(7):
        shutil.copy(root / "test/a/0.png", root / f"test/a/copy{number}.png")
    report = check_overlap(load_data("folder", root))
    assert "7 images occur more than once in test: " in caplog.text
    assert "and 2 more. Each counts in the results." in caplog.text
    listed = report.to_dict()["repeated_images"]["test"]
    assert listed == {"count": 7, "first": [f"test/a/copy{number}.png" for number in range(7)]}


def test_shared_groups_are_found_and_unknown_ones_ignored(caplog: pytest.LogCaptureFixture) -> None:
    def table(start: int, groups: list[str] | None) -> FeatureTable:
        ids = [f"{start + number:064x}" for number in range(3)]
        return FeatureTable(torch.eye(3, 8), torch.tensor([0, 1, 0]), ids, ["x", "y", "z"], groups)

    task = TaskData(
        "t", ["a", "b"], "{}", table(0, ["p2", "p1", "p3"]), table(9, ["p1", "p9", "p2"]), table(5, None)
    )
    report = check_overlap(task)
    assert report.shared_groups == {"train/test": ["p1", "p2"]}
    assert not report.clean
    assert report.to_dict()["shared_groups"] == {"train/test": {"count": 2, "first": ["p1", "p2"]}}
    message = (
        "2 groups are in both of train/test: p1, p2. They stay there and flatter the results; split.json"
    )
    assert message in caplog.text
    assert "Split the images by group (patient, slide) instead." in caplog.text
