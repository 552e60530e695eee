"""Images with their masks, from folders and tables: which belongs to which, and what is refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image
from pixel_files import square, write_pixels

from calib.segmentation.batches import PixelBatches, scaled_mask, to_input
from calib.segmentation.tables import load_pixels

CLASSES = {"background": 0, "square": 1}


def test_folders_of_splits(tmp_path):
    tables = load_pixels(write_pixels(tmp_path), classes=CLASSES)
    assert {split: len(table) for split, table in tables.items()} == {"train": 4, "val": 2, "test": 3}
    image, mask = tables["val"].read(0)
    expected = square(4)
    assert np.array_equal(np.asarray(image), expected[0])
    assert np.array_equal(mask, expected[1])
    looked = tables["train"].look()
    assert looked["pixels"] == [4 * (256 - 64), 4 * 64]
    assert looked["digest"] != tables["test"].look()["digest"]


def test_a_table_with_splits_and_groups(tmp_path):
    root = write_pixels(tmp_path, {"x": 3})
    lines = [f"x/images/{n}.png,x/masks/{n}.png,{split},p{n % 2}"
             for n, split in enumerate(("train", "test", "test"))]  # fmt: skip
    (root / "t.csv").write_text("\n".join(["image,mask,split,patient", *lines]))
    tables = load_pixels(root, classes=CLASSES)
    assert {split: len(table) for split, table in tables.items()} == {"train": 1, "test": 2}
    assert tables["test"].groups == ("p1", "p0")
    assert load_pixels(root / "t.csv")["train"].classes.names == ("0", "1")
    other = load_pixels(root, classes=CLASSES, columns={"group": None, "mask": "mask"})
    assert other["test"].groups is None


def test_images_and_masks_without_splits_are_one_set(tmp_path):
    root = write_pixels(tmp_path, {"x": 3}) / "x"
    assert {split: len(table) for split, table in load_pixels(root).items()} == {"all": 3}


def test_files_that_do_not_belong_together_are_named(tmp_path):
    root = write_pixels(tmp_path, {"train": 3})
    (root / "train" / "masks" / "1.png").unlink()
    with pytest.raises(
        ValueError, match=r"1 of the 3 images in .* have no mask of the same name in .*: 1\.png"
    ):
        load_pixels(root)
    (root / "train" / "images" / "1.png").unlink()
    (root / "train" / "images" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"1 masks in .* have no image of the same name: 2\.png"):
        load_pixels(root)
    (root / "train" / "masks" / "2.png").unlink()
    Image.new("L", (4, 4)).save(root / "train" / "masks" / "0.tif")
    with pytest.raises(ValueError, match=r"0\.tif and .*0\.png have the same name"):
        load_pixels(root)


def test_a_mask_of_another_size_is_refused(tmp_path):
    root = write_pixels(tmp_path, {"train": 2})
    Image.fromarray(np.zeros((16, 12), dtype=np.uint8)).save(root / "train" / "masks" / "1.png")
    table = load_pixels(root, classes=CLASSES)["train"]
    with pytest.raises(ValueError, match=r"1\.png has 12 x 16 pixels, its image .*1\.png 16 x 16"):
        table.look()


def test_layouts_that_are_none_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder or table .*none \(data\.root\)"):
        load_pixels(tmp_path / "none")
    with pytest.raises(ValueError, match="has neither folders images and masks"):
        load_pixels(tmp_path)
    (tmp_path / "train" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no folder 'masks'"):
        load_pixels(tmp_path)
    (tmp_path / "train" / "masks").mkdir()
    with pytest.raises(ValueError, match="There are no images in"):
        load_pixels(tmp_path)
    (tmp_path / "t.csv").write_text("image,label_map,split\na.png,b.png,train\n")
    with pytest.raises(ValueError, match=r"has no column 'mask' \(data\.options\.columns\.mask=mask\)"):
        load_pixels(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="1 of the 1 images in the table"):
        load_pixels(tmp_path / "t.csv", columns={"mask": "label_map"})
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"1 of the 1 masks in the table .*: b\.png"):
        load_pixels(tmp_path / "t.csv", columns={"mask": "label_map"})
    with pytest.raises(
        ValueError, match=r"Unknown key of data\.options\.columns 'msk'\. Did you mean 'mask'"
    ):
        load_pixels(tmp_path / "t.csv", columns={"msk": "x"})


def test_of_several_tables_one_is_to_be_named(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("file,mask\n")
    with pytest.raises(
        ValueError, match=r"has several tables \(a\.csv, b\.csv\): name the one, as .*a\.csv\."
    ):
        load_pixels(tmp_path)


def test_a_path_out_of_the_folder_is_refused(tmp_path):
    root = write_pixels(tmp_path / "in", {"x": 1})
    (root / "t.csv").write_text("image,mask,split\nx/images/0.png,../out.png,train\n")
    with pytest.raises(ValueError, match=r"the path '\.\./out\.png' has '\.\.' in it"):
        load_pixels(root)


def test_batches_are_the_same_for_the_same_epoch_and_turn_image_and_mask_alike(tmp_path):
    table = load_pixels(write_pixels(tmp_path), classes=CLASSES)["train"]
    plain, turned = PixelBatches(table, 16), PixelBatches(table, 16, augment=True, seed=3)
    rows = torch.tensor([2, 0])
    batch = plain[0, rows]
    assert batch["images"].shape == (2, 3, 16, 16)
    assert torch.equal(batch["labels"][1], torch.from_numpy(square(0)[1]).long())
    assert torch.equal(turned[5, rows]["images"], turned[5, rows]["images"])
    seen = set()
    for epoch in range(20):
        again = turned[epoch, rows]
        bright = again["images"].mean(1) > 0.0
        assert ((bright == (again["labels"] == 1)).float().mean() > 0.9).all()
        seen.add(tuple(again["images"][0].flatten().tolist()))
    assert len(seen) == 8
    empty = plain[0, torch.tensor([], dtype=torch.int64)]
    assert empty["images"].shape == (0, 3, 16, 16)
    assert empty["labels"].dtype == torch.int64


def test_scaling_keeps_classes_and_range():
    mask = np.zeros((10, 20), dtype=np.uint8)
    mask[:, 10:] = 2
    small = scaled_mask(mask, 4)
    assert small.tolist() == [[0, 0, 2, 2]] * 4
    assert to_input(Image.new("RGB", (10, 20), (255, 255, 255)), 8).max() == 2.0
