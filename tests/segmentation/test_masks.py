"""Masks: values, merged values, colours, and everything that is no class."""

import numpy as np
import pytest
from PIL import Image

from calib.segmentation.masks import MaskClasses, read_values

TWO = MaskClasses.given({"background": 0, "nucleus": [1, 2]})


def save(path, array, mode=None):
    image = Image.fromarray(np.asarray(array, dtype=np.uint8))
    (image if mode is None else image.convert(mode)).save(path)
    return path


def test_values_become_classes_and_several_may_be_one(tmp_path):
    path = save(tmp_path / "m.png", [[0, 1], [2, 0]])
    assert TWO.read(path).tolist() == [[0, 1], [1, 0]]


def test_every_value_is_a_class_where_none_is_named(tmp_path):
    paths = [save(tmp_path / "a.png", [[0, 255]]), save(tmp_path / "b.png", [[7, 0]])]
    found = MaskClasses.found(paths)
    assert (found.names, found.values) == (("0", "7", "255"), ((0,), (7,), (255,)))
    assert found.read(paths[0]).tolist() == [[0, 2]]


def test_palettes_bits_and_deep_masks_hold_numbers(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 0]], dtype=np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "palette.png")
    assert read_values(tmp_path / "palette.png").tolist() == [[0, 1], [2, 0]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert read_values(tmp_path / "bits.png").tolist() == [[1, 0]]
    Image.fromarray(np.array([[0, 300]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_values(tmp_path / "deep.png").tolist() == [[0, 300]]
    grey = save(tmp_path / "grey.png", [[0, 2]], mode="RGB")
    assert read_values(grey).tolist() == [[0, 2]]


def test_colours_are_classes_where_they_are_named_and_refused_where_not(tmp_path):
    path = tmp_path / "c.png"
    Image.fromarray(np.array([[[0, 0, 0], [255, 0, 0]]], dtype=np.uint8)).save(path)
    classes = MaskClasses.given({"rest": "#000000", "vessel": "#ff0000"})
    assert classes.read(path).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match=r"c\.png holds colours \(#000000, #ff0000\), not numbers"):
        TWO.read(path)
    other = MaskClasses.given({"rest": "#000000", "vessel": "#00ff00"})
    with pytest.raises(ValueError, match=r"1 pixels have the value #ff0000, which is no class"):
        other.read(path)


def test_unknown_values_are_named_with_the_file_and_what_is_known(tmp_path):
    path = save(tmp_path / "m.png", [[0, 3], [3, 9]])
    with pytest.raises(
        ValueError,
        match=r"m\.png: 2 pixels have the value 3 \(and 1 more values\), which is no class\. "
        r"Classes: background = 0, nucleus = 1 or 2",
    ):
        TWO.read(path)


def test_what_is_no_mask_is_refused(tmp_path):
    save(tmp_path / "m.jpg", [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match=r"m\.jpg is a JPEG, which changes values"):
        read_values(tmp_path / "m.jpg")
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "w.png", np.eye(20)).read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cut\.png"):
        read_values(tmp_path / "cut.png")
    with pytest.raises(FileNotFoundError):
        read_values(tmp_path / "none.png")
    with pytest.raises(ValueError, match="more than 64 values"):
        MaskClasses.found([save(tmp_path / "many.png", np.arange(100).reshape(10, 10))])
    with pytest.raises(ValueError, match="have the value 0: there is nothing to tell apart"):
        MaskClasses.found([save(tmp_path / "empty.png", np.zeros((4, 4)))])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"only": 0}, "at least 2 classes"),
        ({"mean": 0, "b": 1}, "'mean' is what tables call the mean over classes; rename it"),
        ({"a": 0, "b": []}, r"data\.classes\.b is an empty list"),
        ({"a": 0, "b": [1, 0]}, "gives the value 0 to more than one class"),
        ({"a": 0, "b": "red"}, r"data\.classes\.b must be a value of pixels"),
        ({"a": 0, "b": -1}, "must be a value of pixels"),
        ({"a": 0, "b": True}, "must be a value of pixels"),
        ({"a": 0, "b": "#ff0000"}, "holds numbers and colours"),
        ({str(number): number for number in range(65)}, "names 65 classes"),
    ],
)
def test_classes_that_cannot_be_are_refused(classes, message):
    with pytest.raises(ValueError, match=message):
        MaskClasses.given(classes)
