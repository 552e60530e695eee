"""Small images, folders of them, and a backbone of a few numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

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
def shared_data() -> Path:
    """Return the folder of real images beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real images are not beside the repository")
    return SHARED_DATA


class FakePreprocessing:
    """Pixels to a tensor of 4 x 4; a view adds noise that depends on its seed."""

    def __call__(self, image: Image.Image) -> Tensor:
        small = np.array(image.resize((4, 4), Image.Resampling.BOX), dtype=np.float32) / 255
        return torch.from_numpy(small).permute(2, 0, 1)

    def augment(self, image: Image.Image, seed: int) -> Tensor:
        noise = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed))
        return self(image) + noise

    def to_dict(self) -> dict[str, Any]:
        return {"image_size": 4}


class FakeBackbone(nn.Module):
    """A random projection to D = 6, which counts how many images it was given."""

    name = "fake"
    embed_dim = 6
    device = torch.device("cpu")

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(48, 6, generator=generator), requires_grad=False)
        self.preprocess = FakePreprocessing()
        self.architecture: dict[str, Any] = {"kind": "projection"}
        self.batches: list[int] = []

    def encode_image(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return nn.functional.normalize(images.flatten(1) @ self.weight, dim=-1)

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.weight.numpy().tobytes()).hexdigest()
        return {
            "name": self.name,
            "architecture": self.architecture,
            "weights": {"source": "random", "digest": digest},
            "preprocessing": self.preprocess.to_dict(),
        }


@pytest.fixture
def backbone() -> FakeBackbone:
    return FakeBackbone()


@pytest.fixture
def make_backbone() -> type[FakeBackbone]:
    return FakeBackbone
