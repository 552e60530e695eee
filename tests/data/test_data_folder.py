import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from calib.data import load_data
from calib.data.readers.folder import load_image_folder

MakeFolder = Callable[..., Path]
FOUR = {"train/ADI": 3, "train/smooth_muscle": 2, "test/ADI": 1, "test/smooth_muscle": 2}


def test_classes_are_the_sorted_folders_with_spaces_for_underscores(make_folder: MakeFolder) -> None:
    task = load_data("folder", make_folder(FOUR))
    assert task.class_names == ["ADI", "smooth muscle"]
    assert task.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert task.test.names == ["test/ADI/0.png", "test/smooth_muscle/0.png", "test/smooth_muscle/1.png"]
    assert task.val is None
    assert task.template == "An image of {}."


def test_sorting_is_by_code_point_as_in_the_official_code(make_folder: MakeFolder) -> None:
    root = make_folder({f"{split}/{name}": 1 for split in ("train", "test") for name in ("b", "C", "a")})
    assert load_data("folder", root).class_names == ["C", "a", "b"]


def test_the_official_layout_with_class_names_and_a_validation_split(make_folder: MakeFolder) -> None:
    root = make_folder(
        {f"images/{split}/{name}": 1 for split in ("train", "val", "test") for name in ("N", "T")}
    )
    (root / "classnames.txt").write_text("T colorectal adenocarcinoma\n\nN normal mucosa\n", encoding="utf-8")
    task = load_data("folder", root)
    assert task.class_names == [
        "normal mucosa",
        "colorectal adenocarcinoma",
    ]  # the folders' order, not the file's
    assert task.val is not None
    assert task.val.names == ["images/val/N/0.png", "images/val/T/0.png"]


def test_a_tab_allows_folders_with_spaces(make_folder: MakeFolder) -> None:
    root = make_folder(
        {f"{split}/{name}": 1 for split in ("train", "test") for name in ("low grade", "high")}
    )
    (root / "classnames.txt").write_text(
        "\ufefflow grade\tlow-grade glioma\nhigh\thigh grade\n", encoding="utf-8"
    )
    assert load_data("folder", root).class_names == ["high grade", "low-grade glioma"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("ADI adipose\nsmooth_muscle\n", r"line 2: expected '<folder> <class name>', got 'smooth_muscle'"),
        ("ADI a\nADI b\n", r"line 2: the folder 'ADI' is listed twice"),
        ("ADI a\nsmoth_muscle b\n", r"Unknown class folder 'smooth_muscle'. Did you mean 'smoth_muscle'"),
        ("ADI a\n", r"Unknown class folder 'smooth_muscle'.*Known: ADI"),
        ("ADI same\nsmooth_muscle same\n", r"both called 'same'"),
    ],
)
def test_a_wrong_classnames_file_is_explained(make_folder: MakeFolder, lines: str, message: str) -> None:
    root = make_folder(FOUR)
    (root / "classnames.txt").write_text(lines, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_data("folder", root)


def test_class_names_given_by_folder_set_names_and_numbering(make_folder: MakeFolder) -> None:
    task = load_data("folder", make_folder(FOUR), class_names={"smooth_muscle": "muscle", "ADI": "fat"})
    assert task.class_names == ["muscle", "fat"]
    assert task.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert task.train.names[0] == "train/smooth_muscle/0.png"


def test_class_names_given_as_a_list(make_folder: MakeFolder) -> None:
    root = make_folder(FOUR)
    assert load_data("folder", root, class_names=["fat", "muscle"]).train.labels.tolist() == [0, 0, 0, 1, 1]
    swapped = load_data(
        "folder", root, class_names=["smooth muscle", "ADI"]
    )  # the folders' own names, turned round
    assert swapped.class_names[int(swapped.train.labels[0])] == "smooth muscle"
    assert swapped.train.names[0] == "train/smooth_muscle/0.png"
    with pytest.raises(ValueError, match=r"3 class names for 2 values of class folder"):
        load_data("folder", root, class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"Unknown class folder 'smooth_muscle'"):
        load_data("folder", root, class_names=["muscle", "ADI"])
    task = load_data("folder", root, class_names=["ADI", "TUM", "smooth_muscle"])
    with pytest.raises(ValueError, match=r"Class 1 \('TUM'\) has 0 different images in the training split"):
        task.draw(1, seed=1)


@pytest.mark.parametrize(
    "names", [["smooth muscle", "fat"], ["smooth_muscle", "ADI"], ["smooth muscle", "ADI"]]
)
def test_a_list_of_the_names_in_classnames_txt_sets_their_order(
    make_folder: MakeFolder, names: list[str]
) -> None:
    root = make_folder(FOUR)
    (root / "classnames.txt").write_text("ADI fat\nsmooth_muscle smooth muscle\n", encoding="utf-8")
    task = load_data("folder", root, class_names=names)
    assert task.class_names == ["smooth muscle", "fat"]
    assert task.train.names[0] == "train/smooth_muscle/0.png"
    assert task.train.labels.tolist() == [0, 0, 1, 1, 1]


def test_names_in_classnames_txt_win_over_folders_of_the_same_name(make_folder: MakeFolder) -> None:
    root = make_folder({f"{split}/{folder}": 1 for split in ("train", "test") for folder in ("a", "b")})
    (root / "classnames.txt").write_text("a b\nb a\n", encoding="utf-8")
    task = load_data("folder", root, class_names=["a", "b"])
    assert (task.class_names, task.train.names) == (["a", "b"], ["train/b/0.png", "train/a/0.png"])


def test_new_names_beside_classnames_txt_are_in_label_order_or_refused(make_folder: MakeFolder) -> None:
    root = make_folder(FOUR)
    (root / "classnames.txt").write_text("ADI fat\nsmooth_muscle muscle\n", encoding="utf-8")
    renamed = load_data("folder", root, class_names=["fat", "sinew"])
    assert (renamed.class_names, renamed.train.labels.tolist()) == (["fat", "sinew"], [0, 0, 0, 1, 1])
    message = r"name in data\.class_names \(else those of classnames\.txt, .*\) 'fatt'\. Did you mean 'fat'"
    with pytest.raises(ValueError, match=message):
        load_data("folder", root, class_names=["muscle", "fatt"])


@pytest.mark.parametrize("empty", [False, True])
def test_a_class_without_test_images_keeps_the_numbering(
    make_folder: MakeFolder, caplog: pytest.LogCaptureFixture, empty: bool
) -> None:
    root = make_folder({"train/A": 1, "train/B": 1, "train/C": 1, "test/A": 1, "test/C": 1})
    if empty:
        (root / "test/B").mkdir()
    task = load_data("folder", root)
    assert (task.class_names, task.test.labels.tolist()) == (["A", "B", "C"], [0, 2])
    assert "The test split has no image of 'B': recall is undefined there" in caplog.text


@pytest.mark.parametrize("folder", ["train/B", "train/__MACOSX"])
def test_a_class_without_training_images_is_refused_when_shots_are_drawn(
    make_folder: MakeFolder, folder: str
) -> None:
    root = make_folder({"train/A": 1, "test/A": 1, "test/B": 1, folder: 0})
    with pytest.raises(ValueError, match=r"Class . \('.*'\) has 0 different images in the training split"):
        load_data("folder", root).draw(1, seed=1)


def test_stray_files_are_skipped_with_a_warning_that_names_them(
    make_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(FOUR)
    (root / "train/ADI/notes.txt").write_text("x")
    (root / "test/README").write_text("x")
    (root / "train/ADI/.DS_Store").write_text("x")
    (root / "train/ADI/Thumbs.db").write_text("x")
    with caplog.at_level(logging.WARNING):
        task = load_data("folder", root)
    assert len(task.train) == 5
    assert [record.getMessage() for record in caplog.records] == [
        "Skipped 3 files that are not images: train/ADI/Thumbs.db, train/ADI/notes.txt, test/README"
    ]


def test_images_in_a_format_that_is_not_read_are_an_error(make_folder: MakeFolder) -> None:
    root = make_folder(FOUR)
    (root / "train/ADI/scan.nii").write_bytes(b"volume")
    with pytest.raises(ValueError, match=r"scan\.nii is of a kind that is not read \(\.nii\)\. Convert it"):
        load_data("folder", root)


def test_a_text_file_named_like_an_image_is_an_error(make_folder: MakeFolder) -> None:
    root = make_folder(FOUR)
    (root / "train/ADI/9.png").write_text("not pixels")
    with pytest.raises(ValueError, match=r"9\.png is not an image.*another kind of file"):
        load_data("folder", root)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"A": 1, "B": 1}, r"has no 'train' and 'test' folders; it has: A, B\. .*split column"),
        ({}, r"it has: no folders"),
        ({"test/A": 1, "test/B": 1}, r"has no 'train' folder; it has: test"),
        ({"Train/A": 1, "Train/B": 1}, r"Train: please name this folder 'train'"),
        ({"A/x": 1, "B/y": 1}, r"has no 'train' and 'test' folders; it has: A, B"),
        ({**FOUR, "validation/ADI": 1}, r"validation: please name this folder 'val'"),
        ({**FOUR, "images/train/ADI": 1}, r"both directly and under 'images'"),
        ({**FOUR, "train": 1}, r"train/0\.png lies outside the class folders"),
        ({**FOUR, "train/ADI/patient1": 1}, r"patient1 is a folder inside a class folder"),
        ({"train": 0, "test/A": 1}, r"train has no class folders"),
    ],
)
def test_other_layouts_are_explained(
    make_folder: MakeFolder, tmp_path: Path, counts: dict[str, int], message: str
) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ValueError, match=message):
        load_data("folder", make_folder(counts))


def test_a_missing_test_folder_is_said_with_what_there_is(
    make_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder({"train/A": 1, "train/B": 1, "tests/A": 1})
    assert len(load_data("folder", root).test) == 0
    assert "has no 'test' folder; it has: tests, train. Without test images there will be no" in caplog.text
    with pytest.raises(ValueError, match=r"has no 'test' folder; it has: tests, train"):
        load_data("folder", root, needs=("train", "test"))


def test_a_broken_link_is_named(make_folder: MakeFolder) -> None:
    root = make_folder(FOUR)
    (root / "train/ADI/linked.png").symlink_to(root / "gone.png")
    with pytest.raises(ValueError, match=r"linked\.png is a broken link"):
        load_image_folder(root)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere \(data\.root\)"):
        load_data("folder", tmp_path / "nowhere")
