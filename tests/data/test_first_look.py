from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import chunk, png, tiff

from calib.data import load_data
from calib.data.first_look import NAMED

COUNTS = {f"{split}/{name}": 4 for split in ("train", "test") for name in ("a", "b")}
RGB = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
BY_HEADER = {
    "empty.png": b"",
    "page.jpg": b"<!DOCTYPE html>",
    "wrong_checksum.png": png(RGB, chunk(b"tIME", b"\0")[:-1] + b"!"),
    "two_channels.tif": tiff(RGB[..., :2]),
    "palette.tif": tiff(RGB[..., 0], t262=[3], t320=[255] * 768),
    "notes.webp": b"RIFF\0\0\0\0WEBPnot so",
}
BY_PIXELS = {
    "dark.png": png(np.full((4, 4, 3), 4000, np.uint16)),
    "invisible.png": png(np.zeros((4, 4, 4), np.uint8)),
    "short.tif": tiff(RGB)[:-9],
}


def spoilt(root: Path, *files: dict[str, bytes]) -> Path:
    for content_of in files:
        for name, content in content_of.items():
            (root / "train" / "a" / name).write_bytes(content)
    return root


def test_all_images_that_cannot_be_opened_are_named_at_once(make_folder: Callable[..., Path]) -> None:
    root = spoilt(make_folder(COUNTS), BY_HEADER)
    with pytest.raises(ValueError, match=r"6 of 22 images cannot be read:") as caught:
        load_data("folder", root)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + len(BY_HEADER) + 1
    assert all(any(f"train/a/{name} " in line for line in lines) for name in BY_HEADER)
    assert lines[-1].endswith("data.options.skip_unreadable=true.")


def test_one_image_is_one_line_and_many_are_counted(make_folder: Callable[..., Path]) -> None:
    root = spoilt(make_folder(COUNTS), {"0.png": b""})
    with pytest.raises(
        ValueError, match=r"a/0\.png is not an image.*empty \(0 bytes\)\. To train without"
    ) as caught:
        load_data("folder", root)
    assert "\n" not in str(caught.value)
    spoilt(root, {f"bad{number}.png": b"" for number in range(NAMED + 6)})
    with pytest.raises(ValueError, match=rf"{NAMED + 7} of .* images cannot be read:(.|\n)*and 7 more\."):
        load_data("folder", root)


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_what_cannot_be_read_can_be_left_out_and_is_said(
    make_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Also where only the pixels say so: nothing may stop the run once it has begun."""
    root = make_folder(COUNTS)
    good = load_data("folder", root)
    spoilt(root, BY_HEADER, BY_PIXELS)
    if kind == "table":
        rows = [
            f"{path.relative_to(root)},{path.parts[-2]},{path.parts[-3]}"
            for path in sorted(root.glob("t*/*/*"))
        ]
        (root / "table.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    with caplog.at_level(logging.WARNING):
        task = load_data(kind, root / "table.csv" if kind == "table" else root, skip_unreadable=True)
    assert (sorted(task.train.ids), sorted(task.test.ids)) == (sorted(good.train.ids), sorted(good.test.ids))
    (note,) = [note for note in task.notes if "cannot be read" in note]  # split.json has the notes
    assert "left out (9 of train): " in note
    for name in (*BY_HEADER, *BY_PIXELS):
        assert f"train/a/{name}" in note
        assert name in caplog.text
    assert "largest value is 4000" in caplog.text
    assert task.train.subset(range(len(task.train))).open(0).mode == "RGB"  # type: ignore[union-attr]


def test_where_nothing_is_wrong_nothing_is_left_out(make_folder: Callable[..., Path]) -> None:
    root = make_folder(COUNTS)
    whole, same = load_data("folder", root), load_data("folder", root, skip_unreadable=True)
    assert (same.train.ids, same.notes) == (whole.train.ids, whole.notes) == (whole.train.ids, ())


def test_a_split_of_which_nothing_is_left_is_refused(make_folder: Callable[..., Path]) -> None:
    root = make_folder(COUNTS)
    for path in root.glob("test/*/*"):
        path.write_bytes(b"")
    for needs in (("train",), ("test",)):
        with pytest.raises(ValueError, match="The test split of data set 'folder' is empty"):
            load_data("folder", root, skip_unreadable=True, needs=needs)


def test_what_is_no_ordinary_file_is_said(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    odd = make_folder(COUNTS) / "train" / "a" / "odd.png"
    for make, message in (
        (lambda: os.mkfifo(odd), "a named pipe, not an image file"),
        (lambda: odd.symlink_to("/dev/zero"), "a device, not an image file"),
        (lambda: odd.symlink_to("nowhere"), "a broken link"),
        (lambda: odd.symlink_to("odd.png"), "a broken link"),
    ):
        make()
        with pytest.raises(ValueError, match=rf"odd\.png is {message}"):
            load_data("folder", tmp_path / "set")
        odd.unlink()
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(odd))
        with pytest.raises(ValueError, match=r"odd\.png is a socket, not an image file"):
            load_data("folder", tmp_path / "set")
    odd.unlink()
    os.mkfifo(odd)
    (tmp_path / "set" / "table.csv").write_text(
        "path,label,split\ntrain/a/odd.png,a,train\ntest/a/0.png,a,test\n"
    )
    with pytest.raises(ValueError, match=r"line 2: 'train/a/odd\.png' is a named pipe"):
        load_data("table", tmp_path / "set" / "table.csv", class_names=["a", "b"])
