import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from calib.core.names import check_class_names
from calib.data import DATASETS, FeatureTable, TaskData, check_overlap, few_shot_split, load_data
from calib.data.readers.embedded import save_task_features
from calib.data.task import check_template, number_classes

MakeFolder = Callable[..., Path]

OFFICIAL = {  # class names in label order and template, github.com/iabh1shekbasu/CalibPrompt c6ec13e
    "covid": (["covid", "normal"], "A chest X-ray image of {} patient"),
    "rsna18": (
        ["lung opacity", "no lung opacity, not normal", "normal"],
        "A chest X-ray image of {} patient",
    ),
    "kather": (
        [
            "adipose tissue",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ],
        "An H&E image of {}.",
    ),
    "pannuke": (["benign", "malignant"], "An H&E image patch of {} skin tissue."),
    "digestpath": (["benign", "malignant"], "An H&E image patch of {} tissue."),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_published_sets_have_the_official_names_numbering_and_template(
    make_folder: MakeFolder, name: str
) -> None:
    folders = list(DATASETS[name].class_names or ())
    assert folders == sorted(folders)  # labels are the sorted folders, as in the official code
    counts = {f"{name}/images/{split}/{folder}": 1 for split in ("train", "test") for folder in folders}
    root = make_folder(counts)
    # Every image is called 0.png, which for rsna18 means one patient; keep them all.
    options = {"keep_leaks": True} if name == "rsna18" else {}
    for given in (root, root / name):
        task = load_data(name, given, **options)
        assert (task.class_names, task.template) == OFFICIAL[name]
        assert task.train.labels.tolist() == list(range(len(folders)))
    assert task.source.startswith("https://")
    assert task.licence


def test_kather_has_an_alias() -> None:
    assert DATASETS["kathercolon"] is DATASETS["kather"]


def test_a_folder_that_is_not_the_data_sets_is_refused(make_folder: MakeFolder) -> None:
    root = make_folder(
        {f"covid/images/{split}/{c}": 1 for split in ("train", "test") for c in ("Covid", "normal")}
    )
    with pytest.raises(ValueError, match=r"Unknown class folder 'Covid'\. Did you mean 'covid'"):
        load_data("covid", root)


@pytest.fixture
def rsna(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """Patients p1 and p2 are in training and test; p3 is in training twice, as .png and .jpg."""
    images = tmp_path / "rsna18" / "images"
    files = {
        "train": [
            "lung_opacity/p1.png",
            "lung_opacity/p3.jpg",
            "lung_opacity/p3.png",
            "normal/p2.png",
            "normal/p4.png",
        ],
        "test": ["lung_opacity/p1.png", "normal/p2.png", "normal/p5.png"],
    }
    for split, names in files.items():
        for seed, name in enumerate([*names, f"no_lung_opacity_not_normal/{split}.png"]):
            write_image(images / split / name, seed)
    return tmp_path


def test_rsna18_has_every_patient_once_and_on_one_side(rsna: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        task = load_data("rsna18", rsna)
    assert task.train.groups == ["p3", "train", "p4"]
    assert task.test.groups == ["p1", "test", "p2", "p5"]  # untouched, so results compare
    assert task.notes[-1] == "3 train images of patients who occur elsewhere were left out."
    assert "3 train images" in caplog.text


def test_rsna18_has_no_patient_of_validation_in_training(
    rsna: Path, write_image: Callable[..., Path]
) -> None:
    images = rsna / "rsna18" / "images"
    for seed, patient in enumerate(("p4", "p5", "p6")):  # p4 is in training too, and p5 in test
        write_image(images / "val" / "normal" / f"{patient}.png", seed)
    task = load_data("rsna18", rsna)
    assert task.val is not None
    assert (task.train.groups, task.val.groups) == (["p3", "train"], ["p4", "p6"])
    assert task.test.groups == ["p1", "test", "p2", "p5"]


def test_rsna18_can_be_loaded_as_published(rsna: Path) -> None:
    task = load_data("rsna18", rsna, keep_leaks=True)
    assert len(task.train) == 6
    assert task.notes[-1] == "3 train images of patients who occur elsewhere were kept, as published."


@pytest.mark.parametrize(
    ("name", "root", "options", "message"),
    [
        ("kahter", "x", {}, r"Unknown data set 'kahter'\. Did you mean 'kather'"),
        ("kather", None, {}, r"'kather' needs the folder .*data\.root=.*Source: https://zenodo"),
        (
            "rsna18",
            "x",
            {"keep_leak": True},
            r"Unknown option of data set 'rsna18' 'data.options.keep_leak'.*'data.options.keep_leaks'",
        ),
        (
            "folder",
            "x",
            {"columns": {}},
            r"Unknown option of data set 'folder' 'data.options.columns'.*, data.options.grey16_max,",
        ),
    ],
)
def test_unknown_names_and_options_are_explained(
    name: str, root: str | None, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_data(name, root, **options)


def test_an_option_unlike_any_known_one_gets_no_suggestion() -> None:
    with pytest.raises(
        ValueError,
        match=r"'data\.options\.columns'\. Known: data\.options\.frame, data\.options\.grey16_max, ",
    ):
        load_data("folder", "x", columns={})


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("table", "columns", "label", r"columns must be a mapping .*, not 'label'"),
        ("table", "skip_splits", "dev", r"skip_splits must be a list \(\[A,B\]\), not 'dev'"),
        ("table", "table", 3, r"table must be text or a mapping .*, not 3"),
        ("table", "allow_outside", "yes", r"allow_outside must be true or false, not 'yes'"),
        ("hf", "revision", 1234567, r"revision must be text, not 1234567"),
        ("folder", "grey16_max", True, r"grey16_max must be a whole number, not True"),
    ],
)
def test_options_of_another_kind_are_refused(name: str, option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.options\.{message}"):
        load_data(name, "x", **{option: value})  # type: ignore[arg-type]


def test_the_home_folder_may_be_written_short(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder({f"{split}/{name}": 1 for split in ("train", "test") for name in ("a", "b")})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_data("folder", "~/set").train) == 2


def test_every_data_set_has_a_valid_template_and_terms() -> None:
    for name, spec in DATASETS.items():
        check_template(spec.template)
        assert spec.source, name
        assert spec.licence, name
        if spec.class_names is not None:
            check_class_names(list(spec.class_names.values()))


def test_the_template_and_the_white_of_16_bit_images_can_be_set(make_folder: MakeFolder) -> None:
    root = make_folder({f"{split}/{name}": 1 for split in ("train", "test") for name in ("a", "b")})
    task = load_data("folder", root, template="{} seen from afar", grey16_max=4095)
    assert task.template == "{} seen from afar"
    assert (task.train.grey16_max, task.test.grey16_max) == (4095, 4095)  # type: ignore[union-attr]
    for template in ("no place", "{} and {}", "{name}", "{} {0}"):
        with pytest.raises(ValueError, match=r"data\.template needs \{\} exactly once"):
            load_data("folder", root, template=template)


def features(labels: list[int]) -> FeatureTable:
    n = len(labels)
    return FeatureTable(torch.eye(n, 8), torch.tensor(labels), ["0" * 64] * n, [str(i) for i in range(n)])


def test_a_task_checks_its_labels_and_names() -> None:
    with pytest.raises(
        ValueError, match="test split of data set 'x' has label 2, but there are only 2 class names"
    ):
        TaskData("x", ["a", "b"], "{}", train=features([0, 1]), test=features([2]))
    with pytest.raises(ValueError, match="least two classes are needed, got \\['a'\\]"):
        TaskData("x", ["a"], "{}", train=features([0]), test=features([0]))
    with pytest.raises(ValueError, match="both called 'b'"):
        TaskData("x", ["b", "b"], "{}", train=features([0]), test=features([0]))
    with pytest.raises(ValueError, match="Class name number 1 is empty"):
        TaskData("x", ["b", " "], "{}", train=features([0]), test=features([0]))


def test_numbering_follows_the_keys_unless_names_say_otherwise() -> None:
    keys = ["b", "c_d", "a"]
    assert number_classes(keys, None, what="label") == ({"b": 0, "c_d": 1, "a": 2}, ["b", "c d", "a"])
    assert number_classes(keys, ["x", "y", "z"], what="label") == (
        {"b": 0, "c_d": 1, "a": 2},
        ["x", "y", "z"],
    )
    assert number_classes(keys, ["a", "b", "c d"], what="label")[0] == {"a": 0, "b": 1, "c_d": 2}


EMBEDDED = {
    "cxr3": ("cxr3_224", {"train": 262, "val": 53, "test": 545}, [85, 108, 69]),
    "lc25000": ("lc25000_unique_224", {"train": 200, "val": 100, "test": 500}, [40] * 5),
}


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_tasks_from_images_leave_the_pretraining_images_out(shared_data: Path, name: str) -> None:
    folder, sizes, train_counts = EMBEDDED[name]
    task = load_data(name, shared_data / folder)
    assert {split: len(table) for split, table in task.splits().items()} == sizes
    assert task.train.labels.bincount().tolist() == train_counts
    assert task.class_names == list((DATASETS[name].class_names or {}).values())
    assert check_overlap(task).clean  # by patient or tile group
    assert len(
        few_shot_split(
            task.train.labels, task.train.ids, 8, val_shots=4, seed=0, groups=task.train.groups
        ).val
    )
    with (shared_data / folder / "labels.csv").open() as file:
        pretrain = {row["file"] for row in csv.DictReader(file) if row["split"] == "pretrain"}
    assert pretrain
    assert not pretrain & {name for table in task.splits().values() for name in table.names}


@pytest.fixture
def tiny_cxr3(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """Write a table like that of cxr3, with two images per class and split."""
    rows = ["file,label,source,patient,split"]
    for split in ("train", "val", "test", "pretrain"):
        for label in ("covid19", "no_finding", "pneumonia"):
            for number in range(2):
                file = f"{label}/{split}{number}.png"
                write_image(tmp_path / file, len(rows))
                rows.append(f"{file},{label},here,{split}-{label},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_packaged_features_are_what_the_images_give(
    tiny_cxr3: Path, tmp_path: Path, backbone: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_data("cxr3", tiny_cxr3)
    package = tmp_path / "package"
    save_task_features(task, backbone, package / "assets" / "tasks" / "cxr3", views=2)  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.resources.files", lambda name: package)
    packaged = load_data("cxr3")
    for split, table in packaged.splits().items():
        images = task.splits()[split]
        assert isinstance(table, FeatureTable)
        assert (table.names, table.ids, table.groups) == (images.names, images.ids, images.groups)
        assert table.labels.equal(images.labels)
        assert table.views == (2 if split == "train" else 0)
        table.check_backbone(backbone)  # type: ignore[arg-type]
    assert (packaged.class_names, packaged.template) == (task.class_names, task.template)

    renamed = load_data("cxr3", class_names={"pneumonia": "P", "covid19": "C", "no_finding": "N"})
    names = [renamed.class_names[label] for label in renamed.test.labels.tolist()]
    assert names == [packaged.class_names[label][0].upper() for label in packaged.test.labels.tolist()]
    names = ["COVID-19", "no finding", "pneumonia"]
    turned = load_data("cxr3", class_names=names)
    assert turned.class_names == names
    assert [names[label] for label in turned.test.labels.tolist()] == [
        packaged.class_names[label] for label in packaged.test.labels.tolist()
    ]
    with pytest.raises(ValueError, match="holds features already"):
        save_task_features(packaged, backbone, package)  # type: ignore[arg-type]


def test_missing_packaged_features_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda name: tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"lacks the packaged features of 'lc25000'; give the images \(data\.root\)"
    ):
        load_data("lc25000")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([False, True, "x"], r"must hold text, not False \(bool\)"),
        ([1, 2, 3], r"must hold text, not 1 \(int\)"),
        ({"pneumonia": "P", "covid19": None, "no_finding": "N"}, r"must hold text, not None"),
        ("abc", "must be a list of names, not the text 'abc'"),
    ],
)
def test_class_names_that_are_no_text_are_refused(names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_data("cxr3", class_names=names)
