from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch.nn.functional import normalize

from calib.cli import main
from calib.commands.cache import cache_entries, prune
from calib.data import FeatureTable
from calib.data.encode import LOCKS
from calib.data.images import READING


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache with a fresh file, one unused for 40 days, a damaged one and an unfinished encoding."""
    table = FeatureTable(
        normalize(torch.randn(5, 8), dim=1),
        torch.arange(5) % 2,
        [f"{i:064x}" for i in range(5)],
        [str(i) for i in range(5)],
        augmented_features=normalize(torch.randn(5, 3, 8), dim=-1),
        meta={"backbone": {"name": "toy"}, "views": 3, "reading": READING},
    )
    # The names are letters here; what a name must be is tested where features are cached.
    monkeypatch.setattr("calib.commands.cache.is_of_its_key", lambda features, path: True)
    for name in ("a" * 64, "b" * 64, "c" * 64):
        table.save(tmp_path / f"{name}.safetensors")
    (tmp_path / f"{'d' * 64}.parts").mkdir()
    table.save(tmp_path / f"{'d' * 64}.parts" / "000000000.safetensors")
    old = time.time() - 40 * 86_400
    os.utime(tmp_path / f"{'b' * 64}.safetensors", (old, old))
    os.truncate(tmp_path / f"{'c' * 64}.safetensors", 300)
    return tmp_path


def letters(entries) -> str:
    return "".join(sorted(entry.path.name[0] for entry in entries))


def test_it_lists_the_longest_unused_first_and_names_what_is_damaged(folder: Path, capsys) -> None:
    assert main(["cache", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| bbbbbbbb")
    assert "40.0 | toy, 5 images, 3 views" in " ".join(lines[2].split())
    assert sum("damaged: " in line for line in lines) == 1
    assert sum("1 parts of an unfinished encoding" in line for line in lines) == 1
    assert lines[-1].startswith("4 entries, ")
    assert letters(cache_entries(folder)) == "abcd"


def test_what_is_gone_before_it_is_looked_at_ends_nothing(folder: Path, monkeypatch) -> None:
    """`calib cache` beside an encoding that was just finished, or another that prunes."""
    load = FeatureTable.load

    def gone(path: Path) -> FeatureTable:
        if path.name.startswith("a"):
            path.unlink()
        return load(path)

    monkeypatch.setattr("calib.commands.cache.FeatureTable.load", gone)
    (folder / f"{'d' * 64}.parts" / "1.safetensors").symlink_to("nowhere")  # listed, and not there
    assert letters(cache_entries(folder)) == "bc"


def test_pruning_takes_the_old_and_the_damaged(folder: Path, capsys) -> None:
    assert main(["cache", str(folder), "--prune", "30"]) == 0
    assert "Removed 2 entries" in capsys.readouterr().out
    assert letters(cache_entries(folder)) == "ad"
    assert main(["cache", str(folder), "--prune", "0"]) == 0
    assert cache_entries(folder) == []


def test_what_is_being_encoded_stays(folder: Path) -> None:
    (folder / LOCKS).mkdir()
    with FileLock(folder / LOCKS / f"{'d' * 64}.lock"):
        assert letters(prune(folder, cache_entries(folder), days=0)) == "abc"
    assert letters(cache_entries(folder)) == "d"


def test_bad_arguments_are_explained(tmp_path: Path, capsys) -> None:
    assert main(["cache", str(tmp_path / "none")]) == 1
    assert "There is no cache folder" in capsys.readouterr().err
    assert main(["cache", str(tmp_path), "--prune", "-1"]) == 1
    assert "--prune must be at least 0 days" in capsys.readouterr().err


def test_features_of_images_that_are_read_otherwise_now_are_pointed_out(folder: Path, capsys) -> None:
    path = folder / f"{'a' * 64}.safetensors"
    table = FeatureTable.load(path)
    table.meta["reading"] = READING - 1
    table.save(path)
    assert main(["cache", str(folder)]) == 1  # for the damaged one
    assert capsys.readouterr().out.count("by the rules of an older version: no longer used") == 1
