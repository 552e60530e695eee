import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from calib.data import load_data

datasets = pytest.importorskip("datasets")

Save = Callable[..., Path]


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes a DatasetDict with the given labels per split."""

    def write(
        labels: dict[str, list[int]], names: tuple[str, ...] = ("no_tumour", "tumour"), **more: object
    ) -> Path:
        features = datasets.Features(
            {
                "scan": datasets.Image(),
                "diagnosis": datasets.ClassLabel(names=list(names)),
                "patient": datasets.Value("string"),
            }
        )
        seed = iter(range(100))
        splits = {
            split: datasets.Dataset.from_dict(
                {
                    "scan": [{"bytes": png(next(seed)), "path": None} for _ in found],
                    "diagnosis": found,
                    "patient": [f"{split}{number // 2}" for number in range(len(found))],
                },
                features=features,
            )
            for split, found in labels.items()
        }
        datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
        return tmp_path / "saved"

    return write


def test_a_saved_data_set_is_read_with_its_class_labels(save: Save) -> None:
    root = save({"train": [0, 1, 1], "validation": [1], "test": [1, 0]})
    task = load_data("hf", root, columns={"group": "patient"})
    assert task.class_names == ["no tumour", "tumour"]
    assert [(split, table.labels.tolist()) for split, table in task.splits().items()] == [
        ("train", [0, 1, 1]),
        ("val", [1]),
        ("test", [1, 0]),
    ]
    assert task.train.groups == ["train0", "train0", "train1"]
    assert task.train.ids[1] == hashlib.sha256(png(1)).hexdigest()
    assert np.array_equal(np.array(task.train.open(1)), np.array(Image.open(io.BytesIO(png(1)))))  # type: ignore[union-attr]


def test_a_patient_that_is_not_a_number_is_none(tmp_path: Path) -> None:
    """All such images were one patient, called nan."""
    columns = {"image": [png(0), png(1)], "label": ["a", "b"], "patient": [7.0, float("nan")]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="Row 1 of the split 'train' has no 'patient'"):
        load_data("hf", tmp_path, columns={"group": "patient"})


def test_a_patient_column_that_is_not_used_is_pointed_out(
    save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    root = save({"train": [0, 1], "test": [1, 0]})
    load_data("hf", root, columns={"group": "patient"})
    assert "patient" not in caplog.text
    assert load_data("hf", root, columns={"patient": "patient"}).train.groups == ["train0", "train0"]
    assert load_data("hf", root, columns={"patient": None}).train.groups is None
    assert not caplog.records
    load_data("hf", root)
    assert "column patient is not used; if it names patients" in caplog.text


@pytest.mark.parametrize("error", [ConnectionError, RuntimeError])  # not all clients' errors are OSErrors
@pytest.mark.parametrize("where", [{"root": "owner/name"}, {"dataset": "name"}])
def test_what_the_hub_does_not_give_is_one_named_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[Exception], where: dict[str, str]
) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise error("no route to host\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"name, and .* \(no route to host\)\..*data\.root=FOLDER"):
        load_data("hf", **where)  # type: ignore[arg-type]


def test_settings_of_the_hub_are_not_passed_over_for_a_folder(save: Save) -> None:
    root = save({"train": [0, 1], "test": [1]})
    with pytest.raises(
        ValueError, match=r"data\.options\.revision are for data sets on the hub, not the folder"
    ):
        load_data("hf", root, revision="v1")


def test_splits_can_be_named_otherwise(save: Save) -> None:
    root = save({"train": [0, 1], "validation": [1, 0, 1]})
    with pytest.raises(
        ValueError,
        match=r"no split 'test', only train, validation\. Say which: data\.options\.splits\.test=NAME",
    ):
        load_data("hf", root, needs=("train", "test"))
    task = load_data("hf", root, splits={"test": "validation"})
    assert (len(task.test), task.val) == (3, None)
    with pytest.raises(
        ValueError,
        match=r"Unknown split \(data\.options\.splits\.test\) 'vaildation'\. Did you mean 'validation'",
    ):
        load_data("hf", root, splits={"test": "vaildation"})


def test_class_names_rename_in_label_order(save: Save) -> None:
    root = save({"train": [0, 1, 2], "test": [2]}, names=("z", "a", "m"))
    task = load_data("hf", root, class_names=["first", "second", "third"])
    assert (task.class_names, task.train.labels.tolist()) == (["first", "second", "third"], [0, 1, 2])


def test_wrong_columns_and_labels_are_explained(save: Save, tmp_path: Path) -> None:
    root = save({"train": [0, 1], "test": [-1]})
    with pytest.raises(ValueError, match="Row 0 of the split 'test' has no label"):
        load_data("hf", root)
    with pytest.raises(
        ValueError,
        match=r"'scan' is of type Image, which holds no labels.*data\.options\.columns\.label=NAME",
    ):
        load_data("hf", root, columns={"label": "scan"})
    with pytest.raises(
        ValueError, match=r"Unknown column \(data\.options\.columns\.image\) 'scna'\. Did you mean 'scan'"
    ):
        load_data("hf", root, columns={"image": "scna"})
    plain = datasets.DatasetDict(
        {split: datasets.Dataset.from_dict({"x": [1]}) for split in ("train", "test")}
    )
    plain.save_to_disk(tmp_path / "plain")
    with pytest.raises(
        ValueError,
        match=r"Expected one Image column, found 0: x \(Value\).*data\.options\.columns\.image=NAME",
    ):
        load_data("hf", tmp_path / "plain")


def test_what_is_not_a_saved_dict_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"either data\.root .* or data\.options\.dataset"):
        load_data("hf")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_data("hf", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"was not written by DatasetDict\.save_to_disk"):
        load_data("hf", tmp_path)
    datasets.Dataset.from_dict({"x": [1]}).save_to_disk(tmp_path / "single")
    with pytest.raises(ValueError, match=r"single: Expected one Image column, found 0: x \(Value\)"):
        load_data("hf", tmp_path / "single")


def test_a_root_that_is_no_folder_is_a_name_on_the_hub(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = datasets.load_from_disk(str(save({"train": [0, 1], "test": [1]})))
    asked = []

    def load_dataset(*given: object, **options: object) -> object:
        asked.append((*given, options["revision"]))
        if given[0] == "owner/missing":
            raise ConnectionError("no network")
        return saved

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    assert len(load_data("hf", "owner/my.set-1", config="small", revision="abc").train) == 2
    assert len(load_data("hf", dataset="plain").train) == 2
    assert asked == [("owner/my.set-1", "small", "abc"), ("plain", None, None)]
    with pytest.raises(FileNotFoundError, match=r"no folder owner/missing, and no data set .*no network"):
        load_data("hf", "owner/missing")
    asked.clear()
    datasets.DatasetDict(saved).save_to_disk("owner/here")
    assert len(load_data("hf", "owner/here").test) == 1
    for root in ("plain", "a/b/c", "./name", "../owner/name", "someone/", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"There is no folder .* not owner/name of a data set"):
            load_data("hf", root)
    assert not asked


def test_a_damaged_image_is_named(save: Save) -> None:
    root = save({"train": [0, 1], "test": [1, 0]})
    task = load_data("hf", root)
    source = task.train[1].source  # type: ignore[union-attr]
    broken = type(source)([{"scan": {"bytes": b"nothing", "path": None}}] * 2, "scan", 1, source.name)  # type: ignore[call-arg,attr-defined]
    with pytest.raises(ValueError, match="row train/1 is not an image"):
        broken.open()


def test_a_damaged_table_is_named_and_does_not_end_the_process(tmp_path: Path) -> None:
    root = _saved(tmp_path)
    file = next((root / "train").glob("*.arrow"))
    content = file.read_bytes()
    assert content.count(b"picture") == 2
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 8, 16))  # of the two images' bytes
    assert content.count(offsets) >= 1
    file.write_bytes(content.replace(offsets, offsets[:8] + (2**30).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"saved cannot be read as a data set; it may be damaged"):
        load_data("hf", root)


def test_a_data_set_reads_no_table_outside_of_its_folder(tmp_path: Path) -> None:
    root = _saved(tmp_path)
    file = next((root / "train").glob("*.arrow"))
    file.rename(tmp_path / "outside.arrow")
    state = root / "train" / "state.json"
    state.write_text(state.read_text().replace(file.name, "../../outside.arrow"))
    with pytest.raises(ValueError, match=r"it names the file .*outside\.arrow, which lies outside of it"):
        load_data("hf", root)


def _saved(tmp_path: Path) -> Path:
    import datasets

    features = datasets.Features({"scan": datasets.Image(), "kind": datasets.ClassLabel(names=["a", "b"])})
    cells = [{"bytes": b"picture" + bytes([n]), "path": None} for n in range(2)]
    split = datasets.Dataset.from_dict({"scan": cells, "kind": [0, 1]}, features=features)
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"
