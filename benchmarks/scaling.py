"""How costs grow with classes, shots, test images, prompts side by side, and what memory encoding takes.

    python benchmarks/scaling.py            # some ten minutes on two quiet cores
    python benchmarks/scaling.py --quick    # one or two
    python benchmarks/scaling.py --alone    # without the released loop and memory: two
    python benchmarks/scaling.py --memory   # peak memory alone, also beside other processes: two

PLIP's size, random weights, the released loop on PyTorch's own matrix product. What the released loop cannot
hold in memory, or would take hours for, is extrapolated: more than 100 classes from 100, runs from steps,
evaluations from test batches. Writes a table and a plot. With OMP_NUM_THREADS=1 steps and runs are processor
time, which other processes do not count in.
"""

from __future__ import annotations

import argparse
import gc
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import numpy as np
import text_tower
import torch
from lightning import Trainer
from matplotlib.figure import Figure
from measuring import Machine, duration, forget_peak, in_turns, on_kernel, own_peak
from official_loop import EPOCHS, TEST_BATCH, TRAIN_BATCH, OfficialLoop
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.data import FeatureTable, FewShotDataModule, encode_table, load_data
from calib.io.files import write_text
from calib.losses import Objective, resolve_terms
from calib.metrics import summarize
from calib.prompts.fit import fit_prompt
from calib.prompts.learner import PromptLearner
from calib.prompts.module import PromptTuningModule
from calib.prompts.zero_shot import zero_shot_features
from calib.report.tables import aligned

MEMORY = "peak memory"
MEMORY_SIZES = {True: (32, 128), False: (64, 256, 1024)}  # images, quick or not
RELEASED_STEP, STEP, CLASSES = "released step", "prompts trained at once", "classes"
ENCODED, TRAINING = "encoded images", "training with folds, weights of a file, classes"
PREDICTED = {"shots": "runs of 50 epochs", "test images": "evaluations, features cached"}


@dataclass(frozen=True)
class Point:
    """Seconds at one size: of the released loop (None: it has no such thing) and of this project.

    `operations` are those of the matrix products that this takes at least. None: they are not counted.
    """

    axis: str
    size: int
    released: float | None
    ours: float
    what: str = ""
    operations: float | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write them with a plot. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions")
    parser.add_argument("--alone", action="store_true", help="do not measure the released loop")
    parser.add_argument("--memory", action="store_true", help="measure nothing but peak memory")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling.md"), help="table; a plot beside it")
    parser.add_argument(
        "--peak-of", nargs=2, help=argparse.SUPPRESS
    )  # images encoded in a process of its own
    given = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if given.peak_of:
        sys.stdout.write(f"{peak_of(given.peak_of[0], int(given.peak_of[1])):.0f}\n")
        return 0
    if given.memory:
        sys.stdout.write(tables(memory_points(MEMORY_SIZES[given.quick]), None) + "\n")
        return 0
    backbone = create_backbone("plip", weights="random")
    theirs, test = (None, None) if given.alone else released(backbone)
    points = measure(backbone, quick=given.quick, released_step=theirs, released_test=test)
    text = tables(points, text_tower.machine())
    sys.stdout.write(text + "\n")
    write_text(given.out, text + "\n")
    plot(points, given.out.with_suffix(".png"))
    return 0


def released(backbone: Backbone) -> tuple[float, float]:
    """Return the seconds of a training step of the released loop, and of a test batch, with 9 classes."""
    with tempfile.TemporaryDirectory() as folder:
        files = [path for paths in write_images(Path(folder), TRAIN_BATCH).values() for path in paths]
        loop = OfficialLoop(backbone, text_tower.NAMES)
        labels = torch.arange(TRAIN_BATCH) % len(text_tower.NAMES)
        ways = {
            "step": on_kernel("plain", lambda: loop.train_step(files, labels, 0)),
            "test": on_kernel("plain", lambda: loop.test_batch(files)),
        }
        in_turns(ways, 1)
        times = in_turns(ways, 3)
    return times["step"].wall, times["test"].wall * TEST_BATCH / TRAIN_BATCH


def measure(
    backbone: Backbone, *, quick: bool, released_step: float | None, released_test: float | None
) -> list[Point]:
    """Return the points of all axes; those of test images and memory only beside the released loop.

    Args:
        backbone: PLIP's size.
        quick: Whether to leave out the sizes that take long.
        released_step: Seconds of a training step of the released loop, 9 classes. None: not compared with.
        released_test: Seconds of a test batch of the released loop. None: not compared with.
    """
    rounds, alone = 3 if quick else 5, released_step is None
    classes = (2, 9, 100) if quick else (2, 9, 100, 1000)
    points = class_points(backbone, classes, 1 if quick else 3, alone=alone)
    points += shot_points(backbone, (1, 4, 16) if quick else (1, 2, 4, 8, 16, 64), released_step)
    if released_test is not None:
        points += test_points((100, 10_000) if quick else (100, 1000, 10_000, 100_000), rounds, released_test)
    points += set_points(backbone, (1, 4, 16) if quick else (1, 2, 4, 8, 16), rounds)
    return points if alone else points + memory_points(MEMORY_SIZES[quick])


def class_points(
    backbone: Backbone, sizes: Sequence[int], rounds: int, *, alone: bool = False
) -> list[Point]:
    """Return text steps, forward and backward, by the number of classes, beside the library's or `alone`."""
    points = []
    for n_classes in sizes:
        prompts = text_tower.prompts(backbone, n_classes, 16)
        if alone:
            released, ours = None, _seconds(partial(step, backbone, 1, *prompts), rounds)
        else:
            found = {row.way: row for row in text_tower.measure(backbone, n_classes, 1, rounds, 16)}
            released, ours = found["official"].seconds, found["packed"].seconds
        least = text_tower.least_operations(backbone, *prompts)
        points.append(Point("classes", n_classes, released, ours, operations=least))
    return points


def _seconds(run: Callable[[], object], rounds: int) -> float:
    """Return the seconds of a call, after a first one which packs the weights for its number of rows."""
    run()
    return text_tower.seconds_of(in_turns({"": run}, rounds)[""])


def step(backbone: Backbone, n: int, tokens: Tensor, positions: Tensor) -> Tensor:
    """Return the gradient of n contexts side by side after a step through the text tower."""
    generator, n_ctx = torch.Generator().manual_seed(1), positions.shape[1]
    context = torch.randn(n, n_ctx, backbone.token_width, generator=generator).mul(0.02).requires_grad_()
    features = backbone.encode_prompts(context, tokens, positions, sets=True)
    return torch.autograd.grad(features.square().sum(), context)[0]


def shot_points(backbone: Backbone, sizes: Sequence[int], released_step: float | None) -> list[Point]:
    """Return whole trainings of 50 epochs on cached features, from 2 epochs of Lightning, by shots."""
    names = text_tower.NAMES
    zero_shot = zero_shot_features(backbone, names, "An image of {}.")
    least = text_tower.least_operations(backbone, *text_tower.prompts(backbone, len(names), 16))
    points = []
    for shots in sizes:
        n = shots * len(names)
        table = random_features(n, backbone.embed_dim, len(names))
        module = PromptTuningModule(
            backbone,
            PromptLearner(backbone, names, seed=1),
            Objective(resolve_terms("calibprompt-ls")),
            zero_shot,
            optimizer={"name": "sgd", "lr": 0.002},
        )
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, **quiet)
        batches = FewShotDataModule(table, batch_size=TRAIN_BATCH, drop_last=True)
        start = text_tower.clock()
        trainer.fit(module, batches)
        taken = text_tower.clock() - start
        steps = OfficialLoop.steps(n)
        whole = None if released_step is None else steps * released_step
        points.append(Point("shots", shots, whole, taken / 2 * EPOCHS, operations=steps * least))
    return points


def test_points(sizes: Sequence[int], rounds: int, released_test: float) -> list[Point]:
    """Return evaluations: features from their file, logits and all metrics, by the number of test images."""
    texts = normalize(torch.randn(len(text_tower.NAMES), 512), dim=1)
    points = []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "features.safetensors"
            random_features(n, 512, len(texts)).save(path)

            def evaluate(path: Path = path) -> None:
                table = FeatureTable.load(path)
                summarize(100 * table.image_features @ texts.T, table.labels)

            evaluate()
            taken = in_turns({"ours": evaluate}, rounds)["ours"].wall
        points.append(Point("test images", n, n / TEST_BATCH * released_test, taken))
    return points


def set_points(backbone: Backbone, sizes: Sequence[int], rounds: int) -> list[Point]:
    """Return text steps per prompt, forward and backward, by the number of prompts side by side."""
    tokens, positions = text_tower.prompts(backbone, len(text_tower.NAMES), 16)

    times = {n: _seconds(partial(step, backbone, n, tokens, positions), rounds) / n for n in sizes}
    least = text_tower.least_operations(backbone, tokens, positions)
    return [Point("prompts side by side", n, None, times[n], operations=least) for n in sizes]


def memory_points(sizes: Sequence[int]) -> list[Point]:
    """Return peak memory in MB instead of seconds, each in a process of its own."""
    asked = [(RELEASED_STEP, 1), (STEP, 1), (STEP, 4), (STEP, 16), (CLASSES, 100), (CLASSES, 1000)]
    asked += [(TRAINING, 9), *((ENCODED, n) for n in sizes)]
    command = [sys.executable, __file__, "--peak-of"]
    peaks = [subprocess.check_output([*command, what, str(n)], text=True) for what, n in asked]
    return [Point(MEMORY, n, None, float(peak), what) for (what, n), peak in zip(asked, peaks, strict=True)]


def peak_of(what: str, n: int) -> float:
    """Return the peak memory of this process in MB after it did something, see `memory_points`."""
    if what == TRAINING:
        return training_peak(n)
    backbone = create_backbone("plip", weights="random")
    if what == ENCODED:
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), n)
            encode_table(backbone, load_data("folder", folder).train, batch_size=16)
    elif what == CLASSES:
        step(backbone, 1, *text_tower.prompts(backbone, n, 16))
    else:
        tokens, positions = text_tower.prompts(backbone, len(text_tower.NAMES), 16)
        context = torch.zeros(n, 16, backbone.token_width, requires_grad=True)
        encode = backbone.encode_prompts_by_hook if what == RELEASED_STEP else backbone.encode_prompts
        encode(context, tokens, positions, sets=True).sum().backward()
    return own_peak()


def training_peak(n_classes: int) -> float:
    """Return the peak memory in MB of a training: weights read from a file, images encoded, folds."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", 8 * n_classes, n_classes)
        weights = Path(folder) / "open_clip_model.safetensors"
        save_file(create_backbone("plip", weights="random").model.state_dict(), weights)
        gc.collect()
        forget_peak()
        backbone = create_backbone("plip", weights=weights)
        task = load_data("folder", Path(folder) / "images")
        fit_prompt(backbone, task, shots=8, views=1, epochs=1, cache=None)
    return own_peak()


def write_images(root: Path, n: int, n_classes: int = 2) -> dict[str, list[Path]]:
    """Write a folder of n training images of noise and a test image per class; return the former by class."""
    generator = np.random.default_rng(0)
    names = "abcdefghijklmnopqrstuvwxyz"[:n_classes]
    files: dict[str, list[Path]] = {name: [] for name in names}
    for number in range(n + n_classes):
        split, name = "train" if number < n else "test", names[number % n_classes]
        path = root / split / name / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (224, 224, 3), dtype=np.uint8)).save(path, quality=80)
        if split == "train":
            files[name].append(path)
    return files


def random_features(n: int, dim: int, n_classes: int) -> FeatureTable:
    """Return a table of n random features."""
    features = normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(0)), dim=1)
    ids = [f"{number:064x}" for number in range(n)]
    return FeatureTable(features, torch.arange(n) % n_classes, ids, ids)


def tables(points: Sequence[Point], here: Machine | None) -> str:
    """Return a table per axis, in Markdown, with the machine it was measured on below; memory needs none."""
    parts = []
    for axis in dict.fromkeys(point.axis for point in points):
        found = [point for point in points if point.axis == axis]
        if axis == MEMORY:
            rows = [[point.what, str(point.size), f"{point.ours:.0f}"] for point in found]
            parts.append(aligned(["process", "number", "peak memory, MB"], rows))
            continue
        assert here is not None
        if found[0].released is None:
            rows = [[str(p.size), duration(p.ours), here.share(p.operations, p.ours)] for p in found]
            what = PREDICTED.get(axis, "text step per prompt")
            parts.append(here.below(aligned([axis, what, "of peak"], rows)))
        else:
            rows = [
                [
                    *(str(p.size), duration(p.released), duration(p.ours), f"{p.released / p.ours:.1f}"),
                    here.share(p.operations, p.ours),
                ]
                for p in found
                if p.released is not None
            ]
            what = PREDICTED.get(axis, "text steps")
            header = [axis, f"released: {what}", "calib", "times faster", "of peak"]
            parts.append(here.below(aligned(header, rows)))
    return "\n\n".join(parts)


def plot(points: Sequence[Point], path: Path) -> None:
    """Draw every axis of seconds, both scales logarithmic, into a PNG file."""
    axes = [axis for axis in dict.fromkeys(p.axis for p in points) if axis != MEMORY]
    figure = Figure(figsize=(3.6 * len(axes), 3.4), layout="constrained")
    for place, axis in zip(figure.subplots(1, len(axes)), axes, strict=True):
        here = [point for point in points if point.axis == axis]
        sizes = [point.size for point in here]
        place.plot(sizes, [point.ours for point in here], "o-", label="calib")
        place.set_xscale("log")
        if here[0].released is None:  # within one power of ten
            place.set_ylim(0, 1.1 * max(point.ours for point in here))
        else:
            place.plot(sizes, [point.released for point in here], "s--", label="released loop")
            place.set_yscale("log")
        place.set_xticks(sizes, [f"{size:,}" for size in sizes])
        place.minorticks_off()
        place.set_xlabel(axis)
        place.set_ylabel("seconds")
        place.set_title(PREDICTED.get(axis, "text steps, per prompt"), fontsize=10)
        place.grid(alpha=0.3)
        place.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    sys.exit(main())
