"""The same images and labels, however they are kept: one rule for folders, tables, data sets and arrays."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calib.data import TaskData, load_data
from calib.data.labels import number_labels
from calib.data.task import AbsentSplitError

Content = dict[str, list[Any]]  # split to the labels of its images
FULL: Content = {"train": ["b", "a", "c", "a", "b", "c"], "test": ["c", "a", "a"]}
NUMBERS: Content = {"train": [0, 1, 2, 10], "test": [10, 2]}
ELEVEN = [f"grade {'abcdefghijk'[number]}" for number in range(11)]


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def as_folder(content: Content, root: Path) -> tuple[str, Path]:
    for split, labels in content.items():
        for row, label in enumerate(labels):
            path = root / split / str(label) / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(row + 100 * len(split)))
    return "folder", root


def _listed(content: Content, root: Path) -> list[dict[str, Any]]:
    as_folder(content, root)
    return [
        {"file": f"{split}/{label}/{row}.png", "label": label, "split": split}
        for split, labels in content.items()
        for row, label in enumerate(labels)
    ]


def as_table(content: Content, root: Path) -> tuple[str, Path]:
    rows = _listed(content, root)
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return "table", root


def as_parquet_table(content: Content, root: Path) -> tuple[str, Path]:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_listed(content, root)), root / "labels.parquet")
    return "table", root


def _dataset(labels: Sequence[Any], seed: int, names: list[str] | None = None) -> Any:
    import datasets

    images = [{"bytes": png(row + seed), "path": None} for row in range(len(labels))]
    kinds = {str: "string", bool: "bool", int: "int64", float: "float64"}
    kind = datasets.ClassLabel(names=names) if names else datasets.Value(kinds[type(labels[0])])
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    return datasets.Dataset.from_dict({"image": images, "label": list(labels)}, features=features)


def as_hf(content: Content, root: Path) -> tuple[str, Path]:
    import datasets

    splits = {split: _dataset(labels, 100 * len(split)) for split, labels in content.items()}
    datasets.DatasetDict(splits).save_to_disk(root)
    return "hf", root


def as_hf_class_label(content: Content, root: Path) -> tuple[str, Path]:
    import datasets

    names = [str(name) for name in sorted({label for labels in content.values() for label in labels})]
    splits = {
        split: _dataset([str(label) for label in labels], 100 * len(split), names)
        for split, labels in content.items()
    }
    datasets.DatasetDict(splits).save_to_disk(root)
    return "hf", root


def as_hf_parquet(content: Content, root: Path) -> tuple[str, Path]:
    (root / "data").mkdir(parents=True)
    for split, labels in content.items():
        rows = _dataset(labels, 100 * len(split))
        middle = len(labels) // 2
        for part, chosen in enumerate((range(middle), range(middle, len(labels)))):
            rows.select(chosen).to_parquet(root / "data" / f"{split}-{part:05}-of-00002.parquet")
    return "hf", root


def as_medmnist(content: Content, root: Path) -> tuple[str, Path]:
    root.mkdir(parents=True)
    arrays = {}
    for split, labels in content.items():
        arrays[f"{split}_images"] = np.stack([pixels(row + 100 * len(split)) for row in range(len(labels))])
        arrays[f"{split}_labels"] = np.array(labels).reshape(-1, 1)
    np.savez(root / "mine.npz", **arrays)
    return "medmnist", root


READERS = [as_folder, as_table, as_parquet_table, as_hf, as_hf_class_label, as_hf_parquet, as_medmnist]
Writer = Callable[[Content, Path], tuple[str, Path]]


def labels_by_name(task: TaskData, split: str) -> list[str]:
    table = task.splits()[split]
    return sorted(task.class_names[label] for label in table.labels.tolist())


@pytest.mark.parametrize("write", READERS)
def test_words_are_classes_in_their_order_and_one_may_be_absent_from_test(
    tmp_path: Path, write: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    task = load_data(*write(FULL, tmp_path / "set"))
    assert task.class_names == ["a", "b", "c"]
    assert labels_by_name(task, "train") == ["a", "a", "b", "b", "c", "c"]
    assert labels_by_name(task, "test") == ["a", "a", "c"]
    assert "The test split has no image of 'b': recall is undefined there" in caplog.text


@pytest.mark.parametrize("write", READERS)
def test_numbers_are_indices_and_need_names(tmp_path: Path, write: Writer) -> None:
    given = write(NUMBERS, tmp_path / "set")
    with pytest.raises(ValueError, match=r"data\.class_names=\["):
        load_data(*given)
    if write is as_hf_class_label:
        return  # its own order is the numbering
    task = load_data(*given, class_names=ELEVEN)
    assert task.class_names == ELEVEN
    assert sorted(task.train.labels.tolist()) == [0, 1, 2, 10]  # not in the order of the words "0", "1", "10"
    assert sorted(task.test.labels.tolist()) == [2, 10]
    with pytest.raises(ValueError, match=r"row 4: label -1 has no name; data\.class_names goes up to 2"):
        number_labels({"0": "row 1", "-1": "row 4"}, ["a", "b", "c"])  # not the last class
    with pytest.raises(ValueError, match=r"10 has no name; data\.class_names goes up to 2"):
        load_data(*given, class_names=["x", "y", "z"])


@pytest.mark.parametrize("write", [each for each in READERS if each is not as_hf_class_label])
def test_true_and_false_are_indices_as_numbers_are(tmp_path: Path, write: Writer) -> None:
    given = write({"train": [True, False, True, False], "test": [True]}, tmp_path / "set")
    with pytest.raises(ValueError, match=r"data\.class_names=\["):
        load_data(*given)
    task = load_data(*given, class_names=["benign", "malignant"])
    assert (task.class_names, labels_by_name(task, "test")) == (["benign", "malignant"], ["malignant"])


@pytest.mark.parametrize("write", [as_table, as_parquet_table, as_hf, as_hf_parquet, as_medmnist])
def test_whole_floats_are_numbers_and_others_are_refused(tmp_path: Path, write: Writer) -> None:
    given = write({"train": [0.0, 1.0], "test": [1.0]}, tmp_path / "set")
    assert load_data(*given, class_names=["x", "y"]).test.labels.tolist() == [1]
    if write is not as_table:  # any text may be a class
        with pytest.raises(ValueError, match=r"must hold text, whole numbers or true and false, not 0\.5"):
            load_data(
                *write({"train": [0.5, 1.0], "test": [1.0]}, tmp_path / "other"), class_names=["x", "y"]
            )


@pytest.mark.parametrize("write", READERS)
def test_data_for_testing_only_are_enough_where_nothing_is_trained(tmp_path: Path, write: Writer) -> None:
    given = write({"test": ["b", "a", "b"]}, tmp_path / "set")
    with pytest.raises(ValueError, match="train"):
        load_data(*given)
    task = load_data(*given, needs=("test",), among=["c", "b", "a"])
    assert task.class_names == ["c", "b", "a"]  # as the model numbers them
    assert labels_by_name(task, "test") == ["a", "b", "b"]
    assert task.test.labels.min() >= 1
    with pytest.raises(ValueError, match="has no training images to draw shots from"):
        task.draw(1, seed=1)
    only = load_data(*given, needs=("test",), among=["a", "z"])  # not among them: refused by the prompt
    assert only.class_names == ["a", "b"]


@pytest.mark.parametrize("write", READERS)
def test_a_single_class_is_enough_beside_those_that_a_model_knows(tmp_path: Path, write: Writer) -> None:
    given = write({"test": ["b", "b"]}, tmp_path / "set")
    task = load_data(*given, needs=("test",), among=["a", "b", "c"])
    assert (task.class_names, task.test.labels.tolist()) == (["a", "b", "c"], [1, 1])


@pytest.mark.parametrize("write", READERS)
def test_images_for_training_only_are_enough_to_train_on(
    tmp_path: Path, write: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    given = write({"train": ["b", "a", "b", "a"]}, tmp_path / "set")
    task = load_data(*given)
    assert (task.class_names, labels_by_name(task, "train")) == (["a", "b"], ["a", "a", "b", "b"])
    assert ([*task.splits()], len(task.test)) == (["train"], 0)
    assert len(task.draw(1, val_shots=1, seed=1).val) == 2
    assert caplog.text.count("Without test images there will be no test results") == 1
    for needs in (("test",), ("train", "test")):
        with pytest.raises(AbsentSplitError, match="test") as refused:
            load_data(*given, needs=needs)
        told = pickle.loads(pickle.dumps(refused.value))  # to the other processes of a job
        assert told.there == refused.value.there == ("train",)
        assert str(told) == str(refused.value)


# Without splits


def test_class_folders_without_splits_can_be_tested_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_folder({"x": ["a", "b", "b"]}, tmp_path)
    task = load_data("folder", tmp_path / "x", needs=("test",))
    assert (task.class_names, task.test.names) == (["a", "b"], ["a/0.png", "b/1.png", "b/2.png"])
    assert "has no split folders: all images are for testing" in caplog.text
    with pytest.raises(ValueError, match=r"no 'train' and 'test' folders; it has: a, b\..*split column"):
        load_data("folder", tmp_path / "x")


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
def test_a_table_without_splits_can_be_tested_on(tmp_path: Path, name: str) -> None:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    rows = [{key: row[key] for key in ("file", "label")} for row in _listed(FULL, tmp_path)]

    def save(**more: str) -> None:
        table = pyarrow.Table.from_pylist([{**row, **more} for row in rows])
        write = pyarrow.csv.write_csv if name.endswith("csv") else pyarrow.parquet.write_table
        write(table, tmp_path / name)

    save()
    assert len(load_data("table", tmp_path, needs=("test",)).test) == 9
    with pytest.raises(ValueError, match=r"has no split column \(columns: file, label\)"):
        load_data("table", tmp_path)
    for hidden in ("Training", "val", "train"):  # a split column by another name: its images are no test
        save(fold=hidden)
        with pytest.raises(ValueError, match=r"no split column .*data\.options\.columns\.split=fold"):
            load_data("table", tmp_path, needs=("test",))
    assert len(load_data("table", tmp_path, needs=("test",), columns={"split": None}).test) == 9


def test_a_saved_dataset_without_splits_can_be_tested_on(tmp_path: Path) -> None:
    import datasets

    _dataset(["a", "b"], 0).save_to_disk(tmp_path / "one")
    assert len(load_data("hf", tmp_path / "one", needs=("test",)).test) == 2
    with pytest.raises(ValueError, match=r"no split 'train', saved without splits\. Save a DatasetDict"):
        load_data("hf", tmp_path / "one")
    rows = _dataset(["a", "b"], 0)
    part = datasets.Dataset(rows.data, info=rows.info, split=datasets.Split.TRAIN)
    part.save_to_disk(tmp_path / "part")
    with pytest.raises(ValueError, match=r"no split 'test', only train\. .*data\.options\.splits\.test=NAME"):
        load_data("hf", tmp_path / "part", needs=("test",))
    assert len(load_data("hf", tmp_path / "part", needs=("test",), splits={"test": "train"}).test) == 2


# Hugging Face data as they lie on disk


def test_parquet_files_of_other_libraries_and_in_other_places(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"image": png(seed), "label": label} for seed, label in enumerate(["a", "b"])]
    (tmp_path / "x" / "train").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x" / "train" / "0000.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x" / "test.parquet")
    task = load_data("hf", tmp_path / "x")
    assert (task.train.labels.tolist(), task.test.labels.tolist()) == ([0, 1], [0, 1])
    assert np.array_equal(np.array(task.test.open(1)), pixels(1))  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"folders of their own; give one of these: data\.root=.*x"):
        load_data("hf", tmp_path)
    (tmp_path / "x" / "test.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ValueError, match=r"cannot be read as a data set; it may be damaged"):
        load_data("hf", tmp_path / "x")


def test_class_labels_of_splits_with_other_classes_are_matched_by_name(tmp_path: Path) -> None:
    import datasets

    splits = {
        "train": _dataset(["a", "b", "c"], 0, ["c", "b", "a"]),
        "test": _dataset(["a", "b"], 9, ["a", "b"]),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path)
    task = load_data("hf", tmp_path)
    assert (task.class_names, task.test.labels.tolist()) == (["c", "b", "a"], [2, 1])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", None], r"Row 1 of the split 'test' has no label"),
        (["a", " "], r"Row 1 of the split 'test' has no label"),
        (["nan", "a"], r"Row 0 of the split 'test' has no label"),
        ([[0], [1]], r"'label' is of type (List|Sequence), which holds no labels"),
    ],
)
def test_labels_that_are_none_are_refused_by_their_row(tmp_path: Path, labels: list, message: str) -> None:
    import datasets

    images = [{"bytes": png(row), "path": None} for row in range(2)]
    rows = datasets.Dataset.from_dict({"image": images, "label": labels})
    datasets.DatasetDict({"test": rows.cast_column("image", datasets.Image())}).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_data("hf", tmp_path, needs=("test",), columns={"label": "label"})


def test_a_row_without_a_patient_is_no_patient_called_none(tmp_path: Path) -> None:
    import datasets

    rows = _dataset(["a", "b"], 0).add_column("patient", ["p", None])
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match=r"Row 1 of the split 'test' has no 'patient'"):
        load_data("hf", tmp_path, needs=("test",), columns={"group": "patient"})
