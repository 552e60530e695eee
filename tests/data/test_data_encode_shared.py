"""Two processes encode a table into the file that one process makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from two_processes import in_two_processes

from calib.backbones.openclip import create_open_clip
from calib.backbones.options import BackboneOptions
from calib.core import ranks
from calib.data import ImageTable, cache_features
from calib.data.encoding_parts import encode_in_parts
from calib.data.records import FileSource


class Counted:
    """Work of which is known what was done: input i has the features (i, i)."""

    batch_size, per_image = 4, 3

    def __init__(self, size: int) -> None:
        self.size, self.done = size, []

    def __len__(self) -> int:
        return self.size

    def encode(self, start: int, stop: int) -> torch.Tensor:
        self.done.append((start, stop))
        return torch.arange(start, stop).float()[:, None].expand(-1, 2).clone()


def encoded(clip_config: dict[str, Any], files: list[str], cache: str, views: int) -> dict[str, Any]:
    options = BackboneOptions(weights="random")
    clip = create_open_clip(clip_config, options, name="clip", published="here")
    seen: list[int] = []
    original = clip.encode_image
    clip.encode_image = lambda images: (seen.append(len(images)), original(images))[1]
    table = ImageTable([FileSource(Path(file)) for file in files], [0] * len(files), files)
    features = cache_features(clip, table, cache, views=views, batch_size=4)
    calls = len(seen)
    again = cache_features(clip, table, cache, views=views, batch_size=4)
    return {"features": features.image_features, "calls": calls, "anew": len(seen) - calls, "n": len(again)}


@pytest.mark.slow
@pytest.mark.parametrize(("count", "views"), [(11, 2), (2, 0)])
def test_two_processes_make_the_file_that_one_makes(
    count: int, views: int, write_image: Callable[..., Path], configs: Any, tmp_path: Path
) -> None:
    files = [str(write_image(tmp_path / "set" / f"{number}.png", number)) for number in range(count)]
    one = encoded(configs.clip, files, str(tmp_path / "one"), views)
    (tmp_path / "meet").mkdir()
    two = in_two_processes(encoded, tmp_path / "meet", configs.clip, files, str(tmp_path / "two"), views)
    calls = -(-count * (1 + views) // 4)
    assert [found["calls"] for found in (one, *two)] == [calls, -(-calls // 2), calls // 2]
    assert all(found["anew"] == 0 and found["n"] == count for found in two)
    assert all(found["features"].equal(one["features"]) for found in two)
    (ours,), (theirs,) = (list((tmp_path / name).glob("*.safetensors")) for name in ("one", "two"))
    assert (ours.name, ours.read_bytes()) == (theirs.name, theirs.read_bytes())
    assert not list((tmp_path / "two").glob("*.parts"))


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Return a function that makes this process number `rank` of `world_size`, which meet nobody."""
    monkeypatch.setattr(ranks, "decided", lambda decide: decide())
    monkeypatch.setattr(ranks, "meet", lambda: None)

    def become(rank: int, world_size: int) -> None:
        monkeypatch.setattr(ranks, "rank", lambda: rank)
        monkeypatch.setattr(ranks, "world_size", lambda: world_size)

    return become


def test_parts_are_whole_batches_evenly_shared(as_rank: Callable[[int, int], None], tmp_path: Path) -> None:
    done = []
    for rank in (2, 1, 0):  # the first one, which joins the parts, comes last here
        as_rank(rank, 3)
        work = Counted(30)  # 7 batches of 4 and one of 2
        whole = encode_in_parts(work, tmp_path / "parts")
        assert (whole is None) == (rank > 0)
        done.append(work.done)
    assert whole is not None
    assert whole[:, 0].tolist() == list(range(30))
    assert done == [[(24, 30)], [(12, 24)], [(0, 12)]]  # 2, 3 and 3 batches
    assert len(list((tmp_path / "parts").iterdir())) == 3  # who asked removes them, once all is saved


def test_what_an_interrupted_encoding_did_is_taken_up(
    as_rank: Callable[[int, int], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_rank(1, 2)
    assert encode_in_parts(Counted(30), tmp_path / "parts") is None  # the other one never came
    as_rank(0, 2)
    (part,) = (tmp_path / "parts").iterdir()
    again = Counted(30)
    whole = encode_in_parts(again, tmp_path / "parts")
    assert whole is not None
    assert whole[:, 1].tolist() == list(range(30))
    assert again.done == [(0, 16)]
    as_rank(1, 2)
    encode_in_parts(Counted(30), tmp_path / "parts")
    part.write_bytes(part.read_bytes()[:-9])
    as_rank(0, 1)
    alone = Counted(30)
    assert encode_in_parts(alone, tmp_path / "parts") is not None
    assert alone.done == [(0, 30)]  # one process needs no parts of so few
