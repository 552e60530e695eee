"""What encoding images in bfloat16 gains, and what it changes.

    python benchmarks/encode_precision_study.py                  # towers of published size, random weights
    python benchmarks/encode_precision_study.py cxr3=FOLDER lc25000=FOLDER fundus=FOLDER
    python benchmarks/encode_precision_study.py --cold 1000      # whole runs, beside the released loop

The first table: images per second in float32 and bfloat16, in turns, and how far the features are apart.
With folders of the embedded tasks' images, the same of the embedded backbone, whose weights are trained, and
what follows from it: accuracy, ECE and NLL of the zero-shot model and of prompts learned from 8 images of
each class (calibrated by them; means over the seeds), each in its own precision, and how many predictions
change. `mixed` is what is refused everywhere else: the prompt of float32 on features of bfloat16. With
--cold, runs of `calib train` from image files at PLIP's size with nothing cached, against the released loop
extrapolated from its steps; with --reading, how fast images are read, by one thread and by all.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import numpy as np
import run as released
import text_tower
import torch
from measuring import Neighbours, duration, in_turns, processor, seconds
from official_loop import EPOCHS, OfficialLoop
from PIL import Image
from torch import Tensor

import calib
from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.backbones.preprocessing import CLIP
from calib.backbones.same import ENCODE_PRECISIONS
from calib.commands.train import train
from calib.config import load_config
from calib.data import ImageTable
from calib.data.ahead import read_side_by_side
from calib.data.records import FileSource
from calib.data.task import TaskData
from calib.metrics import summarize
from calib.report.tables import aligned

BATCH = 16
SIZES = (224, 1024)  # pixels
PLIP, TOWERS = "plip", ("plip", "biomedclip", "medclip")  # quiltnet's tower is plip's
METRICS = {"accuracy": "accuracy", "ece": "ECE", "nll": "NLL"}


def both(name: str, folder: Path) -> dict[str, Backbone]:
    """Return a backbone with the same weights in each precision: its own, or random of published size."""
    if name == "embedded":
        return {each: create_backbone(name, encode_precision=each) for each in ENCODE_PRECISIONS}
    exact = text_tower.build(name, folder)  # writes the vocabulary
    vocabulary = None if name == PLIP else folder / "vocab.txt"
    narrow = create_backbone(name, weights="random", tokenizer=vocabulary, encode_precision="bf16")
    return {"fp32": exact, "bf16": narrow}


def apart(ours: Tensor, theirs: Tensor) -> list[str]:
    """Return 1 - cosine of rows (N, D), its mean and largest, and the largest difference of a number."""
    far = 1 - (ours.double() * theirs.double()).sum(dim=1)
    return [f"{far.mean():.1e}", f"{far.max():.1e}", f"{(ours - theirs).abs().max():.1e}"]


def tower_row(name: str, backbones: dict[str, Backbone], rounds: int) -> list[str]:
    """Return the row of a tower: images per second, ratio, and how far features of noise are apart."""
    size = backbones["fp32"].preprocess.image_size
    images = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    ways = {each: lambda each=each: backbones[each].encode_image(images) for each in backbones}
    in_turns(ways, 1)  # converts the weights
    wall = {each: clocks.wall for each, clocks in in_turns(ways, rounds).items()}
    ours, theirs = (backbones[each].encode_image(images) for each in ENCODE_PRECISIONS)
    speeds = [f"{BATCH / wall[each]:.1f}" for each in ENCODE_PRECISIONS]
    return [name, *speeds, f"{wall['fp32'] / wall['bf16']:.2f}", *apart(ours, theirs)]


def tower_table(names: Sequence[str], rounds: int) -> str:
    """Return the table of towers."""
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(tower_row(name, both(name, Path(folder)), rounds))
    differ = ["1 - cosine, mean", "largest", "feature, largest"]
    return aligned(["tower", "fp32, images/s", "bf16, images/s", "times faster", *differ], rows)


def task_rows(
    name: str, task: TaskData, seeds: Sequence[int], epochs: int, shots: int = 8
) -> tuple[list[str], list[list[str]]]:
    """Return how far features of a task's test images are apart, and a row of each model and precision."""
    backbones = both("embedded", Path())
    tests = {each: calib.encode(backbone, task.test, cache=None) for each, backbone in backbones.items()}
    labels = task.test.labels
    logits: dict[str, dict[str, list[Tensor]]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for each, backbone in backbones.items():
            prompt = calib.zero_shot(backbone, task)
            logits.setdefault("zero-shot", {})[each] = [prompt.logits(tests[each].image_features)]
            for seed in seeds:
                prompt = calib.fit_prompt(backbone, task, shots=shots, seed=seed, epochs=epochs, cache=cache)
                learned = logits.setdefault(f"prompt, {shots} shots", {})
                learned.setdefault(each, []).append(prompt.logits(tests[each].image_features))
                if each == "fp32":
                    mixed = prompt.logits(tests["bf16"].image_features)
                    learned.setdefault("mixed", []).append(mixed)
    rows = []
    for model, found in logits.items():
        exact = torch.stack(found["fp32"]).double()  # (S, N, C)
        for each, values in found.items():
            each_logits = torch.stack(values).double()
            scores = [summarize(one, labels) for one in values]
            means = [sum(float(score[key]) for score in scores) / len(scores) for key in METRICS]
            changed = (each_logits.argmax(-1) != exact.argmax(-1)).double().mean()
            moved = (each_logits.softmax(-1).amax(-1) - exact.softmax(-1).amax(-1)).abs()
            cells = [f"{100 * means[0]:.2f}", f"{100 * means[1]:.2f}", f"{means[2]:.4f}"]
            rows.append(
                [
                    name,
                    model,
                    each,
                    *cells,
                    f"{100 * changed:.2f}",
                    f"{moved.mean():.1e}",
                    f"{moved.max():.1e}",
                ]
            )
    features = [tests[each].image_features for each in ENCODE_PRECISIONS]
    return [name, str(len(labels)), *apart(*features)], rows


def reading_table(rounds: int, sizes: Sequence[int] = SIZES, n_images: int = BATCH) -> str:
    """Return the table of preparing images of some sizes for PLIP, by one thread and by all."""
    rows, all_threads = [], torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        for size in sizes:
            names = [f"{size}_{number}.jpg" for number in range(n_images)]
            sources = [FileSource(picture(Path(scratch) / name, size)) for name in names]
            table = ImageTable(sources, [0] * n_images, names)
            for kind, augmented in (("plain", False), ("augmented view", True)):
                source = _Prepared(table, augmented=augmented)
                ways = {"one": partial(source.read, 1), "all": partial(source.read, all_threads)}
                found = in_turns(ways, rounds)
                speeds = [f"{n_images / found[way].wall:.0f}" for way in ways]
                ratio = found["one"].wall / found["all"].wall
                rows.append([f"{size} x {size} pixels, JPEG", kind, *speeds, f"{ratio:.2f}"])
    torch.set_num_threads(all_threads)
    heads = ["preparing an image", "", "images/s, 1 thread", f"{all_threads} threads", "times faster"]
    return aligned(heads, rows)


def picture(path: Path, size: int) -> Path:
    """Write a JPEG of coarse noise and return its path."""
    noise = np.random.default_rng(0).integers(0, 255, (size // 8, size // 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((size, size)).save(path, quality=90)
    return path


class _Prepared:
    """The inputs of images for PLIP, by row."""

    def __init__(self, table: ImageTable, *, augmented: bool) -> None:
        self.table, self.augmented = table, augmented

    def __getitem__(self, row: int) -> Tensor:
        image = self.table.open(row)
        return CLIP.augment(image, row) if self.augmented else CLIP(image)

    def read(self, threads: int) -> None:
        """Prepare them all, side by side."""
        torch.set_num_threads(threads)
        for _ in read_side_by_side(self, range(len(self.table)), at_once=BATCH):
            pass


def load(name: str, path: str) -> TaskData:
    """Return a task with its images."""
    if name != "fundus":
        return calib.load_data(name, path)
    names = {"no_dr": "no retinopathy", "mild_dr": "mild retinopathy", "moderate_dr": "moderate retinopathy"}
    names |= {"severe_or_proliferative_dr": "severe or proliferative retinopathy"}
    return calib.load_data(
        "table", path, class_names=names, template="A fundus photograph of {}.", table="labels.csv"
    )


def cold_table(n_test: int, rounds: int, epochs: int = EPOCHS) -> str:
    """Return the table of whole runs from image files with nothing cached, and of encoding alone."""
    backbone = create_backbone(PLIP, weights="random")
    rows = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(scratch)
        files = released.make_images(folder / "images", n_test)
        steps = released.measure_steps(OfficialLoop(backbone, released.CLASSES), files["train"], rounds)
        alone = steps.run(len(files["train"]), n_test)
        for precision in ENCODE_PRECISIONS:
            common = [
                f"backbone.name={PLIP}",
                "backbone.weights=random",
                f"backbone.encode_precision={precision}",
                "preset=calibprompt-ls",
                "baselines=[]",
                "data.name=folder",
                f"data.root={folder / 'images'}",
                f"data.cache_dir={folder / 'cache'}",
                f"data.shots={released.SHOTS}",
                f"data.views={released.VIEWS}",
                "data.drop_last=true",
                f"trainer.max_epochs={epochs}",
                "trainer.enable_progress_bar=false",
            ]
            took = []
            for way in ("cold", "warm"):
                config = load_config([*common, f"out={folder / precision / way}"], task="prompt")
                took.append(seconds(partial(train, config)))
            for way, found in zip(("nothing cached", "on the warm cache"), took, strict=True):
                rows.append([precision, way, duration(alone), duration(found), f"{alone / found:.1f}"])
    title = f"run of {EPOCHS} epochs, {released.VIEWS} views, {n_test} test images"
    return aligned([title, "", "released", "calib", "times faster"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the tables. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", help="NAME=FOLDER: cxr3, lc25000 or fundus with its images")
    parser.add_argument("--towers", default=",".join((*TOWERS, "embedded")), help="with commas; empty: none")
    parser.add_argument("--seeds", type=int, default=5, help="prompts of each task")
    parser.add_argument("--epochs", type=int, default=50, help="of each prompt")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way is timed")
    parser.add_argument("--cold", type=int, metavar="N", help="whole runs with N test images")
    parser.add_argument("--reading", action="store_true", help="how fast images are prepared")
    given = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    others = Neighbours()
    say(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, batches of {BATCH}.")
    towers = [name for name in given.towers.split(",") if name]
    if towers:
        say(tower_table(towers, given.rounds))
    features, models = [], []
    for word in given.data:
        name, _, path = word.partition("=")
        row, rows = task_rows(name, load(name, path), range(1, given.seeds + 1), given.epochs)
        features.append(row)
        models += rows
    if features:
        differ = ["1 - cosine, mean", "largest", "feature, largest"]
        say(aligned(["embedded backbone", "test images", *differ], features))
        moved = ["predictions changed %", "confidence moved, mean", "largest"]
        head = ["task", "model", "images in", "accuracy %", "ECE %", "NLL", *moved]
        say(aligned(head, models))
    if given.reading:
        say(reading_table(given.rounds))
    if given.cold:
        say(cold_table(given.cold, given.rounds))
    say(str(others))
    return 0


def say(text: str) -> None:
    """Print a part at once."""
    sys.stdout.write(f"{text}\n\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
