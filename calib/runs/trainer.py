"""The Lightning trainer of a run: loggers, whole-or-absent checkpoints, settings that are refused."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import pickle
import sys
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LambdaCallback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from calib.config import FailureRun, PromptRun, SegmentRun, check_trainer_bounds
from calib.core import ranks
from calib.core.errors import first_line, unknown_name
from calib.data.notices import ProgressLog
from calib.processes.devices import trains_on_cuda
from calib.processes.join import trainer_settings
from calib.processes.signals import Preempted, deferred
from calib.processes.threads import thread_share
from calib.runs.folder import RunFolder
from calib.runs.last_state import (
    MARK_KEY,
    AtomicCheckpoints,
    RunCheckpoint,
    progress_of,
    read_checkpoint,
    saved_in,
)
from calib.runs.marks import refuse_foreign
from calib.runs.results import results_of
from calib.runs.wandb import WandbLogger, wanted

log = logging.getLogger(__name__)
# The run folder decides these.
OWNED_SETTINGS = ("logger", "callbacks", "default_root_dir", "plugins", "model_registry")
STRATEGIES = ("auto", "ddp")
PLACES = ("accelerator", "devices", "num_nodes", "strategy")  # `calib.processes.join` tries these
_NOTHING = "nothing would be trained, and the run would look like a finished one."
# Values that Lightning takes, and that no run can have.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "enable_checkpointing": ((False,), "a run goes on from its checkpoints."),
    "barebones": ((True,), "a run goes on from its checkpoints."),
    "max_steps": ((0,), _NOTHING),
    "limit_train_batches": ((0,), _NOTHING),
    "fast_dev_run": (
        (True, *range(1, 1000)),
        "it leaves no checkpoint. For a short try: trainer.max_epochs=1 out=FOLDER.",
    ),
}
TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "settings by name",
    type(None): "null",
}


class _ProgressBar(TQDMProgressBar):
    """Lightning's bar of the training, without one for each short validation and without a log number."""

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {
            key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"
        }


class _ProgressLines(Callback):
    """A line in the log now and then, where there is no bar: steps that are done, how fast, what is left."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs, batches = trainer.max_epochs or 0, trainer.num_training_batches
        self._done = 0
        self._log: ProgressLog | None = None
        if trainer.is_global_zero and epochs > 0 and math.isfinite(batches):
            self._log = ProgressLog(log, "training, steps", (epochs - trainer.current_epoch) * int(batches))

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self._done += 1
        if self._log is not None:
            self._log.update(self._done)


def make_loggers(config: PromptRun | FailureRun | SegmentRun, folder: RunFolder) -> list[Logger]:
    """Return the W&B logger of a run, where the settings ask for it; the curves as CSV need none.

    Of several processes the first one logs.
    """
    return [WandbLogger(config, folder)] if ranks.rank() == 0 and wanted(config, folder) else []


@contextlib.contextmanager
def run_loggers(config: PromptRun | FailureRun | SegmentRun, folder: RunFolder) -> Iterator[list[Logger]]:
    """Yield the loggers of a run; whatever ends the block early ends theirs as failed."""
    loggers = make_loggers(config, folder)
    try:
        yield loggers
    except BaseException:
        for logger in loggers:
            logger.finalize("failed")
        raise


@ranks.by_first
def close_loggers(
    loggers: Sequence[Logger], test: Mapping[str, Any], folder: RunFolder, *, n_bins: int = 10
) -> None:
    """Log the test metrics and end the run of every logger, W&B's with a table, figures and the export.

    Args:
        loggers: From `make_loggers`.
        test: The final metrics; what is not a finite number is left out.
        folder: The finished run's folder.
        n_bins: Bins of the reliability diagrams.
    """
    numbers = {
        f"test/{name}": value
        for name, value in test.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    for logger in loggers:
        if numbers:  # none without test images
            logger.log_metrics(numbers)
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.log_results(lambda: results_of(folder, n_bins=n_bins))
            logger.finish()


def make_trainer(
    config: PromptRun | FailureRun | SegmentRun,
    folder: RunFolder,
    loggers: list[Logger],
    *,
    validate: bool,
    every_n_epochs: int = 1,
    callbacks: Sequence[Callback] = (),
    may_rest: bool = False,
) -> Trainer:
    """Return a trainer that keeps the last epoch's checkpoint in the run folder, for all processes there are.

    Args:
        config: The run's settings; `trainer` goes to `lightning.Trainer` as it is.
        folder: The run's folder.
        loggers: Where the curves go, from `make_loggers`.
        validate: Whether there are validation images.
        every_n_epochs: Epochs between two checkpoints.
        callbacks: Further callbacks.
        may_rest: Whether some steps leave trained parameters without a gradient.
    """
    last = RunCheckpoint(folder.checkpoint, folder.curves, every_n_epochs=every_n_epochs)
    threads = LambdaCallback(on_train_batch_start=lambda *_: thread_share().settle())
    defaults = {
        "devices": 1,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "enable_progress_bar": sys.stdout.isatty(),  # in a file its updates would be thousands of lines
    }
    if not validate:
        defaults["limit_val_batches"] = 0
    if trains_on_cuda(config.trainer):  # where there is a choice: a run that was interrupted goes on alike
        defaults["deterministic"] = "warn"
    settings = defaults | config.trainer | trainer_settings(config.trainer)
    progress = _ProgressBar() if settings["enable_progress_bar"] else _ProgressLines()
    if ranks.world_size() > 1:  # buffers are the same everywhere: frozen ones, and counts of steps
        settings["strategy"] = DDPStrategy(broadcast_buffers=False, find_unused_parameters=may_rest)
    return Trainer(
        **settings,
        logger=loggers,
        callbacks=[last, threads, *callbacks, progress],
        default_root_dir=folder.path,
        plugins=[AtomicCheckpoints(ranks.decided(lambda: folder.mark))],
    )


def fit(trainer: Trainer, module: LightningModule, *batches: Any, folder: RunFolder) -> None:
    """Train, from the folder's last checkpoint if there is one.

    Args:
        trainer: From `make_trainer`.
        module: What is trained.
        batches: What `Trainer.fit` takes: a data module, or training and validation batches.
        folder: The run's folder.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; it says what is saved.
        Preempted: A signal asked to stop; the state is saved.
        ValueError: The checkpoint cannot be read, or trainer settings do not fit the number of batches.
    """
    point = resume_point(folder)
    try:
        with deferred():
            trainer.fit(module, *batches, ckpt_path=point)
            kept = trainer.checkpoint_callback
            # After the last step: any of the processes may be the one that was asked.
            if isinstance(kept, RunCheckpoint) and kept.stop:
                raise Preempted(kept.stop)
    except MisconfigurationException as error:
        raise ValueError(f"The trainer settings do not fit this training: {first_line(error)}") from error
    except SystemExit as stop:  # what Lightning makes of Ctrl-C; an unfinished run is not exported
        raise KeyboardInterrupt(saved_in(folder.checkpoint, trainer.max_epochs)) from stop


def resume_point(folder: RunFolder) -> str | None:
    """Return the checkpoint a run goes on from, and say so; None: it begins. The first process looks.

    Raises:
        ValueError: The checkpoint cannot be read.
    """
    return ranks.decided(lambda: _last_checkpoint(folder))


def _last_checkpoint(folder: RunFolder) -> str | None:
    if not folder.checkpoint.is_file():
        return None
    try:
        checkpoint = read_checkpoint(folder.checkpoint)
        done = progress_of(checkpoint)
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
    if "losses" not in checkpoint:
        raise ValueError(
            f"The checkpoint {folder.checkpoint} was written by another version of calib. Delete it to train "
            "from the beginning, or give another folder (out=FOLDER)."
        )
    advice = "Put the folder's own back, or delete it to train from the beginning."
    refuse_foreign(folder.checkpoint, checkpoint.get(MARK_KEY), folder.mark, advice=advice)
    log.info("Going on %s, from %s.", done, folder.checkpoint)
    return str(folder.checkpoint)


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Refuse trainer settings that are unknown or impossible, or that would change what a run means.

    Args:
        settings: What the configuration hands to `lightning.Trainer`.

    Raises:
        ValueError: A setting is unknown or has a value that Lightning does not take, belongs to the run
            folder, divides the model instead of the work, would round the frozen weights, or would train
            nothing.
    """
    for key in OWNED_SETTINGS:
        if key in settings:
            raise ValueError(f"trainer.{key} cannot be set: the run folder decides it.")
    known = inspect.signature(Trainer).parameters
    for key in settings:
        if key not in known:
            raise unknown_name("key", f"trainer.{key}", [f"trainer.{name}" for name in known])
    check_trainer_bounds(settings)
    if settings.get("max_epochs", 1) is None:
        raise ValueError("trainer.max_epochs must be at least 1, got None.")
    if str(settings.get("precision", "")).endswith("-true"):
        raise ValueError(
            f"trainer.precision={settings['precision']} would round the frozen weights for good; "
            "use bf16-mixed or 16-mixed."
        )
    strategy = settings.get("strategy", "auto")
    if strategy not in STRATEGIES:
        raise ValueError(
            f"trainer.strategy={strategy} is not used here: what is trained is small, and every process "
            "holds the frozen model. Leave it out; several devices run DDP."
        )
    for key, value in settings.items():
        _check_type(key, value, known[key].annotation)
        if key in REFUSED and value in REFUSED[key][0]:
            raise ValueError(f"trainer.{key}={_as_typed(value)} cannot be used here: {REFUSED[key][1]}")
    _try_trainer({key: value for key, value in settings.items() if key not in PLACES})


def _check_type(key: str, value: Any, annotation: Any) -> None:
    """Refuse a value of a type that Lightning's signature does not name; it would take some in silence."""
    options = typing.get_args(annotation) if typing.get_origin(annotation) is Union else (annotation,)
    words: list[str] = []
    # In an order of our own: `Optional[Union[int, float]]` may be that of a `Union[float, int]` made earlier.
    for option in sorted(options, key=_place_of_type):
        plain = typing.get_origin(option) or option
        if plain is Literal:
            if value in (literal := typing.get_args(option)):
                return
            words += map(str, literal)
        elif plain is type(value) or (plain is float and type(value) is int):
            return
        elif plain in TYPES:
            words.append(TYPES[plain])
    if words:
        raise ValueError(f"trainer.{key} must be {' or '.join(words)}, got {_as_typed(value)}.")


def _place_of_type(option: Any) -> int:
    plain = typing.get_origin(option) or option
    return list(TYPES).index(plain if plain in TYPES else str)  # a word of a `Literal` as any text


def _try_trainer(settings: Mapping[str, Any]) -> None:
    """Refuse what `lightning.Trainer` refuses; it is made in some milliseconds, long before it is needed."""

    def refusal(given: Mapping[str, Any]) -> Exception | None:
        quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "devices": 1}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Trainer(**{**given, **quiet, "plugins": [LightningEnvironment()]})
        except Exception as error:  # of many types: Lightning converts and compares values as they come
            return error
        return None

    together = refusal(settings)
    if together is None:
        return
    for key, value in settings.items():
        alone = refusal({key: value})
        if alone is not None:
            raise ValueError(
                f"trainer.{key}={_as_typed(value)} cannot be used: {first_line(alone)}"
            ) from alone
    raise ValueError(f"These trainer settings exclude each other: {first_line(together)}") from together


def _as_typed(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
