"""How much faster than the released loop: steps, runs, evaluations, sweeps, at PLIP's size.

    python benchmarks/run.py            # everything, some 25 minutes on two quiet cores
    python benchmarks/run.py --quick    # under five minutes: fewer repetitions, images and runs

Random weights; both sides are measured in this process, in turns; ratios are of medians. Training, evaluation
and sweeps of this project are whole runs of train.py and calib sweep on image files, with their files and
metrics. The released loop's runs are extrapolated from measured steps and test batches. It computes on
PyTorch's own matrix product, as it does for its users; the columns "same kernel" put this project on that
product too, which leaves what the algorithms gain. Below every table of ratios stands the processor with its
peaks, and beside each ratio the share of the peak that the matrix products which cannot be left out are of
the time: that travels from one machine to another, ratios do not. Ends with how all this scales, see
`benchmarks/scaling.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import numpy as np
import scaling
import text_tower
import torch
from measuring import Machine, Neighbours, duration, in_turns, on_kernel, seconds
from official_loop import EPOCHS, TEST_BATCH, TRAIN_BATCH, OfficialLoop
from PIL import Image

from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.commands.search.grid import sweep_of
from calib.commands.search.sweep import sweep
from calib.commands.train import train
from calib.config import load_config
from calib.data import DATASETS, cache_features, load_data
from calib.io.files import write_text
from calib.metrics import kde_calibration_error, summarize
from calib.prompts.learner import PromptLearner
from calib.report.tables import aligned

CLASSES = list(DATASETS["kather"].class_names.values())  # 9 names of 1 to 4 words
SHOTS, VIEWS = 8, 8


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    n_test: int
    settings: int
    seeds: int


QUICK, WHOLE = Size(3, 100, 4, 2), Size(7, 1000, 16, 3)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write them with a plot. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, images and runs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.md"), help="table; a plot beside it")
    given = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    size, others = QUICK if given.quick else WHOLE, Neighbours()
    parts: list[str] = []

    def add(part: str) -> None:
        parts.append(part)
        sys.stdout.write(part + "\n\n")
        sys.stdout.flush()

    here = text_tower.machine()
    add(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores. "
        f"{len(CLASSES)} classes, {SHOTS} shots, batches of {TRAIN_BATCH}.\n\n{here}"
    )
    backbone = create_backbone("plip", weights="random")
    with tempfile.TemporaryDirectory() as scratch:
        files = make_images(Path(scratch) / "images", size.n_test)
        loop = OfficialLoop(backbone, CLASSES)
        steps = measure_steps(loop, files["train"], size.rounds)
        add(step_table(steps, here, step_operations(backbone)))
        add(folds_table(backbone, CLASSES, size.rounds, here))
        add(tower_table(backbone, 2 if given.quick else size.rounds, here))
        add(run_table(steps, Path(scratch), files, size, here))
    add(metrics_table(size.rounds))
    points = scaling.measure(backbone, quick=given.quick, released_step=steps.train, released_test=steps.test)
    add(scaling.tables(points, here))
    add(str(others))
    write_text(given.out, "\n\n".join(parts) + "\n")
    scaling.plot(points, given.out.with_suffix(".png"))
    sys.stdout.write(f"Written: {given.out}, {given.out.with_suffix('.png')}\n")
    return 0


def step_operations(backbone: Backbone) -> int:
    """Return the operations of a training step whose views are cached: those of the text tower."""
    learner = PromptLearner(backbone, CLASSES)
    return text_tower.least_operations(backbone, learner.tokens, learner.positions)


def image_operations(backbone: Backbone) -> int:
    """Return the operations of the matrix products that encode an image, without those of the attention."""
    visual: Any = backbone.model.visual
    sizes = [each.numel() for each in visual.transformer.parameters() if each.ndim == 2]
    tokens = len(visual.positional_embedding)
    return 2 * (tokens * sum(sizes) + (tokens - 1) * visual.conv1.weight.numel() + visual.proj.numel())


def make_images(root: Path, n_test: int) -> dict[str, list[Path]]:
    """Write an image folder of noise in class colours, JPEG of 224 pixels, and return its files by split."""
    generator = np.random.default_rng(0)
    files: dict[str, list[Path]] = {"train": [], "test": []}
    for split, count in (("train", SHOTS * len(CLASSES)), ("test", n_test)):
        for number in range(count):
            label = number % len(CLASSES)
            place = root / split / CLASSES[label].replace(" ", "_") / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            noise = generator.integers(0, 255, (28, 28, 3)).astype(np.float32)
            tinted = noise * 0.6 + np.array([label * 28, 255 - label * 28, 128]) * 0.4
            Image.fromarray(tinted.astype(np.uint8)).resize((224, 224)).save(place, quality=90)
            files[split].append(place)
    return files


@dataclass(frozen=True)
class Steps:
    """Seconds of one training step and one test batch.

    Attributes:
        train: Of the released loop.
        test: Of a test batch of the released loop.
        ours: A step of this project, views cached.
        same_kernel: The same on PyTorch's matrix product.
    """

    train: float
    test: float
    ours: float
    same_kernel: float

    def run(self, n_train: int, n_test: int) -> float:
        """Return the seconds of one released run with its evaluation."""
        return OfficialLoop.steps(n_train) * self.train + self.evaluation(n_test)

    def evaluation(self, n_test: int) -> float:
        """Return the seconds of one released evaluation."""
        return n_test / TEST_BATCH * self.test


def measure_steps(loop: OfficialLoop, files: Sequence[Path], rounds: int) -> Steps:
    """Measure one training step both ways, and a test batch."""
    backbone, learner = loop.backbone, loop.learner
    batch = list(files)[:TRAIN_BATCH]
    labels = torch.arange(TRAIN_BATCH) % len(CLASSES)
    cached = backbone.encode_image(torch.randn(TRAIN_BATCH, 3, 224, 224))

    def our_step() -> None:
        texts = learner(backbone)
        scaled = backbone.logit_scale.exp() * cached
        loop.descend(scaled @ texts.T, scaled @ loop.zero_shot.T, texts, labels)

    ways = {
        "released": on_kernel("plain", lambda: loop.train_step(batch, labels, 0)),
        "ours": our_step,
        "same kernel": on_kernel("plain", our_step),
    }
    in_turns(ways, 1)  # packs weights, fills caches
    times = in_turns(ways, rounds)
    tests = {"test": on_kernel("plain", lambda: loop.test_batch(batch))}
    test = in_turns(tests, rounds)["test"].wall * TEST_BATCH / TRAIN_BATCH
    return Steps(times["released"].wall, test, times["ours"].wall, times["same kernel"].wall)


def step_table(steps: Steps, here: Machine, operations: int) -> str:
    """Return the table of a training step of so many operations."""
    name = "training step, views cached"
    row = [name, duration(steps.train), duration(steps.ours), f"{steps.train / steps.ours:.1f}"]
    row += [here.share(operations, steps.ours), duration(steps.same_kernel)]
    row += [f"{steps.train / steps.same_kernel:.1f}", here.share(operations, steps.same_kernel, plain=True)]
    header = ["one step", "released", "calib", "times faster", "of peak", "same kernel", "times faster"]
    return here.below(aligned([*header, "of plain peak"], [row]))


def folds_table(backbone: Backbone, class_names: Sequence[str], rounds: int, here: Machine) -> str:
    """Measure a step of the text tower for 1 to 5 prompts, and what an epoch with prompts of folds costs."""
    learners = [PromptLearner(backbone, class_names, seed=seed) for seed in range(1, 6)]
    images = torch.nn.functional.normalize(torch.randn(TRAIN_BATCH, backbone.embed_dim), dim=1)
    labels = torch.arange(TRAIN_BATCH) % len(class_names)

    def step(n_prompts: int) -> None:
        contexts = torch.stack([learner.context for learner in learners[:n_prompts]])
        first = learners[0]
        texts = backbone.encode_prompts(contexts, first.tokens, first.positions, sets=True)
        scaled = backbone.logit_scale.exp() * images
        loss = sum(torch.nn.functional.cross_entropy(scaled @ text.T, labels) for text in texts)
        loss.backward()  # type: ignore[union-attr]

    ways = {str(n): partial(step, n) for n in range(1, 6)}
    in_turns(ways, 1)
    times = {int(n): clocks.wall for n, clocks in in_turns(ways, rounds).items()}
    one = text_tower.least_operations(backbone, learners[0].tokens, learners[0].positions)
    rows = [[str(n), duration(wall), f"{wall / times[1]:.2f}", here.share(n * one, wall),
             *_folds_of(n - 1, times, len(class_names))]
            for n, wall in times.items()]  # fmt: skip
    header = [
        "prompts in a step",
        "step",
        "of one prompt's",
        "of peak",
        "folds",
        "epoch, of that without folds",
    ]
    return here.below(aligned(header, rows))


def _folds_of(folds: int, times: Mapping[int, float], n_classes: int) -> tuple[str, str]:
    """Return the number of folds, and how much longer an epoch is with them: they have fewer steps."""
    if folds < 2:
        return "", ""
    n_shots = SHOTS * n_classes
    own = -(-n_shots // TRAIN_BATCH)
    theirs = -(-(n_shots - n_shots // folds) // TRAIN_BATCH)
    together = theirs * times[folds + 1] + (own - theirs) * times[1]
    return str(folds), f"{together / (own * times[1]):.2f}"


def tower_table(plip: object, rounds: int, here: Machine) -> str:
    """Measure the text towers of the published sizes, forward and backward."""
    rows = []
    for name in ("plip", "biomedclip", "medclip"):
        with tempfile.TemporaryDirectory() as folder:
            backbone = plip if name == "plip" else text_tower.build(name, Path(folder))
        found = text_tower.measure(backbone, len(CLASSES), 1, rounds, text_tower.N_CTX[name])
        by_way = {row.way: row for row in found}
        whole = by_way["official"].seconds
        cells = [name, duration(whole)]
        for way in ("packed", "plain"):
            cells += [duration(by_way[way].seconds), f"{whole / by_way[way].seconds:.1f}"]
        packed = by_way["packed"]
        errors = [f"{packed.feature_error:.0e}", f"{packed.gradient_error:.0e}"]
        rows.append([*cells, f"{packed.peak_share:.0%}", *errors])
    header = ["text tower, forward and backward", "released", "calib", "times faster", "same kernel"]
    return here.below(
        aligned([*header, "times faster", "of peak", "features differ", "gradients differ"], rows)
    )


def run_table(steps: Steps, folder: Path, files: dict[str, list[Path]], size: Size, here: Machine) -> str:
    """Measure whole runs: cold, on the warm cache, an evaluation, and a sweep."""
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
        "data.drop_last=true",  # as many steps as the released loop
        f"trainer.max_epochs={EPOCHS}",
        "trainer.enable_progress_bar=false",
    ]

    def run(name: str) -> None:
        train(load_config([*common, "baselines=[]", f"out={folder / name}"], task="prompt"))

    def many() -> None:
        weights = ",".join(str(0.01 * step) for step in range(size.settings))
        varied = [f"loss.as.weight={weights}", f"seed=1..{size.seeds}"]
        sweep(sweep_of([*common, *varied, f"out={folder / 'sweep'}"]))

    backbone = create_backbone("plip", weights="random")
    table = load_data("folder", folder / "images").test

    def evaluate(cache: str) -> None:
        features = cache_features(backbone, table, folder / cache).image_features
        summarize(backbone.logit_scale.exp() * features @ torch.randn(len(CLASSES), 512).T, table.labels)

    def quietly(call: Callable[[], object]) -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            return seconds(call)

    n_train, n_test, n_runs = len(files["train"]), len(files["test"]), size.settings * size.seeds
    alone, evaluation = steps.run(n_train, n_test), steps.evaluation(n_test)
    trained, image = OfficialLoop.steps(n_train) * step_operations(backbone), image_operations(backbone)
    encoded, tested = ((1 + VIEWS) * n_train + n_test) * image, n_test * image
    cold = f"run of {EPOCHS} epochs, {VIEWS} views, {n_test} test images"
    measured: list[tuple[str, float, float, float | None]] = [
        (cold, alone, quietly(lambda: run("cold")), trained + encoded),
        ("the same on the warm cache", alone, quietly(lambda: run("warm")), trained),
        (f"evaluation of {n_test} images", evaluation, quietly(lambda: evaluate("other")), tested),
        ("the same on the warm cache", evaluation, quietly(lambda: evaluate("other")), None),
    ]
    for seed in range(2, size.seeds + 1):  # the sweep's shots are in the cache, as the run's above
        quietly(
            lambda seed=seed: train(
                load_config(
                    [
                        *common,
                        "baselines=[]",
                        "trainer.max_epochs=1",
                        f"seed={seed}",
                        f"out={folder / f's{seed}'}",
                    ],
                    task="prompt",
                )
            )
        )
    title = f"sweep of {size.settings} settings x {size.seeds} seeds on the warm cache"
    measured.append((title, n_runs * alone, quietly(many), n_runs * trained))
    rows = [
        [name, duration(old), duration(new), f"{old / new:.1f}", here.share(operations, new)]
        for name, old, new, operations in measured
    ]
    note = "Released runs are extrapolated from steps and test batches."
    table = aligned(["whole runs", "released", "calib", "times faster", "of peak"], rows)
    return f"{here.below(table)} {note}"


def metrics_table(rounds: int) -> str:
    """Measure the metrics of 100,000 predictions of 9 classes."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(100_000, 9, generator=generator)
    labels = torch.randint(9, (100_000,), generator=generator)
    confidence, top = logits.double().softmax(dim=1).max(dim=1)
    ways = {
        "KDE-ECE": lambda: kde_calibration_error(confidence, top == labels),
        "all metrics, also per class": lambda: summarize(logits, labels),
    }
    in_turns(ways, 1)
    rows = [[name, duration(clocks.wall)] for name, clocks in in_turns(ways, rounds).items()]
    return aligned(["100,000 x 9 predictions", "calib"], rows)


if __name__ == "__main__":
    sys.exit(main())
