"""Predictions of a frozen model with what was right: what a failure head learns from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.data.batches import Batch, BatchLoader, BatchOrder


@dataclass(frozen=True, eq=False)
class PlainCases:
    """Predictions on N plain images, without their augmented views.

    Attributes:
        image_features: (N, D) unit norm.
        labels: (N,) int64.
        predictions: (N,) int64.
        logits: (N, C).
    """

    image_features: Tensor
    labels: Tensor
    predictions: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class FailureCases:
    """Predictions of a frozen model with what was right: what a failure head learns from. All in memory.

    An image may have been seen in several looks (the plain image and augmented views), each with a prediction
    of its own. The model may have been several: with cross-fitted prompts every image is judged by the texts
    of the prompt that was trained without it.

    Attributes:
        image_features: (V, N, D) unit norm, V looks at N images; the first is the plain image.
        labels: (N,) int64.
        text_features: (K, C, D) unit norm: the class texts of K models.
        source: (N,) int64 in [0, K): whose texts judged the image.
        predictions: (V, N) int64.
        logits: (V, N, C).
    """

    image_features: Tensor
    labels: Tensor
    text_features: Tensor
    source: Tensor
    predictions: Tensor
    logits: Tensor

    @classmethod
    def of(
        cls,
        image_features: Tensor,
        labels: Tensor,
        text_features: Tensor,
        *,
        logit_scale: float,
        predictions: Tensor | None = None,
    ) -> FailureCases:
        """Return the cases of one model.

        Args:
            image_features: (N, D) or (V, N, D) unit norm.
            labels: (N,) int64.
            text_features: (C, D) unit norm.
            logit_scale: Log of the scale.
            predictions: (N,) or (V, N) int64. None: the most similar class.
        """
        looks = image_features if image_features.dim() == 3 else image_features[None]
        logits = math.exp(logit_scale) * looks @ text_features.T  # (V, N, C)
        picked = logits.argmax(dim=2) if predictions is None else predictions.expand(looks.shape[:2])
        source = torch.zeros(len(labels), dtype=torch.int64)
        return cls(looks, labels, text_features[None], source, picked, logits)

    @classmethod
    def join(cls, parts: Sequence[FailureCases]) -> FailureCases:
        """Return the cases of several models, one after the other."""
        models = [len(part.text_features) for part in parts]
        shifted = [part.source + sum(models[:i]) for i, part in enumerate(parts)]
        rows = {
            name: torch.cat([getattr(part, name) for part in parts], dim=1)
            for name in ("image_features", "predictions", "logits")
        }
        return cls(
            labels=torch.cat([part.labels for part in parts]),
            text_features=torch.cat([part.text_features for part in parts]),
            source=torch.cat(shifted),
            **rows,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def plain(self) -> PlainCases:
        """What was predicted on the plain images."""
        return PlainCases(
            image_features=self.image_features[0],
            labels=self.labels,
            predictions=self.predictions[0],
            logits=self.logits[0],
        )

    @property
    def failure(self) -> Tensor:
        """Which predictions on the plain images are wrong, (N,) bool."""
        return self.predictions[0] != self.labels

    def __getitem__(self, key: tuple[int, Tensor]) -> Batch:
        """Return the batch for (epoch, row indices): epoch e sees look e modulo V."""
        epoch, index = key
        look = epoch % len(self.image_features)
        return {
            "image_features": self.image_features[look][index],
            "labels": self.labels[index],
            "predictions": self.predictions[look][index],
            "logits": self.logits[look][index],
            "source": self.source[index],
            "index": index,
        }

    def batches(self, batch_size: int, *, seed: int | None = None, drop_last: bool = False) -> BatchLoader:
        """Return the batches for `Trainer.fit`, in an order that depends on seed and epoch only.

        Several processes share every batch.

        Args:
            batch_size: Images per batch, over all processes.
            seed: Shuffles every epoch in its own way. None: in order, plain images, for evaluation.
            drop_last: Leave out a last, smaller batch.
        """
        source = self
        if seed is None:
            fields = ("image_features", "predictions", "logits")
            source = dataclasses.replace(self, **{name: getattr(self, name)[:1] for name in fields})
        order = BatchOrder(len(self), batch_size, seed=seed, drop_last=drop_last, shared=True)
        return BatchLoader(source, order)
