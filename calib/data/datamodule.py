"""The batches of training, validation and test for a Lightning trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning import LightningDataModule

from calib.data.batches import BatchLoader, BatchOrder, FeatureBatches, ImageBatches
from calib.data.features import FeatureTable
from calib.data.records import ImageTable
from calib.data.task import Table

if TYPE_CHECKING:
    from calib.backbones.preprocessing import Preprocessing


class FewShotDataModule(LightningDataModule):
    """Batches of a training table and, where there are any, of a validation and a test table.

    A batch holds `image_features` (B, D) for a feature table or `images` (B, 3, H, W) for an image table, and
    `labels` (B,) and `index` (B,), the rows of the table. Epoch e trains on augmented view e modulo V where
    features hold views, and on fresh random views of images. Order and views depend on (seed, epoch, row)
    alone. With several processes, each gets whole batches of features, which all of them hold, and its share
    of the images of a batch.

    Args:
        train: The shots.
        val: The validation shots.
        test: The test split.
        batch_size: Images per training step, over all processes.
        eval_batch_size: Images per evaluation step.
        seed: Of the order, and of the views of images.
        drop_last: Leave out the last, smaller training batch of an epoch, as the official CalibPrompt code
            does.
        preprocess: The backbone's; needed for image tables.
        augment: Whether training sees augmented views.
        num_workers: Processes that read images ahead; feature tables need none.

    Raises:
        ValueError: An image table without `preprocess`, or a batch size below 1.
    """

    def __init__(
        self,
        train: Table,
        val: Table | None = None,
        test: Table | None = None,
        *,
        batch_size: int = 16,
        eval_batch_size: int = 512,
        seed: int = 0,
        drop_last: bool = False,
        preprocess: Preprocessing | None = None,
        augment: bool = True,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if any(isinstance(table, ImageTable) for table in (train, val, test)) and preprocess is None:
            raise ValueError(
                "Batches of images need the backbone's preprocessing: preprocess=backbone.preprocess."
            )
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError(f"Batch sizes must be at least 1, not {batch_size} and {eval_batch_size}.")
        self.train, self.val, self.test = train, val, test
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.seed, self.drop_last = seed, drop_last
        self.preprocess, self.augment, self.num_workers = preprocess, augment, num_workers

    def train_dataloader(self) -> BatchLoader:
        """Return the shuffled training batches."""
        shared = isinstance(self.train, ImageTable)
        order = BatchOrder(
            len(self.train), self.batch_size, seed=self.seed, drop_last=self.drop_last, shared=shared
        )
        return self._loader(self.train, order, augment=self.augment)

    def val_dataloader(self) -> BatchLoader | list[Any]:
        """Return the validation batches; an empty list without a validation table."""
        return self._evaluation(self.val)

    def test_dataloader(self) -> BatchLoader | list[Any]:
        """Return the test batches; an empty list without a test table."""
        return self._evaluation(self.test)

    def _evaluation(self, table: Table | None) -> BatchLoader | list[Any]:
        if table is None:
            return []
        order = BatchOrder(len(table), self.eval_batch_size, shared=isinstance(table, ImageTable))
        return self._loader(table, order, augment=False)

    def _loader(self, table: Table, order: BatchOrder, *, augment: bool) -> BatchLoader:
        if isinstance(table, FeatureTable):
            return BatchLoader(FeatureBatches(table, augment), order)
        assert self.preprocess is not None  # checked in __init__
        source = ImageBatches(table, self.preprocess, augment, self.seed)
        return BatchLoader(source, order, num_workers=self.num_workers)
