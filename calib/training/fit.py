"""Training without a run folder: a trainer that writes and prints nothing."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from lightning import LightningModule, Trainer

REMARKS = (
    "does not have many workers",
    "module.s. in eval mode at the start of training",  # the frozen backbone, on purpose
    "isinstance.treespec, LeafSpec",
)


def quiet_trainer(epochs: int) -> Trainer:
    """Return a trainer on one device, the fastest there is: no files, no progress bar, no validation.

    Args:
        epochs: Length of the training, at least 1.

    Raises:
        ValueError: `epochs` is below 1.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}.")
    with _quiet():
        return Trainer(
            max_epochs=epochs,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            log_every_n_steps=1,
        )


def fit_quietly(trainer: Trainer, module: LightningModule, *batches: Any) -> None:
    """Train a module, without the remarks of libraries on what the user did not choose.

    Args:
        trainer: From `quiet_trainer`, or the user's own.
        module: What is trained.
        batches: What `Trainer.fit` takes: a data module, or training and validation batches.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
        FloatingPointError: A loss became NaN or infinite.
    """
    try:
        with _quiet():
            trainer.fit(module, *batches)
    except SystemExit as stop:  # what Lightning makes of Ctrl-C, which would end a notebook's kernel
        raise KeyboardInterrupt from stop


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for remark in REMARKS:
                warnings.filterwarnings("ignore", message=f".*{remark}.*")
            yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
