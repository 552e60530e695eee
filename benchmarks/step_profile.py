"""Where the time of a training step goes, part by part, and what a whole step is of the processor's peak.

    python benchmarks/step_profile.py                        # some three minutes on two quiet cores
    OMP_NUM_THREADS=1 python benchmarks/step_profile.py      # processor time, also beside other processes
    python benchmarks/step_profile.py --backbone plip --sets 1

Prompts of 9 classes on cached features, random weights of the published size, trained by Lightning as
`calib train` does it: alone, or S side by side as in sweeps and folds. A step is timed in Lightning, then
without it, then under PyTorch's profiler, which says how long each operator took:

- matrix products: the tower's linear layers and the few small ones of the loss;
- attention, normalisation, activation: with their backward where it is not said apart;
- sums and copies: every other operator;
- optimiser: the step of SGD and the zeroing of gradients;
- Python and autograd: what is left of the step without Lightning; nobody timed it, so it holds the errors;
- Lightning: what a step takes longer inside `Trainer.fit`, with its batches.

The parts add up to the step in Lightning. The profiler makes the operators' times a little longer, by no more
than what its line says, and Python's part shorter by the same. With one thread all times are processor time,
which other processes do not count in (operators are timed by the wall, and get the processor's share of it);
with more they are the wall's and want a quiet machine.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import scaling
import text_tower
import torch
from lightning import Callback, LightningModule
from measuring import Neighbours, processor
from torch.profiler import ProfilerActivity, profile, record_function

from calib.backbones.base import Backbone
from calib.data import FewShotDataModule
from calib.losses import Objective, resolve_terms
from calib.prompts.fit import OPTIMIZER
from calib.prompts.learner import PromptLearner
from calib.prompts.module import PromptTuningModule
from calib.prompts.stack import PromptStackModule, StackedLoader, StackedPrompt
from calib.report.tables import aligned
from calib.training.fit import fit_quietly
from calib.training.optim import make_optimizer

SHOTS, BATCH = 8, 16
SPEND = 4.0  # seconds for each of the three ways of timing a step
FORWARD, BACKWARD, OPTIMISER = "calib forward", "calib backward", "calib optimiser"
REST, LIGHTNING = "Python and autograd", "Lightning"
PARTS = {
    "matrix products": ("_mkl_linear", "_linear_pointwise", "linear", "addmm", "mm", "matmul"),
    "attention": (
        "scaled_dot_product_attention",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
        "bmm",
        "baddbmm",
        "_softmax",
        "_softmax_backward_data",
    ),
    "normalisation": ("layer_norm", "native_layer_norm_backward"),
    "activation": ("silu", "silu_backward", "gelu", "gelu_backward"),
}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
APART = ("matrix products", "attention")  # forward and backward on lines of their own
OTHER = "sums and copies"
ROWS = (
    *(f"{part}, {way}" for part in APART for way in ("forward", "backward")),
    "normalisation",
    "activation",
    OTHER,
    "optimiser",
    REST,
    LIGHTNING,
)


@dataclass(frozen=True)
class Profile:
    """A step, in seconds: its parts, which add up to the step, and what the profiler added when it looked.

    `operations` are those of the linear layers, forward and backward, that cannot be left out.
    """

    sets: int
    parts: Mapping[str, float]
    profiler: float
    operations: int

    @property
    def step(self) -> float:
        """Return the whole step's seconds."""
        return sum(self.parts.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table for each backbone. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="plip,biomedclip", help="names, with commas between")
    parser.add_argument("--sets", default="1,4,16", help="prompts side by side, with commas between")
    given = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    others, threads = Neighbours(), torch.get_num_threads()
    which = "processor time of one thread" if threads == 1 else f"wall time of {threads} threads"
    sys.stdout.write(f"{processor()}, torch {torch.__version__}: {which}.\n")
    here = text_tower.machine(rounds=5)
    peak = max(here.plain, here.packed)
    for name in given.backbone.split(","):
        with tempfile.TemporaryDirectory() as folder:
            backbone = text_tower.build(name, Path(folder))
        found = [measure(backbone, sets) for sets in map(int, given.sets.split(","))]
        sys.stdout.write(f"\n{table(name, found, peak)}\n")
        sys.stdout.flush()
    sys.stdout.write(f"\n{others}\n")
    return 0


def measure(backbone: Backbone, sets: int, n_ctx: int = 16) -> Profile:
    """Return the profile of a step of so many prompts side by side."""
    names = names_for(backbone)
    learners = [PromptLearner(backbone, names, n_ctx=n_ctx, seed=seed) for seed in range(1, sets + 1)]
    module, loader = training(backbone, learners)
    own = {name: value for name, value in OPTIMIZER.items() if name != "name"}
    optimizer = make_optimizer(
        [{"params": [each.context], **own} for each in learners], name="sgd", lr=own["lr"]
    )
    batch = next(iter(loader))
    bare(module, optimizer, batch)  # packs the weights
    start = text_tower.clock()
    bare(module, optimizer, batch)
    steps = min(max(int(SPEND / (text_tower.clock() - start)), 3), 40)
    alone = statistics.median(timed(lambda: bare(module, optimizer, batch)) for _ in range(steps))
    within = in_lightning(module, loader, steps)
    profiled, parts = operators(lambda: bare(module, optimizer, batch), steps)
    parts[REST] = alone - sum(parts.values())
    parts[LIGHTNING] = within - alone
    least = text_tower.least_operations(backbone, learners[0].tokens, learners[0].positions)
    return Profile(sets, {row: parts.get(row, 0.0) for row in ROWS}, profiled - alone, sets * least)


def names_for(backbone: Backbone) -> list[str]:
    """Return the tissue names, or as many words of the made-up vocabulary of a BERT."""
    if not text_tower.has_bert(backbone):
        return list(text_tower.NAMES)
    words = iter(range(1000, 2000))
    return [" ".join(f"word{next(words)}" for _ in range(n)) for n in text_tower.PIECES]


def training(backbone: Backbone, learners: Sequence[PromptLearner]) -> tuple[LightningModule, Any]:
    """Return the module that trains these prompts on random features, and its batches."""
    names = learners[0].class_names
    features = scaling.random_features(SHOTS * len(names), backbone.embed_dim, len(names))
    zero_shot = torch.nn.functional.normalize(torch.randn(len(names), backbone.embed_dim), dim=1)
    objective = Objective(resolve_terms("calibprompt-ls"))
    loaders = [
        FewShotDataModule(features, batch_size=BATCH, drop_last=True, seed=seed).train_dataloader()
        for seed in range(len(learners))
    ]
    if len(learners) == 1:
        alone = PromptTuningModule(backbone, learners[0], objective, zero_shot, optimizer=OPTIMIZER)
        return alone, loaders[0]
    own = {name: value for name, value in OPTIMIZER.items() if name != "name"}
    prompts = [StackedPrompt(learner, objective, own) for learner in learners]
    return PromptStackModule(backbone, prompts, zero_shot), StackedLoader(loaders)


def bare(module: LightningModule, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    """Take a step as Lightning does, without Lightning."""
    with record_function(OPTIMISER):
        optimizer.zero_grad()
    with record_function(FORWARD):
        loss = module.training_step(batch, 0)
    with record_function(BACKWARD):
        loss.backward()
    with record_function(OPTIMISER):
        optimizer.step()


def timed(run: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    start = text_tower.clock()
    run()
    return text_tower.clock() - start


class _Watch(Callback):
    """Looks at the clock whenever a step begins."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(text_tower.clock())


def in_lightning(module: LightningModule, loader: Any, steps: int) -> float:
    """Return the seconds between the beginnings of two steps of one epoch, the median of about so many."""
    from lightning import Trainer

    watch = _Watch()
    trainer = Trainer(
        max_epochs=-(-(steps + 2) // len(loader)),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
        accelerator="cpu",
    )
    fit_quietly(module, loader, max_epochs=1, trainer=trainer)
    lengths = [after - before for before, after in zip(watch.starts, watch.starts[1:], strict=False)]
    within = [length for number, length in enumerate(lengths, 1) if number % len(loader)]
    return statistics.median((within or lengths)[1:])  # of an epoch of one step there is nothing within


def operators(step: Callable[[], object], steps: int) -> tuple[float, dict[str, float]]:
    """Return the seconds of a profiled step and those of its parts, medians of so many."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        start = time.perf_counter()
        lengths = [timed(step) for _ in range(steps)]
        wall = time.perf_counter() - start
    share = sum(lengths) / wall  # of the wall's time, which is what operators were timed by
    seen = [event for event in found.events() if event.name in (FORWARD, BACKWARD, OPTIMISER)]
    every = len(seen) // steps
    totals = []
    for number in range(steps):
        total: Counter[str] = Counter()
        for event in seen[number * every : (number + 1) * every]:
            if event.name == OPTIMISER:
                total["optimiser"] += event.cpu_time_total
            else:
                _add(total, event, event.name == BACKWARD)
        totals.append(total)
    parts = {name for total in totals for name in total}
    return statistics.median(lengths), {
        name: statistics.median(total[name] for total in totals) * share / 1e6 for name in parts
    }


def _add(total: Counter[str], event: Any, backward: bool) -> None:
    """Add an event's microseconds to its part; those of one that is no operator are its children's."""
    space, _, name = event.name.partition("::")
    part = PART_OF.get(name)
    if part is None and (space != "aten" or any(_holds(child) for child in event.cpu_children)):
        for child in event.cpu_children:
            _add(total, child, backward)
        return
    part = part or OTHER
    way = ", backward" if backward else ", forward"
    total[part + way if part in APART else part] += event.cpu_time_total


def _holds(event: Any) -> bool:
    """Return whether an event is an operator with a part of its own, or holds one."""
    return event.name.partition("::")[2] in PART_OF or any(_holds(child) for child in event.cpu_children)


def table(name: str, found: Sequence[Profile], peak: float) -> str:
    """Return the parts of steps in milliseconds per prompt and as shares, in Markdown."""
    header = [f"{name}, ms per prompt", *(text for each in found for text in (f"S = {each.sets}", "of it"))]
    rows = []
    for part in ROWS:
        cells = [(each.parts[part], each) for each in found]
        rows.append([part, *(t for value, each in cells for t in _cell(value, each))])
    rows.append(["**whole step**", *(t for each in found for t in _cell(each.step, each))])
    rows.append(["the profiler's own", *(t for each in found for t in _cell(each.profiler, each))])
    linear = [f"{part}, {way}" for part in APART[:1] for way in ("forward", "backward")]
    for title, names in ((f"of peak: {linear[0]}", linear[:1]), (f"of peak: {linear[1]}", linear[1:])):
        shares = [each.operations / 2 / each.parts[names[0]] / peak for each in found]
        rows.append([title, *(t for share in shares for t in (f"{share:.0%}", ""))])
    whole = [each.operations / each.step / peak for each in found]
    rows.append(["of peak: **whole step**", *(t for share in whole for t in (f"{share:.0%}", ""))])
    return f"{aligned(header, rows)}\n\nPeak: {peak / 1e9:.0f} GFLOP/s."


def _cell(value: float, each: Profile) -> tuple[str, str]:
    return f"{value / each.sets * 1e3:.1f}", f"{value / each.step:.0%}"


if __name__ == "__main__":
    sys.exit(main())
