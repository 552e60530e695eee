"""Small images, folders of them, and a backbone of a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image

from calib.data import ImageTable
from calib.data.records import FileSource

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Return a function that writes an image of random pixels, the same for the same seed."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (7, 5)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def make_folder(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that writes {"train/ADI": 3, ...} images, all different, and returns the root."""

    def make(counts: dict[str, int], root: Path = tmp_path / "set") -> Path:
        seed = 0
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                seed += 1
                write_image(root / folder / f"{number}.png", seed)
        return root

    return make


@pytest.fixture
def table(tmp_path: Path, write_image: Callable[..., Path]) -> ImageTable:
    """Return seven different images of three classes, two of each patient."""
    files = [write_image(tmp_path / "set" / f"{number}.png", number) for number in range(7)]
    return ImageTable(
        [FileSource(file) for file in files],
        [0, 1, 2, 0, 1, 2, 0],
        [file.name for file in files],
        groups=[f"p{number // 2}" for number in range(7)],
    )


@pytest.fixture
def shared_data() -> Path:
    """Return the folder of real images beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real images are not beside the repository")
    return SHARED_DATA


@pytest.fixture
def backbone() -> FakeBackbone:
    return FakeBackbone()


@pytest.fixture
def make_backbone() -> type[FakeBackbone]:
    return FakeBackbone
