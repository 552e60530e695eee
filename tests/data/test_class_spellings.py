"""Names that look the same are one class, wherever they are written."""

from __future__ import annotations

import csv
import logging
import unicodedata
from pathlib import Path

import pytest
import torch
from PIL import Image

from calib.data import load_data
from calib.data.task import number_classes, put_in_order
from calib.prompts.export import Prompt

NFC, NFD = "bénin", unicodedata.normalize("NFD", "bénin")
TWO = [(NFC, NFD), ("ﬁbrosis", "fibrosis"), ("CD４", "CD4"), ("benign", "benign\u200b")]


def folders(root: Path, train: list[str], test: list[str]) -> Path:
    for split, classes in (("train", train), ("test", test)):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            colour = (40 * number, 90, 200 if split == "test" else 0)
            Image.new("RGB", (8, 8), colour).save(root / split / name / f"{number}.png")
    return root


def table(root: Path, rows: list[tuple[str, str]]) -> Path:
    with (root / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for number, (label, split) in enumerate(rows):
            Image.new("RGB", (8, 8), (number, 90, 0)).save(root / f"{number}.png")
            writer.writerow([f"{number}.png", label, split])
    return root / "t.csv"


@pytest.mark.parametrize(("one", "other"), TWO)
def test_folders_in_two_forms_are_one_class(tmp_path: Path, one: str, other: str) -> None:
    task = load_data("folder", folders(tmp_path, [one, "malin"], [other, "malin"]))
    assert len(task.class_names) == 2
    assert task.train.labels.tolist() == task.test.labels.tolist() == [0, 1]


def test_two_folders_of_one_split_in_two_forms_are_one_class(tmp_path: Path) -> None:
    task = load_data("folder", folders(tmp_path, [NFC, NFD, "malin"], [NFD, "malin"]))
    assert task.class_names == [NFC, "malin"]
    assert task.train.labels.tolist() == [0, 0, 1]
    assert sorted(task.train.names) == sorted(
        [f"train/{NFC}/0.png", f"train/{NFD}/1.png", "train/malin/2.png"]
    )


def test_the_order_of_the_classes_does_not_depend_on_the_form(tmp_path: Path) -> None:
    for number, form in enumerate((NFC, NFD)):
        root = folders(tmp_path / str(number), [form, "bf"], [form, "bf"])
        assert load_data("folder", root).class_names == ["bf", NFC]


def test_names_that_are_given_may_be_in_another_form(tmp_path: Path) -> None:
    root = folders(tmp_path, [NFD, "malin"], [NFD, "malin"])
    assert load_data("folder", root, class_names=["malin", NFC]).train.labels.tolist() == [0, 1]
    assert load_data("folder", root, class_names=["malin", NFC]).class_names == ["malin", NFC]
    assert load_data("folder", root, class_names={NFC: "benign", "malin": "M"}).class_names == ["benign", "M"]
    (root / "classnames.txt").write_text(f"{NFC} nævus {NFD}\nmalin mélanome\n", encoding="utf-8")
    assert load_data("folder", root).class_names == [f"nævus {NFC}", "mélanome"]


@pytest.mark.parametrize(("one", "other"), TWO)
def test_labels_in_two_forms_are_one_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, one: str, other: str
) -> None:
    rows = [(one, "train"), ("malin", "train"), (other, "train"), (other, "test"), ("malin", "test")]
    with caplog.at_level(logging.WARNING):
        task = load_data("table", table(tmp_path, rows))
    assert len(task.class_names) == 2
    assert task.train.labels.tolist() == [
        task.train.labels[0],
        1 - task.train.labels[0],
        task.train.labels[0],
    ]
    said = "look the same and are read as one label" in caplog.text
    assert said == (one != NFC)  # the same text in two encodings needs no word


def test_lists_and_mappings_are_compared_in_one_form() -> None:
    assert number_classes([NFD, "x"], ["x", NFC], what="label") == ({NFD: 1, "x": 0}, ["x", NFC])
    assert put_in_order({"N": NFC, "T": "tumour"}, ["tumour", NFD], source="s") == {"T": "tumour", "N": NFC}
    many = [f"class {n}" for n in range(10_000)]
    labels, names = number_classes(many, many[::-1], what="label")
    assert (labels["class 0"], names[0]) == (9_999, "class 9999")
    assert put_in_order(dict(zip(many, many, strict=True)), [*many[:-1], "x"], source="s") == [
        *many[:-1],
        "x",
    ]


def test_an_export_with_names_in_the_other_form_fits_the_data() -> None:
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0], [2.0, -1.0]]), dim=1)
    prompt = Prompt(
        text_features=features, class_names=[NFD, "malin"], logit_scale=10.0, backbone={"name": "x"}
    )
    turned = prompt.in_order(["malin", NFC])
    assert turned.class_names == ["malin", NFC]
    assert torch.equal(turned.text_features, features.flip(0))


@pytest.mark.parametrize("names", [["n01855672", "n02091244"], ["c18", "c19", "c20"]])
def test_codes_as_folders_are_pointed_out_unless_names_are_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str]
) -> None:
    root = folders(tmp_path, names, names)
    given = [f"kind {letter}" for letter in "abcd"[: len(names)]]
    assert load_data("folder", root, class_names=given).class_names == given
    assert "say nothing to a text model" not in caplog.text
    assert f"'{names[0]}' is 'kind a', '{names[1]}' is 'kind b'" in caplog.text
    assert load_data("folder", root).class_names == names
    assert f"say nothing to a text model: {', '.join(names)}" in caplog.text
    assert f'"data.class_names=[NAME,NAME,...]": {", ".join(names)}' in caplog.text


def test_names_of_which_one_is_a_label_stand_in_the_order_of_the_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folders(tmp_path, ["covid19", "none"], ["covid19", "none"])
    assert load_data("folder", root, class_names=["COVID-19", "none"]).class_names == ["COVID-19", "none"]
    assert "Check the class names" in caplog.text
    assert "'covid19' is 'COVID-19', 'none' is 'none'" in caplog.text
    with pytest.raises(ValueError, match=r"covid19, none. Those that are labels have to stand in their own"):
        load_data("folder", root, class_names=["none", "COVID-19"])
    with pytest.raises(ValueError, match=r"Unknown class folder 'covid19'.*have to stand in their own"):
        load_data("folder", root, class_names=["COVID-19", "none", "third"])


def test_several_labels_in_one_cell_are_refused_unless_the_classes_are_named(tmp_path: Path) -> None:
    both, singles = "Atelectasis|Effusion", ["Atelectasis", "Effusion"]
    rows = [(label, split) for label in (*singles, both) for split in ("train", "test")]
    path = table(tmp_path, rows)
    with pytest.raises(ValueError, match=r"The label 'Atelectasis\|Effusion' lists several classes"):
        load_data("table", path)
    assert len(load_data("table", path, class_names=["collapse", "both", "fluid"]).class_names) == 3


@pytest.mark.parametrize(("on", "off"), [("1", "0"), ("1.0", "0.0")])
def test_one_hot_columns_get_advice(tmp_path: Path, on: str, off: str) -> None:
    lines = [
        "path,age,MEL,NV,BCC,split",
        f"a.png,41,{on},{off},{off},train",
        f"b.png,1,{off},{on},{off},test",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(
        ValueError, match=r"a column of 0 and 1 per class: MEL, NV, BCC.*table\['label'\] = table"
    ):
        load_data("table", tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("\n".join(lines).replace(f"{on},{off},{off}", f"{on},{on},{off}"))
    with pytest.raises(ValueError, match=r"Say which it is: data.options.columns.label=NAME"):
        load_data("table", tmp_path / "t.csv")
