from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calib.data import check_overlap, load_data
from calib.data.readers.medmnist import CLASS_NAMES

Save = Callable[..., Path]


def arrays(classes: int = 2, channels: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    found = {}
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        found[f"{split}_images"] = random.integers(0, 256, (count, 5, 7, *channels), dtype=np.uint8)
        found[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % classes)[:, None]
    return found


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(name: str = "pneumoniamnist.npz", **found: np.ndarray) -> Path:
        np.savez(tmp_path / name, **(found or arrays()))
        return tmp_path / name

    return write


def test_grey_images_by_file_and_by_folder(save: Save, tmp_path: Path) -> None:
    path = save()
    task = load_data("medmnist", path)
    assert task.class_names == ["normal", "pneumonia"]
    assert [(split, len(table)) for split, table in task.splits().items()] == [
        ("train", 6),
        ("val", 3),
        ("test", 4),
    ]
    assert task.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    grey = arrays()["train_images"][2]
    assert np.array_equal(np.array(task.train.open(2)), np.repeat(grey[..., None], 3, axis=2))  # type: ignore[union-attr]
    for root in (path, tmp_path):
        named = load_data("pneumoniamnist", root)
        assert (named.template, named.train.ids) == ("A chest X-ray image of {}.", task.train.ids)


def test_colour_images_and_published_names(save: Save) -> None:
    found = arrays(classes=9, channels=(3,))
    found["train_labels"] = np.array([[8], [0], [1], [2], [3], [4]])
    task = load_data("medmnist", save("pathmnist_64.npz", **found))
    assert task.class_names[int(task.train.labels[0])] == "colorectal adenocarcinoma epithelium"
    assert np.array_equal(np.array(task.test.open(3)), found["test_images"][3])  # type: ignore[union-attr]


def test_more_than_ten_classes_keep_their_numbers(save: Save) -> None:
    found = arrays()
    found["train_labels"] = np.array([[10], [2], [1], [0], [9], [5]])
    task = load_data("medmnist", save("organamnist.npz", **found))
    assert task.train.labels.tolist() == [10, 2, 1, 0, 9, 5]
    assert task.class_names[10] == "spleen"


def test_the_published_sets_have_their_number_of_classes() -> None:
    assert {name: len(names) for name, names in CLASS_NAMES.items()} == {
        "bloodmnist": 8,
        "breastmnist": 2,
        "dermamnist": 7,
        "octmnist": 4,
        "organamnist": 11,
        "organcmnist": 11,
        "organsmnist": 11,
        "pathmnist": 9,
        "pneumoniamnist": 2,
        "retinamnist": 5,
        "tissuemnist": 8,
    }


def test_names_are_needed_for_unknown_files(save: Save) -> None:
    path = save("mine.npz")
    with pytest.raises(
        ValueError, match=r"class names of mine\.npz are not known \(known: bloodmnist.*data\.class_names="
    ):
        load_data("medmnist", path)
    assert load_data("medmnist", path, class_names=["a", "b"]).class_names == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.zeros((6, 14), dtype=np.uint8)}, "train: 14 labels per image; only one class"),
        ({"train_labels": np.zeros((5, 1), dtype=np.uint8)}, "train: 5 labels of type uint8 for 6 images"),
        (
            {"train_labels": np.full((6, 1), 0.5)},
            "train: labels must hold text, whole numbers or .*, not 0.5",
        ),
        ({"test_labels": np.full((4, 1), 2)}, "test: label 2 has no name; data.class_names goes up to 1"),
        ({"train_images": np.zeros((6, 5, 7))}, "train: images must be uint8"),
        ({"train_images": np.zeros((6, 5, 7, 4), dtype=np.uint8)}, r"images must be uint8 \(N, H, W\)"),
        ({"train_images": np.array([{}] * 6, dtype=object)}, "is not a MedMNIST .npz file .*pickle"),
        ({"test_images": None}, "has test_labels without test_images; it has: "),
        ({"train_images": None, "train_labels": None}, "has no array 'train_images'; it has: "),
    ],
)
def test_wrong_arrays_are_explained(save: Save, change: dict[str, np.ndarray | None], message: str) -> None:
    found = {key: value for key, value in {**arrays(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load_data("medmnist", save(**found))


def test_damaged_missing_and_ambiguous_files_are_named(save: Save, tmp_path: Path) -> None:
    path = save()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"pneumoniamnist\.npz is not a MedMNIST .*cut off"):
        load_data("medmnist", path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_data("medmnist", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no pathmnist \.npz file"):
        load_data("medmnist", tmp_path, flag="pathmnist")
    save("pneumoniamnist_64.npz")
    with pytest.raises(ValueError, match=r"has several files: pneumoniamnist\.npz, pneumoniamnist_64\.npz"):
        load_data("pneumoniamnist", tmp_path)


def test_the_real_file_and_its_known_duplicates(shared_data: Path) -> None:
    task = load_data("pneumoniamnist", shared_data / "pneumoniamnist")
    assert [(split, len(table)) for split, table in task.splits().items()] == [
        ("train", 4708),
        ("val", 524),
        ("test", 624),
    ]
    assert task.train.labels.bincount().tolist() == [1214, 3494]
    report = check_overlap(task)
    assert {split: len(names) for split, names in report.repeated_images.items()} == {"train": 18, "test": 3}
    assert {pair: len(names) for pair, names in report.shared_images.items()} == {"train/val": 8}
