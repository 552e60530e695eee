from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as serialize

from calib.io import strictjson
from calib.io.files import MovedError, atomic_path, kept, read_json, write_json, write_text
from calib.io.tensors import (
    load_tensors,
    require_keys,
    require_strings,
    require_tensor,
    require_version,
    save_tensors,
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


def test_two_threads_leave_the_umask_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads it by setting it to 0; the second could put back the 0 of the first, for good."""
    mask = os.umask(0o022)
    os.umask(mask)
    real, meet = os.umask, threading.Barrier(2)

    def slow(value: int) -> int:
        before = real(value)
        if value == 0:  # the other thread has its turn here, unless it has to wait
            with contextlib.suppress(threading.BrokenBarrierError):
                meet.wait(0.05)
            time.sleep(0.01 if before == 0 else 0)  # and what is wrong is put back last
        return before

    monkeypatch.setattr(os, "umask", slow)
    threads = [threading.Thread(target=write_text, args=(tmp_path / name, "x")) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = real(mask)
    assert left == mask


def test_undefined_numbers_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": math.nan, "y": [math.inf, 1.5], "z": "ä"})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [None, 1.5], "z": "ä"}


def test_bad_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('{"x": ')
    with pytest.raises(ValueError, match=r"b\.json is not valid JSON"):
        read_json(tmp_path / "b.json")


def test_a_key_that_stands_twice_is_found_in_one_pass() -> None:
    """Of a million keys, each was counted among all of them: a file of some megabytes took hours."""

    class Key(str):
        compared = 0
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            Key.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    pairs = [(Key(f"k{i}"), i) for i in range(500)] + [(Key("k499"), 0)]
    with pytest.raises(ValueError, match="the key 'k499' stands twice"):
        strictjson._once(pairs)
    assert Key.compared < 5000


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


def test_a_flipped_bit_in_the_numbers_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"x": torch.ones(100), "y": torch.tensor(3)}, {"kind": "toy"})
    content = bytearray(path.read_bytes())
    content[-200] ^= 1  # the value stays finite
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.safetensors was damaged or changed after it was written"):
        load_tensors(path, kind="toy")


def test_exchanged_tensors_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"first": torch.ones(8), "other": torch.zeros(8)}, {"kind": "toy"})
    path.write_bytes(
        path.read_bytes().replace(b"first", b"FIRST").replace(b"other", b"first").replace(b"FIRST", b"other")
    )
    with pytest.raises(ValueError, match="its checksum is another"):
        load_tensors(path, kind="toy")


def test_files_without_a_checksum_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(serialize({"x": torch.ones(2)}, {"calib": '{"kind": "toy"}'}))
    assert load_tensors(path, kind="toy")[1] == {"kind": "toy"}
    (tmp_path / "a.json").write_text('{"x": 1}')
    assert read_json(tmp_path / "a.json") == {"x": 1}


def test_changed_numbers_in_json_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"test": {"ece": 0.0625, "names": ["é"]}, "seed": 1})
    assert read_json(path) == {"test": {"ece": 0.0625, "names": ["é"]}, "seed": 1}
    path.write_text(path.read_text(encoding="utf-8").replace("0.0625", "0.0125"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.json was damaged or changed"):
        read_json(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ('{"a": 1e999}', "1e999 is too large a number"),
        ('{"a": ' + "9" * 5000 + "}", "4300"),
        ("[" * 100_000, "nested too deeply"),
        (r'{"a": "\ud800"}', "half a character"),
        ("", "Expecting value"),
    ],
)
def test_json_is_read_strictly(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"odd\.json is not valid JSON.*{reason}"):
        read_json(path)
    path.write_bytes(serialize({"x": torch.ones(2)}, {"calib": text}))
    with pytest.raises(ValueError, match=rf"The metadata of .*odd\.json is not valid JSON.*{reason}"):
        load_tensors(path, kind="toy")


def test_a_header_that_promises_terabytes_is_refused(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    path = tmp_path / "t.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    with pytest.raises(ValueError, match=r"t\.safetensors cannot be read as safetensors"):
        load_tensors(path, kind="toy")
    path.write_bytes((1 << 40).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"t\.safetensors cannot be read as safetensors"):
        load_tensors(path, kind="toy")


def test_a_checksum_whose_own_name_was_damaged_is_not_taken_for_none(tmp_path: Path) -> None:
    path, other = tmp_path / "t.safetensors", tmp_path / "a.json"
    save_tensors(path, {"x": torch.ones(2)}, {"kind": "toy", "ids": ["a"]})
    write_json(other, {"x": 1})
    for file in (path, other):
        file.write_bytes(file.read_bytes().replace(b"calib_crc32", b"calib_cRc32"))
    with pytest.raises(ValueError, match=r"t\.safetensors was damaged"):
        load_tensors(path, kind="toy")
    with pytest.raises(ValueError, match=r"a\.json was damaged"):
        read_json(other)
    other.write_text('{"torch_dtype": "bfloat16"}')  # as long, and in many files of others
    assert read_json(other) == {"torch_dtype": "bfloat16"}


@pytest.mark.parametrize("how", ["rename", "remove", "replace", "file"])
def test_a_folder_that_is_gone_is_not_made_anew(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with kept(folder):
        write_text(folder / "deep" / "a.txt", "a")
        folder.rename(tmp_path / "other")
        if how == "remove":
            shutil.rmtree(tmp_path / "other")
        elif how == "replace":
            folder.mkdir()
        elif how == "file":
            folder.write_text("x")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(MovedError, match=r"run' was renamed or removed.*out=FOLDER"):
            write_text(folder / "deep" / "b.txt", "b")
        write_text(tmp_path / "beside.txt", "other folders are as ever")
        assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "beside.txt"])
    if how != "file":
        write_text(folder / "deep" / "b.txt", "b")


def test_a_folder_that_was_emptied_is_not_filled_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with kept(folder, folder / "config.yaml"):
        write_text(folder / "before.txt", "there is no config.yaml yet")
        write_text(folder / "config.yaml", "1")
        write_text(folder / "after.txt", "and now there is")
        for path in folder.iterdir():
            path.unlink()
        for _ in range(2):
            with pytest.raises(MovedError, match=r"run' was emptied.*Remove what is left"):
                write_text(folder / "deep" / "b.txt", "b")
        assert not list(folder.iterdir())
        write_text(folder / "config.yaml", "begun anew, as overwrite=true does")
        write_text(folder / "b.txt", "b")


def test_a_folder_is_kept_by_its_path_whatever_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    with kept("run"):
        Path("run").rename("moved")
        with pytest.raises(MovedError):
            write_json(tmp_path / "a" / "run" / "x.json", {})
        with pytest.raises(MovedError):
            write_json(Path("..") / "a" / "run" / "x.json", {})
