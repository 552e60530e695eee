"""The list of chosen images: written, opened in a spreadsheet, filled in, read back, trained on."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from calib.data import load_data
from calib.data.chosen_shots import chosen_split, strategies_of, warn_of_chosen
from calib.data.contact_sheet import GAP, LINE, PICTURE, save_sheets
from calib.data.few_shot import FewShotSplit
from calib.data.readers.pool import load_unlabelled
from calib.data.shot_list import ListedImage, ShotList, read_shot_list

NAMES = ["none", "some", "much"]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Return a folder of nine pictures in two subfolders, and other files."""
    root = tmp_path / "scans"
    for number in range(9):
        path = root / ("a" if number < 5 else "b") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20 + number), (20 * number, 90, 60)).save(path)
    (root / "notes.txt").write_text("x")
    (root / "a" / ".hidden.png").write_bytes((root / "a" / "0.png").read_bytes())
    return root


def listed(root: Path, labels: dict[str, str | None], **changes: object) -> ShotList:
    images = [
        ListedImage(
            file=file,
            content_id=hashlib.sha256((root / file).read_bytes()).hexdigest(),
            strategy="typicality",
            label=label,
            rank=rank,
            why="most typical, of many",
        )
        for rank, (file, label) in enumerate(labels.items(), start=1)
    ]
    return ShotList(tuple(replace(each, **changes) for each in images))  # type: ignore[arg-type]


FULL: dict[str, str | None] = {"a/0.png": "some", "b/6.png": "none", "a/3.png": "some"}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_list_comes_back_whatever_spreadsheet_saved_it(scans: Path, tmp_path: Path, separator: str) -> None:
    wild = listed(scans, FULL, why="=1+1", group="-p", cluster="4", score="0.25", round=2)
    wild.save(tmp_path / "list.csv")
    rows = list(csv.reader((tmp_path / "list.csv").open(newline="")))
    assert not any(cell.startswith("=") for row in rows for cell in row)
    with (tmp_path / "saved.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    back = read_shot_list(tmp_path / "saved.csv")
    assert tuple(replace(each, where="") for each in back.images) == wild.images
    assert back.images[1].where == f"{tmp_path / 'saved.csv'}, line 3"
    assert back.strategies == {"typicality": 3}


def test_a_pool_is_all_images_below_a_folder_or_those_for_training_in_a_table(scans: Path) -> None:
    assert load_unlabelled(scans).names == [
        *(f"a/{n}.png" for n in range(5)),
        *(f"b/{n}.png" for n in range(5, 9)),
    ]
    table = scans / "images.csv"
    table.write_text("file,patient,split\na/0.png,p1,train\na/1.png,p1,test\nb/5.png,p2,train\n")
    found = load_unlabelled(table)
    assert (found.names, found.groups) == (["a/0.png", "b/5.png"], ["p1", "p2"])
    table.write_text("file\na/0.png\nb/5.png\n")
    assert load_unlabelled(table).names == ["a/0.png", "b/5.png"]
    table.write_text("file,split\na/0.png,test\n")
    with pytest.raises(ValueError, match="lists no images to choose from"):
        load_unlabelled(table)
    (scans / "b" / "IM000001").write_bytes(bytes(128) + b"DICM")  # which often have no ending
    assert load_unlabelled(scans).names[-1] == "b/IM000001"
    empty = scans.parent / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        load_unlabelled(empty)


def test_a_filled_list_is_the_task_and_exactly_its_images_are_the_shots(
    scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "list.csv"
    listed(scans, FULL).save(path)
    task = load_data("pool", scans, shots_from=path, class_names=NAMES)
    assert (task.train.names, task.train.labels.tolist()) == ([*FULL], [1, 0, 1])
    split = chosen_split(task, read_shot_list(path), seed=1)
    assert split.train_names == ["b/6.png", "a/0.png", "a/3.png"]  # class by class
    assert split.chosen == strategies_of(split.to_dict()["chosen"]) == {"typicality": 3}
    again = FewShotSplit.from_dict(split.to_dict(), task.train.ids)
    assert again.digest() == split.digest() != replace(split, chosen=None).digest()
    with caplog.at_level(logging.WARNING):
        warn_of_chosen(split, task)
    assert "chosen by the strategy typicality, not drawn at random" in caplog.text
    assert "No chosen image is of 'much'" in caplog.text
    assert load_data("pool", scans, shots_from=path).class_names == ["none", "some"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root, text: text.replace(",none,", ",,"),
            r"1 of the 3 images.*no label: b/6\.png \(line 3\)",
        ),
        (lambda root, text: text.replace(",none,", ",nne,"), "Unknown label 'nne'. Did you mean 'none'"),
        (
            lambda root, text: text.replace(",none,", ",ill,").replace(",some,", ",well,"),
            "line 2: Unknown label 'well'",
        ),
        (
            lambda root, text: text.replace("b/6.png", "b/66.png"),
            r"1 of the 3 .* do not exist in .*b/66\.png",
        ),
        (lambda root, text: text.replace("b/6.png", "../6.png"), "leads out of"),
        (lambda root, text: text.replace("b/6.png", "b/7.png"), "no longer those that were chosen"),
        (lambda root, text: text + text.splitlines()[1] + "\n", "stands in the list before, in .*line 2"),
        (lambda root, text: text.replace("content_id", "id"), "lacks the column content_id"),
        (lambda root, text: text.splitlines()[0] + "\n", "lists no images"),
        (lambda root, text: text.replace(",1,2,", ",1,second,"), "rank must be a whole number"),
        (lambda root, text: text.replace(",1,2,", ",1,2.5,"), r"rank must be a whole number, not '2\.5'"),
        (lambda root, text: text.replace(",typicality,", ",,"), "file and strategy must not be empty"),
        (lambda root, text: text.replace(",train", "", 1), "expected 10 values|expected 9 values"),
        (lambda root, text: text[:80] + "x" + text[81:], "64 hex digits|expected"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_by_name(
    scans: Path, tmp_path: Path, spoil: Callable[[Path, str], str], message: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_text(spoil(scans, listed(scans, FULL).text()), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        load_data("pool", scans, shots_from=path, class_names=NAMES)
    assert "list.csv" in str(caught.value)


def test_images_without_labels_cannot_be_trained_on_without_the_list(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.shots_from=FILE"):
        load_data("pool", scans)
    with pytest.raises(FileNotFoundError, match="no list of chosen images"):
        load_data("pool", scans, shots_from=tmp_path / "no.csv")
    with pytest.raises(ValueError, match="is for images without labels"):
        load_data("cxr3", shots_from=tmp_path / "no.csv")


def cxr3_list(rows: list[int], labels: list[str | None]) -> ShotList:
    table = load_data("cxr3").train
    images = [
        ListedImage(
            file=table.names[row],
            content_id=table.ids[row],
            strategy="entropy",
            label=label,
            where="x, line 2",
        )
        for row, label in zip(rows, labels, strict=True)
    ]
    return ShotList(tuple(images), "x")


def test_a_data_set_knows_its_labels_and_contradictions_are_refused() -> None:
    task = load_data("cxr3")
    labels = task.train.labels
    rows = [int((labels == 0).nonzero()[3]), int((labels == 2).nonzero()[0]), int((labels == 0).nonzero()[9])]
    split = chosen_split(task, cxr3_list(rows, [None] * 3), val_shots=2, seed=1)
    assert split.train.tolist() == [rows[0], rows[2], rows[1]]
    assert labels[split.val].tolist() == [0, 0, 1, 1, 2, 2]
    assert task.train.groups is not None
    assert not {task.train.groups[r] for r in split.train} & {task.train.groups[r] for r in split.val}
    chosen_split(task, cxr3_list(rows, ["no finding", "COVID-19", None]), seed=1)
    with pytest.raises(ValueError, match="is labelled 'pneumonia', and 'no finding' in the data set"):
        chosen_split(task, cxr3_list(rows, ["pneumonia", None, None]), seed=1)
    with pytest.raises(ValueError, match="are of one class"):
        chosen_split(task, cxr3_list(rows[::2], [None] * 2), seed=1)
    with pytest.raises(ValueError, match=r"outside the list for validation; data\.val_shots=500"):
        chosen_split(task, cxr3_list(rows, [None] * 3), val_shots=500, seed=1)
    strange = replace(cxr3_list(rows, [None] * 3).images[0], content_id="f" * 64)
    with pytest.raises(ValueError, match="no longer those that were chosen"):
        chosen_split(task, ShotList((strange,), "x"), seed=1)
    with pytest.raises(ValueError, match=r"not among the training images of 'cxr3': other \(line 2\)"):
        chosen_split(task, ShotList((replace(strange, file="other"),), "x"), seed=1)


def test_a_contact_sheet_shows_every_image_in_its_place(scans: Path, tmp_path: Path) -> None:
    table = load_unlabelled(scans)
    paths = save_sheets(table, [[f"{n}. a name", "why " * 40] for n in range(9)], tmp_path / "out")
    assert [path.name for path in paths] == ["sheet-1.png"]
    sheet = Image.open(paths[0])
    assert sheet.size == (GAP + 6 * (PICTURE + GAP), GAP + 2 * (PICTURE + 2 * LINE + GAP))
    second = (GAP + PICTURE + GAP + PICTURE // 2, GAP + PICTURE // 2)
    assert sheet.getpixel(second) == (20, 90, 60)
    with pytest.raises(ValueError, match="9 images and 1 captions"):
        save_sheets(table, [["x"]], tmp_path)
    assert torch.equal(table.labels, torch.zeros(9, dtype=torch.int64))
