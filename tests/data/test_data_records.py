import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calib.data import ImageTable
from calib.data.records import ArraySource, FileSource


class Counting:
    """A source that counts how often it is hashed."""

    def __init__(self, text: str) -> None:
        self.text, self.hashed = text, 0

    def content_id(self) -> str:
        self.hashed += 1
        return hashlib.sha256(self.text.encode()).hexdigest()

    def open(self, *, grey16_max: int | None = None, id: str | None = None, **_: object) -> Image.Image:
        return Image.new("RGB", (grey16_max or 1, 1))


def table(**options: object) -> tuple[list[Counting], ImageTable]:
    sources = [Counting(text) for text in "abc"]
    return sources, ImageTable(sources, [2, 0, 1], ["x/a", "x/b", "y/c"], **options)  # type: ignore[arg-type]


def test_files_are_hashed_only_when_asked_and_only_once() -> None:
    sources, images = table()
    images.subset([1])
    assert [source.hashed for source in sources] == [0, 0, 0]
    assert images[1].id == hashlib.sha256(b"b").hexdigest()
    assert images.subset([1, 2]).ids[0] == images.ids[1]
    assert images.ids == [hashlib.sha256(text.encode()).hexdigest() for text in "abc"]
    assert [source.hashed for source in sources] == [1, 1, 2]  # the subset hashed "c" for itself


def test_a_record_has_everything_known_about_an_image() -> None:
    _, images = table(groups=["p1", "p1", "p2"])
    record = images[-1]
    assert (record.label, record.group, record.name) == (1, "p2", "y/c")
    assert images.labels.dtype == torch.int64
    assert [record.name for record in images] == ["x/a", "x/b", "y/c"]  # iteration ends


def test_a_subset_keeps_the_order_of_the_indices() -> None:
    _, images = table(groups=["p1", "p1", "p2"])
    some = images.subset(torch.tensor([2, 0]))
    assert (some.names, some.labels.tolist(), some.groups) == (["y/c", "x/a"], [1, 2], ["p2", "p1"])


def test_the_white_of_16_bit_images_reaches_the_reader_through_subsets() -> None:
    _, images = table(grey16_max=4095)
    assert images.subset([0]).open(0).width == 4095


@pytest.mark.parametrize(
    ("labels", "names", "groups", "message"),
    [
        ([0], ["a", "b"], None, "2 images, but 1 labels"),
        ([0, 1], ["a"], ["p"], "2 images, but 1 names, 1 groups"),
        ([0, -1], ["a", "b"], None, "smallest is -1"),
        ([0.0, 1.7], ["a", "b"], None, "whole numbers; they came as torch.float32"),
        ([0, 1], ["a", "a"], None, "more than once: a"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    labels: list[float], names: list[str], groups: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ImageTable([Counting("a"), Counting("b")], labels, names, groups=groups)


def test_array_images_have_the_id_of_their_pixels_and_shape() -> None:
    images = np.zeros((3, 2, 4), dtype=np.uint8)
    images[1] = 9
    ids = [ArraySource(images, index, "x").content_id() for index in range(3)]
    assert ids[0] == ids[2] != ids[1]
    assert ArraySource(images.reshape(3, 4, 2), 0, "x").content_id() != ids[0]
    assert ArraySource(images, 1, "x").open().getpixel((3, 1)) == (9, 9, 9)


def test_file_images_have_the_id_of_their_bytes(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a.png")
    source = FileSource(tmp_path / "a.png")
    assert source.content_id() == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert source.open().getpixel((0, 0)) == (1, 2, 3)
