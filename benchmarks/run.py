"""How much faster than the released loop: steps, runs, sweeps, metrics, at PLIP's size with random weights.

    python benchmarks/run.py            # everything, some 20 minutes on two quiet cores
    python benchmarks/run.py --quick    # under five minutes; longer runs are extrapolated, and said to be

Both sides are measured in this process, in turns; ratios are of medians. Training and evaluation of this
project are whole runs of train.py and calib sweep on image files, with their files and metrics. The released
loop's runs are extrapolated from measured steps and test batches.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from official_loop import EPOCHS, TEST_BATCH, TRAIN_BATCH, OfficialLoop
from PIL import Image

from calib.backbones import create_backbone
from calib.config import load_config
from calib.data import DATASETS
from calib.files import write_text
from calib.jobs.grid import SweepSettings
from calib.jobs.sweep import sweep
from calib.jobs.train import train
from calib.metrics import kde_calibration_error, summarize
from calib.report import aligned

CLASSES = list(DATASETS["kather"].class_names.values())  # 9 names of 1 to 4 words
SHOTS, VIEWS = 8, 8


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write them. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, smaller runs")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark.md"))
    given = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    repeats, n_test, n_runs = (3, 100, 4) if given.quick else (7, 1000, 48)
    backbone = create_backbone("plip", weights="random")
    parts = [machine()]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = make_images(folder / "images", n_test)
        loop = OfficialLoop(backbone, CLASSES)
        steps = step_table(loop, files["train"], repeats)
        parts.append(steps.text)
        parts.append(run_table(steps, folder, files, n_test, n_runs))
    parts.append(metrics_table(repeats))
    text = "\n\n".join(parts) + "\n"
    write_text(given.out, text)
    sys.stdout.write(text)
    return 0


def machine() -> str:
    """Return the processor's speed, which figures are to be read with."""
    a = torch.randn(1024, 1024)
    speed = 2 * 1024**3 / min(seconds(lambda: a @ a) for _ in range(9)) / 1e9
    threads, kind = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    return (
        f"torch {torch.__version__}, {threads} threads, {kind}, float32 products {speed:.0f} GFLOP/s; "
        f"{len(CLASSES)} classes, {SHOTS} shots, batch {TRAIN_BATCH}."
    )


def seconds(run: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def medians(repeats: int, **runs: Callable[[], object]) -> dict[str, float]:
    """Return the median seconds of several calls, measured in turns after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            taken = seconds(run)
            if turn:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def make_images(root: Path, n_test: int) -> dict[str, list[Path]]:
    """Write an image folder of noise in class colours, JPEG of 224 pixels, and return its files by split."""
    generator = np.random.default_rng(0)
    files: dict[str, list[Path]] = {"train": [], "test": []}
    for split, count in (("train", SHOTS), ("test", -(-n_test // len(CLASSES)))):
        for label, name in enumerate(CLASSES):
            place = root / split / name.replace(" ", "_")
            place.mkdir(parents=True)
            for number in range(count):
                noise = generator.integers(0, 255, (28, 28, 3)).astype(np.float32)
                tinted = noise * 0.6 + np.array([label * 28, 255 - label * 28, 128]) * 0.4
                image = Image.fromarray(tinted.astype(np.uint8)).resize((224, 224))
                image.save(place / f"{number}.jpg", quality=90)
                files[split].append(place / f"{number}.jpg")
    return files


class Steps:
    """Medians of the released loop's parts, and the table they are shown in."""

    def __init__(self, times: dict[str, float], test_batch: float, text: str) -> None:
        self.train = times["released step"]
        self.test_batch = test_batch
        self.text = text

    def run(self, n_train: int, n_test: int) -> float:
        """Return the seconds of one released run with its evaluation."""
        return OfficialLoop.steps(n_train) * self.train + n_test / TEST_BATCH * self.test_batch


def step_table(loop: OfficialLoop, files: list[Path], repeats: int) -> Steps:
    """Measure one training step both ways, and the text tower alone."""
    backbone, learner = loop.backbone, loop.learner
    files = files[:: max(1, len(files) // TRAIN_BATCH)][:TRAIN_BATCH]
    labels = torch.arange(TRAIN_BATCH) % len(CLASSES)
    cached = backbone.encode_image(torch.randn(TRAIN_BATCH, 3, 224, 224))

    def tower(features: Callable[[], torch.Tensor]) -> None:
        learner.context.grad = None
        features().square().sum().backward()

    def our_step() -> None:
        texts = learner(backbone)
        scaled = backbone.logit_scale.exp() * cached
        loss = loop.objective(
            logits=scaled @ texts.T,
            labels=labels,
            text_features=texts,
            zero_shot_logits=scaled @ loop.zero_shot.T,
            zero_shot_text_features=loop.zero_shot,
        )["total"]
        loop.optimizer.zero_grad()
        loss.backward()
        loop.optimizer.step()

    times = medians(
        repeats,
        **{
            "released text": lambda: tower(loop.text_features),
            "our text": lambda: tower(lambda: learner(backbone)),
            "released step": lambda: loop.train_step(files, labels, 0),
            "our step": our_step,
        },
    )
    test = statistics.median(seconds(lambda: loop.test_batch(files)) for _ in range(repeats))
    rows = [
        row("text tower, forward and backward", times["released text"], times["our text"]),
        row("training step, views cached", times["released step"], times["our step"]),
    ]
    text = aligned(["one step", "released", "calib", "times faster"], rows)
    return Steps(times, test * TEST_BATCH / TRAIN_BATCH, text)


def row(name: str, theirs: float, ours: float) -> list[str]:
    """Return a line of a table: two durations and their ratio."""
    return [name, duration(theirs), duration(ours), f"{theirs / ours:.1f}"]


def duration(value: float) -> str:
    """Return seconds as text.

    Example:
        >>> duration(0.0123), duration(95)
        ('12 ms', '95 s')
    """
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 60 else f"{value:.0f} s"


def run_table(steps: Steps, folder: Path, files: dict[str, list[Path]], n_test: int, n_runs: int) -> str:
    """Measure whole runs: cold, on the warm cache, and a sweep."""
    common = [
        "backbone.name=plip",
        "backbone.weights=random",
        "preset=calibprompt-ls",
        "data.name=folder",
        f"data.root={folder / 'images'}",
        f"data.cache_dir={folder / 'cache'}",
        "data.val_shots=0",
        f"data.shots={SHOTS}",
        f"data.views={VIEWS}",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.enable_progress_bar=false",
    ]

    def run(name: str) -> None:
        train(load_config([*common, "baselines=[]", f"out={folder / name}"], task="prompt"))

    def many() -> None:
        seeds = f"seed=1..{max(1, n_runs // 16)}"
        weights = ",".join(str(0.01 * step) for step in range(n_runs if n_runs < 16 else 16))
        sweep([*common, f"loss.as.weight={weights}", seeds], SweepSettings(out=str(folder / "sweep")))

    with contextlib.redirect_stdout(io.StringIO()):
        cold, warm, swept = seconds(lambda: run("cold")), seconds(lambda: run("warm")), seconds(many)
    n_train, tested = len(files["train"]), len(files["test"])
    alone = steps.run(n_train, tested)
    rows = [
        row(f"run of 50 epochs and {tested} test images, {VIEWS} views, nothing cached", alone, cold),
        row("the same on the warm cache", alone, warm),
        row(f"sweep of {n_runs} runs on the warm cache", n_runs * alone, swept),
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note = f"Released runs are extrapolated from the steps above. Peak memory of this process: {peak:.0f} MB."
    return aligned(["whole runs", "released", "calib", "times faster"], rows) + f"\n\n{note}"


def metrics_table(repeats: int) -> str:
    """Measure the metrics of 100,000 predictions of 9 classes."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(100_000, 9, generator=generator)
    labels = torch.randint(9, (100_000,), generator=generator)
    confidence, top = logits.double().softmax(dim=1).max(dim=1)
    times = medians(
        repeats,
        kde=lambda: kde_calibration_error(confidence, top == labels),
        all=lambda: summarize(logits, labels),
    )
    rows = [["KDE-ECE", duration(times["kde"])], ["all metrics, also per class", duration(times["all"])]]
    return aligned(["100,000 x 9 predictions", "calib"], rows)


if __name__ == "__main__":
    sys.exit(main())
