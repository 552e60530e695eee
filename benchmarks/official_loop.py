"""A re-statement of the released CalibPrompt loop, to measure against: what it computes, in its order.

Every step decodes and augments its images, encodes them, runs all classes through the text tower at full
context length and takes an SGD step; the last batch of an epoch is dropped. Every test batch encodes its
images and all classes again. Same modules, same losses, float32. Written from a description of the release
(commit c6ec13e). Differs: no loader processes (on two cores they cost more than they give) and no plots; both
flatter the release.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from calib.backbones.base import Backbone
from calib.data.images import open_image
from calib.losses import Objective, resolve_terms
from calib.prompts.learner import PromptLearner
from calib.prompts.zero_shot import zero_shot_features

TRAIN_BATCH, TEST_BATCH, EPOCHS = 16, 100, 50


class OfficialLoop:
    """Prompt tuning as released.

    Args:
        backbone: The frozen model.
        class_names: C names.
        seed: Of the random context.
    """

    def __init__(self, backbone: Backbone, class_names: Sequence[str], seed: int = 1) -> None:
        self.backbone = backbone
        self.learner = PromptLearner(backbone, class_names, seed=seed).to(backbone.device)
        self.objective = Objective(resolve_terms("calibprompt-ls"))
        self.zero_shot = zero_shot_features(backbone, class_names, "An image of {}.")
        self.optimizer = torch.optim.SGD([self.learner.context], lr=0.002, momentum=0.9, weight_decay=5e-4)

    def text_features(self) -> Tensor:
        """Return (C, D): every class at full context length through the unchanged tower."""
        learner = self.learner
        return self.backbone.encode_prompts_by_hook(learner.context, learner.tokens, learner.positions)

    def train_step(self, files: Sequence[Path], labels: Tensor, view: int) -> float:
        """Take one step on a batch of image files (B,) and return the loss."""
        preprocess = self.backbone.preprocess
        images = torch.stack([preprocess.augment(open_image(file), view + i) for i, file in enumerate(files)])
        features = self.backbone.encode_image(images)
        texts = self.text_features()
        scaled = self.backbone.logit_scale.exp() * features
        labels = labels.to(features.device)
        return float(self.descend(scaled @ texts.T, scaled @ self.zero_shot.T, texts, labels).detach())

    def descend(self, logits: Tensor, zero_shot_logits: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        """Take an SGD step and return the loss: logits (B, C) twice, texts (C, D), labels (B,)."""
        loss = self.objective(
            logits=logits,
            labels=labels,
            text_features=texts,
            zero_shot_logits=zero_shot_logits,
            zero_shot_text_features=self.zero_shot,
        )["total"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    @torch.no_grad()
    def test_batch(self, files: Sequence[Path]) -> Tensor:
        """Return the logits (B, C) of a batch of test images."""
        images = torch.stack([self.backbone.preprocess(open_image(file)) for file in files])
        features = self.backbone.encode_image(images)
        return self.backbone.logit_scale.exp() * features @ self.text_features().T

    @staticmethod
    def steps(n_train: int) -> int:
        """Return the steps of a run: 50 epochs without their last, smaller batches."""
        return EPOCHS * max(1, n_train // TRAIN_BATCH)
