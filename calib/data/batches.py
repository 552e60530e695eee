"""Batches of rows made into tensors, in an order that depends on seed and epoch only: runs can go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor

from calib.core import ranks
from calib.core.hashing import stable_hash
from calib.data.ahead import read_ahead
from calib.data.features import FeatureTable
from calib.data.records import ImageTable

if TYPE_CHECKING:
    from calib.backbones.preprocessing import Preprocessing

Batch: TypeAlias = dict[str, Tensor]


class BatchSource(Protocol):
    """Something that makes a batch of row indices into tensors."""

    def __getitem__(self, key: tuple[int, Tensor]) -> Batch:
        """Return the batch for (epoch, row indices)."""


@dataclass(frozen=True, eq=False)
class FeatureBatches:
    """Batches of features held in memory.

    Attributes:
        table: The features.
        augment: Whether epoch e gets view e modulo V, where there are views.
    """

    table: FeatureTable
    augment: bool

    def __getitem__(self, key: tuple[int, Tensor]) -> Batch:
        """Return image_features (B, D), labels (B,) and index (B,)."""
        epoch, index = key
        features = self.table.image_features
        if self.augment and self.table.augmented_features is not None:
            features = self.table.augmented_features[:, epoch % self.table.views]  # (N, D), no copy
        return {"image_features": features[index], "labels": self.table.labels[index], "index": index}


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Batches of images read afresh.

    Attributes:
        table: The images.
        preprocess: The backbone's.
        augment: Whether every epoch sees another random view, drawn with SHA-256("seed:epoch:index").
        seed: The seed of the views.
    """

    table: ImageTable
    preprocess: Preprocessing
    augment: bool
    seed: int

    def __getitem__(self, key: tuple[int, Tensor]) -> Batch:
        """Return images (B, 3, H, W), labels (B,) and index (B,); a share without images is (0, 3, 0, 0)."""
        epoch, index = key
        images = [self._image(epoch, row) for row in index.tolist()]
        stacked = torch.stack(images) if images else torch.empty(0, 3, 0, 0)
        return {"images": stacked, "labels": self.table.labels[index], "index": index}

    def _image(self, epoch: int, row: int) -> Tensor:
        image = self.table.open(row)
        return (
            self.preprocess.augment(image, stable_hash(self.seed, epoch, row))
            if self.augment
            else self.preprocess(image)
        )


class BatchOrder:
    """The batches of row indices of one epoch.

    A batch is one step of the whole run, the same for any number of processes. Where they share it, each gets
    the rows that `calib.core.ranks.share` says: as even as can be, perhaps none, never one twice.

    Args:
        size: Number of rows N.
        batch_size: Rows per batch, over all processes.
        seed: Shuffles every epoch in its own way. None: rows in order, for evaluation.
        drop_last: Leave out a last batch smaller than `batch_size`, unless it is the only one.
        shared: Yield this process's share of every batch instead of all of it.

    Raises:
        ValueError: `batch_size` is below 1.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int | None = None,
        drop_last: bool = False,
        shared: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.drop_last, self.shared = drop_last, shared
        self.epoch = 0

    @property
    def sampler(self) -> BatchOrder:
        """The order itself: Lightning calls `loader.batch_sampler.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths())

    def __iter__(self) -> Iterator[Tensor]:
        """Yield row indices (B,), batch by batch; of this process's share if they are shared."""
        order = torch.arange(self.size)
        if self.seed is not None:
            seed, epoch = self.seed, self.epoch
            order = torch.tensor(sorted(range(self.size), key=lambda row: stable_hash(seed, epoch, row)))
        for number, length in enumerate(self._lengths()):
            batch = order[number * self.batch_size :][:length]
            yield batch[ranks.share(length)] if self.shared else batch

    def _lengths(self) -> list[int]:
        full, rest = divmod(self.size, self.batch_size)
        if self.seed is not None and self.drop_last and full:
            rest = 0
        return [self.batch_size] * full + ([rest] if rest else [])


class BatchLoader:
    """An iterable of batches with a length, for Lightning.

    It is not a `DataLoader`, so Lightning leaves its order alone, and it can be stopped and gone on with in
    the middle of an epoch: `state_dict` says how many batches of which epoch are done.

    Args:
        source: Makes the tensors.
        order: Says which rows.
        num_workers: Processes that read images ahead; started anew every epoch. 0: none, best for features.
    """

    def __init__(self, source: BatchSource, order: BatchOrder, *, num_workers: int = 0) -> None:
        self.source = source
        self.batch_sampler = order
        self.num_workers = num_workers
        self._done = (0, 0)  # epoch, batches
        self._resume = (0, 0)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the present epoch, those already done before a resume left out."""
        # A generator on purpose: Lightning calls iter() first and sets the epoch after it.
        epoch = self.batch_sampler.epoch
        skip = self._resume[1] if self._resume[0] == epoch else 0  # after a finished epoch comes another one
        self._resume = (0, 0)
        keys = [(epoch, index) for index in self.batch_sampler][skip:]
        fetched = read_ahead(self.source, keys, workers=self.num_workers)
        for number, batch in enumerate(fetched, start=skip + 1):
            self._done = (epoch, number)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return how far this epoch is, and what that depends on."""
        return {"epoch": self._done[0], "batches": self._done[1], **self._settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: It was taken with another data set size, batch size, seed or drop_last.
        """
        for key, value in self._settings().items():
            if state[key] != value:
                raise ValueError(
                    f"The checkpoint was made with {key}={state[key]}, this run has {key}={value}."
                )
        # Also done, not only to be passed over: a loader that is through says so again before its next epoch.
        self._resume = self._done = (state["epoch"], state["batches"])

    def _settings(self) -> dict[str, Any]:
        return {key: getattr(self.batch_sampler, key) for key in ("size", "batch_size", "seed", "drop_last")}
