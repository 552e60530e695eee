"""Steps, whole runs, evaluations and sweeps against the released loop, whose runs are extrapolated."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import text_tower
import torch
from measuring import Card, Machine, duration, in_turns, on_kernel, seconds
from official_loop import EPOCHS, TEST_BATCH, TRAIN_BATCH, OfficialLoop
from PIL import Image

from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.commands.search.grid import sweep_of
from calib.commands.search.sweep import sweep
from calib.commands.train import train
from calib.config import load_config
from calib.data import DATASETS, cache_features, load_data
from calib.metrics import summarize
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


def step_operations(backbone: Backbone, class_names: Sequence[str] = CLASSES) -> int:
    """Return the operations of a training step whose views are cached: those of the text tower."""
    learner = PromptLearner(backbone, class_names)
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
    device = backbone.device
    labels = (torch.arange(TRAIN_BATCH) % len(learner.class_names)).to(device)
    cached = backbone.encode_image(torch.randn(TRAIN_BATCH, 3, *[backbone.preprocess.image_size] * 2))

    def our_step() -> None:
        texts = learner(backbone)
        scaled = backbone.logit_scale.exp() * cached
        loop.descend(scaled @ texts.T, scaled @ loop.zero_shot.T, texts, labels)

    ways = {
        "released": on_kernel("plain", lambda: loop.train_step(batch, labels, 0)),
        "ours": our_step,
        "same kernel": on_kernel("plain", our_step),
    }
    in_turns(ways, 1, device)  # packs weights, fills caches
    times = in_turns(ways, rounds, device)
    tests = {"test": on_kernel("plain", lambda: loop.test_batch(batch))}
    test = in_turns(tests, rounds, device)["test"].wall * TEST_BATCH / TRAIN_BATCH
    return Steps(times["released"].wall, test, times["ours"].wall, times["same kernel"].wall)


def step_table(steps: Steps, here: Machine | Card, operations: int) -> str:
    """Return the table of a training step of so many operations."""
    name = "training step, views cached"
    row = [name, duration(steps.train), duration(steps.ours), f"{steps.train / steps.ours:.1f}"]
    row += [here.share(operations, steps.ours), duration(steps.same_kernel)]
    row += [f"{steps.train / steps.same_kernel:.1f}", here.share(operations, steps.same_kernel, plain=True)]
    header = ["one step", "released", "calib", "times faster", "of peak", "same kernel", "times faster"]
    return here.below(aligned([*header, "of plain peak"], [row]))


def run_table(steps: Steps, folder: Path, files: dict[str, list[Path]], size: Size, here: Machine) -> str:
    """Measure whole runs: cold, on the warm cache, an evaluation, and a sweep.

    As the released loop, they calibrate nothing, but for one that does, as is the default: it trains the
    prompts of folds as well.
    """
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
        "calibrate.method=none",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.enable_progress_bar=false",
    ]

    def run(name: str, *changes: str) -> None:
        train(load_config([*common, "baselines=[]", *changes, f"out={folder / name}"], task="prompt"))

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
    in_bf16, calibrated = ["backbone.encode_precision=bf16"], ["calibrate.method=auto"]
    cold = f"run of {EPOCHS} epochs, {VIEWS} views, {n_test} test images"
    measured: list[tuple[str, float, float, float | None]] = [
        (cold, alone, quietly(lambda: run("cold")), trained + encoded),
        ("the same, encoded in bfloat16", alone, quietly(lambda: run("cold16", *in_bf16)), None),
        ("the same on the warm cache", alone, quietly(lambda: run("warm")), trained),
        ("the same, calibrated by its shots", alone, quietly(lambda: run("own", *calibrated)), None),
        (f"evaluation of {n_test} images", evaluation, quietly(lambda: evaluate("other")), tested),
        ("the same on the warm cache", evaluation, quietly(lambda: evaluate("other")), None),
    ]
    for seed in range(2, size.seeds + 1):  # the sweep's shots are in the cache, as the run's above
        quietly(lambda seed=seed: run(f"s{seed}", "trainer.max_epochs=1", f"seed={seed}"))
    title = f"sweep of {size.settings} settings x {size.seeds} seeds on the warm cache"
    measured.append((title, n_runs * alone, quietly(many), n_runs * trained))
    rows = [
        [name, duration(old), duration(new), f"{old / new:.1f}", here.share(operations, new)]
        for name, old, new, operations in measured
    ]
    note = "Released runs are extrapolated from steps and test batches."
    table = aligned(["whole runs", "released", "calib", "times faster", "of peak"], rows)
    return f"{here.below(table)} {note}"
