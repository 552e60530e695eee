"""What a graphics card makes of it: steps, host waits, encoding, runs, processes, shares of its peak.

    python benchmarks/run.py --device cuda --quick         # this file, where a card is at hand: a few minutes
    python benchmarks/on_device.py --device cpu --quick     # the same tables of the CPU

PLIP's size, random weights. Seconds of a card are between two of its events, over many calls in a row; the
share of its peak is that of the matrix products which cannot be left out, against the largest product of the
same precision (fp32: no TensorFloat-32). Host waits per step are counted by PyTorch on a card, on a CPU by
the operations that would wait for one. Features and gradients are compared with those of the CPU.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import text_tower
import torch
from host_waits import host_waits, that_wait
from measuring import (
    Card,
    Neighbours,
    device_peak,
    driver,
    duration,
    forget_device_peak,
    in_turns,
    processor,
    seconds,
)
from official_loop import TRAIN_BATCH, OfficialLoop
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from whole_runs import image_operations, make_images, measure_steps, step_operations
from whole_runs import step_table as released_table

import calib
from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.core.float32 import exact_float32
from calib.data import ImageTable, encode_table
from calib.data.predictions import Predictions
from calib.data.records import FileSource
from calib.io.files import write_text
from calib.losses import Objective, resolve_terms
from calib.prompts.learner import PromptLearner
from calib.prompts.stack import PromptStackModule, StackedPrompt
from calib.prompts.zero_shot import zero_shot_features
from calib.report.tables import aligned
from calib.training.optim import make_optimizer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
NAMES = text_tower.NAMES
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """How much is measured: turns, side of the largest product, prompts, images at once, files, epochs."""

    rounds: int
    product: int
    prompts: tuple[int, ...]
    batches: tuple[int, ...]
    files: int
    epochs: int


QUICK, WHOLE = (
    Size(3, 4096, (1, 16), (32, 256), 256, 20),
    Size(7, 8192, (1, 4, 16, 64), (16, 32, 256), 2048, 50),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write them. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ..., or cpu (cuda)")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, images and prompts")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-device.md"), help="where the tables go")
    given = parser.parse_args(argv)
    try:
        device = device_of(given.device)
    except ValueError as error:
        parser.error(str(error))
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    return measure(device, QUICK if given.quick else WHOLE, given.out)


def device_of(name: str) -> torch.device:
    """Return the device of a name, a card with its number.

    Raises:
        ValueError: It is not here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device must be cpu, cuda or cuda:NUMBER, got {name!r}.") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ValueError(f"--device must be cpu, cuda or cuda:NUMBER, got {name!r}.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        raise ValueError(
            f"--device {name}: PyTorch {torch.__version__} sees {count} CUDA devices here. Take "
            "--device cpu, or see `calib doctor` and nvidia-smi for what is missing."
        )
    return torch.device("cuda", device.index or 0)


def measure(device: torch.device, size: Size, out: Path) -> int:
    """Measure all tables of a device, print them one by one and write them."""
    others, parts = Neighbours(), []

    def add(part: str) -> None:
        parts.append(part)
        sys.stdout.write(part + "\n\n")
        sys.stdout.flush()

    here = card_of(device, size.product if device.type == "cuda" else 1024)
    add(f"torch {torch.__version__}, {len(NAMES)} classes, batches of {TRAIN_BATCH}.")
    add(str(here))
    backbone = create_backbone("plip", weights="random").to(device)
    add(step_table(backbone, size, here))
    add(agreement(backbone))
    add(encoding_table(backbone, size, here))
    with tempfile.TemporaryDirectory() as folder:
        files = make_images(Path(folder) / "images", size.files)
        steps = measure_steps(OfficialLoop(backbone, NAMES), files["train"], size.rounds)
        add(released_table(steps, here, step_operations(backbone, NAMES)))
        add(file_table(backbone, files["test"], size.batches[-1]))
        add(process_table(device, Path(folder), size.epochs))
    add(str(others))
    write_text(out, "\n\n".join(parts) + "\n")
    sys.stdout.write(f"Written: {out}\n")
    return 0


def card_of(device: torch.device, side: int, rounds: int = 5) -> Card:
    """Return a device's name and driver, and the speed of its largest products, of matrices of one side."""
    found = {}
    for name, dtype in PRECISIONS.items():
        first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        with exact_float32(device):
            wall = in_turns({name: lambda a=first, b=second: a @ b}, rounds, device)[name].wall
        found[name] = 2 * side**3 / wall
    if device.type != "cuda":
        return Card(processor(), "", 0, **found)
    about, version = torch.cuda.get_device_properties(device), driver()
    said = f"driver {version or 'not known'}, CUDA {torch.version.cuda}, sm_{about.major}{about.minor}"
    return Card(about.name, said, about.total_memory, **found)


def stack_of(backbone: Backbone, n_prompts: int) -> PromptStackModule:
    """Return so many prompts, trained side by side on the tissue names, where the backbone is."""
    objective = Objective(resolve_terms("calibprompt-ls"))
    prompts = [
        StackedPrompt(PromptLearner(backbone, NAMES, seed=seed), objective, {"lr": 0.002})
        for seed in range(1, n_prompts + 1)
    ]
    zero_shot = zero_shot_features(backbone, NAMES, "An image of {}.")
    return PromptStackModule(backbone, prompts, zero_shot).to(backbone.device)


def step_of(module: PromptStackModule, precision: str) -> Callable[[], None]:
    """Return a training step of a stack on cached features: losses, gradients, optimiser."""
    device, generator = module.backbone.device, torch.Generator().manual_seed(0)
    images = normalize(torch.randn(TRAIN_BATCH, module.backbone.embed_dim, generator=generator), dim=1)
    labels = torch.arange(TRAIN_BATCH) % len(NAMES)
    batch = {"image_features": images.to(device), "labels": labels.to(device)}
    optimizer = make_optimizer([each.learner.context for each in module.prompts], name="sgd", lr=0.002)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = module.training_step([batch] * len(module.prompts), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def step_table(backbone: Backbone, size: Size, here: Card) -> str:
    """Measure training steps by prompts side by side and precision, with their host waits and memory."""
    device, rows = backbone.device, []
    tokens, positions = text_tower.prompts(backbone, len(NAMES), text_tower.N_CTX["plip"])
    one = text_tower.least_operations(backbone, tokens.to(device), positions.to(device))
    for n_prompts in size.prompts:
        module = stack_of(backbone, n_prompts)
        for precision in PRECISIONS:
            step = step_of(module, precision)
            step()  # what is made once is made here
            forget_device_peak(device)
            with host_waits(device) as found:
                step()
            waits = len(that_wait(found))
            clocks = in_turns({"step": step}, size.rounds, device)["step"]
            share = here.share(n_prompts * one, clocks.wall, precision=precision)
            row = [str(n_prompts), precision, duration(clocks.wall), duration(clocks.wall / n_prompts), share]
            rows.append([*row, duration(clocks.cpu), str(waits), f"{device_peak(device):.0f}"])
    header = ["prompts in a step", "precision", "step", "per prompt", "of peak", "work of the host"]
    return here.below(aligned([*header, "host waits", "peak MB"], rows))


def agreement(backbone: Backbone) -> str:
    """Return how far features and gradients on a device are from those of the CPU, in float32."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for place in (CPU, backbone.device):
        model = copy.deepcopy(backbone).to(place)
        learner = PromptLearner(model, NAMES, seed=1).to(place)
        texts = learner(model)
        weights = torch.randn(texts.shape, generator=torch.Generator().manual_seed(1)).to(place)
        (gradient,) = torch.autograd.grad((texts * weights).sum(), learner.context)
        pixels = torch.randn(8, 3, *side_of(backbone), generator=torch.Generator().manual_seed(0))
        images = model.encode_image(pixels)
        found.append((images.cpu(), texts.detach().cpu(), gradient.cpu()))
    images, texts, gradient = (there - own for own, there in zip(*found, strict=True))
    rows = [
        ["image features, largest difference", f"{float(images.abs().max()):.0e}"],
        ["text features, largest difference", f"{float(texts.abs().max()):.0e}"],
        ["gradient of the context, of its norm", f"{float(gradient.norm() / found[0][2].norm()):.0e}"],
    ]
    return aligned([f"{backbone.device} against the CPU, fp32", "found"], rows)


def encoding_table(backbone: Backbone, size: Size, here: Card) -> str:
    """Measure the image tower by precision and images at once, pixels on the device."""
    device, rows, operations = backbone.device, [], image_operations(backbone)
    towers = {"fp32": backbone, "bf16": in_bf16(backbone)}
    generator = torch.Generator().manual_seed(0)
    exact = None
    for precision, tower in towers.items():
        for count in size.batches:
            pixels = torch.randn(count, 3, *side_of(backbone), generator=generator).to(device)
            with torch.inference_mode():
                tower.encode_image(pixels)  # converts and packs weights
                forget_device_peak(device)
                wall = in_turns({"": partial(tower.encode_image, pixels)}, size.rounds, device)[""].wall
            peak = device_peak(device)
            share = here.share(count * operations, wall, precision=precision)
            rows.append([precision, str(count), duration(wall), f"{count / wall:.0f}", share, f"{peak:.0f}"])
        few = torch.randn(8, 3, *side_of(backbone), generator=torch.Generator().manual_seed(1))
        features = tower.encode_image(few).float().cpu()
        exact = features if exact is None else exact
        rows[-1].append(f"{float(1 - cosine_similarity(features, exact).min()):.0e}")
    header = [
        "encoding",
        "images at once",
        "batch",
        "images per s",
        "of peak",
        "peak MB",
        "1 - cosine with fp32",
    ]
    return here.below(aligned(header, [row + [""] * (len(header) - len(row)) for row in rows]))


def side_of(backbone: Backbone) -> tuple[int, int]:
    """Return the height and width of its images."""
    size = backbone.preprocess.image_size
    return size, size


def in_bf16(backbone: Backbone) -> Backbone:
    """Return a backbone with the same weights that encodes in bfloat16."""
    other = create_backbone("plip", weights="random", encode_precision="bf16")
    return other.to(backbone.device)


def file_table(backbone: Backbone, files: Sequence[Path], batch_size: int) -> str:
    """Measure encoding image files: reading, preparing, encoding, all of it."""
    table = ImageTable([FileSource(file) for file in files], [0] * len(files), [file.name for file in files])
    rows = []
    for precision, tower in {"fp32": backbone, "bf16": in_bf16(backbone)}.items():
        wall = seconds(partial(encode_table, tower, table, batch_size=batch_size), backbone.device)
        rows.append([precision, str(len(files)), duration(wall), f"{len(files) / wall:.0f}"])
    return aligned(["encoding files", "images", "seconds", "images per s"], rows)


def process_table(device: torch.device, folder: Path, epochs: int) -> str:
    """Train a whole run in one and in two processes: a device each, or refused; the results compared."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    common = [
        "backbone.name=plip",
        "backbone.weights=random",
        "data.name=folder",
        f"data.root={folder / 'images'}",
    ]
    common += [f"data.cache_dir={folder / 'cache'}", "data.val_shots=0", "data.views=1"]
    common += ["baselines=[]", "calibrate.method=none"]
    common += [f"trainer.max_epochs={epochs}", f"trainer.accelerator={accelerator}"]
    train(folder / "first", [*common, "trainer.max_epochs=1"])  # fills the cache
    rows, logits = [], []
    for count in (1, 2):
        out = folder / f"run-{count}"
        wall, said = train(out, [*common, f"trainer.devices={count}"])
        row = [str(count), f"{min(count, torch.cuda.device_count())} of {torch.cuda.device_count()}"]
        if not (out / "metrics.json").is_file():
            rows.append([*row, "refused", said, ""])
            continue
        logits.append(Predictions.load(out / "predictions.safetensors").logits)
        difference = f"{float((logits[-1] - logits[0]).abs().max()):.0e}"
        rows.append([*row, duration(wall), "", difference])
    header = ["processes", "cards", f"run of {epochs} epochs, warm cache", "why not", "logits differ"]
    return aligned(header, rows)


def train(out: Path, settings: Sequence[str]) -> tuple[float, str]:
    """Return how long `calib train` took, its start included, and the last line of what it said."""
    root = str(Path(calib.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "calib.cli", "train", *settings, f"out={out}"]
    start = time.perf_counter()
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    lines = [re.sub(r"\s+", " ", each) for each in ended.stderr.strip().splitlines() if each.strip()]
    if ended.returncode and not lines:
        raise RuntimeError(f"calib train ended with status {ended.returncode} and said nothing.")
    return time.perf_counter() - start, lines[-1] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
