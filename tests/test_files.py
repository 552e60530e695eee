from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch

from calib.files import (
    atomic_path,
    load_tensors,
    read_json,
    require_keys,
    require_strings,
    require_tensor,
    require_version,
    save_tensors,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fail() -> None:
        with atomic_path(target) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_files_get_ordinary_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    write_text(tmp_path / "ours", "x")
    assert (tmp_path / "ours").stat().st_mode == plain.stat().st_mode


def test_undefined_numbers_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": math.nan, "y": [math.inf, 1.5], "z": "ä"})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [None, 1.5], "z": "ä"}


def test_bad_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('{"x": ')
    with pytest.raises(ValueError, match=r"b\.json is not valid JSON"):
        read_json(tmp_path / "b.json")


def test_tensors_and_record_come_back(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tensor = torch.arange(6.0).reshape(2, 3).T  # not contiguous
    save_tensors(path, {"x": tensor}, {"kind": "toy", "names": ["é", "b"]})
    tensors, record = load_tensors(path, kind="toy")
    assert torch.equal(tensors["x"], tensor)
    assert record == {"kind": "toy", "names": ["é", "b"]}


def test_damaged_or_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"x": torch.ones(100)}, {"kind": "toy"})
    with pytest.raises(ValueError, match=r"t\.safetensors is not a calib prompt file \(its kind is 'toy'\)"):
        load_tensors(path, kind="prompt")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"t\.safetensors cannot be read as safetensors.*cut off"):
        load_tensors(path, kind="toy")
    with pytest.raises(FileNotFoundError, match="no file"):
        load_tensors(tmp_path / "none.safetensors", kind="toy")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, 4), r"shape \(any, 3\), not \(2, 4\)"),
        (torch.ones(2, 3, dtype=torch.int64), r"type torch.int64, expected floats"),
        (torch.tensor([[1.0, math.nan, 2.0]]), "NaN or infinite"),
    ],
)
def test_required_tensors_are_checked(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_tensor({"x": tensor}, "x", (None, 3), path="f")
    with pytest.raises(ValueError, match=r"f has no tensor 'y' \(it has: x\)"):
        require_tensor({"x": tensor}, "y", (None, 3), path="f")


def test_required_keys_versions_and_strings_are_checked() -> None:
    record = {"version": 1, "names": ["a"], "schema": 2}
    require_keys(record, ("version", "names"), path="f")
    require_version(record, 1, path="f")
    require_version(record, 2, path="f", key="schema")
    assert require_strings(record, "names", path="f") == ["a"]
    with pytest.raises(ValueError, match=r"The record of f lacks labels, scale\."):
        require_keys(record, ("scale", "names", "labels"), path="f")
    with pytest.raises(ValueError, match=r"f has version 1; this version reads 2\. Make it anew"):
        require_version(record, 2, path="f")
    with pytest.raises(ValueError, match="f has version None"):
        require_version({}, 2, path="f")
    for value in ("ab", ["a", 1], None):
        with pytest.raises(ValueError, match=r"f: names must be a list of strings\."):
            require_strings({"names": value}, "names", path="f")
