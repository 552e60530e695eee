"""Predictions of a frozen model with what was right: what a failure head learns from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.data.batches import Batch, BatchLoader, BatchOrder
from calib.data.features import FeatureTable
from calib.data.folds import owners
from calib.prompts.export import Prompt


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

    An image may have been seen in several views (the plain image and augmented versions), each with a
    prediction of its own. The model may have been several: with cross-fitted prompts every image is judged by
    the texts of the prompt that was trained without it.

    Attributes:
        image_features: (V, N, D) unit norm, V views of N images; the first is the plain image.
        labels: (N,) int64.
        text_features: (K, C, D) unit norm: the class texts of K models.
        source: (N,) int64 in [0, K): whose texts judged the image.
        predictions: (V, N) int64.
        logits: (V, N, C).
        calibrated: Whether the logits are more than the scaled cosines to the texts, so that a residual head
            has to be told them.
        owners: N groups such as patients, of which none is divided where cases are left out. None: every
            image is its own.
    """

    image_features: Tensor
    labels: Tensor
    text_features: Tensor
    source: Tensor
    predictions: Tensor
    logits: Tensor
    calibrated: bool = False
    owners: Sequence[str] | None = None

    @classmethod
    def of(
        cls,
        image_features: Tensor,
        labels: Tensor,
        text_features: Tensor,
        *,
        logit_scale: float,
        predictions: Tensor | None = None,
        logits: Tensor | None = None,
        owners: Sequence[str] | None = None,
    ) -> FailureCases:
        """Return the cases of one model.

        Args:
            image_features: (N, D) or (V, N, D) unit norm.
            labels: (N,) int64.
            text_features: (C, D) unit norm.
            logit_scale: Log of the scale.
            predictions: (N,) or (V, N) int64. None: that of the largest logit.
            logits: (V, N, C) of a model that is more than its texts. None: the scaled cosines.
            owners: N groups. None: every image is its own.
        """
        views = image_features if image_features.dim() == 3 else image_features[None]
        calibrated = logits is not None
        if logits is None:
            logits = math.exp(logit_scale) * views @ text_features.T  # (V, N, C)
        picked = logits.argmax(dim=2) if predictions is None else predictions.expand(views.shape[:2])
        return cls(
            image_features=views,
            labels=labels,
            text_features=text_features[None],
            source=torch.zeros(len(labels), dtype=torch.int64),
            predictions=picked,
            logits=logits,
            calibrated=calibrated,
            owners=owners,
        )

    @classmethod
    def of_table(
        cls,
        table: FeatureTable,
        text_features: Tensor,
        *,
        logit_scale: float,
        predictions: Tensor | None = None,
    ) -> FailureCases:
        """Return what one model says about the images of a table, their augmented views included.

        Args:
            table: Images with labels.
            text_features: As in `of`.
            logit_scale: As in `of`.
            predictions: As in `of`.
        """
        return cls.of(
            all_views(table),
            table.labels.cpu(),
            text_features,
            logit_scale=logit_scale,
            predictions=predictions,
            owners=owners(table),
        )

    @classmethod
    def of_prompt(cls, prompt: Prompt, table: FeatureTable) -> FailureCases:
        """Return what a prompt says about the images of a table, their augmented views included.

        Args:
            prompt: The prompt.
            table: Images with labels of its classes, encoded by its backbone.

        Raises:
            ValueError: The features have another width than the prompt, or a label is none of its classes.
        """
        size, dim = prompt.text_features.shape
        width, last = table.image_features.shape[1], int(table.labels.max())
        if width != dim:
            raise ValueError(f"image_features must be (N, {dim}) for this prompt, and they are {width} wide.")
        if last >= size:
            raise ValueError(f"labels must lie in 0..{size - 1}, the classes of the prompt, got {last}.")
        views = all_views(table)
        return cls.of(
            views,
            table.labels.cpu(),
            prompt.text_features.cpu(),
            logit_scale=scale_of(prompt),
            logits=None
            if prompt.calibration is None
            else torch.stack([prompt.logits(view) for view in views]),
            owners=owners(table),
        )

    @classmethod
    def join(cls, parts: Sequence[FailureCases]) -> FailureCases:
        """Return the cases of several models, one after the other.

        Args:
            parts: The cases of each, at least one.
        """
        if len(parts) == 1:
            return parts[0]
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
            calibrated=any(part.calibrated for part in parts),
            owners=None
            if any(part.owners is None for part in parts)
            else [owner for part in parts for owner in part.owners or ()],
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
        """Return the batch for (epoch, row indices): epoch e sees view e modulo V."""
        epoch, index = key
        view = epoch % len(self.image_features)
        told = {"model_logits": self.logits[view][index]} if self.calibrated else {}
        return {
            **told,
            "image_features": self.image_features[view][index],
            "labels": self.labels[index],
            "predictions": self.predictions[view][index],
            "logits": self.logits[view][index],
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


def all_views(table: FeatureTable) -> Tensor:
    """Return the features of a table's images, the plain ones first, (V, N, D) on the CPU."""
    views = table.image_features[None].cpu()  # (1, N, D)
    if table.augmented_features is not None:
        views = torch.cat([views, table.augmented_features.transpose(0, 1).cpu()])
    return views


def scale_of(prompt: Prompt) -> float:
    """Return the log of what a prompt multiplies cosines with, its temperature included.

    Args:
        prompt: The prompt.

    Example:
        A logit scale of log 100 and a temperature of 2 give log 50, 3.912.
    """
    return prompt.logit_scale - math.log(prompt.temperature)
