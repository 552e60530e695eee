"""One doubt against its parts: is the stack as good as the best single score, whatever data and size?

    python benchmarks/doubt_study.py cxr3 lc25000 pneumoniamnist=FILE.npz fundus=FOLDER
    python benchmarks/doubt_study.py --development cxr3 lc25000 pneumoniamnist=FILE.npz fundus=FOLDER

Zero-shot predictions of the embedded backbone, and those of prompts learned from 8 images per class with the
defaults of `train.py`, are judged by what `train.py task=failure` fits by default: the stack, its parts and
every other score. They learn from 8, 16, 64 and all training images per class: of zero-shot from a draw; of
a prompt with 8 from its own shots, each judged by a prompt trained without it, and with more from images
outside its shots, filled up with cross-fitted shots where a class has too few. The head sees plain images
only, so that nothing but these is encoded.

Seeds 1 to 5 are judged on the test images. `--development` judges seeds 11 to 15 on what the draws leave of
the training and validation splits, and varies the stack: its prior, its parts, the shape of its scores. The
defaults were chosen there. Every finished cell (data, predictions, size, seed) is kept in `--out`; the same
command goes on behind it. FOLDER holds labels.csv with the columns file, label, patient and split.
"""

from __future__ import annotations

import functools
import itertools
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import numpy as np
import torch
from calibration_study import EPOCHS as PROMPT_EPOCHS
from calibration_study import Trained, begun, source_of, study_parser, train
from torch import Tensor

from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.core.hashing import stable_hash
from calib.data import FeatureTable, TaskData
from calib.data.encode import encode
from calib.data.folds import owners
from calib.failure.cases import FailureCases
from calib.failure.data import FrozenClassifier, cases_of, draw_rows
from calib.failure.doubt import HEAD, new_stack
from calib.failure.evaluation import (
    BASELINE,
    DOUBT,
    ECE,
    ece_of_doubt,
    fit_scores,
    head_name,
    judge,
    score_names,
)
from calib.failure.export import FailureHead
from calib.failure.fit import fit_head, new_head
from calib.io.files import write_json, write_text
from calib.io.tensors import load_tensors, save_tensors
from calib.metrics.failure import failure_statistic
from calib.prompts.export import Prompt
from calib.prompts.shots import ShotSettings, calibrated, calibrated_like
from calib.prompts.zero_shot import zero_shot
from calib.report.tables import aligned
from calib.runs.prepare import load_task
from calib.scores.stack import DoubtStack
from calib.stats import paired_bootstrap
from calib.training.fit import fit_quietly

KINDS = ("zero-shot", "prompt")
SHOTS = 8  # of the prompts
HEAD_EPOCHS = 50
METRICS = {"auroc": "AUROC %", "fpr95": "FPR95 %", "aurc": "AURC %"}
LEVEL = 0.95
PRIORS: dict[str, dict[str, float] | None] = {  # weights of the prior that were tried
    "equal": None,
    "1.4 0.4 0.2": {"class_gaussians": 1.4, "mcp": 0.4, "head": 0.2},
    "1.2 0.6 0.2": {"class_gaussians": 1.2, "mcp": 0.6, "head": 0.2},
    "1 0.5 0.25": {"class_gaussians": 1.0, "mcp": 0.5, "head": 0.25},
    "0.8 0.8 0.2": {"class_gaussians": 0.8, "mcp": 0.8, "head": 0.2},
}
RESAMPLES = 1000
log = logging.getLogger("doubt_study")


@dataclass(frozen=True)
class Learned:
    """A prompt of one seed, and its shots as its folds judge them.

    Attributes:
        prompt: As `train.py` exports it, calibrated.
        crossed: Its shots, each judged by the prompt trained without it, in the order of the draw.
        rows: Which rows of the training split they are.
    """

    prompt: Prompt
    crossed: FailureCases
    rows: list[int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print its tables. Returns the exit status."""
    parser = study_parser(__doc__, "runs/doubt-study", seeds=5)
    parser.add_argument("--sizes", default="8,16,64,all", help="images per class that the doubt learns from")
    parser.add_argument("--kinds", default=",".join(KINDS), help="which predictions are judged")
    parser.add_argument("--epochs", type=int, default=HEAD_EPOCHS, help="of the failure heads")
    parser.add_argument("--tables", action="store_true", help="only the tables of the cells that are there")
    given = parser.parse_args(argv)
    out, seeds = begun(given, log)
    backbone = create_backbone("embedded")
    sizes, kinds = given.sizes.split(","), given.kinds.split(",")
    if not given.tables:
        for size, data, kind in itertools.product(sizes, given.data, kinds):
            at = Place(out, data, kind, size)
            for seed in seeds:
                if not at.file(seed).is_file():
                    started = time.monotonic()
                    said = write_cell(at, seed, seeds, backbone, given)
                    log.info("%s, seed %d: %s, %.0f s.", at.name, seed, said, time.monotonic() - started)
    cells = {}
    for data, kind, size in itertools.product(given.data, kinds, sizes):
        at = Place(out, data, kind, size)
        files = [at.file(seed) for seed in seeds if at.file(seed).is_file()]
        if files:
            cells[at.name] = variants(files) if given.development else compared(files)
    text = development_text(cells) if given.development else study_text(cells)
    write_text(out / "study.md", text + "\n")
    write_json(out / "study.json", cells)
    sys.stdout.write(text + "\n")
    return 0


@dataclass(frozen=True)
class Place:
    """Where the results of one cell of the study lie."""

    out: Path
    data: str
    kind: str
    size: str

    @property
    def name(self) -> str:
        """Return what the cell is called in tables."""
        return f"{self.data.partition('=')[0]}, {self.kind}, {self.size} per class"

    def file(self, seed: int) -> Path:
        """Return the file of one seed."""
        return self.out / self.data.partition("=")[0] / f"{self.kind}-{self.size}-s{seed}.safetensors"

    @property
    def cache(self) -> Path:
        """Return the folder of encoded images, one for test and development."""
        return (self.out.parent if self.out.name == "development" else self.out) / "cache"


@functools.cache
def _task(data: str) -> TaskData:
    return load_task(source_of(data))


@functools.cache
def _features(data: str, part: str, cache: Path, backbone: Backbone) -> FeatureTable:
    return encode(backbone, getattr(_task(data), part), cache=cache).with_views(0)


def write_cell(at: Place, seed: int, seeds: Sequence[int], backbone: Backbone, given: Any) -> str:
    """Fit and judge everything of one seed, keep it in a file, and return a few words on it."""
    task = _task(at.data)
    learned = None
    if at.kind == "prompt":
        learned = _prompts(at.data, tuple(seeds), at.cache, backbone)[seed]
    prompt = zero_shot(backbone, task) if learned is None else learned.prompt
    pool = _features(at.data, "train", at.cache, backbone)
    try:
        cases, used = drawn(at, seed, pool, prompt, learned, development=given.development)
    except ValueError as error:
        return f"left out ({error})"
    if given.development:
        test = _development(at, pool, used, backbone)
    else:
        test = _features(at.data, "test", at.cache, backbone)
    head = fitted(prompt, cases, seed, given.epochs)
    if head.doubt is None or head.doubt.seen is None:
        return "left out (no stack)"
    ready = head.doubt.scores
    predictions = prompt.predict(test)
    judged = judge(
        fit_scores(score_names([]), cases, prompt.text_features, ready=ready),
        cases_of(predictions, prompt.text_features, calibrated=prompt.calibration is not None),
        head,
    )
    own = head_name(head.head)
    values = {HEAD if name == own else name: value for name, value in judged.values.items()}
    probs = {HEAD if name == own else name: value for name, value in judged.probs.items()}
    seen = head.doubt.seen
    tensors = {f"score|{name}": value for name, value in values.items()}
    tensors |= {f"prob|{name}": value.clone() for name, value in probs.items()}
    tensors |= {f"seen|{name}": seen.scores[:, k].clone() for k, name in enumerate(head.doubt.stack.names)}
    tensors |= {"failure": judged.failure, "seen_failure": seen.failure, "seen_folds": seen.folds}
    record = {
        "kind": "doubt-study",
        "groups": None if test.groups is None else list(test.groups),
        "stack": head.doubt.to_record()["stack"],
        "weights": dict(zip(head.doubt.stack.names, head.doubt.stack.weights.tolist(), strict=True)),
        "images": len(cases),
        "wrong": int(cases.failure.sum()),
    }
    save_tensors(at.file(seed), tensors, record)
    return f"{len(cases)} images, {record['wrong']} wrong, {record['weights']}"


def fitted(prompt: Prompt, cases: FailureCases, seed: int, epochs: int) -> FailureHead:
    """Return the default head with its doubt."""
    judged = FrozenClassifier.of(prompt)
    return fit_head(
        new_head(cases.image_features.shape[2], logit_scale=judged.logit_scale, seed=seed, residual=True),
        cases,
        judged,
        train=functools.partial(fit_quietly, max_epochs=epochs),
        seed=seed,
    )


def drawn(
    at: Place, seed: int, pool: FeatureTable, prompt: Prompt, learned: Learned | None, *, development: bool
) -> tuple[FailureCases, list[int]]:
    """Return what the doubt learns from, and which rows of the training split that used up.

    Without test copies; in development at most half of the groups, so that others are left to judge.
    """
    test = set(_task(at.data).test.ids)
    owner = owners(pool)
    free = [row for row in range(len(pool)) if pool.ids[row] not in test]
    if development:
        free = [row for row in free if stable_hash("development", seed, owner[row]) % 2]
    limit = None if at.size == "all" else int(at.size)
    names = _task(at.data).class_names
    if learned is None:
        rows = draw_rows(pool, free, names, shots=limit, val_shots=0, seed=seed).train.tolist()
        return FailureCases.of_prompt(prompt, pool.subset(rows)), rows
    taken = {owner[row] for row in learned.rows}
    labels = pool.labels.tolist()
    outside: list[int] = []
    kept: list[int] = []
    for label in range(len(names)):
        there = [row for row in free if labels[row] == label and owner[row] not in taken]
        there = sorted(there, key=lambda row: stable_hash(seed, pool.ids[row]))[:limit]
        there = [] if limit == SHOTS else there
        mine = [at for at, row in enumerate(learned.rows) if labels[row] == label]
        if limit is not None:
            mine = mine[: max(0, limit - len(there))]
        elif len(there) >= SHOTS:
            mine = []
        if limit is not None and len(there) + len(mine) < limit:
            raise ValueError(f"class {label} has {len(there)} images beside the prompt's own")
        outside += there
        kept += mine
    parts = [_rows_of(learned.crossed, kept)] if kept else []
    if outside:
        parts.insert(0, FailureCases.of_prompt(prompt, pool.subset(outside)))
    return FailureCases.join(parts), [*outside, *learned.rows]


def _rows_of(cases: FailureCases, rows: Sequence[int]) -> FailureCases:
    """Return some of the cases."""
    index = list(rows)
    return replace(
        cases,
        image_features=cases.image_features[:, index],
        labels=cases.labels[index],
        source=cases.source[index],
        predictions=cases.predictions[:, index],
        logits=cases.logits[:, index],
        owners=None if cases.owners is None else [cases.owners[row] for row in index],
    )


@functools.cache
def _prompts(data: str, seeds: tuple[int, ...], cache: Path, backbone: Backbone) -> dict[int, Learned]:
    """Return the prompts of all seeds, trained side by side and calibrated by their shots; kept in a file."""
    task = _task(data)
    # The prompts are trained on augmented views too, as those of `train.py` are.
    shots = {seed: task.draw(SHOTS, val_shots=0, at_most=True, seed=seed).train.tolist() for seed in seeds}
    rows = sorted({row for mine in shots.values() for row in mine})
    place = {row: number for number, row in enumerate(rows)}
    fixed = zero_shot(backbone, task)
    seen = encode(backbone, task.train.subset(rows), views=8, cache=cache)
    path = cache.parent / "prompts" / f"{data.partition('=')[0]}-s{seeds[0]}-{seeds[-1]}.safetensors"
    if path.is_file():
        trained = _read_prompts(path, fixed, seen, shots, place)
    else:
        plans = [("coop", seed, [place[row] for row in mine], True) for seed, mine in shots.items()]
        log.info("%s: training %d prompts and their folds, %d epochs.", data, len(plans), PROMPT_EPOCHS)
        trained = {seed: one for (_, seed), one in train(plans, seen, fixed, backbone, task).items()}
        texts = {f"texts|{seed}": one.prompt.text_features for seed, one in trained.items()}
        texts |= {f"folds|{seed}": one.fold_texts for seed, one in trained.items()}
        record = {"kind": "prompts", "folds": {str(seed): one.folds for seed, one in trained.items()}}
        save_tensors(path, texts, record)
    return {seed: _learned(one, fixed, shots[seed]) for seed, one in trained.items()}


def _read_prompts(
    path: Path,
    fixed: Prompt,
    seen: FeatureTable,
    shots: Mapping[int, list[int]],
    place: Mapping[int, int],
) -> dict[int, Trained]:
    tensors, record = load_tensors(path, kind="prompts")
    return {
        seed: Trained(
            replace(fixed, text_features=tensors[f"texts|{seed}"]),
            tensors[f"folds|{seed}"],
            record["folds"][str(seed)],
            seen.subset([place[row] for row in rows]).with_views(0),
        )
        for seed, rows in shots.items()
    }


def _learned(one: Trained, fixed: Prompt, rows: list[int]) -> Learned:
    """Return the calibrated prompt, and its shots as the prompts of its folds judge them."""
    zero = fixed.text_features
    prompt, _ = calibrated(one.prompt, one.fold_texts, one.folds, one.shots, zero, ShotSettings())
    prompt = replace(prompt, context=torch.zeros(1, 1))  # not zero-shot
    parts, order = [], []
    for fold, texts in zip(one.folds, one.fold_texts, strict=True):
        rest = sorted(set(range(len(rows))) - set(fold))
        own = replace(one.prompt, text_features=texts)
        own = calibrated_like(prompt, own, one.shots.subset(rest), zero)
        parts.append(FailureCases.of_prompt(own, one.shots.subset(fold)))
        order += fold
    back = sorted(range(len(order)), key=order.__getitem__)
    return Learned(prompt, _rows_of(FailureCases.join(parts), back), rows)


def _development(at: Place, pool: FeatureTable, used: Sequence[int], backbone: Backbone) -> FeatureTable:
    """Return what a draw leaves of the training split, by groups, and the validation split."""
    owner = owners(pool)
    taken = {owner[row] for row in used}
    rest = pool.subset([row for row in range(len(pool)) if owner[row] not in taken])
    rest = replace(rest, groups=None)
    if _task(at.data).val is None:
        return rest
    val = _features(at.data, "val", at.cache, backbone)
    return replace(
        rest,
        image_features=torch.cat([rest.image_features, val.image_features]),
        labels=torch.cat([rest.labels, val.labels]),
        ids=[*rest.ids, *val.ids],
        names=[*rest.names, *val.names],
    )


def compared(files: Sequence[Path]) -> dict[str, Any]:
    """Return means over seeds of every score, and paired differences of the stack from the others.

    The best single score is that of the lowest mean AURC, or the highest mean AUROC, or the lowest mean FPR95
    on the test images: one that nobody could have chosen beforehand.
    """
    loaded = [load_tensors(file, kind="doubt-study") for file in files]
    failure = np.stack([tensors["failure"].numpy() for tensors, _ in loaded]).astype(bool)
    groups = loaded[0][1]["groups"]
    names = set.intersection(*({key for key in tensors if key.startswith("score|")} for tensors, _ in loaded))
    values = {
        name.partition("|")[2]: np.stack([tensors[name].double().numpy() for tensors, _ in loaded])
        for name in sorted(names)
    }
    stacks = [stacked(tensors, record["stack"]["names"]) for tensors, record in loaded]
    values[DOUBT] = np.stack([probs for probs, _ in stacks])
    cell: dict[str, Any] = {
        "n": failure.shape[1],
        "failures": float(failure.sum(axis=1).mean()),
        "seeds": len(files),
        "images": loaded[0][1]["images"],
        "wrong": [record["wrong"] for _, record in loaded],
        "how": [stack.how for _, stack in stacks],
        "ridge": [stack.to_record()["ridge"] for _, stack in stacks],
        "weights": [dict(zip(s.names, s.weights.tolist(), strict=True)) for _, s in stacks],
        "scores": {},
        "minus": {},
    }
    for name, value in values.items():
        row = {
            m: float(np.mean([failure_statistic(m)(u, f) for u, f in _pairs(value, failure)]))
            for m in METRICS
        }
        probs = [tensors.get(f"prob|{name}") for tensors, _ in loaded]
        if name == DOUBT:
            probs = [torch.from_numpy(each) for each in value]
        if all(prob is not None for prob in probs):
            told = [ece_of_doubt(p.numpy(), f) for p, f in zip(probs, failure, strict=True) if p is not None]
            row[ECE] = float(np.mean(told))
        cell["scores"][name] = row
    for metric in METRICS:
        higher = metric == "auroc"
        singles = {n: r[metric] for n, r in cell["scores"].items() if n != DOUBT}
        best = (max if higher else min)(singles, key=lambda name: singles[name])
        cell["minus"][metric] = {"best": best}
        for what, other in (("best single", best), (BASELINE, BASELINE)):
            difference = (
                paired_bootstrap(
                    failure_statistic(metric),
                    (values[DOUBT], failure),
                    (values[other], failure),
                    groups=groups,
                    several_runs=len(files) > 1,
                    undefined="drop",
                    n_resamples=RESAMPLES,
                    level=LEVEL,
                )
                if len(files) > 1
                else paired_bootstrap(
                    failure_statistic(metric),
                    (values[DOUBT][0], failure[0]),
                    (values[other][0], failure[0]),
                    groups=groups,
                    undefined="drop",
                    n_resamples=RESAMPLES,
                    level=LEVEL,
                )
            )
            cell["minus"][metric][what] = [difference.low, difference.estimate, difference.high]
    return cell


def stacked(tensors: Mapping[str, Tensor], names: Sequence[str]) -> tuple[np.ndarray, DoubtStack]:
    """Return P(wrong) (N,) by a stack fitted anew on what its parts had not seen, and the stack."""
    seen, test = (
        torch.stack([tensors[f"{of}|{name}"].double() for name in names], dim=1) for of in ("seen", "score")
    )
    stack = new_stack(names).fit(seen, tensors["seen_failure"].bool(), folds=tensors["seen_folds"])
    return stack(test).numpy(), stack


def _pairs(value: np.ndarray, failure: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    yield from zip(value, failure, strict=True)


def study_text(cells: Mapping[str, Any]) -> str:
    """Return the tables: one of differences for every metric, one of ECE, and how often the aim was met."""
    parts = []
    for metric, title in METRICS.items():
        decimals = 2 if metric == "aurc" else 1
        header = ["predictions", "images", "wrong", "mcp", "best single", "doubt", "minus mcp", "minus best"]
        body = []
        for name, cell in cells.items():
            minus, rows = cell["minus"][metric], cell["scores"]
            best = minus["best"]
            body.append(
                [
                    name,
                    str(cell["images"]),
                    f"{np.mean(cell['wrong']):.0f}",
                    f"{100 * rows[BASELINE][metric]:.{decimals}f}",
                    f"{100 * rows[best][metric]:.{decimals}f} ({best})",
                    f"{100 * rows[DOUBT][metric]:.{decimals}f}",
                    *(_difference(minus[what], decimals) for what in (BASELINE, "best single")),
                ]
            )
        parts.append(f"### {title}\n\n{aligned(header, body)}\n\n{_verdict(cells, metric)}")
    header = ["predictions", *(f"{name}" for name in (DOUBT, BASELINE, HEAD, "logit_scaling", "logistic"))]
    body = [
        [name, *(_percent(cell["scores"].get(score, {}).get(ECE)) for score in header[1:])]
        for name, cell in cells.items()
    ]
    parts.append(f"### ECE of P(wrong) %\n\n{aligned(header, body)}")
    whole = []
    for name, cell in cells.items():
        rows = sorted(cell["scores"].items(), key=lambda item: item[1]["aurc"])
        body = [[s, *(f"{100 * row[m]:.2f}" for m in METRICS), _percent(row.get(ECE))] for s, row in rows]
        note = f"{cell['n']} images, {cell['failures']:.0f} wrong; ridges {cell['ridge']}"
        whole.append(f"#### {name}\n\n{note}\n\n{aligned(['score', *METRICS.values(), 'ECE %'], body)}")
    return "\n\n".join([*parts, "### Every score", *whole])


def _difference(values: Sequence[float], decimals: int) -> str:
    low, middle, high = (100 * value for value in values)
    return f"{middle:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _verdict(cells: Mapping[str, Any], metric: str) -> str:
    """Return in how many cells the aim was met: not clearly behind the best single, clearly ahead of MCP."""
    sign = 1 if metric == "auroc" else -1
    ahead, behind, worse = [], [], []
    for name, cell in cells.items():
        against, best = cell["minus"][metric][BASELINE], cell["minus"][metric]["best single"]
        low, high = sorted((sign * against[0], sign * against[2]))
        if low > 0:
            ahead.append(name)
        if high < 0:
            worse.append(name)
        if max(sign * best[0], sign * best[2]) < 0:
            behind.append(name)
    text = f"Of {len(cells)} rows, the doubt is clearly better than mcp in {len(ahead)}"
    text += f", clearly worse in {len(worse)}" + (f" ({'; '.join(worse)})" if worse else "")
    text += f"; clearly behind the best single score in {len(behind)}"
    return text + (f": {'; '.join(behind)}." if behind else ".")


def variants(files: Sequence[Path]) -> dict[str, Any]:
    """Return, for every way of stacking, means over seeds of AUROC, AURC, NLL and ECE of P(wrong)."""
    found: dict[str, list[list[float]]] = {}
    for file in files:
        tensors, _ = load_tensors(file, kind="doubt-study")
        failure = tensors["failure"].numpy().astype(bool)
        names = [key.partition("|")[2] for key in tensors if key.startswith("seen|")]
        for name in names:
            found.setdefault(f"single: {name}", []).append(
                _row(tensors[f"score|{name}"].double().numpy(), None, failure)
            )
        for way, (parts, settings, shape) in _ways(names).items():
            seen = torch.stack([shape(tensors[f"seen|{n}"], tensors[f"seen|{n}"]) for n in parts], dim=1)
            test = torch.stack(
                [shape(tensors[f"score|{n}"], tensors[f"seen|{n}"]).double() for n in parts], dim=1
            )
            stack = new_stack(parts) if settings is None else DoubtStack(parts, **settings)
            stack.fit(seen, tensors["seen_failure"].bool(), folds=tensors["seen_folds"])
            probs = stack(test).numpy()
            found.setdefault(way, []).append(_row(probs, probs, failure))
    return {way: np.mean(rows, axis=0).tolist() for way, rows in found.items() if len(rows) == len(files)}


def _ways(names: Sequence[str]) -> dict[str, tuple[list[str], dict[str, Any] | None, Any]]:
    """Return the ways of stacking: parts, settings of the stack, and what is done to a score before."""
    everything = list(names)

    def plain(values: Tensor, seen: Tensor) -> Tensor:
        return values.double()

    def bounded(values: Tensor, seen: Tensor) -> Tensor:
        return ((values.double() - seen.double().mean()) / seen.double().std().clamp_min(1e-9)).asinh()

    ways: dict[str, tuple[list[str], dict[str, Any] | None, Any]] = {"default": (everything, None, plain)}
    ways["asinh"] = (everything, None, bounded)
    for name, prior in PRIORS.items():
        ways[f"prior {name}"] = (everything, {"prior": prior}, plain)
    for name in everything:
        ways[f"without {name}"] = ([one for one in everything if one != name], None, plain)
    return {way: made for way, made in ways.items() if made[0]}


def _row(values: np.ndarray, probs: np.ndarray | None, failure: np.ndarray) -> list[float]:
    row = [failure_statistic(metric)(values, failure) for metric in METRICS]
    if probs is None:
        return [*row, float("nan"), float("nan")]
    safe = probs.clip(1e-9, 1 - 1e-9)
    nll = -np.where(failure, np.log(safe), np.log1p(-safe)).mean()
    return [*row, ece_of_doubt(probs, failure), float(nll)]


def development_text(cells: Mapping[str, Any]) -> str:
    """Return the means over all cells of each way of stacking, and every cell."""
    header = ["way", *METRICS.values(), "ECE %", "NLL"]
    ways = [way for way in next(iter(cells.values())) if all(way in cell for cell in cells.values())]

    def row(way: str, values: Sequence[float]) -> list[str]:
        return [way, *(f"{100 * value:.2f}" for value in values[:4]), f"{values[4]:.4f}"]

    means = [row(way, np.mean([cell[way] for cell in cells.values()], axis=0).tolist()) for way in ways]
    parts = [f"### All {len(cells)} cells\n\n{aligned(header, means)}"]
    for name, cell in cells.items():
        parts.append(f"### {name}\n\n{aligned(header, [row(way, values) for way, values in cell.items()])}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
