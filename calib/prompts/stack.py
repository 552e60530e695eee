"""Several prompts trained side by side on one frozen tower: each as if it were trained alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor

from calib.backbones.base import Backbone
from calib.backbones.fast.kernels import other_rows
from calib.core import ranks
from calib.data.batches import Batch, BatchLoader, BatchOrder
from calib.data.datamodule import FewShotDataModule
from calib.losses import Objective
from calib.prompts.learner import PromptLearner
from calib.prompts.step import PromptStep, features_and_labels, loss_tensors, shares_classes
from calib.training.optim import clip_each, constant_warmup, make_optimizer


@dataclass
class StackedPrompt:
    """One of the prompts of a stack.

    Attributes:
        learner: The prompt to train.
        objective: What it is trained on.
        optimizer: lr, momentum and weight_decay of its own.
        warmup_epochs: Epochs at the constant `warmup_lr`.
        warmup_lr: Learning rate of the warm-up.
        fold: Whether it is trained without some of the shots of the prompt before it, to judge these; it has
            no validation images, and its curves are not shown.
        curves: One dict of logged values per epoch, with "epoch" and "step".
        failed: Why it cannot be used, once a loss of its own was not finite; the others go on.
    """

    learner: PromptLearner
    objective: Objective
    optimizer: Mapping[str, float]
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    fold: bool = False
    curves: list[dict[str, float]] = field(default_factory=list)
    failed: str | None = None


class PromptStackModule(LightningModule):
    """Learns S contexts at once: one pass through the text tower per step, S objectives, S learning rates.

    A context's gradient comes from its own objective alone, and its optimiser state is its own, so every
    prompt becomes what it would have become alone, up to rounding. A batch is a list, made by
    `StackedLoader`: for each prompt a dict with `image_features` (B, D) or `images` (B, 3, H, W), and
    `labels` (B,), or None once it has seen all of its images in this epoch.

    Several processes compute the same, and divide the work of the towers as `PromptTuningModule` does.

    Args:
        backbone: The frozen model; left out of checkpoints.
        prompts: S prompts with the same classes and the same number of context tokens.
        zero_shot_features: (C, D) unit norm text features of the fixed sentences.
        optimizer: "sgd" or "adamw", for all.
        n_bins: Bins of the validation ECE.
        shown: The prompt that the others serve: its curves are logged as if it were trained alone, and a loss
            of any of them that is not finite ends the training. None: nothing is logged, and nothing ends;
            all keep their curves.

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
        shown: int | None = None,
    ) -> None:
        super().__init__()
        self.shown = shown
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
        # Every process sees the whole batches.
        steps = (PromptStep(prompt.objective, n_classes, n_bins=n_bins, sync=False) for prompt in prompts)
        self.steps = cast("Sequence[PromptStep]", torch.nn.ModuleList(steps))
        self.strict_loading = False  # checkpoints hold the contexts only
        self._val_values: list[dict[str, float]] = [{} for _ in prompts]
        self._moved: set[int] = set()  # rows that saw an image since the last step of the optimiser

    def text_features(self, rows: Sequence[int] | None = None) -> Tensor:
        """Return the present class embeddings (S, C, D), or those of some prompts."""
        first = self.prompts[0].learner
        asked = self.prompts if rows is None else [self.prompts[row] for row in rows]
        contexts = torch.stack([prompt.learner.context for prompt in asked])  # (S, [C,] M, E)
        n_classes = len(first.class_names)
        if not shares_classes(n_classes):
            return self.backbone.encode_prompts(contexts, first.tokens, first.positions, sets=True)
        mine = ranks.share(n_classes)
        tokens, positions = first.some(mine)
        contexts = contexts[:, mine] if contexts.ndim == 4 else contexts
        texts = self.backbone.encode_prompts(contexts, tokens, positions, sets=True)
        return ranks.gathered_with_gradient(texts.transpose(0, 1)).transpose(0, 1)

    @torch.no_grad()
    def trained(self) -> tuple[Tensor, list[Tensor]]:
        """Return the finished class embeddings (S, C, D) and the S contexts, on the CPU."""
        return self.text_features().cpu(), [one.learner.context.detach().cpu() for one in self.prompts]

    def training_step(self, batch: Sequence[Batch | None], batch_idx: int) -> Tensor:
        """Return the sum of all objectives; no term of it depends on two contexts."""
        present = [(row, part) for row, part in enumerate(batch) if part is not None]
        with other_rows(len(present) < len(batch)):
            texts = self.text_features([row for row, _ in present])
        totals = [
            self.steps[row].loss(self._tensors(part, text))
            for (row, part), text in zip(present, texts, strict=True)
        ]
        total = torch.stack(totals).sum()
        self._moved.update(row for row, _ in present)
        if ranks.world_size() > 1:  # DDP waits for a gradient of every context
            resting = [
                each.learner.context.sum() for row, each in enumerate(self.prompts) if batch[row] is None
            ]
            total = total + sum(0 * each for each in resting)
        return total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let contexts rest that saw no image: without a gradient neither momentum nor decay moves them."""
        for row, prompt in enumerate(self.prompts):
            if row not in self._moved:
                prompt.learner.context.grad = None
        self._moved.clear()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradient of every context by itself: no prompt has a say in that of another."""
        contexts = ([prompt.learner.context] for prompt in self.prompts)
        clip_each(contexts, gradient_clip_val, gradient_clip_algorithm)

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's sums."""
        for step in self.steps:
            step.losses.reset()
        self._val_values = [{} for _ in self.prompts]

    def on_train_epoch_end(self) -> None:
        """Keep every prompt's curves."""
        loaders = self.trainer.train_dataloader.loaders
        for prompt, means, values, loader in zip(
            self.prompts, self._means(), self._val_values, loaders, strict=True
        ):
            if prompt.failed is None:
                step = self.global_step - 1
                if len({len(each) for each in loaders}) > 1:  # then that is of the longest
                    per_epoch = -(-len(loader) // self.trainer.accumulate_grad_batches)
                    step = (self.current_epoch + 1) * per_epoch - 1
                at = {"epoch": self.current_epoch, "step": step}
                train = {f"train/{name}": float(value) for name, value in means.items()}
                prompt.curves.append({**at, **train, **values})
        if self.shown is not None:
            self._show(self.prompts[self.shown])

    def on_validation_epoch_start(self) -> None:
        """Encode the classes once for all validation batches."""
        self._means()
        watched = [row for row, prompt in enumerate(self.prompts) if not prompt.fold]
        self._val_texts = dict(zip(watched, self.text_features(watched), strict=True))

    def validation_step(self, batch: Sequence[Batch | None], batch_idx: int) -> None:
        """Add one batch to every prompt's validation metrics."""
        for row, step in self._watched_steps():
            part = batch[row]
            if part is not None:
                step.validate(self._tensors(part, self._val_texts[row]))

    def on_validation_epoch_end(self) -> None:
        """Keep accuracy, ECE and the rest on the validation shots."""
        for row, step in self._watched_steps():
            self._val_values[row] = {name: float(value) for name, value in step.validation().items()}

    def configure_optimizers(self) -> dict[str, Any]:
        """Return one optimiser with a group per prompt, and their per-epoch schedules."""
        groups = [{"params": [prompt.learner.context], **prompt.optimizer} for prompt in self.prompts]
        lr = self.prompts[0].optimizer["lr"]  # every group has its own
        optimizer = make_optimizer(groups, name=self.optimizer_name, lr=lr)
        factors = [
            constant_warmup(
                lr=prompt.optimizer["lr"],
                warmup_epochs=prompt.warmup_epochs,
                warmup_lr=prompt.warmup_lr,
                max_epochs=self.trainer.max_epochs or 1,
            )
            for prompt in self.prompts
        ]
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factors)}

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:
        """Return the contexts alone; to walk through the frozen backbone takes as long as a step."""
        return self.learners.state_dict(*args, prefix=f"{prefix}learners.", **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep contexts and curves only."""
        checkpoint["state_dict"] = {
            f"learners.{row}.context": prompt.learner.context.detach()
            for row, prompt in enumerate(self.prompts)
        }
        checkpoint["curves"] = [prompt.curves for prompt in self.prompts]
        checkpoint["failed"] = [prompt.failed for prompt in self.prompts]
        checkpoint["losses"] = [step.state() for step in self.steps]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another number of prompts, and take up its curves."""
        if len(checkpoint["curves"]) != len(self.prompts):
            raise ValueError(
                f"The checkpoint holds {len(checkpoint['curves'])} prompts, not {len(self.prompts)}."
            )
        kept = zip(self.prompts, checkpoint["curves"], checkpoint["failed"], strict=True)
        for prompt, curves, failed in kept:
            prompt.curves, prompt.failed = list(curves), failed
        for step, state in zip(self.steps, checkpoint["losses"], strict=True):
            step.take_up(state)

    def _tensors(self, batch: Batch, texts: Tensor) -> dict[str, Tensor]:
        features, labels = features_and_labels(self.backbone, batch)
        return loss_tensors(
            features,
            labels,
            texts,
            self.zero_shot_features,
            self.backbone.logit_scale,
        )

    def _show(self, prompt: StackedPrompt) -> None:
        """Log the last row of a prompt's curves; a loss that is not finite, of any prompt, ends the training.

        Raises:
            FloatingPointError: One is not.
        """
        for each in self.prompts:
            if each.failed is not None:
                raise FloatingPointError(each.failed)
        row = {name: value for name, value in prompt.curves[-1].items() if "/" in name}
        self.log_dict(row)
        self.log("train/loss", row["train/total"], prog_bar=True, logger=False)

    def _means(self) -> list[dict[str, Tensor]]:
        """Return the mean loss terms of every prompt; one that is not finite marks its prompt as failed."""
        return [self._means_of(*each) for each in zip(self.steps, self.prompts, strict=True)]

    def _means_of(self, step: PromptStep, prompt: StackedPrompt) -> dict[str, Tensor]:
        try:
            return step.losses.means(self.current_epoch)
        except FloatingPointError as error:
            prompt.failed = prompt.failed or str(error)
            return {}

    def _watched_steps(self) -> Iterator[tuple[int, PromptStep]]:
        """Yield what is validated: prompts of a run that have not failed."""
        rows = enumerate(zip(self.prompts, self.steps, strict=True))
        return ((row, step) for row, (prompt, step) in rows if prompt.failed is None and not prompt.fold)


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
        loaders: S loaders; an epoch is as long as the longest of them. None: a prompt without batches.
    """

    def __init__(self, loaders: Sequence[BatchLoader | None]) -> None:
        self.loaders = list(loaders)
        self.batch_sampler = StackedOrder([loader.batch_sampler for loader in self._there()])

    def __len__(self) -> int:
        return max(len(loader) for loader in self._there())

    def __iter__(self) -> Iterator[list[Batch | None]]:
        """Yield one batch of each loader, None for those that are through."""
        return map(list, zip_longest(*(() if loader is None else loader for loader in self.loaders)))

    def state_dict(self) -> dict[str, Any]:
        """Return how far each loader is."""
        return {"loaders": [loader.state_dict() for loader in self._there()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: It was taken with other loaders.
        """
        for loader, own in zip(self._there(), state["loaders"], strict=True):
            loader.load_state_dict(own)

    def _there(self) -> list[BatchLoader]:
        return [loader for loader in self.loaders if loader is not None]


def validation_of(batches: Sequence[FewShotDataModule]) -> StackedLoader | list[Any]:
    """Return the validation batches of a stack, as `Trainer.fit` takes them; empty where there are none.

    Args:
        batches: Of each prompt.
    """
    found = [each.val_dataloader() for each in batches]
    loaders = [loader if isinstance(loader, BatchLoader) else None for loader in found]
    return [] if all(loader is None for loader in loaders) else StackedLoader(loaders)
