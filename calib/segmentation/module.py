"""Training of a segmentation network on Lightning: whole batches' objective, Dice and ACE on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from calib.core import ranks
from calib.losses import Objective
from calib.metrics.segmentation import WATCHED, SegmentationSums, summarize_segmentation
from calib.training.loss_means import LossMeans
from calib.training.optim import constant_warmup, make_optimizer


class SegmentationModule(LightningModule):
    """Learns a network on batches of `images` (B, 3, S, S) and `labels` (B, S, S).

    Any number of processes compute the objective of the whole batch: each has its share of the images, and
    the logits are gathered with their gradient. Losses are computed in float32 whatever the precision.

    Args:
        network: What is trained.
        objective: Terms over logits and labels.
        class_names: C names, the background first.
        optimizer: Arguments of `make_optimizer`.
        warmup_epochs: Epochs at the constant `warmup_lr`.
        warmup_lr: Learning rate of the warm-up.
        n_bins: Bins of ACE and ECE on the validation images.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        class_names: Sequence[str],
        *,
        optimizer: Mapping[str, Any],
        warmup_epochs: int = 1,
        warmup_lr: float = 1e-5,
        n_bins: int = 20,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective, self.class_names, self.n_bins = objective, [*class_names], n_bins
        self.optimizer_settings = dict(optimizer)
        self.warmup_epochs, self.warmup_lr = warmup_epochs, warmup_lr
        self.losses = LossMeans()
        self._seen = SegmentationSums(n_bins=n_bins)
        self.dice: dict[int, float] = {}  # of the validation images, by epoch

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the objective of one batch, of all processes."""
        images, labels = batch["images"], batch["labels"]
        if len(images):
            logits = self.network(images).float()
        else:  # every process takes part in every step, with a gradient of 0
            nothing = sum(parameter.sum() * 0 for parameter in self.network.parameters())
            logits = images.new_zeros(0, len(self.class_names), *images.shape[2:]) + nothing
        if ranks.world_size() > 1:
            logits, labels = ranks.gathered_with_gradient(logits), ranks.gathered(labels)
        return self.losses.add(self.objective(logits=logits, labels=labels))

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's sums."""
        self.losses.reset()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean of every loss term; stop with its name if one is not finite."""
        means = self.losses.means(self.current_epoch)
        self.log_dict({f"train/{name}": value for name, value in means.items()})
        self.log("train/loss", means["total"], prog_bar=True, logger=False)

    def on_validation_epoch_start(self) -> None:
        """Forget what was seen before."""
        self.losses.means(self.current_epoch)  # raises: validation comes before the end of the epoch
        self._seen = SegmentationSums(n_bins=self.n_bins)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Add one batch to the validation metrics."""
        images, labels = batch["images"], batch["labels"]
        logits = (
            self.network(images).float()
            if len(images)
            else images.new_zeros(0, len(self.class_names), *images.shape[2:])
        )
        if ranks.world_size() > 1:
            logits, labels = ranks.gathered(logits), ranks.gathered(labels)
        self._seen.update(logits.softmax(1), labels)

    def on_validation_epoch_end(self) -> None:
        """Log Dice, ACE and ECE, means over validation images and classes but the background."""
        found = summarize_segmentation(self._seen.sums, self.class_names)
        shown = {f"val/{name}": found[name] for name in WATCHED if found[name] is not None}
        self.log_dict(shown)
        if found["dice"] is not None and not self.trainer.sanity_checking:
            self.dice[self.current_epoch] = found["dice"]

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimiser and its per-epoch schedule."""
        optimizer = make_optimizer(self.network.parameters(), **self.optimizer_settings)
        factor = constant_warmup(
            lr=self.optimizer_settings["lr"],
            warmup_epochs=self.warmup_epochs,
            warmup_lr=self.warmup_lr,
            max_epochs=self.trainer.max_epochs or 1,
        )
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's losses and the curve of the Dice as well."""
        checkpoint["losses"] = self.losses.state_dict()
        checkpoint["dice"] = dict(self.dice)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the epoch's losses and the curve of the Dice."""
        self.losses.load_state_dict(checkpoint["losses"])
        self.dice = dict(checkpoint.get("dice", {}))
