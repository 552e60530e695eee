"""`calib data check` of images with masks, of failure heads' images, of tables of questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pixel_files import write_pixels

from calib.cli import main
from calib.commands.data_arguments import holds_items, holds_masks


def checked(capsys, *arguments: object, status: int = 0) -> dict[str, Any]:
    assert main(["data", "check", *map(str, arguments), "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_images_and_masks_are_read_as_segment_would(tmp_path: Path, capsys) -> None:
    root = write_pixels(tmp_path / "nuclei", {"train": 4, "val": 2, "test": 3}, value=255)
    assert main(["data", "check", str(root), f"out={tmp_path / 'shown.png'}"]) == 0
    printed = capsys.readouterr().out
    for said in (
        f"images with masks in {root}: 2 classes",
        "| 255   |   255 |",
        "4 (25.0 %)",
        "Images with masks: 9 of 9 can be read.",
        "Sizes: all 16 x 16 pixels.",
        "Every value of the masks is a class",
        "Training would begin",
    ):
        assert said in printed
    with Image.open(tmp_path / "shown.png") as picture:
        assert picture.width > 112
    found = checked(capsys, root, "data.classes={ground: 0, square: 255, rim: 7}", "task=segment", status=1)
    assert "No training mask has a pixel of rim" in found["refused"][0]


def test_all_pairs_that_are_wrong_are_named_with_copies_and_groups(tmp_path: Path, capsys) -> None:
    root = write_pixels(tmp_path / "data", {"x": 6})
    rows = [f"x/images/{n}.png,x/masks/{n}.png,{'train' if n < 3 else 'test'},p{n % 4}" for n in range(6)]
    (root / "t.csv").write_text("\n".join(["file,mask,split,patient", *rows]))
    (root / "x/images/5.png").write_bytes((root / "x/images/0.png").read_bytes())
    found = checked(capsys, root, "data.classes={ground: 0, square: 1}")
    assert found["copies"] == {"train/test": 1}
    assert found["shared_groups"] == {"p0": ["train", "test"], "p1": ["train", "test"]}
    assert found["splits"]["train"]["groups"] == 3
    for number in (1, 4):
        Image.fromarray(np.zeros((5, 5), dtype=np.uint8)).save(root / f"x/masks/{number}.png")
    found = checked(capsys, root / "t.csv", "data.classes={ground: 0, square: 1}", status=1)
    assert found["refused"][0].startswith("2 images or masks:\n")
    assert set(found["unreadable"]["train"]) == {"x/images/1.png"}
    assert main(["data", "check", str(root), "--headers"]) == 1
    assert "masks are read whole" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "masks", "items"),
    [
        ("a.csv", "file,mask,split\n", True, False),
        ("a.tsv", "file\tmask\n", True, False),
        ("a.csv", "file,label,mask\n", False, False),
        ("a.csv", "\x00\xff", False, False),
        ("a.jsonl", "{}", False, True),
        ("a.csv", "image,question,option_a,option_b,answer\n", False, True),
        ("a.tsv", "question\toptions\tanswer\n", False, True),
        ("a.parquet", "no parquet", False, False),
        ("nothing.csv", None, False, False),
    ],
)
def test_what_a_file_is_for_is_seen_by_its_columns(
    name: str, text: str | None, masks: bool, items: bool, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert (holds_masks(tmp_path / name), holds_items(tmp_path / name)) == (masks, items)


def test_what_a_failure_head_would_learn_from(runs, image_folder: Path, tmp_path: Path, capsys) -> None:
    found = checked(capsys, "task=failure", f"prompt={runs[1]}")
    learned = found["failure"]
    assert learned["judges"] == "calibprompt"
    assert learned["test"] == 545
    assert learned["outside"] + learned["cross_fitted"] > 0
    assert main(["data", "check", "task=failure", f"prompt={runs[1]}"]) == 0
    assert "A head for calibprompt would learn from " in capsys.readouterr().out
    found = checked(capsys, image_folder, "task=failure", "data.val_shots=0")
    assert (found["failure"]["judges"], found["failure"]["outside"]) == ("zero-shot", 18)
    found = checked(capsys, image_folder, "task=failure", f"prompt={runs[1]}", status=1)
    assert "They must be the same" in found["refused"][-1]
    assert main(["data", "check", str(image_folder), "task=failure", "out=x.png"]) == 1
    assert "leave out task=failure" in capsys.readouterr().err


def test_files_of_embeddings_are_checked(tmp_path: Path, capsys) -> None:
    draw = np.random.default_rng(0)
    texts = np.eye(3, 8)
    labels = np.arange(30) % 3
    images = texts[labels] + 0.7 * draw.normal(size=(30, 8))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    split = np.array(["train"] * 20 + ["test"] * 10)
    np.savez(
        tmp_path / "e.npz",
        image_features=images,
        text_features=texts,
        labels=labels,
        split=split,
        logit_scale=3.0,
    )
    found = checked(capsys, "task=failure", f"embeddings.train={tmp_path / 'e.npz'}")
    wrong = (images @ texts.T).argmax(1) != labels
    known = [found["splits"][name] for name in ("train", "val")]  # of whose rows some validate
    assert [sum(part[key] for part in known) for key in ("n", "wrong")] == [20, wrong[:20].sum()]
    assert found["splits"]["test"] == {"n": 10, "wrong": int(wrong[20:].sum())}
    assert main(["data", "check", "task=failure", f"embeddings.train={tmp_path / 'f.npz'}"]) == 1
    assert f"Did you mean '{tmp_path / 'e.npz'}'?" in capsys.readouterr().out


def test_questions_are_counted_and_their_images_opened(tmp_path: Path, capsys) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    row = {"options": ["CT", "MRI"], "option_ids": ["a", "b"], "question": "What?", "correct_index": 0}
    lines = [{**row, "item_id": f"x/{n}", "image": "a.png"} for n in range(3)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = checked(capsys, tmp_path / "items.jsonl", f"root={tmp_path}")
    assert (found["items"], found["questions"], found["options"]) == (3, 3, {"2": 3})
    assert found["right"] == {"A": 1.0}
    assert found["images"] == {"n": 1, "packaged": 0, "without": 0}
    assert "The right option stands at place A in 100 %" in found["warnings"][0]
    found = checked(capsys, tmp_path / "items.jsonl", status=1)
    assert "There is no image a.png. Relative paths need root=FOLDER." in found["refused"][0]
    assert main(["data", "check", str(tmp_path / "items.jsonl"), "data.shots=4"]) == 1
    assert "Unknown setting of calib data check of items 'data.shots'" in capsys.readouterr().err
    (tmp_path / "own.csv").write_text("image,question,option_a,option_b,answer\na.png,What?,CT,MRI,MRI\n")
    found = checked(capsys, tmp_path / "own.csv")  # its images are relative to it
    assert (found["items"], found["right"], found["own"]) == (1, {"B": 1.0}, [str(tmp_path / "own.csv")])
    (tmp_path / "own.csv").write_text("image,question,answer\na.png,What?,MRI\n")
    assert "lacks the column option_a" in checked(capsys, tmp_path / "own.csv", status=1)["refused"][0]
    (tmp_path / "items.jsonl").write_text(json.dumps({**lines[0], "correct_index": 5}))
    assert main(["data", "check", str(tmp_path / "items.jsonl")]) == 1
    assert "calib vqa answer would refuse" in capsys.readouterr().out
