"""How long a failure head takes to train, and what Lightning adds to a plain PyTorch loop.

    python benchmarks/failure_training.py

ViLU of width 512 learns from 50,000 cached image features and 100 class texts in batches of 512. Epochs of
the job's trainer (module, loader, CSV log, checkpoints) and of a plain loop over the same tensors, with the
same head, loss and optimiser, take turns, so that whatever else the machine does slows both. Peak memory is
that of a process of its own per loop. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning import Callback
from measuring import forget_peak, own_peak
from torch.nn.functional import normalize

from calib.config import load_config
from calib.failure.cases import FailureCases
from calib.failure.module import FailurePredictionModule
from calib.failure.vilu import ViLU
from calib.losses.failure import failure_bce
from calib.report.tables import aligned
from calib.runs.folder import RunFolder
from calib.runs.trainer import make_loggers, make_trainer

LOOPS = ("plain PyTorch", "Lightning")
SCALE = math.log(100)
OPTIMIZER = {"name": "adamw", "lr": 0.001, "weight_decay": 0.1}
Clock = tuple[float, float]  # seconds on the wall, seconds of this process's CPU time


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=5, help="of each loop, after one that is not counted")
    parser.add_argument("--memory-of", choices=LOOPS, help=argparse.SUPPRESS)  # the processes of their own
    given = parser.parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    data = random_cases(given.images, given.classes, given.width)
    heads = {name: ViLU(given.width, logit_scale=SCALE) for name in LOOPS}
    heads[LOOPS[1]].load_state_dict(heads[LOOPS[0]].state_dict())
    plain = PlainLoop(heads[LOOPS[0]], data, given.batch_size)
    if given.memory_of:
        forget_peak()
        if given.memory_of == LOOPS[0]:
            plain.epoch()
        else:
            lightning_epochs(heads[LOOPS[1]], data, given.batch_size, epochs=1)
        sys.stdout.write(f"{own_peak():.0f}\n")
        return 0
    times = take_turns(plain, heads[LOOPS[1]], data, given.batch_size, given.epochs)
    memory = {name: peak_memory(name, given) for name in LOOPS}
    sys.stdout.write(table(times, memory, given) + "\n")
    return 0


def random_cases(n: int, size: int, dim: int) -> FailureCases:
    """Return predictions on random features of which about a third are wrong."""
    generator = torch.Generator().manual_seed(0)
    texts = normalize(torch.randn(size, dim, generator=generator), dim=1)
    labels = torch.randint(size, (n,), generator=generator)
    noise = torch.randn(n, dim, generator=generator) * 0.4
    images = normalize(texts[labels] + noise, dim=1)
    return FailureCases.of(images, labels, texts, logit_scale=SCALE)


class PlainLoop:
    """The loop one would write by hand: shuffle, slice, forward, backward, step."""

    def __init__(self, head: ViLU, data: FailureCases, batch_size: int) -> None:
        self.head, self.data, self.batch_size = head.train(), data, batch_size
        self.optimizer = torch.optim.AdamW(head.parameters(), lr=0.001, weight_decay=0.1)

    def epoch(self) -> None:
        """Train for one epoch."""
        data, texts = self.data, self.data.text_features[0]
        for index in torch.randperm(len(data)).split(self.batch_size):
            predictions = data.predictions[0][index]
            out = self.head(data.image_features[0][index], texts, predictions)
            loss = failure_bce(out, predictions != data.labels[index], weighting="static")
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


class TakeTurns(Callback):
    """Lets another loop run an epoch between two epochs of a trainer, and times both."""

    def __init__(self, other: Callable[[], None] | None) -> None:
        self.other = other
        self.times: dict[str, list[Clock]] = {name: [] for name in LOOPS}
        self._since: Clock | None = None

    def on_train_epoch_start(self, trainer: object, pl_module: object) -> None:
        """Close the trainer's epoch, which ends with its checkpoint; then it is the other's turn."""
        if self.other is None:
            return
        if self._since is not None:
            self.times[LOOPS[1]].append(elapsed(self._since))
        start = now()
        self.other()
        self.times[LOOPS[0]].append(elapsed(start))
        self._since = now()


def now() -> Clock:
    """Return the clocks."""
    return time.perf_counter(), time.process_time()


def elapsed(since: Clock) -> Clock:
    """Return the time passed on both clocks."""
    wall, cpu = now()
    return wall - since[0], cpu - since[1]


def lightning_epochs(
    head: ViLU, data: FailureCases, batch_size: int, *, epochs: int, other: Callable[[], None] | None = None
) -> dict[str, list[Clock]]:
    """Train with the trainer, log and checkpoints of `train.py task=failure`. Returns the times of both."""
    settings = [f"trainer.max_epochs={epochs}", "trainer.enable_progress_bar=false"]
    config = load_config([*settings, "trainer.accelerator=cpu"], task="failure")
    module = FailurePredictionModule(
        head, data.text_features, loss_settings={"weighting": "static"}, optimizer=OPTIMIZER
    )
    turns = TakeTurns(other)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(place)
        logger = make_loggers(config, folder)
        trainer = make_trainer(config, folder, logger, validate=False, every_n_epochs=max(1, epochs // 20))
        trainer.callbacks.insert(0, turns)
        trainer.fit(module, data.batches(batch_size, seed=0))
    return turns.times


def take_turns(
    plain: PlainLoop, head: ViLU, data: FailureCases, batch_size: int, epochs: int
) -> dict[str, list[Clock]]:
    """Return the times of every counted epoch; each loop's first warms up, the trainer's last is open."""
    times = lightning_epochs(head, data, batch_size, epochs=epochs + 2, other=plain.epoch)
    return {name: values[1 : epochs + 1] for name, values in times.items()}


def peak_memory(name: str, given: argparse.Namespace) -> float:
    """Return the peak resident memory (MB) of a process that trains one epoch with one loop."""
    sizes = [f"--{key}={getattr(given, key.replace('-', '_'))}" for key in ("images", "classes", "width")]
    command = [sys.executable, __file__, *sizes, f"--batch-size={given.batch_size}", "--memory-of", name]
    here = Path(__file__).parents[1]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(here)}
    )
    return float(done.stdout.split()[-1])


def table(times: dict[str, list[Clock]], memory: dict[str, float], given: argparse.Namespace) -> str:
    """Return the Markdown table."""
    rows = []
    for name in LOOPS:
        wall, cpu = (statistics.median(clock[i] for clock in times[name]) for i in (0, 1))
        pairs = zip(times[name], times[LOOPS[0]], strict=True)
        ratio = statistics.median(mine[1] / plain[1] for mine, plain in pairs)
        values = (f"{wall:.2f}", f"{cpu:.2f}", f"{100 * wall / 60:.1f}", f"{ratio:.2f}")
        rows.append([name, *values, f"{memory[name]:.0f}"])
    head = ["loop", "s per epoch", "CPU s", "min per 100 epochs", "CPU s / plain", "peak memory MB"]
    about = (
        f"ViLU, width {given.width}, {given.images:,} images, {given.classes} classes, batches of "
        f"{given.batch_size}, {torch.get_num_threads()} thread(s); medians of {given.epochs} epochs in turns."
    )
    return f"{about}\n\n{aligned(head, rows)}"


if __name__ == "__main__":
    sys.exit(main())
