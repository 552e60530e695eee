"""Batches of images and masks as tensors: scaled to one size, turned and mirrored by seed, epoch and row."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from calib.core.hashing import stable_hash
from calib.data.batches import Batch
from calib.segmentation.tables import PixelTable

KEPT_BYTES = 1 << 30  # of scaled images and masks; what does not fit is read again


def to_input(image: Image.Image, size: int) -> Tensor:
    """Return an image as the network takes it, (3, size, size): stretched to a square, in [-2, 2].

    Example:
        >>> to_input(Image.new("RGB", (5, 4), (255, 0, 0)), 2)[:, 0, 0].tolist()
        [2.0, -2.0, -2.0]
    """
    return normalised(torch.from_numpy(_scaled(image, size)))


def normalised(pixels: Tensor) -> Tensor:
    """Return bytes (..., 3, H, W) as the network takes them."""
    return pixels.float().div_(63.75).sub_(2)


def scaled_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Return a mask at the size of the network: the class of the pixel nearest to each middle.

    Example:
        >>> scaled_mask(np.array([[0, 1, 2, 3]] * 4), 2).tolist()
        [[1, 3], [1, 3]]
    """
    rows, columns = (((np.arange(size) + 0.5) * side / size).astype(int) for side in mask.shape)
    return mask[rows[:, None], columns]


@dataclass(eq=False)
class PixelBatches:
    """Batches of images and masks, for `calib.data.batches.BatchLoader`.

    Attributes:
        table: The images.
        size: Side of the square in pixels.
        augment: Whether every epoch sees images turned by quarters and mirrored.
        seed: Of that.
    """

    table: PixelTable
    size: int
    augment: bool = False
    seed: int = 0
    _kept: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def __getitem__(self, key: tuple[int, Tensor]) -> Batch:
        """Return images (B, 3, S, S), labels (B, S, S) int64 and index (B,); a share may be empty."""
        epoch, index = key
        pairs = [self._pair(epoch, row) for row in index.tolist()]
        size = self.size
        images = torch.stack([pair[0] for pair in pairs]) if pairs else torch.empty(0, 3, size, size)
        labels = [pair[1] for pair in pairs]
        return {
            "images": normalised(images),
            "labels": torch.stack(labels).long() if pairs else torch.empty(0, size, size, dtype=torch.int64),
            "index": index,
        }

    def _pair(self, epoch: int, row: int) -> tuple[Tensor, Tensor]:
        image, mask = (torch.from_numpy(each) for each in self._read(row))
        if not self.augment:
            return image, mask
        turned = stable_hash(self.seed, epoch, row) % 8
        image, mask = (torch.rot90(each, turned % 4, (-2, -1)) for each in (image, mask))
        return (image.flip(-1), mask.flip(-1)) if turned >= 4 else (image, mask)

    def _read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        if row not in self._kept:
            image, mask = self.table.read(row)
            pair = _scaled(image, self.size), scaled_mask(mask, self.size)
            if len(self._kept) * 4 * self.size**2 > KEPT_BYTES:
                return pair
            self._kept[row] = pair
        return self._kept[row]


def _scaled(image: Image.Image, size: int) -> np.ndarray:
    """Return an image as bytes (3, size, size)."""
    square = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.moveaxis(np.asarray(square), -1, 0))
