"""Paths in tables, indexes and data sets from elsewhere do not lead out of their folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calib.backbones.weights.reading import read_weights
from calib.config import BackboneConfig, DataConfig, PromptRun
from calib.data.readers.folder import load_image_folder
from calib.data.readers.hf import RowSource
from calib.data.readers.table import load_table
from calib.runs.identity import run_name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three images beside a secret one, with links that lead out and stay inside."""
    root = tmp_path / "set"
    (root / "deep").mkdir(parents=True)
    for number, place in enumerate(["a.png", "b.png", "deep/c.png", "../secret.png", "../else/d.png"]):
        path = root / place
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)
    (root / "inside.png").symlink_to("deep/c.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "links").symlink_to(tmp_path / "else", target_is_directory=True)
    return root


def table(folder: Path, path: str) -> Path:
    file = folder / "labels.csv"
    file.write_text(f'path,label,split\na.png,x,train\nb.png,y,train\n"{path}",x,test\n', encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../secret.png", "has '..' in it"),
        ("deep/../../secret.png", "has '..' in it"),
        (r"..\secret.png", "has '..' in it"),
        (r"C:\secret.png", "absolute path of another system"),
        ("C:secret.png", "absolute path of another system"),
        (r"\\host\share\x.png", "absolute path of another system"),
        ("/etc/x.png", "is absolute and leads out"),
        ("link.png", r"a link leads from 'link.png' out of .*set, to .*secret.png"),
        ("links/d.png", r"a link leads from 'links/d.png' out of"),
        ("a.png\0.png", "holds a null byte|line contains NUL"),  # the latter: Python 3.10
        ("x" * 5000 + ".png", "1 of the 3 images in the table .*labels.csv do not exist"),
        ("/proc/self/environ", "leads out of"),
    ],
)
def test_paths_in_tables_stay_in_their_folder(folder: Path, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_table(table(folder, path))
    assert "labels.csv" in str(caught.value)


def test_links_within_the_folder_and_the_switch_that_allows_others(folder: Path) -> None:
    for path in ("inside.png", "deep/c.png"):
        assert load_table(table(folder, path)).tables["test"].names == [path]
    for path in ("link.png", "../secret.png", "links/d.png"):
        assert len(load_table(table(folder, path), allow_outside=True).tables["test"]) == 1


@pytest.mark.parametrize("part", ["../w.safetensors", "/w.safetensors", "a/w.safetensors", r"..\w", "..", 3])
def test_an_index_of_weights_names_files_beside_it_only(tmp_path: Path, part: object) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": part}}))
    with pytest.raises(ValueError, match=r"index\.json names the part .*, which must be a file beside it"):
        read_weights(index)


def test_a_row_of_a_data_set_reads_no_file_outside_of_it(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(b"inside")
    (tmp_path / "b.png").write_bytes(b"outside")
    rows = [{"image": {"bytes": None, "path": str(tmp_path / name)}} for name in ("set/a.png", "b.png")]
    inside, outside = (RowSource(rows, "image", i, f"row {i}", (tmp_path / "set",)) for i in (0, 1))
    assert inside._bytes() == b"inside"
    with pytest.raises(ValueError, match=r"row 1 holds no image but the path '.*b.png', which lies outside"):
        outside._bytes()


def test_a_run_folders_name_cannot_leave_runs() -> None:
    for name in ("../../x", "/etc/passwd", "..", "a/../..", "C:\\x", "x\0y", "\x1b[2J"):
        config = PromptRun(backbone=BackboneConfig(name=name), data=DataConfig(name=name), preset=name)
        made = run_name(config)
        assert "/" not in made
        assert "\\" not in made
        assert made.isprintable()
        assert (Path("runs") / made).resolve().parent == Path("runs").resolve()


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes here only")
def test_a_file_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / label / "1.png")
    odd = os.fsencode(tmp_path / "train" / "a") + b"/m\xfcller.png"
    with open(odd, "wb") as file:
        file.write((tmp_path / "train" / "a" / "1.png").read_bytes())
    with pytest.raises(ValueError, match=r"The name 'train/a/m\\udcfcller.png' .* is not UTF-8 text"):
        load_image_folder(tmp_path)
