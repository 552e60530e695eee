"""The batches of images and masks for a Lightning trainer: each process has its share of every batch."""

from __future__ import annotations

from typing import Any

from lightning import LightningDataModule

from calib.data.batches import BatchLoader, BatchOrder
from calib.segmentation.batches import PixelBatches
from calib.segmentation.tables import PixelTable


class PixelDataModule(LightningDataModule):
    """Batches of a training table and, where there is one, of a validation table.

    Order and views depend on (seed, epoch, row) alone. With several processes each gets its share of a batch,
    perhaps none, and no image twice.

    Args:
        train: The training images.
        val: The validation images. None: there are none.
        size: Side of the square in pixels.
        batch_size: Images per step, over all processes.
        seed: Of order and views.
        augment: Whether images are turned and mirrored.

    Raises:
        ValueError: `batch_size` is below 1.
    """

    def __init__(
        self,
        train: PixelTable,
        val: PixelTable | None = None,
        *,
        size: int = 128,
        batch_size: int = 8,
        seed: int = 0,
        augment: bool = True,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        self.batch_size, self.seed = batch_size, seed
        self.train = PixelBatches(train, size, augment, seed)
        self.val = None if val is None else PixelBatches(val, size)

    def train_dataloader(self) -> BatchLoader:
        """Return the shuffled training batches."""
        order = BatchOrder(len(self.train.table), self.batch_size, seed=self.seed, shared=True)
        return BatchLoader(self.train, order)

    def val_dataloader(self) -> BatchLoader | list[Any]:
        """Return the validation batches; an empty list without validation images."""
        if self.val is None:
            return []
        return BatchLoader(self.val, BatchOrder(len(self.val.table), self.batch_size, shared=True))
