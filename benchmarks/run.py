"""How much faster than the released loop: steps, runs, evaluations, sweeps, at PLIP's size.

    python benchmarks/run.py            # everything, some 25 minutes on two quiet cores
    python benchmarks/run.py --quick    # under five minutes: fewer repetitions, images and runs
    python benchmarks/run.py --device cuda --quick      # a graphics card, see `benchmarks/on_device.py`

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
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import on_device
import scaling
import text_tower
import torch
from measuring import Machine, Neighbours, duration, in_turns
from official_loop import TRAIN_BATCH, OfficialLoop
from whole_runs import (
    CLASSES,
    SHOTS,
    Size,
    make_images,
    measure_steps,
    run_table,
    step_operations,
    step_table,
)

from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.io.files import write_text
from calib.metrics import kde_calibration_error, summarize
from calib.prompts.learner import PromptLearner
from calib.report.tables import aligned

QUICK, WHOLE = Size(3, 100, 4, 2), Size(7, 1000, 16, 3)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write them with a plot. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, images and runs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.md"), help="table; a plot beside it")
    parser.add_argument("--device", default="cpu", help="cpu, or a card: cuda, cuda:1, ... (cpu)")
    given = parser.parse_args(argv)
    if given.device != "cpu":
        quick = ["--quick"] if given.quick else []
        return on_device.main(["--device", given.device, "--out", str(given.out), *quick])
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

    times = {}
    for n in range(1, 6):  # each by itself, as in a run: MKL packs weights anew for another number of rows
        alone = {str(n): partial(step, n)}
        in_turns(alone, 1)
        times[n] = in_turns(alone, rounds)[str(n)].wall
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
