"""A backbone of a few numbers, for tests of what happens around one."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


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
