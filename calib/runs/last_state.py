"""What a run keeps while it trains, so that it goes on exactly: its last state, and its curves as CSV."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, distributed

from calib.io.archives import check_archive
from calib.io.files import atomic_path, write_text
from calib.processes.signals import Preempted, asked_to_stop, take_over

log = logging.getLogger(__name__)
MARK_KEY = "calib_run"  # of a checkpoint: which run it belongs to
# What Lightning needs to go on; without one of them it would end in the middle of restoring.
NEEDED = (
    "epoch",
    "global_step",
    "loops",
    "lr_schedulers",
    "optimizer_states",
    "pytorch-lightning_version",
    "state_dict",
)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a Lightning checkpoint, on the CPU.

    Args:
        path: The `.ckpt` file.

    Raises:
        pickle.UnpicklingError: It holds Python objects besides tensors and plain values; none was made.
        ValueError: Its bytes are not those that were written, or what a checkpoint needs is missing or not
            finite. The caller names the file.

    Other errors of torch on damaged files pass through.
    """
    check_archive(path)
    content = torch.load(path, weights_only=True, map_location="cpu")
    missing = [key for key in NEEDED if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    if not isinstance(content["epoch"], int) or content["epoch"] < 0:
        raise ValueError(f"its epoch is {content['epoch']!r}")
    state = content["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("its state_dict holds something besides tensors")
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(f"{broken[0]} holds NaN or infinite values")
    return dict(content)


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, so that a killed run leaves the last good one.

    Args:
        mark: Of the run; stands in each of its checkpoints. None: none.
    """

    def __init__(self, mark: str | None = None) -> None:
        super().__init__()
        self.mark = mark

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; the old one stays until the new one is on the disk."""
        data = io.BytesIO()  # as torch, writing to a full disk itself, would not say which disk
        torch.save(checkpoint if self.mark is None else {**checkpoint, MARK_KEY: self.mark}, data)
        with atomic_path(path) as part:
            part.write_bytes(data.getbuffer())

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return a checkpoint, checked, and never as code, whatever Lightning's version would allow."""
        return read_checkpoint(path)


class RunCheckpoint(ModelCheckpoint):
    """Keeps the last state of a run and its curves, and stops the run when a signal asks for it.

    A signal is answered at the end of the step, or of the epoch if validation comes next: the state is saved
    and `Preempted` raised. With several processes, all stop at the same step once one of them was asked.

    Args:
        path: The checkpoint.
        curves: The CSV file, one row per epoch. A run that goes on cuts it where its checkpoint is: what a
            killed process wrote after that is written again, not twice.
        every_n_epochs: Epochs between two checkpoints.
    """

    def __init__(self, path: Path, curves: Path, *, every_n_epochs: int = 1) -> None:
        super().__init__(
            dirpath=path.parent,
            filename=path.stem,
            save_top_k=1,
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        self.path = path
        self.curves = curves
        self.rows: list[dict[str, float]] = []
        self.stop = 0  # the signal that all processes stop for

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into a checkpoint."""
        return {**super().state_dict(), "rows": list(self.rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what a checkpoint holds."""
        super().load_state_dict(state_dict)
        self.rows = list(state_dict.get("rows", []))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the curves end where the checkpoint does."""
        super().on_train_start(trainer, pl_module)
        take_over()
        if self.rows and trainer.is_global_zero:
            write_curves(self.curves, self.rows)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, if the state was saved for that at the end of the last epoch."""
        if self.stop:
            raise Preempted(self.stop)
        trainer.callback_metrics.clear()  # what is not measured in this epoch must not be shown for it

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop after this step, if asked to."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        done = batch_idx + 1
        stepped = done % trainer.accumulate_grad_batches == 0  # gradients on the way are not in a checkpoint
        validates = trainer.val_check_batch is not None and done % trainer.val_check_batch == 0
        if stepped and not validates and done < trainer.num_training_batches and self._asked(trainer):
            self._save_to_stop(trainer, f"step {done} of {trainer.num_training_batches}")
            raise Preempted(self.stop)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch to the curves and save; save in any case if asked to stop."""
        measured = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name != "train/loss"
        }
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step - 1, **measured})
        if trainer.is_global_zero and measured:
            write_curves(self.curves, self.rows, durable=False)  # the checkpoint has them, too
        super().on_train_epoch_end(trainer, pl_module)
        if self._asked(trainer):
            self._save_to_stop(trainer, "all steps")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the system write the curves to the disk."""
        super().on_train_end(trainer, pl_module)
        if trainer.is_global_zero and any(len(row) > 2 for row in self.rows):
            write_curves(self.curves, self.rows)

    def _asked(self, trainer: Trainer) -> bool:
        number = asked_to_stop()
        if distributed.is_available() and distributed.is_initialized():
            flag = torch.tensor(number)  # on the CPU: no step waits for a GPU to hear of a signal
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
            number = int(flag)
        self.stop = number
        return number != 0

    def _save_to_stop(self, trainer: Trainer, where: str) -> None:
        trainer.save_checkpoint(self.path)
        name = Preempted(self.stop).name
        log.info("%s: saved after %s of epoch %d, in %s.", name, where, trainer.current_epoch + 1, self.path)


def write_curves(path: Path, rows: Sequence[Mapping[str, float]], *, durable: bool = True) -> None:
    """Write one CSV row per epoch, atomically; what was not measured in an epoch is empty.

    Args:
        path: The file.
        rows: Of each epoch its number, the last step's, and what was measured.
        durable: As in `calib.io.files.atomic_path`.
    """
    names = sorted({name for row in rows for name in row} - {"epoch", "step"})
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", "step", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue(), durable=durable)


def progress_of(checkpoint: Mapping[str, Any]) -> str:
    """Return how far a checkpoint's run had come, in words."""
    loops = checkpoint["loops"]["fit_loop"]
    epochs = loops["epoch_progress"]["current"]
    if epochs["processed"] == epochs["started"]:
        return f"after epoch {epochs['processed']}"
    steps = loops["epoch_loop.batch_progress"]["current"]["processed"]
    return f"after {steps} steps of epoch {epochs['processed'] + 1}"


def saved_in(path: Path, epochs: int | None) -> str:
    """Return how far the run of a checkpoint had come, in words, also where there is none yet.

    Args:
        path: The checkpoint.
        epochs: How many the run has.

    Returns:
        Empty where the file cannot be read: what it holds is not known.
    """
    if not path.is_file():
        return f"before the end of epoch 1 of {epochs}"
    try:
        return f"{progress_of(read_checkpoint(path))} of {epochs}"
    except Exception:  # torch's readers raise errors of many types on damaged files
        return ""
