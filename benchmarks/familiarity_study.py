"""Strange images: how many are marked `unlike`, and how many of the task's own test images.

    python benchmarks/familiarity_study.py fundus=FOLDER nuclei=FOLDER

The embedded backbone, the packaged tasks, 8 images of each class, seeds 1 to 10: which images are unlike the
shots, at the rate of false alarms that is stated (`calib.posthoc.Familiarity`). Those of other kinds are the
other task's, those in folders (at most 200 of each), noise, smooth colours, single greys, and crops of the
two photographs that come with scikit-learn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

import calib
from calib.backbones.base import Backbone
from calib.commands.predict import find_images
from calib.data.images import open_image
from calib.posthoc import Familiarity
from calib.report.tables import aligned

TASKS = ("cxr3", "lc25000")
SIZE, MOST = 224, 200


def encoded(backbone: Backbone, images: Sequence[Image.Image]) -> Tensor:
    """Return features (N, D) of images."""
    parts = [
        backbone.encode_image(torch.stack([backbone.preprocess(each) for each in images[at : at + 32]]))
        for at in range(0, len(images), 32)
    ]
    return torch.cat(parts).cpu()


def made() -> dict[str, list[Image.Image]]:
    """Return images that are none of any clinic: noise, smooth colours, greys, crops of photographs."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (100, SIZE, SIZE, 3), dtype=np.uint8)
    coarse = rng.integers(0, 256, (100, 7, 7, 3), dtype=np.uint8)
    photos = load_sample_images().images
    crops = [(y, x) for y in (0, 100, 200) for x in (0, 140, 280, 410)]
    return {
        "noise": [Image.fromarray(each) for each in noise],
        "smooth colours": [
            Image.fromarray(each).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for each in coarse
        ],
        "single greys": [Image.new("RGB", (SIZE, SIZE), (v, v, v)) for v in range(0, 256, 8)],
        "photographs": [
            Image.fromarray(each[y : y + SIZE, x : x + SIZE]) for each in photos for y, x in crops
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print its table. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", help="NAME=FOLDER of images of another kind")
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args(argv)
    backbone = calib.create_backbone("embedded")
    kinds = {name: encoded(backbone, images) for name, images in made().items()}
    for word in given.folders:
        name, _, folder = word.partition("=")
        files = find_images([folder])
        files = files[:: -(-len(files) // MOST)]
        kinds[name] = encoded(backbone, [open_image(file) for file in files])
    tasks = {name: calib.load_data(name) for name in TASKS}
    rows = []
    for name, task in tasks.items():
        others = {**{key: tasks[key].test.image_features for key in TASKS if key != name}, **kinds}
        rates: dict[str, list[float]] = {key: [] for key in ("stated", "own test", *others)}
        for seed in range(1, given.seeds + 1):
            split = task.draw(given.shots, seed=seed)
            shots = task.train.subset(split.train)
            seen = Familiarity().fit(shots.image_features, shots.labels, owners=shots.groups)
            rates["stated"].append(seen.false_alarm_rate)
            for key, features in {"own test": task.test.image_features, **others}.items():
                rates[key].append(float(seen(features).double().mean()))
        for key, found in rates.items():
            n = "" if key == "stated" else str(len(task.test if key == "own test" else others[key]))
            worst = min(found) if key in others else max(found)
            rows.append([name, key, n, f"{100 * np.mean(found):.1f}", f"{100 * worst:.1f}"])
    head = ["task", "images", "n", "marked unlike %", "worst seed %"]
    sys.stdout.write(f"{aligned(head, rows)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
