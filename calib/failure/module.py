"""Failure prediction on Lightning: a head learns which predictions of a frozen model are wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from calib.core import ranks
from calib.core.byname import bind
from calib.core.errors import unknown_name
from calib.failure.batch_rows import ROWS, BatchRows, batch_rows, picked
from calib.failure.shared_inputs import SharedInputs, can_share, score_shared, shared_inputs
from calib.failure.vilu import ViLU
from calib.losses import check_finite
from calib.losses.failure import FAILURE_LOSSES, outcome_counts
from calib.metrics.failure import FAILURE_METRICS, summarize_failure
from calib.training.optim import clip_each, lr_after_linear_warmup, make_optimizer
from calib.training.precision import full_precision


class FailurePredictionModule(LightningModule):
    """Trains a failure head on the batches of `FailureCases`.

    Weights of the loss that depend on how many predictions are wrong (adaptive, balanced) are those of the
    batch of all processes: however it is shared among them, the gradient is that of one process. Validation
    gathers every image once, by its row. The loss is computed in float32 whatever the precision.

    Beside the head, others may be trained that each see no image of one fold, to judge it later: they share
    batches, schedule and optimiser, and as no parameter is shared, each becomes what it would have become
    alone.

    Args:
        head: The head to train.
        text_features: (K, C, D) unit norm, as in `FailureCases`. None: every batch brings its own
            `text_features` (C, D), as those of `CaptionPairs` do.
        loss: A key of FAILURE_LOSSES.
        loss_settings: Its settings.
        optimizer: Arguments of `make_optimizer`.
        warmup_epochs: Epochs during which the learning rate rises in a straight line.
        warmup_lr: Learning rate of the first epoch.
        folds: A head for every fold.
        fold_of: (N,) int64, the fold of every image; the head of that number never sees it. -1: all do.

    Raises:
        ValueError: The loss, one of its settings or the optimiser is unknown.
    """

    fold_of: Tensor | None

    def __init__(
        self,
        head: ViLU,
        text_features: Tensor | None,
        *,
        loss: str = "bce",
        loss_settings: Mapping[str, Any] | None = None,
        optimizer: Mapping[str, Any],
        warmup_epochs: int = 5,
        warmup_lr: float = 1e-4,
        folds: Sequence[ViLU] = (),
        fold_of: Tensor | None = None,
    ) -> None:
        super().__init__()
        if loss not in FAILURE_LOSSES:
            raise unknown_name("failure loss", loss, FAILURE_LOSSES)
        self.head = head
        self.folds = nn.ModuleList(folds)
        self.fold_of = fold_of  # no buffer: it is asked on the CPU, before a batch is on its way
        self.register_buffer("text_features", text_features, persistent=False)
        self.loss_name = loss
        self.loss = bind(FAILURE_LOSSES[loss], loss_settings or {}, name=f"failure loss '{loss}'")
        self.optimizer_settings = dict(optimizer)
        self.warmup_epochs = warmup_epochs
        self.warmup_lr = warmup_lr
        self._sum: Tensor | float = 0.0
        self._sum_of_folds: Tensor | float = 0.0
        self._steps = 0
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return a batch with the rows of each model and fold beside it: a step on a GPU does not wait."""
        return self._with_rows(batch)

    def failure_logits(
        self,
        batch: Mapping[str, Any],
        head: nn.Module | None = None,
        models: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Return the failure logit (B,) of every image of a batch, judged by the texts it belongs to.

        Args:
            batch: As those of `FailureCases` or of `CaptionPairs`.
            head: The head of a fold. None: the head itself.
            models: Model to its rows, as in `BatchRows`. None: as the batch says.
        """
        judge = self.head if head is None else head
        images, predictions = batch["image_features"], batch["predictions"]
        if "text_features" in batch:
            return judge(images, batch["text_features"], predictions)
        told = batch.get("model_logits")
        if len(self.text_features) == 1:
            return judge(images, self.text_features[0], predictions, model_logits=told)
        if models is None:
            models = self._with_rows(batch)[ROWS].models
        logits = images.new_zeros(len(images))
        for model, rows in models.items():
            part = judge(
                images[rows],
                self.text_features[model],
                predictions[rows],
                model_logits=None if told is None else told[rows],
            )
            logits = logits.index_copy(0, rows, part.to(logits))
        return logits

    def _with_rows(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a batch with its `BatchRows`, on the device of its images, where somebody asks for them.

        With other shares of it a head is called as often, perhaps with no image.
        """
        of_one = len(self.folds) == 0 and (self.text_features is None or len(self.text_features) == 1)
        if ROWS in batch or "source" not in batch or of_one:
            return batch
        index = batch.get("index") if self.training else None  # validation images are rows of another table
        found = batch_rows(batch["source"], index, len(self.text_features), self.fold_of, len(self.folds))
        return {**batch, ROWS: found.to(batch["source"].device)}

    def _shared(self, batch: Mapping[str, Any]) -> SharedInputs | None:
        """Return what all heads see of a batch; None where each sees its own, or there is one to see it."""
        if not can_share(self.head, batch) or (not self.folds and len(self.text_features) == 1):
            return None
        return shared_inputs(self.head, batch, self.text_features, batch[ROWS].models)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        batch = self._with_rows(batch)
        shared = self._shared(batch)
        value = self._loss(
            batch, self.failure_logits(batch) if shared is None else score_shared(self.head, shared)
        )
        self._sum = self._sum + value.detach()  # on the device: a step never waits for a number
        self._steps += 1
        rows: BatchRows | None = batch.get(ROWS)
        for head, (seen, models) in zip(self._heads()[1:], rows.folds if rows else [], strict=True):
            rest = picked(batch, seen)
            if shared is None:
                part = self._loss(rest, self.failure_logits(rest, head, models))
            else:
                part = self._loss(rest, score_shared(head, shared.of(seen)))
            self._sum_of_folds = self._sum_of_folds + part.detach()
            value = value + part
        return value

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's sum."""
        self._sum, self._sum_of_folds, self._steps = 0.0, 0.0, 0

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss; stop with its name if it is not finite."""
        mean = self._finite_mean()
        self.log(f"train/{self.loss_name}", mean)
        self.log("train/loss", mean, prog_bar=True, logger=False)

    def on_validation_epoch_start(self) -> None:
        """Stop before evaluating a head that is broken: validation comes before the end of the epoch."""
        if self._steps:
            self._finite_mean()
        self._outputs = []

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Keep the failure logits of one batch, or of this process's share of it."""
        logits = self.failure_logits(batch).float()
        self._outputs.append((batch["index"], logits, batch["predictions"] != batch["labels"]))

    def on_validation_epoch_end(self) -> None:
        """Log the watched metrics of the validation images, as far as they are defined."""
        index, logits, failure = (
            ranks.gathered(torch.cat(parts)) for parts in zip(*self._outputs, strict=True)
        )
        order = index.argsort()  # the rows as one process sees them
        logits, failure = logits[order], failure[order]
        if logits.isfinite().all():  # else the training epoch, which ends after this, says so
            values = summarize_failure(logits, failure)
            watched = [name for name, metric in FAILURE_METRICS.items() if metric.watched]
            self.log_dict({f"val/{name}": values[name] for name in watched if math.isfinite(values[name])})
        self._outputs = []

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimiser and its per-epoch schedule."""
        settings = dict(self.optimizer_settings)
        decay = settings.get("weight_decay", 0.0)
        groups = [group for head in self._heads() for group in head.parameter_groups(decay)]
        optimizer = make_optimizer(groups, **settings)
        epochs, start = self.trainer.max_epochs or 1, self.warmup_lr / settings["lr"]

        def factor(epoch: int) -> float:
            return lr_after_linear_warmup(
                epoch, max_epochs=epochs, warmup_epochs=self.warmup_epochs, start=start
            )

        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient of every head by itself: one of a fold has no say in that of another."""
        parts = (
            [each for group in head.parameter_groups(0.0) for each in group["params"]]
            for head in self._heads()
        )
        clip_each(parts, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sum of the epoch's losses: every process takes up an equal part of that of all."""
        own = torch.as_tensor(self._sum, device=self.device)
        checkpoint["losses"] = {"sum": ranks.summed(own) / ranks.world_size(), "steps": self._steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another head (by names and shapes), and take up its epoch's losses."""
        found = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
        wanted = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        if found != wanted:
            differing = sorted(
                name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
            )
            first = differing[0]
            raise ValueError(
                f"The checkpoint is of another head: {first} is {found.get(first)} there and "
                f"{wanted.get(first)} here ({len(differing)} such entries)."
            )
        self._sum = checkpoint["losses"]["sum"].to(self.device)
        self._steps = int(checkpoint["losses"]["steps"])

    def _heads(self) -> list[ViLU]:
        """Return the head and those of the folds."""
        return [self.head, *(head for head in self.folds if isinstance(head, ViLU))]

    def _loss(self, batch: Mapping[str, Tensor], failure_logits: Tensor) -> Tensor:
        failure = batch["predictions"] != batch["labels"]
        counts, share = _over_processes(outcome_counts(failure))
        with full_precision(failure_logits):
            failure_logits = failure_logits.float()
            if not len(failure):  # no image, and no gradient, but DDP waits for one
                return failure_logits.sum()
            value = self.loss(
                failure_logits=failure_logits,
                failure=failure,
                counts=counts,
                logits=batch["logits"].float(),
                labels=batch["labels"],
            )
            return value * share

    def _finite_mean(self) -> Tensor:
        sums = torch.stack(
            [torch.as_tensor(each, device=self.device).float() for each in (self._sum, self._sum_of_folds)]
        )
        mean, of_folds = ranks.summed(sums) / self._steps / ranks.world_size()
        try:
            check_finite({self.loss_name: mean, f"{self.loss_name} of the folds": of_folds})
        except FloatingPointError as error:
            raise FloatingPointError(f"Training stopped in epoch {self.current_epoch}. {error}") from None
        return mean


def _over_processes(counts: Tensor) -> tuple[Tensor, Tensor | float]:
    """Return the counts summed over processes, and this process's share of them times their number.

    A process's mean loss times this factor, averaged over processes (as DDP does with gradients), is the mean
    over the whole batch even where the shares differ in size.
    """
    if ranks.world_size() == 1:
        return counts, 1.0
    total = ranks.summed(counts)
    return total, ranks.world_size() * counts.sum() / total.sum()
