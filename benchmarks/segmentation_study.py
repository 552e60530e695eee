"""Does mL1-ACE calibrate a segmentation network, what does it cost, and does it last on another stain?

    python benchmarks/segmentation_study.py train DSB2018 --seconds 170      (again, until it is done)
    python benchmarks/segmentation_study.py table DSB2018
    python benchmarks/segmentation_study.py speed

DSB2018 is a folder with labels.csv (file, mask, split, kind), images and masks of nuclei; 0 is background. A
small U-Net (96 pixels, widths 8 to 32, 8 epochs) is trained with Dice + cross-entropy and with mL1-ACE
beside them, hard and soft, with five seeds: on all training images, and on fluorescence alone, judged on each
kind of test image. Beside them stands Dice + cross-entropy with a temperature from the validation images,
which costs nothing. Every cell (images, loss, seed) is kept in --out when it is done. Learning rate and
number of epochs were chosen by the validation Dice of single runs with Dice + cross-entropy: at 0.001 it had
reached 0.825 after 20 epochs (112 pixels), at 0.004 0.846 after 8 and 0.854 after 12 (96 pixels).

`speed` times mL1-ACE and its gradient beside the formula written down plainly (one scatter after another for
each image and class; soft bins as a table of pixels by bins), beside cross-entropy, and the memory of 128^3
voxels.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from calib.processes.threads import prepare_threads

prepare_threads()

import numpy as np
import torch
from measuring import in_turns
from torch import Tensor

from calib.io.files import write_text
from calib.losses import dice, ml1_ace
from calib.metrics.segmentation import per_class
from calib.posthoc.scaling import fit_temperature
from calib.report.plots import save_figure
from calib.report.tables import aligned
from calib.report.unit_reliability import unit_reliability_figure
from calib.segmentation.evaluation import MACRO, Evaluated, evaluate, pixels_for_calibration
from calib.segmentation.fit import fit_segmenter
from calib.segmentation.tables import PixelTable, load_pixels
from calib.stats import bootstrap_interval, paired_bootstrap

CLASSES = {"background": 0, "nucleus": [1, 2]}
LOSSES = {
    "dice-ce": "Dice + CE",
    "dice-ce-ace": "with mL1-ACE, hard",
    "dice-ce-ace-soft": "with mL1-ACE, soft",
}
TEMPERED = "dice-ce-t"
TITLES = {**LOSSES, TEMPERED: "Dice + CE, temperature"}
KINDS = ("fluorescence", "stained_light", "grey_light")
TRAINED_ON = {"fluorescence": KINDS[:1], "all": KINDS}
SEEDS = range(1, 6)
SETTINGS = {
    "channels": [8, 16, 32],
    "size": 96,
    "batch_size": 8,
    "epochs": 8,
    "optimizer": {"name": "adamw", "lr": 0.004, "weight_decay": 1e-4},
    "warmup_epochs": 0,
}
METRICS = ("dice", "ace", "ece", "mce")
log = logging.getLogger("segmentation_study")


def tables_of(root: Path) -> tuple[dict[str, PixelTable], dict[str, list[str]]]:
    """Return the images of every split, and the kind of each."""
    tables = load_pixels(root, classes=CLASSES, columns={"group": "kind"})
    return tables, {split: [*(table.groups or ())] for split, table in tables.items()}


def cells() -> Iterator[tuple[str, str, int]]:
    """Yield images, loss and seed of every training, one seed of all losses before the next."""
    for images in TRAINED_ON:
        for seed in SEEDS:
            for loss in LOSSES:
                yield images, loss, seed


def place(out: Path, images: str, loss: str, seed: int) -> Path:
    """Return where a cell is kept."""
    return out / f"{images}-{loss}-s{seed}.safetensors"


def train(root: Path, out: Path, seconds: float) -> int:
    """Train the cells that are not there, until the seconds have passed; return how many are left."""
    started = time.monotonic()
    todo = [cell for cell in cells() if not place(out, *cell).is_file()]
    if not todo:
        return 0
    tables, kinds = tables_of(root)
    out.mkdir(parents=True, exist_ok=True)
    took = 0.0
    for number, (images, loss, seed) in enumerate(todo):
        begun = time.monotonic()
        if number and begun - started + took > seconds:
            return len(todo) - number
        chosen = {
            split: table.rows([row for row, kind in enumerate(kinds[split]) if kind in TRAINED_ON[images]])
            for split, table in tables.items()
        }
        segmenter = fit_segmenter(chosen["train"], objective=loss, seed=seed, **SETTINGS)  # type: ignore[arg-type]
        if loss == "dice-ce":
            pixels = pixels_for_calibration(segmenter, chosen["val"], seed=seed)
            tempered = replace(segmenter, temperature=fit_temperature(*pixels)["temperature"])
            evaluate(tempered, tables["test"]).save(place(out, images, TEMPERED, seed))
        evaluate(segmenter, tables["test"]).save(place(out, images, loss, seed))
        took = time.monotonic() - begun
        sys.stdout.write(f"{images}, {loss}, seed {seed}: {took:.0f} s\n")
        sys.stdout.flush()
    return 0


def found_in(out: Path, images: str, loss: str, rows: list[int]) -> list[Evaluated]:
    """Return what the seeds that are done left on some of the test images."""
    found = []
    for seed in SEEDS:
        path = place(out, images, loss, seed)
        if path.is_file():
            each = Evaluated.load(path)
            names = [each.names[row] for row in rows]
            found.append(Evaluated(each.sums.rows(rows), names, None, each.class_names))
    return found


def values_of(found: list[Evaluated], metric: str) -> np.ndarray:
    """Return (seeds, images, 1) values of the class nucleus."""
    return np.stack([each.values("nucleus", metric) for each in found])  # type: ignore[arg-type]


def row_of(found: list[Evaluated], first: list[Evaluated] | None, title: str) -> list[str]:
    """Return a line: each metric with its interval, and differences to the first loss."""
    cells = [title, str(len(found))]
    for metric in METRICS:
        at = bootstrap_interval(MACRO, values_of(found, metric), several_runs=True, undefined="drop")
        cells.append(f"{100 * at.estimate:.1f} [{100 * at.low:.1f}, {100 * at.high:.1f}]")
    cells.append(f"{100 * statistics.mean(_pooled(each) for each in found):.1f}")
    for metric in ("dice", "ace", "ece"):
        if first is None or len(first) != len(found):
            cells.append("")
            continue
        at = paired_bootstrap(
            MACRO, values_of(found, metric), values_of(first, metric), several_runs=True, undefined="drop"
        )
        cells.append(f"{100 * at.estimate:+.1f} [{100 * at.low:+.1f}, {100 * at.high:+.1f}]")
    return cells


def _pooled(each: Evaluated) -> float:
    return float(per_class(each.sums, "ace", average="micro")[1])


def table(root: Path, out: Path) -> Iterator[str]:
    """Yield a table for each set of training images and kind of test images."""
    _, kinds = tables_of(root)
    head = ["loss", "seeds", "Dice %", "ACE %", "ECE %", "MCE %", "pooled ACE %"]
    head += ["Dice to first", "ACE to first", "ECE to first"]
    for images, trained in TRAINED_ON.items():
        for kind in KINDS:
            rows = [row for row, each in enumerate(kinds["test"]) if each == kind]
            if not rows:
                continue
            found = {loss: found_in(out, images, loss, rows) for loss in (*LOSSES, TEMPERED)}
            lines = [
                row_of(each, None if loss == "dice-ce" else found["dice-ce"], TITLES[loss])
                for loss, each in found.items()
                if each
            ]
            if lines:
                seen = "as trained on" if kind in trained else "NOT trained on"
                yield (
                    f"Trained on {', '.join(trained)}; {len(rows)} test images of {kind} ({seen}). Class "
                    f"nucleus, means over images, 95 % intervals over seeds and images.\n\n"
                    f"{aligned(head, lines)}"
                )


def figures(root: Path, out: Path) -> None:
    """Draw dataset reliability histograms of the first seed: fluorescence, and the stain not trained on."""
    _, kinds = tables_of(root)
    for kind in KINDS[:2]:
        rows = [row for row, each in enumerate(kinds["test"]) if each == kind]
        found = {loss: found_in(out, "fluorescence", loss, rows) for loss in (*LOSSES, TEMPERED)}
        panels = {TITLES[loss]: each[0].bins()["nucleus"] for loss, each in found.items() if each}
        if panels:
            save_figure(unit_reliability_figure(panels), out / f"fluorescence-on-{kind}.png")


def plain_ace(logits: Tensor, labels: Tensor, *, n_bins: int = 20, soft: bool = False) -> Tensor:
    """Return mL1-ACE as its formula is written, one image and class after the other, with autograd."""
    probs, edges = logits.softmax(1), torch.linspace(0, 1 + 2**-23, n_bins + 1)
    truth = torch.zeros_like(probs).scatter_(1, labels[:, None], 1.0)
    centres = (edges[1:] + edges[:-1]) / 2
    gaps = []
    for p, y in zip(probs.flatten(0, 1).flatten(1), truth.flatten(0, 1).flatten(1), strict=True):
        if soft:
            held = p.clamp(centres[0], centres[-1])
            weights = (1 - (held[:, None] - centres).abs() * n_bins).clamp_min(0)  # pixels by bins
            total, values, targets = weights.sum(0), weights.T @ p, weights.T @ y
            empty = total < 0.01
        else:
            bins, zeros = torch.bucketize(p.detach(), edges[1:]), torch.zeros(n_bins)
            total = zeros.scatter_add(0, bins, torch.ones_like(p))
            values, targets = zeros.scatter_add(0, bins, p), zeros.scatter_add(0, bins, y)
            empty = total == 0
        gap = (values / total.masked_fill(empty, 1) - targets / total.masked_fill(empty, 1)).abs()
        gaps.append(gap[~empty].mean())
    return torch.stack(gaps).mean()


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mL1-ACE, hard": ml1_ace,
    "written down plainly, hard": plain_ace,
    "mL1-ACE, soft": lambda logits, labels: ml1_ace(logits, labels, soft=True),
    "written down plainly, soft": lambda logits, labels: plain_ace(logits, labels, soft=True),
    "cross-entropy": torch.nn.functional.cross_entropy,
    "Dice": dice,
}


def monai_dice() -> Mapping[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return MONAI's Dice + cross-entropy, where it is installed."""
    try:
        from monai.losses import DiceCELoss
    except ImportError:
        return {}
    loss = DiceCELoss(softmax=True, to_onehot_y=True)
    return {"MONAI's Dice + CE": lambda logits, labels: loss(logits, labels[:, None])}


def speed(rounds: int) -> Iterator[str]:
    """Yield tables of milliseconds for value and gradient, and of memory."""
    torch.manual_seed(0)
    ways = {**WAYS, **monai_dice()}
    shapes = {"16 x 2 x 112^2": (16, 2, 112, 112), "1 x 2 x 128^3": (1, 2, 128, 128, 128)}
    times = {}
    for name, shape in shapes.items():
        logits = torch.randn(shape, requires_grad=True)
        labels = torch.randint(0, shape[1], (shape[0], *shape[2:]))
        calls = {
            way: lambda way=loss, x=logits, y=labels: torch.autograd.grad(way(x, y), x)
            for way, loss in ways.items()
        }
        times[name] = in_turns(calls, rounds)
    lines = [[way, *(f"{1000 * times[name][way].wall:.0f}" for name in shapes)] for way in ways]
    yield f"Milliseconds for value and gradient, one thread.\n\n{aligned(['loss', *shapes], lines)}"
    sides, rows = (64, 96, 128), []
    for way, loss in ways.items():
        rows.append([way, *(f"{_bytes_kept(loss, side):.0f}" for side in sides)])
    head = ["loss", *(f"{side}^3" for side in sides)]
    yield f"Bytes per voxel and class that the gradient keeps.\n\n{aligned(head, rows)}"


def _bytes_kept(loss: Callable[[Tensor, Tensor], Tensor], side: int) -> float:
    logits = torch.randn(1, 2, side, side, side, requires_grad=True)
    labels = torch.randint(0, 2, (1, side, side, side))
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = loss(logits, labels)
    del value
    return sum(kept.values()) / logits.numel()


def main(argv: list[str] | None = None) -> int:
    """Run one part and write what it found. Returns the exit status; 3: `train` is not done yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("train", "table", "speed"))
    parser.add_argument("root", nargs="?", type=Path, help="the folder of the images")
    parser.add_argument("--out", type=Path, default=Path("runs/segmentation-study"))
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no cell that ends after them"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of speed")
    given = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if given.part != "speed" and given.root is None:
        parser.error("give the folder of the images")
    if given.part == "train":
        left = train(given.root, given.out, given.seconds)
        sys.stdout.write(
            f"{left} cells are left: the same command goes on.\n" if left else "All cells are done.\n"
        )
        return 3 if left else 0
    text = ""
    for each in speed(given.rounds) if given.part == "speed" else table(given.root, given.out):
        sys.stdout.write(f"{each}\n\n")
        sys.stdout.flush()
        text += f"{each}\n\n"
    if given.part == "table":
        figures(given.root, given.out)
    write_text(given.out / f"{given.part}.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
