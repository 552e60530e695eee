"""The Lightning trainer of a run: loggers, whole-or-absent checkpoints, settings that are refused."""

from __future__ import annotations

import inspect
import logging
import pickle
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from calib.config import FailureRun, PromptRun, to_dict
from calib.errors import first_line, unknown_name
from calib.files import atomic_path
from calib.jobs.checkpoint_file import read_checkpoint
from calib.jobs.runfolder import RunFolder

log = logging.getLogger(__name__)
OWNED_SETTINGS = ("logger", "callbacks", "default_root_dir", "plugins")  # the run folder decides these


class _ProgressBar(TQDMProgressBar):
    """Lightning's bar of the training, without one for each short validation and without a log number."""

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {
            key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"
        }


class _AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, so that a killed run leaves the last good one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        with atomic_path(path) as part:
            super().save_checkpoint(checkpoint, part, storage_options)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_checkpoint(path)  # checked, and never as code, whatever Lightning's version would allow


def make_loggers(config: PromptRun | FailureRun, folder: RunFolder) -> list[Logger]:
    """Return the CSV logger and, where the settings ask for it, the W&B logger of a run."""
    loggers: list[Logger] = [CSVLogger(folder.path, name="logs")]
    if config.log.wandb != "disabled":
        loggers.append(
            WandbLogger(
                name=folder.path.name,
                save_dir=folder.path,
                project=config.log.project,
                tags=list(config.log.tags),
                offline=config.log.wandb == "offline",
                config=to_dict(config),
            )
        )
    return loggers


def close_loggers(loggers: Sequence[Logger], test: Mapping[str, Any]) -> None:
    """Log the test metrics and end the run of every logger, W&B's too: the next is a run of its own."""
    numbers = {f"test/{name}": value for name, value in test.items() if isinstance(value, int | float)}
    for logger in loggers:
        logger.log_metrics(numbers)
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def make_trainer(
    config: PromptRun | FailureRun,
    folder: RunFolder,
    logger: list[Logger],
    *,
    validate: bool,
    every_n_epochs: int = 1,
) -> Trainer:
    """Return a trainer that keeps the last epoch's checkpoint in the run folder.

    Args:
        config: The run's settings; `trainer` goes to `lightning.Trainer` as it is.
        folder: The run's folder.
        logger: Where the curves go.
        validate: Whether there are validation images.
        every_n_epochs: Epochs between two checkpoints.
    """
    last = ModelCheckpoint(
        dirpath=folder.checkpoint.parent,
        filename=folder.checkpoint.stem,
        save_top_k=1,
        every_n_epochs=every_n_epochs,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    defaults = {
        "devices": 1,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "enable_progress_bar": sys.stdout.isatty(),  # in a file its updates would be thousands of lines
    }
    if not validate:
        defaults["limit_val_batches"] = 0
    settings = defaults | config.trainer
    return Trainer(
        **settings,
        logger=logger,
        callbacks=[last, _ProgressBar()] if settings["enable_progress_bar"] else [last],
        default_root_dir=folder.path,
        plugins=[_AtomicCheckpoints()],
    )


def resume_point(folder: RunFolder) -> str | None:
    """Return the checkpoint a run goes on from, and say so; None: it begins.

    Raises:
        ValueError: The checkpoint cannot be read.
    """
    if not folder.checkpoint.is_file():
        return None
    try:
        epochs = read_checkpoint(folder.checkpoint)["epoch"] + 1
    except pickle.UnpicklingError as error:  # torch's message would recommend to run it
        raise ValueError(
            f"The checkpoint {folder.checkpoint} is refused: it is damaged, or holds Python objects that "
            "could run code. Nothing was run. Delete it to train from the beginning, or give another folder "
            "(out=FOLDER)."
        ) from error
    except Exception as error:  # torch's readers raise errors of many types on damaged files
        raise ValueError(
            f"The checkpoint {folder.checkpoint} cannot be read; it may have been cut off "
            f"({first_line(error)}). "
            "Delete it to train from the beginning, or give another folder (out=FOLDER)."
        ) from error
    log.info("Going on after epoch %d, from %s.", epochs, folder.checkpoint)
    return str(folder.checkpoint)


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Refuse trainer settings that are unknown, or that would change what a run means.

    Args:
        settings: What the configuration hands to `lightning.Trainer`.

    Raises:
        ValueError: A setting is unknown, belongs to the run folder, asks for several devices, or would round
        the
            frozen weights.
    """
    for key in OWNED_SETTINGS:
        if key in settings:
            raise ValueError(f"trainer.{key} cannot be set: the run folder decides it.")
    known = inspect.signature(Trainer).parameters
    for key in settings:
        if key not in known:
            raise unknown_name("key", f"trainer.{key}", [f"trainer.{name}" for name in known])
    epochs = settings.get("max_epochs", 1)
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"trainer.max_epochs must be at least 1, got {epochs}.")
    if str(settings.get("precision", "")).endswith("-true"):
        raise ValueError(
            f"trainer.precision={settings['precision']} would round the frozen weights for good; "
            "use bf16-mixed or 16-mixed."
        )
    if settings.get("devices", 1) not in (1, "1") or settings.get("num_nodes", 1) != 1:
        raise ValueError("Training runs on one device for now: trainer.devices=1, trainer.num_nodes=1.")
