"""Prompt tuning on Lightning: frozen backbone, learned context, objective over named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from calib.backbones.base import Backbone
from calib.core import ranks
from calib.losses import Objective
from calib.prompts.learner import PromptLearner
from calib.prompts.step import PromptStep, features_and_labels, loss_tensors, shares_classes
from calib.training.optim import constant_warmup, make_optimizer


class PromptTuningModule(LightningModule):
    """Learns the context of a `PromptLearner` on image features or images.

    Batches are dicts with `labels` (B,) and either `image_features` (B, D) unit norm or `images` (B, 3, H,
    W).

    Any number of processes compute the objective of the whole batch, so that losses which are statistics of a
    batch mean the same. Batches of features are the same in every process; of images each has its share, and
    their features are gathered. The work that is divided is that of the towers: images, and classes where
    every process has two at least. Losses are computed in float32 whatever the precision.

    Args:
        backbone: The frozen model; left out of checkpoints.
        learner: The prompt to train.
        objective: Terms over logits, labels, text_features, zero_shot_logits, zero_shot_text_features.
        zero_shot_features: (C, D) unit norm text features of the fixed sentences; used by losses that ask for
            them.
        optimizer: Arguments of `make_optimizer`.
        warmup_epochs: Epochs at the constant `warmup_lr`.
        warmup_lr: Learning rate of the warm-up.
        n_bins: Bins of the validation ECE.
    """

    def __init__(
        self,
        backbone: Backbone,
        learner: PromptLearner,
        objective: Objective,
        zero_shot_features: Tensor,
        *,
        optimizer: Mapping[str, Any],
        warmup_epochs: int = 1,
        warmup_lr: float = 1e-5,
        n_bins: int = 10,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.learner = learner
        self.register_buffer("zero_shot_features", zero_shot_features, persistent=False)
        self.optimizer_settings = dict(optimizer)
        self.warmup_epochs = warmup_epochs
        self.warmup_lr = warmup_lr
        # Every process sees the whole batches.
        self.step = PromptStep(objective, len(learner.class_names), n_bins=n_bins, sync=False)
        # Checkpoints hold the context only; on_load_checkpoint checks that it is there.
        self.strict_loading = False

    def text_features(self) -> Tensor:
        """Return the present class embeddings (C, D)."""
        n_classes = len(self.learner.class_names)
        if not shares_classes(n_classes):
            return self.learner(self.backbone)
        return ranks.gathered_with_gradient(self.learner(self.backbone, ranks.share(n_classes)))

    @torch.no_grad()
    def trained(self) -> tuple[Tensor, Tensor]:
        """Return the finished class embeddings (C, D) and the context (M, E) or (C, M, E), on the CPU."""
        return self.text_features().cpu(), self.learner.context.detach().cpu()

    def tensors(self, batch: Mapping[str, Tensor], text_features: Tensor) -> dict[str, Tensor]:
        """Return everything a loss may ask for by name, for the batch of all processes."""
        features, labels = features_and_labels(self.backbone, batch)
        return loss_tensors(
            features, labels, text_features, self.zero_shot_features, self.backbone.logit_scale
        )

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the objective of one batch."""
        return self.step.loss(self.tensors(batch, self.text_features()))

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's sums."""
        self.step.losses.reset()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean of every loss term; stop with its name if one is not finite."""
        means = self.step.losses.means(self.current_epoch)
        self.log_dict({f"train/{name}": value for name, value in means.items()})
        self.log("train/loss", means["total"], prog_bar=True, logger=False)

    def on_validation_epoch_start(self) -> None:
        """Encode the classes once for all validation batches."""
        self.step.losses.means(self.current_epoch)  # raises: validation comes before the end of the epoch
        self._val_text_features = self.text_features()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the validation metrics."""
        self.step.validate(self.tensors(batch, self._val_text_features))

    def on_validation_epoch_end(self) -> None:
        """Log accuracy, ECE and the rest on the validation shots."""
        self.log_dict({name: value.float() for name, value in self.step.validation().items()})

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimiser and its per-epoch schedule."""
        optimizer = make_optimizer([self.learner.context], **self.optimizer_settings)
        factor = constant_warmup(
            lr=self.optimizer_settings["lr"],
            warmup_epochs=self.warmup_epochs,
            warmup_lr=self.warmup_lr,
            max_epochs=self.trainer.max_epochs or 1,
        )
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:
        """Return the context alone; to walk through the frozen backbone takes as long as a step."""
        return self.learner.state_dict(*args, prefix=f"{prefix}learner.", **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen backbone out: a checkpoint is some tens of kilobytes."""
        checkpoint["state_dict"] = {"learner.context": self.learner.context.detach()}
        checkpoint["losses"] = self.step.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a context that is missing or of another shape, and take up the epoch's losses."""
        found = checkpoint["state_dict"].get("learner.context")
        wanted = tuple(self.learner.context.shape)
        if found is None or tuple(found.shape) != wanted:
            shape = None if found is None else tuple(found.shape)
            raise ValueError(f"The checkpoint's context has shape {shape}, this run's has {wanted}.")
        self.step.take_up(checkpoint["losses"])
