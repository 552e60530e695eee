"""`calib data check`: it says before anything is encoded what training says, and more."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image
from tests_shared import SHORT

from calib.backbones.openclip import OpenClipBackbone
from calib.cli import main
from calib.commands.data_arguments import kind_of_place
from calib.commands.exit_codes import FAILED, USAGE
from calib.data.images import file_id
from calib.data.shot_list import ListedImage, ShotList
from calib.report.contact_sheet import SheetRow, save_contact_sheet


@pytest.fixture
def images(image_folder: Path, tmp_path: Path, monkeypatch) -> Path:
    """Return a folder of pictures of one's own, beside which one stands; nothing is ever encoded."""
    monkeypatch.chdir(tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("something was encoded")

    monkeypatch.setattr(OpenClipBackbone, "encode_image", refuse)
    return Path(shutil.copytree(image_folder, "images"))


def checked(capsys, *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main(["data", "check", *arguments, "--json"]) == status
    printed = capsys.readouterr()
    assert "WARNING" not in printed.err
    return json.loads(printed.out)


def test_what_will_be_read_is_said_and_drawn(images: Path, capsys) -> None:
    assert main(["data", "check", "images", "data.shots=2", "data.val_shots=1", "out=s/shots.png"]) == 0
    printed = capsys.readouterr().out
    for said in (
        "folder in images: 3 classes",
        "| class 0 |     6 |    3 |",
        "| all     |    18 |    9 |",
        "Images: 27 of 27 can be read (27 PNG colour 8-bit).",
        "Sizes: all 48 x 40 pixels.",
        "Copies (the same bytes): none.",
        "Patients: not known",
        "Shots (seed 1): 6 for training, 3 for validation.",
        'Zero-shot would read "An image of class 0."',
        "Training would begin",
    ):
        assert said in printed
    sheet = Image.open("s/shots.png")
    assert sheet.getpixel((16 + 44 + 56, 16 + 24 + 24 + 56)) == (90, 80, 70)  # a picture's ground
    assert not Path(".calib_cache").exists()


def test_the_shots_of_a_list_are_those_of_the_list(images: Path, capsys) -> None:
    files = [path for k in (0, 1, 1) for path in sorted((images / "train").glob(f"*{k}/*"))[:2]][:4]
    assert len({path.parent for path in files}) == 2
    names = [path.relative_to(images).as_posix() for path in files]
    listed = [
        ListedImage(file=name, content_id=file_id(path), strategy="random", rank=rank)
        for rank, (name, path) in enumerate(zip(names, files, strict=True), start=1)
    ]
    ShotList(tuple(listed)).save("select.csv")
    shots = checked(capsys, "images", "data.shots_from=select.csv")["shots"]
    assert sorted(shots["train_names"]) == sorted(names)
    found = checked(capsys, "images", "data.shots_from=gone.csv", status=1)
    assert found["shots"] is None
    assert any("There is no list of chosen images at gone.csv" in said for said in found["refused"])


def test_copies_leaks_kinds_and_sizes_are_found(images: Path, capsys) -> None:
    shutil.copy("images/train/class_0/1.png", "images/train/class_0/again.png")
    shutil.copy("images/train/class_1/2.png", "images/test/class_2/leak.png")
    Image.fromarray(np.full((7, 9), 40000, dtype=np.uint16)).save("images/test/class_0/deep.png")
    Image.new("L", (64, 60)).save("images/test/class_0/grey.jpg")
    found = checked(capsys, "images", "data.shots=5")
    assert found["splits"]["train"] == {
        "n": 19,
        "classes": {"class 0": 7, "class 1": 6, "class 2": 6},
        "groups": None,
    }
    assert found["images"]["kinds"] == {"PNG colour 8-bit": 29, "PNG grey 16-bit": 1, "JPEG grey 8-bit": 1}
    assert found["images"]["sizes"] == {"48 x 40": 29, "9 x 7": 1, "64 x 60": 1}
    overlap = found["overlap"]
    assert overlap["repeated_images"]["train"]["first"] == ["train/class_0/again.png"]
    assert overlap["shared_images"]["train/test"]["first"] == ["test/class_2/leak.png"]
    assert overlap["conflicting_images"]["count"] == 2
    assert any("occur under different labels" in said for said in found["warnings"])
    assert found["refused"] == []
    assert sum(found["shots"]["train"].values()) == len(found["shots"]["train_names"]) == 15


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data.shots=7"], "Class 0 ('class 0') has 6 different images in the training split; 7 training"),
        (["data.shots=5", "calibrate.prevalence={a: 1.0}"], "calibrate.prevalence"),
        (["data.shots=5", "loss.smac.alpha=-1"], "alpha"),
        (["data.class_names=[same,same,other]"], "same"),
        (["data.options.grey16_max=70000"], "grey16_max"),
        (
            ["data.root=images/train", "data.name=folder"],
            "train is itself a 'train' folder: give the folder it lies in, images.",
        ),
    ],
)
def test_training_refuses_in_the_same_words(images: Path, settings: list[str], said: str, capsys) -> None:
    if "grey16_max" in said:
        Image.fromarray(np.full((7, 9), 4000, dtype=np.uint16)).save("images/train/class_0/0.png")
        settings = ["data.options.grey16_max=100"]
    found = checked(capsys, "images", *settings, status=1)
    refused = " ".join(found["refused"])
    assert said in refused
    given = ["data.name=folder", "data.root=images", *settings, "out=run"]
    if "root" in settings[0]:
        given = [*settings, "out=run"]
    if said not in ("grey16_max", "calibrate.prevalence", "alpha"):  # which training finds once it encodes
        assert main(["train", *SHORT, *given]) == 1
        assert capsys.readouterr().err.strip().removeprefix("calib train: ") in refused


def test_all_that_cannot_be_read_is_named_at_once(images: Path, capsys) -> None:
    for name in ("train/class_0/1.png", "test/class_2/0.png"):
        path = images / name
        path.write_bytes(path.read_bytes()[:60])
    (images / "train/class_1/0.png").write_bytes(b"")
    found = checked(capsys, "images", "data.shots=2", status=1)
    assert set(found["images"]["unreadable"]["train"]) == {"train/class_0/1.png", "train/class_1/0.png"}
    assert set(found["images"]["unreadable"]["test"]) == {"test/class_2/0.png"}
    assert found["refused"][0].startswith("3 images that cannot be read:\n")
    assert found["splits"]["train"]["n"] == 16
    skipped = checked(capsys, "images", "data.shots=2", "data.options.skip_unreadable=true")
    assert skipped["warnings"][-1].startswith("Left out: 3 images that cannot be read")


def test_problems_of_every_kind_are_told_in_one_pass_the_most_basic_first(images: Path, capsys) -> None:
    Path("images/train").rename("images/Training")
    for number in range(3):
        Path(f"images/Training/class_0/{number}.gif").write_bytes(b"GIF89a")
    Path("images/Training/class_1/0.png").write_bytes(b"")
    given = ["data.class_names=[a,b]", "data.shots=7"]
    refused = checked(capsys, "images", *given, status=1)["refused"]
    for said, problem in zip(
        (
            r"images/Training: please name this folder 'train'",
            r"0\.gif is of a kind that is not read .* And 2 more like this\.",
            r"There are 2 class names for 3 values of class folder",
            r"1 images that cannot be read",
            r"Class 0 \('class 0'\) has 6 different images in the training split; 7 training",
        ),
        refused,
        strict=True,
    ):
        assert re.search(said, problem, re.DOTALL)
    assert main(["train", *SHORT, "data.name=folder", "data.root=images", *given, "out=run"]) == 1
    told = capsys.readouterr().err
    assert "calib train: 5 problems, the most basic first:\n- images/Training: please name" in told
    assert all(f"\n- {problem}" in told for problem in (refused[1], refused[2], refused[4]))
    assert not Path("run").exists()


def test_a_table_of_an_unexpected_kind_is_told_all_that_is_missing(images: Path, capsys) -> None:
    rows = ["train/class_0/0.png;x;training", "train/class_0/1.png;y;training", "train/none.png;y;test"]
    Path("images/cases.csv").write_text("\n".join(["file;diagnosis;set", *rows]))
    refused = checked(capsys, "images/cases.csv", status=1)["refused"]
    assert [each.split(". ")[0].split("(")[0].strip() for each in refused] == [
        "images/cases.csv has a single column, 'file;diagnosis;set'",
        "images/cases.csv has no column for the label",
        "images/cases.csv has no split column",
    ]
    columns = ["data.options.columns.label=diagnosis", "data.options.columns.split=set"]
    given = ["data.options.delimiter=;", *columns, "data.class_names=[one,two,three]"]
    refused = checked(capsys, "images/cases.csv", *given, status=1)["refused"]
    assert "Write 'train' instead" in refused[0]
    assert refused[0].endswith("And 1 more like this.")
    assert "There are 3 class names for 2 values of label" in refused[1]
    assert "do not exist" in refused[2]


def test_headers_alone_do_not_find_what_is_cut_off_behind_them(images: Path, capsys) -> None:
    Image.effect_noise((90, 90), 60).save("images/train/class_0/0.jpg", quality=95)
    path = images / "train/class_0/0.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    assert checked(capsys, "images", "data.shots=4", "--headers")["refused"] == []
    assert "damaged" in checked(capsys, "images", "data.shots=4", status=1)["refused"][0]


def test_data_that_nothing_is_trained_on_are_looked_at_all_the_same(images: Path, capsys) -> None:
    shutil.rmtree("images/train")
    found = checked(capsys, "images", status=1)
    assert "no 'train' folder" in found["refused"][0]
    assert found["splits"]["test"]["n"] == 9
    assert found["images"]["looked_at"] == 9
    assert found["shots"] is None


def test_patients_are_counted_and_those_on_both_sides_named_with_their_images(images: Path, capsys) -> None:
    shutil.rmtree("images")
    for number, (split, label) in enumerate((s, k) for s in ("train", "test") for k in "aab"):
        pixels = np.full((4, 5), number, dtype=np.uint8)
        path = Path(f"images/{split}/{label}/{number}.dcm")
        write_dicom(path, pixels, patient=str(1 + number % 5), BurnedInAnnotation="YES")
    found = checked(capsys, "images", "data.shots=1")
    assert found["splits"]["train"]["groups"] == 3
    ((group, names),) = found["overlap"]["images_of_shared_groups"].items()
    assert group.startswith("patient-")
    assert names == ["train: train/a/0.dcm", "test: test/b/5.dcm"]
    assert found["images"]["kinds"] == {"DICOM 8-bit MONOCHROME2": 6}
    assert any("6 DICOM files say that their pixels show text" in said for said in found["warnings"])


def test_packaged_features_have_no_pictures(tmp_path: Path, capsys) -> None:
    found = checked(capsys, f"out={tmp_path / 'shots.png'}")
    assert found["data"]["name"] == "cxr3"
    assert found["splits"]["test"]["n"] == 545
    assert "no picture" in found["warnings"][-1]
    assert not (tmp_path / "shots.png").exists()
    assert "9 augmented views were asked for" in checked(capsys, "data.views=9", status=1)["refused"][0]


def test_a_place_says_which_reader_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("file,label\n")
    assert kind_of_place(tmp_path) == kind_of_place(tmp_path / "cases.csv") == "table"
    (tmp_path / "train").mkdir()
    assert kind_of_place(tmp_path) == "folder"
    (tmp_path / "train" / "state.json").write_text("{}")
    assert kind_of_place(tmp_path / "train") == "hf"
    (tmp_path / "x.npz").touch()
    assert kind_of_place(tmp_path / "x.npz") == "medmnist"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], "Unknown subcommand of calib data 'chek'. Did you mean 'check'?"),
        (["check", "nowhere"], "There is no folder or table 'nowhere'."),
        (["check", "images", "out=shots.jpg"], "out=shots.jpg must end in .png"),
        (["check", "images", "out=images"], "out=images must end in .png"),
        (["check", "images", "images"], "One folder or table is checked at a time"),
        (["check", "images", "--jsn"], "There is no option '--jsn'"),
        (["check", "images", "data.shot=3"], "Did you mean 'data.shots'?"),
        (["check", "cxr3"], "There is no folder or table 'cxr3'. A data set by that name: data.name=cxr3."),
        (["check", "cases.xlsx"], "'cases.xlsx' is a spreadsheet: save it as CSV"),
        (["check", "images/train/class_0/0.png"], "is no data: give a folder of class folders, a table"),
    ],
)
def test_wrong_usage_is_answered(images: Path, arguments: list[str], message: str, capsys) -> None:
    Path("cases.xlsx").touch()
    usage = "subcommand" in message or "option" in message
    assert main(["data", *arguments]) == (USAGE if usage else FAILED)
    assert message in capsys.readouterr().err


def test_a_contact_sheet_has_a_line_for_every_dozen_images(tmp_path: Path) -> None:
    image = Image.new("RGB", (200, 100), (255, 0, 0))
    save_contact_sheet([SheetRow("a", [image] * 13, [image]), SheetRow("b", [])], "t", tmp_path / "s.png")
    sheet = Image.open(tmp_path / "s.png")
    assert sheet.size == (2 * 16 + 44 + 12 * 118, 2 * 16 + 24 + (24 + 3 * 118 + 6) + (24 + 6))
    with pytest.raises(ValueError, match="no image to draw"):
        save_contact_sheet([SheetRow("a", [])], "t", tmp_path / "s.png")
