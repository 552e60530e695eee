"""Small trainings of every kind: a module and its batches, a few steps an epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from calib.backbones.base import Backbone
from calib.data import FeatureTable, FewShotDataModule
from calib.failure.cases import FailureCases
from calib.failure.fit import new_head
from calib.failure.module import FailurePredictionModule
from calib.losses import LOSSES, Objective
from calib.prompts.learner import PromptLearner
from calib.prompts.module import PromptTuningModule
from calib.prompts.stack import PromptStackModule, StackedLoader, StackedPrompt
from calib.prompts.zero_shot import zero_shot_features

NAMES = ["covid", "normal", "lung opacity"]
OF_CLASSES = {name: {} for name in LOSSES if name not in ("dice", "ml1_ace")}
N, C, D, SCALE = 12, 3, 8, math.log(20)
# name: number of folds, number of models, and settings of the head
HEADS: dict[str, dict[str, Any]] = {
    "alone": {"folds": 0},
    "with folds": {"folds": 3, "residual": True},
    "of two models, with folds": {"folds": 2, "models": 2},
    "of two models, thawed": {"folds": 2, "models": 2, "keep_frozen": False, "n_iter_freeze_proj": 1},
}


def features(dim: int, n: int = N) -> FeatureTable:
    generator = torch.Generator().manual_seed(3)
    plain = normalize(torch.randn(n, dim, generator=generator), dim=-1)
    views = normalize(torch.randn(n, 2, dim, generator=generator), dim=-1)
    ids = [f"{row:064x}" for row in range(n)]
    return FeatureTable(plain, torch.arange(n) % C, ids, ids, augmented_features=views)


def prompt_steps(
    backbone: Backbone, losses: dict[str, Any] = OF_CLASSES
) -> tuple[PromptTuningModule, FewShotDataModule]:
    """Return the training of one prompt on features."""
    module = PromptTuningModule(
        backbone,
        PromptLearner(backbone, NAMES, n_ctx=3, seed=1),
        Objective(losses),
        zero_shot_features(backbone, NAMES, "a {}."),
        optimizer={"name": "sgd", "lr": 0.05},
    )
    return module, FewShotDataModule(features(backbone.embed_dim), batch_size=4, seed=5)


def stack_steps(backbone: Backbone) -> tuple[PromptStackModule, StackedLoader]:
    """Return the training of a prompt beside those of its folds, which see fewer images."""
    table = features(backbone.embed_dim)
    prompts, loaders = [], []
    for number, rows in enumerate([range(12), range(8), range(4, 12)]):
        learner = PromptLearner(backbone, NAMES, n_ctx=3, seed=number)
        optimizer = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
        prompts.append(StackedPrompt(learner, Objective(OF_CLASSES), optimizer, fold=number > 0))
        loaders.append(FewShotDataModule(table.subset(rows), batch_size=4, seed=5).train_dataloader())
    zero_shot = zero_shot_features(backbone, NAMES, "a {}.")
    return PromptStackModule(backbone, prompts, zero_shot, shown=0), StackedLoader(loaders)


def cases(models: int = 1) -> FailureCases:
    parts = []
    for seed in range(models):
        generator = torch.Generator().manual_seed(seed)
        texts = normalize(torch.randn(C, D, generator=generator), dim=1)
        labels = torch.arange(N) % C
        images = normalize(texts[labels] + 0.9 * torch.randn(2, N, D, generator=generator), dim=2)
        parts.append(FailureCases.of(images, labels, texts, logit_scale=SCALE))
    return FailureCases.join(parts)


def failure_steps(*, folds: int = 0, models: int = 1, **options: Any) -> tuple[FailurePredictionModule, Any]:
    """Return the training of a failure head, beside those of its folds."""
    data = cases(models)
    heads = [new_head(D, logit_scale=SCALE, seed=k, hidden=(6, 4), **options) for k in range(1 + folds)]
    module = FailurePredictionModule(
        heads[0],
        data.text_features,
        optimizer={"name": "adamw", "lr": 0.01, "weight_decay": 0.01},
        folds=heads[1:],
        fold_of=torch.arange(len(data)) % folds if folds else None,
    )
    return module, data.batches(5, seed=1)


class Pictures:
    """Images with masks, as `SegmentationModule` takes them.

    Args:
        size: Their side.
    """

    def __init__(self, size: int = 16) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = (torch.rand(6, size, size, generator=generator) > 0.6).long()
        self.images = self.labels[:, None] + 0.3 * torch.randn(6, 3, size, size, generator=generator)

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        for start in range(0, 6, 2):
            rows = slice(start, start + 2)
            yield {"images": self.images[rows], "labels": self.labels[rows]}


def segmentation_steps() -> tuple[Any, Pictures]:
    """Return the training of a small network with all losses of pixels."""
    from calib.segmentation.fit import objective_of
    from calib.segmentation.module import SegmentationModule

    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)
    )
    terms = objective_of("dice-ce-ace-soft")
    optimizer = {"name": "adamw", "lr": 0.01}
    return SegmentationModule(network, terms, ["rest", "lesion"], optimizer=optimizer), Pictures()


def pictures(n: int, size: int = 40) -> list[Image.Image]:
    """Return n pictures of noise."""
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(n)]


def first_batch(batches: Any) -> dict[str, Tensor]:
    """Return the first batch of what `Trainer.fit` takes."""
    loader = batches.train_dataloader() if hasattr(batches, "train_dataloader") else batches
    return next(iter(loader))
