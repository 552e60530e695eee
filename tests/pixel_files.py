"""Small images with masks in files: a bright square on a dark ground, somewhere else in each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {"train": 4, "val": 2, "test": 3}


def square(number: int, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (size, size, 3) and its mask (size, size) of 0 and 1."""
    rng = np.random.default_rng(number)
    top, left = rng.integers(0, size // 2, size=2)
    mask = np.zeros((size, size), dtype=np.uint8)
    mask[top : top + size // 2, left : left + size // 2] = 1
    image = np.clip(40 + 150 * mask[..., None] + rng.normal(0, 25, (size, size, 3)), 0, 255)
    return image.astype(np.uint8), mask


def write_pixels(root: Path, sizes: dict[str, int] = SIZES, *, size: int = 16, value: int = 1) -> Path:
    """Write ROOT/SPLIT/images/N.png and masks/N.png, and return the root."""
    number = 0
    for split, n in sizes.items():
        for side in ("images", "masks"):
            (root / split / side).mkdir(parents=True)
        for _ in range(n):
            image, mask = square(number, size)
            Image.fromarray(image).save(root / split / "images" / f"{number}.png")
            Image.fromarray(mask * value).save(root / split / "masks" / f"{number}.png")
            number += 1
    return root
