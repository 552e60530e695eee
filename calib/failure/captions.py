"""Pairs of images and captions: the candidates of an image are the captions of its batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calib.core import ranks
from calib.core.hashing import stable_hash
from calib.data.batches import Batch, BatchLoader, BatchOrder
from calib.failure.cases import FailureCases


@dataclass(frozen=True, eq=False)
class CaptionPairs:
    """N images with a caption each, and the model that compares them. All in memory.

    Attributes:
        image_features: (N, D) unit norm.
        text_features: (N, D) unit norm: the caption of each image.
        logit_scale: Log of the scale.
        ids: N ids of the images, which decide the candidates at test.

    Source: `batchwise_train` of ViLU (github.com/ykrmm/ViLU, commit e4bf572).
    Differs: a copy of the own caption counts as right wherever it stands, in training and at test; the
        release lets ties count as right in training and as wrong at test.
    """

    image_features: Tensor
    text_features: Tensor
    logit_scale: float
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.image_features)

    def __getitem__(self, key: tuple[int, Tensor]) -> Batch:
        """Return the batch for (epoch, row indices): its captions (B, D) are the candidates of its images."""
        index = key[1]
        images, texts = self.image_features[index], self.text_features[index]
        logits, predictions, labels = judge_captions(
            images, texts, torch.arange(len(index)), logit_scale=self.logit_scale
        )
        return {
            "image_features": images,
            "text_features": texts,
            "labels": labels,
            "predictions": predictions,
            "logits": logits,
        }

    def batches(self, batch_size: int, *, seed: int) -> BatchLoader:
        """Return the shuffled training batches; a last, smaller one is left out, its task would be easier.

        Several processes share the images of every batch; its captions are candidates for all of them.

        Args:
            batch_size: Pairs per batch, over all processes.
            seed: Of the order.
        """
        return BatchLoader(PairShares(self), BatchOrder(len(self), batch_size, seed=seed, drop_last=True))

    def blocks(self, size: int) -> CaptionBlocks:
        """Return every image judged once against the same number of captions.

        The pairs are put in an order that depends on their ids only, and cut into blocks. The last block is
        filled up with pairs before it, which are candidates there but not judged again.

        Args:
            size: Candidates B per image; all N where there are fewer.
        """
        count = min(size, len(self))
        order = sorted(range(len(self)), key=lambda row: (stable_hash(self.ids[row]), row))
        starts = range(0, len(self), count)
        rows = torch.tensor([order[min(start, len(self) - count) :][:count] for start in starts])  # (K, B)
        source = torch.empty(len(self), dtype=torch.int64)
        column = torch.empty(len(self), dtype=torch.int64)
        for block in reversed(range(len(rows))):  # a pair in two blocks is judged in the first
            source[rows[block]] = block
            column[rows[block]] = torch.arange(count)
        labels, predictions = torch.empty_like(source), torch.empty_like(source)
        logits = torch.empty(len(self), count)
        for block, texts in enumerate(self.text_features[rows]):
            here = (source == block).nonzero().flatten()
            logits[here], predictions[here], labels[here] = judge_captions(
                self.image_features[here], texts, column[here], logit_scale=self.logit_scale
            )
        cases = FailureCases(
            image_features=self.image_features[None],
            labels=labels,
            text_features=self.text_features[rows],
            source=source,
            predictions=predictions[None],
            logits=logits[None],
        )
        return CaptionBlocks(cases, rows)


@dataclass(frozen=True, eq=False)
class PairShares:
    """This process's share of the images of a batch, with all its captions.

    Attributes:
        pairs: What the batches are made of.
    """

    pairs: CaptionPairs

    def __getitem__(self, key: tuple[int, Tensor]) -> Batch:
        """Return the batch for (epoch, row indices), less the images of other processes."""
        mine = ranks.share(len(key[1]))
        return {
            name: value if name == "text_features" else value[mine] for name, value in self.pairs[key].items()
        }


@dataclass(frozen=True, eq=False)
class CaptionBlocks:
    """Images judged against the captions of their block.

    Attributes:
        cases: The images in their order; classes are places in the block, and `source` is the block.
        rows: (K, B) int64: which pairs the K blocks hold.
    """

    cases: FailureCases
    rows: Tensor


def judge_captions(
    image_features: Tensor, text_features: Tensor, own: Tensor, *, logit_scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (B, C), the most similar caption (B,), and the right one (B,).

    The right one is the own caption; where the most similar is an exact copy of it, that one.

    Args:
        image_features: (B, D) unit norm.
        text_features: (C, D) unit norm.
        own: (B,) int64 in [0, C): the place of each image's caption.
        logit_scale: Log of the scale.

    Example:
        >>> texts = torch.eye(2)[[0, 0, 1]]  # the first two are one caption
        >>> _, predictions, labels = judge_captions(torch.eye(2)[[0, 0]], texts, torch.tensor([1, 2]),
        ...                                         logit_scale=0.0)
        >>> predictions.tolist(), labels.tolist()
        ([0, 0], [0, 2])
    """
    logits = math.exp(logit_scale) * image_features @ text_features.T
    predictions = logits.argmax(dim=1)
    copied = (text_features[predictions] == text_features[own]).all(dim=1)
    return logits, predictions, torch.where(copied, predictions, own)
