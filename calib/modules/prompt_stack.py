"""Several prompts trained side by side on one frozen tower: each as if it were trained alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from calib.backbones.base import Backbone
from calib.data.datamodule import BatchLoader, BatchOrder
from calib.losses import Objective
from calib.metrics import metric_collection
from calib.modules.loss_means import LossMeans
from calib.modules.optim import learning_rate_factor, make_optimizer
from calib.modules.precision import full_precision
from calib.modules.prompt_tuning import loss_tensors
from calib.prompts import PromptLearner


@dataclass
class StackedPrompt:
    """One of the prompts of a stack.

    Attributes:
        learner: The prompt to train.
        objective: What it is trained on.
        optimizer: lr, momentum and weight_decay of its own.
        warmup_epochs: Epochs at the constant `warmup_lr`.
        warmup_lr: Learning rate of the warm-up.
        curves: One dict of logged values per epoch, with "epoch" and "step".
        failed: Why it cannot be used, once a loss of its own was not finite; the others go on.
    """

    learner: PromptLearner
    objective: Objective
    optimizer: Mapping[str, float]
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    curves: list[dict[str, float]] = field(default_factory=list)
    failed: str | None = None


class PromptStackModule(LightningModule):
    """Learns S contexts at once: one pass through the text tower per step, S objectives, S learning rates.

    A context's gradient comes from its own objective alone, and its optimiser state is its own, so every
    prompt becomes what it would have become alone, up to rounding. Batches are dicts with `image_features`
    (S, B, D) and `labels` (S, B), made by `StackedLoader`.

    Args:
        backbone: The frozen model; left out of checkpoints.
        prompts: S prompts with the same classes and the same number of context tokens.
        zero_shot_features: (C, D) unit norm text features of the fixed sentences.
        optimizer: "sgd" or "adamw", for all.
        n_bins: Bins of the validation ECE.

    Raises:
        ValueError: The prompts do not have contexts of one shape and the same sentences.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: Sequence[StackedPrompt],
        zero_shot_features: Tensor,
        *,
        optimizer: str = "sgd",
        n_bins: int = 10,
    ) -> None:
        super().__init__()
        first = prompts[0].learner
        for prompt in prompts:
            learner = prompt.learner
            if learner.context.shape != first.context.shape or not torch.equal(learner.tokens, first.tokens):
                raise ValueError("Prompts side by side must have the same classes and the same n_ctx.")
        self.backbone = backbone
        self.prompts = list(prompts)
        self.learners = torch.nn.ModuleList(prompt.learner for prompt in prompts)
        self.register_buffer("zero_shot_features", zero_shot_features, persistent=False)
        self.optimizer_name = optimizer
        n_classes = len(first.class_names)
        self.val_metrics = torch.nn.ModuleList(metric_collection(n_classes, n_bins, "val/") for _ in prompts)
        self.strict_loading = False  # checkpoints hold the contexts only
        self._losses = [LossMeans() for _ in prompts]
        self._val_values: list[dict[str, float]] = [{} for _ in prompts]

    def text_features(self) -> Tensor:
        """Return the present class embeddings (S, C, D)."""
        first = self.prompts[0].learner
        contexts = torch.stack([prompt.learner.context for prompt in self.prompts])  # (S, [C,] M, E)
        return self.backbone.encode_prompts(contexts, first.tokens, first.positions, sets=True)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the sum of all objectives; no term of it depends on two contexts."""
        texts = self.text_features()
        with full_precision(texts):
            totals = [
                losses.add(prompt.objective(**self._tensors(batch, texts, row)))
                for row, (prompt, losses) in enumerate(zip(self.prompts, self._losses, strict=True))
            ]
        return torch.stack(totals).sum()

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's sums."""
        for losses in self._losses:
            losses.reset()
        self._val_values = [{} for _ in self.prompts]

    def on_train_epoch_end(self) -> None:
        """Keep every prompt's curves."""
        at = {"epoch": self.current_epoch, "step": self.global_step - 1}
        for prompt, means, values in zip(self.prompts, self._means(), self._val_values, strict=True):
            if prompt.failed is None:
                train = {f"train/{name}": float(value) for name, value in means.items()}
                prompt.curves.append({**at, **train, **values})

    def on_validation_epoch_start(self) -> None:
        """Encode the classes once for all validation batches."""
        self._means()
        self._val_texts = self.text_features()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Add one batch to every prompt's validation metrics."""
        for row, metrics in self._sound_metrics():
            with full_precision(self._val_texts):
                tensors = self._tensors(batch, self._val_texts, row)
            metrics.update(logits=tensors["logits"], labels=tensors["labels"])

    def on_validation_epoch_end(self) -> None:
        """Keep accuracy, ECE and the rest on the validation shots."""
        for row, metrics in self._sound_metrics():
            values = metrics.compute()
            self._val_values[row] = {name: float(value) for name, value in values.items() if value.isfinite()}
            metrics.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        """Return one optimiser with a group per prompt, and their per-epoch schedules."""
        groups = [{"params": [prompt.learner.context], **prompt.optimizer} for prompt in self.prompts]
        lr = self.prompts[0].optimizer["lr"]  # every group has its own
        optimizer = make_optimizer(groups, name=self.optimizer_name, lr=lr)
        factors = [self._factor(prompt) for prompt in self.prompts]
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factors)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep contexts and curves only."""
        checkpoint["state_dict"] = {
            f"learners.{row}.context": prompt.learner.context.detach()
            for row, prompt in enumerate(self.prompts)
        }
        checkpoint["curves"] = [prompt.curves for prompt in self.prompts]
        checkpoint["failed"] = [prompt.failed for prompt in self.prompts]
        checkpoint["losses"] = [losses.state_dict() for losses in self._losses]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another number of prompts, and take up its curves."""
        if len(checkpoint["curves"]) != len(self.prompts):
            raise ValueError(
                f"The checkpoint holds {len(checkpoint['curves'])} prompts, not {len(self.prompts)}."
            )
        kept = zip(self.prompts, checkpoint["curves"], checkpoint["failed"], strict=True)
        for prompt, curves, failed in kept:
            prompt.curves, prompt.failed = list(curves), failed
        for losses, state in zip(self._losses, checkpoint["losses"], strict=True):
            losses.load_state_dict(state)

    def _tensors(self, batch: Mapping[str, Tensor], texts: Tensor, row: int) -> dict[str, Tensor]:
        return loss_tensors(
            batch["image_features"][row],
            batch["labels"][row],
            texts[row],
            self.zero_shot_features,
            self.backbone.logit_scale,
        )

    def _means(self) -> list[dict[str, Tensor]]:
        """Return the mean loss terms of every prompt; one that is not finite marks its prompt as failed."""
        return [self._means_of(*each) for each in zip(self._losses, self.prompts, strict=True)]

    def _means_of(self, losses: LossMeans, prompt: StackedPrompt) -> dict[str, Tensor]:
        try:
            return losses.means(self.current_epoch)
        except FloatingPointError as error:
            prompt.failed = prompt.failed or str(error)
            return {}

    def _sound_metrics(self) -> Iterator[tuple[int, Any]]:
        rows = enumerate(zip(self.prompts, self.val_metrics, strict=True))
        return ((row, metrics) for row, (prompt, metrics) in rows if prompt.failed is None)

    def _factor(self, prompt: StackedPrompt) -> Any:
        epochs = self.trainer.max_epochs or 1
        warmup_factor = prompt.warmup_lr / prompt.optimizer["lr"]

        def factor(epoch: int) -> float:
            return learning_rate_factor(
                epoch,
                max_epochs=epochs,
                warmup_epochs=prompt.warmup_epochs,
                warmup_factor=warmup_factor,
            )

        return factor


class StackedOrder:
    """The orders of several loaders: one epoch for all.

    Args:
        orders: What says which rows come next, one per loader.
    """

    def __init__(self, orders: Sequence[BatchOrder]) -> None:
        self.orders = list(orders)

    @property
    def sampler(self) -> StackedOrder:
        """The order itself: Lightning calls `loader.batch_sampler.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        for order in self.orders:
            order.set_epoch(epoch)


class StackedLoader:
    """The batches of several loaders side by side, for Lightning.

    Args:
        loaders: S loaders of cached features with batches of the same sizes.

    Raises:
        ValueError: They have different numbers of batches.
    """

    def __init__(self, loaders: Sequence[BatchLoader]) -> None:
        lengths = {len(loader) for loader in loaders}
        if len(lengths) != 1:
            raise ValueError(f"Loaders side by side must have as many batches each, not {sorted(lengths)}.")
        self.loaders = list(loaders)
        self.batch_sampler = StackedOrder([loader.batch_sampler for loader in loaders])

    def __len__(self) -> int:
        return len(self.loaders[0])

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield image_features (S, B, D) and labels (S, B)."""
        for batches in zip(*self.loaders, strict=True):
            yield {
                name: torch.stack([batch[name] for batch in batches]) for name in ("image_features", "labels")
            }

    def state_dict(self) -> dict[str, Any]:
        """Return how far each loader is."""
        return {"loaders": [loader.state_dict() for loader in self.loaders]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: It was taken with other loaders.
        """
        for loader, own in zip(self.loaders, state["loaders"], strict=True):
            loader.load_state_dict(own)
