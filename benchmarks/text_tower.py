"""One training step through the text tower: the library's way against the faster ones.

    OMP_NUM_THREADS=1 python benchmarks/text_tower.py
    python benchmarks/text_tower.py --classes 2,9,100,1000 --rounds 3
    python benchmarks/text_tower.py --backbone biomedclip --sets 1,8

Forward and backward to the context, at the published size with random weights, 9 tissue classes (or as many
random ones) and 16 context tokens:

- official: every class with all its padding through the library's tower, as CoOp and CalibPrompt do;
- trimmed: the same, stopped at the longest prompt (not for MedCLIP, which pools its padding);
- plain: `Backbone.encode_prompts` with PyTorch's own matrix product, like the first two;
- packed: the same with packed weights, see `calib/backbones/kernels.py`.

All ways of a row run in turns in one process; the table shows medians. CPU seconds do not count the time
other processes had, so they are what to compare on a shared machine. "peak" is the share of the fastest
matrix product (2048 x 2048 x 2048, packed or plain) of the same run. Errors are against the official way
in the same precision. More than 100 classes are beyond the memory of the first two: theirs is that of
100, multiplied.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import torch
import torch.nn.functional as F  # noqa: N812
from measuring import Clocks, Machine, in_turns, kernel, processor
from torch import Tensor

from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.backbones.fast.kernels import PackedLinear, packed_wanted
from calib.backbones.placing import place_context, replaced_output
from calib.data import DATASETS
from calib.prompts.learner import PromptLearner

N_CTX = {"plip": 16, "biomedclip": 16, "medclip": 8}
NAMES = tuple(DATASETS["kather"].class_names.values())
PIECES = (3, 1, 1, 4, 2, 2, 5, 5, 8)  # of these names for CLIP, without the full stop
LARGEST = 100  # classes that the library's way still has memory for
PEAK_SIZE = 2048

Way = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Row:
    """One way at one size: seconds per step and set, and how far it is from the official way."""

    classes: int
    sets: int
    way: str
    seconds: float
    cpu_seconds: float
    times_faster: float
    peak_share: float | None
    feature_error: float
    gradient_error: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=sorted(N_CTX), default="plip")
    parser.add_argument("--classes", default="9", help="numbers of classes, with commas between")
    parser.add_argument(
        "--sets", default="1", help="prompt sets side by side, with commas between; times are per set"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is timed")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        backbone = build(given.backbone, Path(folder))
    print(f"{backbone.name}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; packed by default: {packed_wanted()}\n")
    print("| classes | sets | way | ms | CPU ms | times faster | of peak | features | gradient |")
    print("|--:|--:|:--|--:|--:|--:|--:|--:|--:|", flush=True)
    rows = []
    for n_classes in map(int, given.classes.split(",")):
        for n_sets in map(int, given.sets.split(",")):
            found = measure(backbone, n_classes, n_sets, given.rounds, N_CTX[given.backbone])
            print("\n".join(map(line, found)), flush=True)
            rows += found
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


def build(name: str, folder: Path) -> Backbone:
    """Return a backbone of the published size with random weights; BERTs get a made-up vocabulary."""
    if name == "plip":
        return create_backbone(name, weights="random")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "x", ".", *(f"word{number}" for number in range(28_000))]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words) + "\n", encoding="utf-8")
    return create_backbone(name, weights="random", tokenizer=vocabulary)


def prompts(backbone: Backbone, n_classes: int, n_ctx: int) -> tuple[Tensor, Tensor]:
    """Return token rows (C, L) and context positions (C, M) of the tissue names, or of random ones."""
    if n_classes <= len(NAMES) and not has_bert(backbone):
        learner = PromptLearner(backbone, NAMES[:n_classes], n_ctx=n_ctx)
        return learner.tokens, learner.positions
    draw, stop = random.Random(0), backbone.piece_ids(".")
    ids = range(1000, 20_000)
    rows = [
        [backbone.filler_id] * n_ctx + draw.choices(ids, k=PIECES[row % len(PIECES)]) + stop
        for row in range(n_classes)
    ]
    positions = torch.arange(n_ctx) + backbone.start_length
    return torch.stack([backbone.assemble(row) for row in rows]), positions.expand(n_classes, -1).contiguous()


def has_bert(backbone: Backbone) -> bool:
    """Return whether the text tower is a BERT, whose vocabulary here is made up."""
    return hasattr(backbone._fast_tower, "bert")


def measure(backbone: Backbone, n_classes: int, n_sets: int, rounds: int, n_ctx: int) -> list[Row]:
    """Return the rows of all ways at one size."""
    tokens, positions = prompts(backbone, n_classes, n_ctx)
    few = min(n_classes, LARGEST)
    generator = torch.Generator().manual_seed(1)
    shape = (n_sets, positions.shape[1], backbone.token_width)
    context = (torch.randn(shape, generator=generator) * 0.02).requires_grad_()
    weights = torch.randn(n_sets, n_classes, backbone.embed_dim, generator=generator)

    def step(encode: Callable[..., Tensor], setting: str, first: int = n_classes) -> Way:
        def run() -> tuple[Tensor, Tensor]:
            with kernel(setting):
                features = encode(context, tokens[:first], positions[:first])
                (gradient,) = torch.autograd.grad((features * weights[:, :first]).sum(), context)
            return features.detach(), gradient

        return run

    def by_hook(*args: Tensor) -> Tensor:
        return backbone.encode_prompts_by_hook(*args, sets=True)

    def faster(*args: Tensor) -> Tensor:
        return backbone.encode_prompts(*args, sets=True)

    ways: dict[str, Way] = {"official": step(by_hook, "plain", few)}
    if backbone.name != "medclip":
        ways["trimmed"] = step(lambda *args: trimmed(backbone, *args), "plain", few)
    ways |= {"plain": step(faster, "plain"), "packed": step(faster, "packed")}
    reference = ways["official"]()
    errors = {}
    for way in ways:
        compared = step(faster, way, few) if way in ("plain", "packed") else ways[way]
        errors[way] = difference(compared(), reference)
        ways[way]()  # packs the weights
    times = in_turns({**ways, **products()}, rounds)
    peak = 2 * PEAK_SIZE**3 / min(times["plain product"][1], times["packed product"][1])
    parts = {way: n_classes / few if way in ("official", "trimmed") else 1.0 for way in ways}
    whole = times["official"][1] * parts["official"]
    least = least_operations(backbone, tokens, positions) * n_sets
    return [
        Row(
            classes=n_classes,
            sets=n_sets,
            way=way,
            seconds=times[way][0] * part / n_sets,
            cpu_seconds=times[way][1] * part / n_sets,
            times_faster=whole / (times[way][1] * part),
            peak_share=least / times[way][1] / peak if way in ("plain", "packed") else None,
            feature_error=errors[way][0],
            gradient_error=errors[way][1],
        )
        for way, part in parts.items()
    ]


def trimmed(backbone: Backbone, contexts: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
    """Return the features (S, C, D) by the library's own layers, stopped at the longest prompt."""
    length = int((tokens != backbone.tokenizer.pad_id).sum(dim=1).max())
    tokens = tokens[:, :length]
    placed = place_context(contexts, backbone.token_embeddings(tokens), positions)  # (S, C, T, E)
    model: Any = backbone.model
    repeated = tokens.repeat(len(contexts), 1)
    if not has_bert(backbone):  # open_clip adds its positions over the full length
        hidden = placed.flatten(0, 1) + model.positional_embedding[:length]
        hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
        features = hidden[torch.arange(len(hidden)), repeated.argmax(dim=1)] @ model.text_projection
    else:
        with replaced_output(backbone.token_embedding, placed.flatten(0, 1)):
            features = model.encode_text(repeated)
    return F.normalize(features, dim=-1).view(len(contexts), len(tokens), -1)


def products() -> dict[str, Callable[[], Tensor]]:
    """Return one large matrix product on each kernel: the measure of what the machine can do."""
    inputs, weight = torch.randn(PEAK_SIZE, PEAK_SIZE), torch.randn(PEAK_SIZE, PEAK_SIZE)
    packed = PackedLinear(lambda: (weight, None))
    return {
        "plain product": lambda: F.linear(inputs, weight),
        "packed product": lambda: packed.product(inputs),
    }


def clock() -> float:
    """Return seconds: processor time with one thread, in which no other process counts; else the wall's."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds_of(clocks: Clocks) -> float:
    """Return the seconds of the clock that `clock` looks at."""
    return clocks.cpu if torch.get_num_threads() == 1 else clocks.wall


def machine(rounds: int = 9) -> Machine:
    """Return the processor and its speed, which ratios are to be read with."""
    found = in_turns(products(), rounds=rounds)
    plain, packed = (2 * PEAK_SIZE**3 / seconds_of(clocks) for clocks in found.values())
    return Machine(processor(), torch.get_num_threads(), plain, packed)


def least_operations(backbone: Backbone, tokens: Tensor, positions: Tensor) -> int:
    """Return the operations of the layers' matrix products for the rows that count, forward and backward."""
    tower: Any = backbone._fast_tower
    found = tower.prompts(tokens, positions, specific=False)
    packing = found.rows if has_bert(backbone) else found.tree
    blocks = tower.bert.encoder.layer if has_bert(backbone) else tower.text.transformer.resblocks
    size = sum(parameter.numel() for parameter in blocks[0].parameters() if parameter.ndim == 2)
    width = backbone.token_width
    rows, pooled = len(packing.places), len(packing.ends)
    last = size * rows if backbone.name == "medclip" else 2 * width**2 * rows + (size - 2 * width**2) * pooled
    return 4 * ((len(blocks) - 1) * size * rows + last)


def difference(found: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return the largest difference of the features and the relative one of the gradient."""
    features, gradient = ((one - other) for one, other in zip(found, reference, strict=True))
    return features.abs().max().item(), (gradient.norm() / reference[1].norm()).item()


def line(row: Row) -> str:
    """Return a row of the table."""
    share = "" if row.peak_share is None else f"{row.peak_share:.0%}"
    return (
        f"| {row.classes} | {row.sets} | {row.way} | {row.seconds * 1e3:.1f} | {row.cpu_seconds * 1e3:.1f} | "
        f"{row.times_faster:.1f} | {share} | {row.feature_error:.0e} | {row.gradient_error:.0e} |"
    )


if __name__ == "__main__":
    sys.exit(main())
