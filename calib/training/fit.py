"""Training inside a library call: nothing is printed, no file is written, Ctrl-C stays what it was."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning import LightningModule, Trainer

import calib

TALKATIVE = ("lightning.pytorch", "lightning.fabric")  # loggers


def versions() -> dict[str, str]:
    """Return the versions of what has trained, for the record of an export.

    Example:
        >>> list(versions())
        ['calib', 'torch', 'lightning']
    """
    return {module.__name__: module.__version__ for module in (calib, torch, lightning)}


def fit_quietly(
    module: LightningModule,
    training: Any,
    validation: Any = None,
    *,
    max_epochs: int,
    trainer: Trainer | None = None,
) -> None:
    """Train a module on the best device there is, without a word and without a file.

    Args:
        module: What is trained.
        training: Its batches, or a data module.
        validation: Validation batches. None: there are none, or the data module has them.
        max_epochs: Passes over the training batches, at least 1.
        trainer: A trainer of the user's own, which decides on epochs, device, validation and logging.

    Raises:
        ValueError: `max_epochs` is below 1.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if max_epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {max_epochs}.")
    with _silence(), _own_interrupt():
        if trainer is None:
            trainer = Trainer(
                max_epochs=max_epochs,
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                limit_val_batches=0 if validation is None else None,
            )
        trainer.fit(module, training, validation)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _own_interrupt() -> Iterator[None]:
    """Turn back what Lightning makes of Ctrl-C: it ignores the signal from then on, and ends the process."""
    ours = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    except SystemExit as stop:
        if ours is not None:
            signal.signal(signal.SIGINT, ours)
        raise KeyboardInterrupt from stop
