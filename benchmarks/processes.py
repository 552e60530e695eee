"""Two processes against one: encoding images, and the text tower of a training step.

    OMP_WAIT_POLICY=passive python benchmarks/processes.py
    python benchmarks/processes.py --images 64 --steps 2 --classes 9

Encoding: synthetic images through the embedded backbone into the feature cache, by one process with one
thread, by one with two, and by two with one thread each; the files are compared byte for byte. "peak" is the
largest memory of the first process, and of the first process after twice as many images.

Text tower: forward and backward of a training step at PLIP's size with random weights, classes shared or not.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import own_peak
from PIL import Image
from torch import distributed
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from calib.backbones import create_backbone
from calib.core import ranks
from calib.data import ImageTable, cache_features
from calib.data.records import FileSource
from calib.losses import Objective
from calib.prompts import step as prompt_step
from calib.prompts.learner import PromptLearner
from calib.prompts.module import PromptTuningModule
from calib.report.tables import aligned

WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}


class Step(torch.nn.Module):
    """A training step as DistributedDataParallel wants it."""

    def __init__(self, module: PromptTuningModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the objective of a batch."""
        return self.module.training_step(batch, 0)


def in_processes(count: int, threads: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in the first of some new processes."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (count, threads, folder, function, arguments), nprocs=count)
        return torch.load(Path(folder) / "found.pt", weights_only=True)


def _process(
    rank: int,
    count: int,
    threads: int,
    folder: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(threads)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    found = function(*arguments)
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    distributed.destroy_process_group()


def encode(images: str, count: int, cache: str) -> dict[str, Any]:
    """Return seconds, peak memory in MB and the digest of the file of encoding images with a view each."""
    backbone = create_backbone("embedded")
    files = sorted(Path(images).iterdir())[:count]
    table = ImageTable([FileSource(file) for file in files], [0] * count, [file.name for file in files])
    backbone.encode_image(torch.zeros(32, 3, 224, 224))  # what the first call costs is not counted
    before = set(Path(cache).glob("*.safetensors"))
    ranks.meet()
    start = time.perf_counter()
    cache_features(backbone, table, cache, views=1)
    seconds = time.perf_counter() - start
    written = set(Path(cache).glob("*.safetensors")) - before
    digest = hashlib.sha256(written.pop().read_bytes()).hexdigest()
    peak = own_peak()
    return {"seconds": seconds, "digest": digest, "peak": peak}


def steps(n_classes: int, specific: bool, share: bool, n_steps: int) -> dict[str, Any]:
    """Return the median seconds of training steps at PLIP's size."""
    prompt_step.CLASSES_TO_SHARE = 2 if share else 10**9
    backbone = create_backbone("plip", weights="random")
    names = [f"tissue number {number}" for number in range(n_classes)]
    learner = PromptLearner(backbone, names, class_specific=specific, seed=1)
    generator = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(n_classes + 16, backbone.embed_dim, generator=generator), dim=1)
    objective = Objective({"ce": {}, "smac": {}, "as": {}})
    optimizer = {"name": "sgd", "lr": 0.002}
    module = PromptTuningModule(backbone, learner, objective, features[16:], optimizer=optimizer)
    step: torch.nn.Module = Step(module)
    if ranks.world_size() > 1:
        step = DistributedDataParallel(step, gradient_as_bucket_view=True)
    batch = {"image_features": features[:16], "labels": torch.arange(16) % n_classes}
    times = []
    for _ in range(n_steps + 1):
        ranks.meet()
        start = time.perf_counter()
        step(batch).backward()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[1:])}


def encoding_table(n_images: int) -> str:
    """Return how long encoding takes in every way, with what memory, and whether the files are the same."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        random = np.random.default_rng(0)
        for number in range(2 * n_images):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((256, 256)).save(images / f"{number:06d}.png")
        rows, found = [], {}
        for way, (count, threads) in WAYS.items():
            small = in_processes(count, threads, encode, str(images), n_images, f"{folder}/{way}")
            large = in_processes(count, threads, encode, str(images), 2 * n_images, f"{folder}/{way}")
            found[way] = small
            first = found[next(iter(WAYS))]
            rows.append(
                [
                    way,
                    f"{small['seconds']:.1f}",
                    f"{first['seconds'] / small['seconds']:.2f}",
                    "yes" if small["digest"] == first["digest"] else "no",
                    f"{small['peak']:.0f}",
                    f"{large['peak']:.0f}",
                ]
            )
    head = ["encoding", "s", "times faster", "same file", "peak MB", "twice the images"]
    return f"{n_images} images with a view each, embedded backbone\n\n{aligned(head, rows)}"


def text_table(classes: Sequence[int], n_steps: int) -> str:
    """Return how long the text tower of a step takes with the classes shared and not."""
    rows = []
    for n_classes in classes:
        for specific in (False, True):
            times = {
                "1 thread": in_processes(1, 1, steps, n_classes, specific, False, n_steps)["seconds"],
                "2 threads": in_processes(1, 2, steps, n_classes, specific, False, n_steps)["seconds"],
                "not shared": in_processes(2, 1, steps, n_classes, specific, False, n_steps)["seconds"],
                "shared": in_processes(2, 1, steps, n_classes, specific, True, n_steps)["seconds"],
            }
            kind = "one per class" if specific else "one"
            rows.append([str(n_classes), kind, *(f"{1000 * seconds:.0f}" for seconds in times.values())])
    head = ["classes", "context", "1 thread", "2 threads", "2 processes, classes not shared", "shared"]
    return f"Training step at PLIP's size, ms\n\n{aligned(head, rows)}"


def main(argv: Sequence[str]) -> int:
    """Measure, print the two tables, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256, help="images to encode (256)")
    parser.add_argument("--steps", type=int, default=5, help="training steps, of which the median counts (5)")
    parser.add_argument("--classes", type=int, nargs="*", default=[9, 100], help="numbers of classes (9 100)")
    given = parser.parse_args(argv)
    tables = [encoding_table(given.images)] if given.images else []
    tables += [text_table(given.classes, given.steps)] if given.classes else []
    sys.stdout.write("\n\n".join(tables) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
