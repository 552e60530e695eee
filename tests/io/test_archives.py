from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from calib.backbones.weights.reading import read_weights
from calib.io.archives import check_archive


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.bin"
    torch.save({"proj": torch.arange(24.0), "bias": torch.ones(6)}, path)
    return path


def directory_entry(content: bytes, name: bytes) -> int:
    """Return where the entry of a part in the archive's directory begins."""
    return content.index(b"PK\1\2", content.rindex(name) - 46 - len(b"w/"))


def test_a_whole_archive_passes(weights: Path) -> None:
    check_archive(weights)
    assert read_weights(weights)["bias"].tolist() == [1.0] * 6


def test_a_flipped_bit_in_published_weights_is_noticed(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[content.index(torch.ones(6).numpy().tobytes()) + 3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.bin cannot be read.*checksum of its part w/data/1 is wrong"):
        read_weights(weights)


def test_a_part_marked_as_a_folder_is_refused_which_torch_would_read_as_whatever_is_in_memory(
    weights: Path,
) -> None:
    content = bytearray(weights.read_bytes())
    content[directory_entry(content, b"data/1") + 38] |= 0x10
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.bin cannot be read.*'w/data/1' is marked as a folder"):
        read_weights(weights)


def test_a_part_swallowed_by_a_comment_is_missed(weights: Path) -> None:
    with zipfile.ZipFile(weights) as archive:
        parts = len(archive.namelist())  # more in later versions of torch
    content = bytearray(weights.read_bytes())
    content[directory_entry(content, b"data/0") + 32] = 54  # the comment's length: that of the next entry
    weights.write_bytes(content)
    with zipfile.ZipFile(weights) as archive:
        assert "w/data/1" not in archive.namelist()
    says = rf"w\.bin cannot be read.*: it says {parts} parts, and {parts - 1} can be found"
    with pytest.raises(ValueError, match=says):
        read_weights(weights)
