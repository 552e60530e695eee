"""Which calibration of a prompt by its own shots is to be trusted? Methods, data sets, shots, seeds.

    python benchmarks/calibration_study.py cxr3 lc25000 pneumoniamnist=FILE.npz fundus=FOLDER
    python benchmarks/calibration_study.py --development cxr3 lc25000

Prompts of the embedded backbone are trained with the defaults of `train.py`, all seeds side by side. Seeds 1
to 10 are judged on the test images. `--development` judges seeds 11 to 20 on the images that the shots leave
of the training and validation splits, and varies what is assumed beforehand: the defaults were chosen there,
on cxr3 and lc25000, the unit of the weights and the number of folds on fundus as well. Every finished cell
(data set, number of shots) is kept in `--out`; the same command goes on behind it. FOLDER holds labels.csv
with the columns file, label, patient and split.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import torch
from torch import Tensor

from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.config import DataConfig, load_config
from calib.core.hashing import json_digest, stable_hash
from calib.data import FeatureTable, FewShotDataModule, TaskData
from calib.data.encode import encode
from calib.io.files import write_text
from calib.io.tensors import load_tensors, save_tensors
from calib.losses import Objective, resolve_terms
from calib.metrics import METRICS, summarize
from calib.metrics.columns import Column
from calib.posthoc.discriminant import LinearDiscriminant, left_out_logits
from calib.posthoc.posterior import weight_posterior
from calib.posthoc.shot_parts import IMAGES, PROMPT, ZERO_SHOT, ShotPriors
from calib.posthoc.shots import spread
from calib.prompts.export import Prompt
from calib.prompts.learner import PromptLearner
from calib.prompts.shots import ShotSettings, calibrated, folds_of, plans_of
from calib.prompts.stack import PromptStackModule, StackedLoader, StackedPrompt
from calib.prompts.zero_shot import zero_shot
from calib.report.compare import compare, over_seeds
from calib.report.tables import aligned, differences_table, format_cell
from calib.runs.prepare import load_task
from calib.training.fit import fit_quietly

OPTIMIZER = {"lr": 0.002, "momentum": 0.9, "weight_decay": 5e-4}
EPOCHS, VIEWS, BATCH, MORE = 50, 8, 16, 4  # MORE: validation images per class, for what needs them
RATIO = 3  # of the classes of a shifted test set: 1 : 3 : 9 : ...
SHOWN = ("accuracy", "ece", "null_ece", "classwise_ece", "nll", "brier", "confidence_gap")
VARIANTS = {
    "experts, equal medians": ShotPriors(medians={PROMPT: 0.4, IMAGES: 0.4, ZERO_SHOT: 0.4}),
    "experts, more images": ShotPriors(medians={PROMPT: 0.3, IMAGES: 0.8, ZERO_SHOT: 0.3}),
    "experts, sd 0.5": ShotPriors(expert_sd=0.5),
    "experts, sd 1.2": ShotPriors(expert_sd=1.2),
    "experts, shrinkage 0.5": ShotPriors(shrinkage=0.5),
    "experts, shrinkage 0.95": ShotPriors(shrinkage=0.95),
    "scale, median 1": ShotPriors(scale_median=1.0),
}
log = logging.getLogger("calibration_study")


@dataclass(frozen=True)
class Judged:
    """What a method says about the test images of one seed; what `compare` needs of predictions."""

    logits: Tensor
    labels: Tensor
    groups: Sequence[str] | None

    def same_images(self, other: Judged) -> bool:
        """Return whether both are of the same images: in this study, whether the labels are the same."""
        return torch.equal(self.labels, other.labels)


@dataclass(frozen=True)
class Trained:
    """The prompts of one seed and one objective: its own, and those of the folds."""

    prompt: Prompt
    fold_texts: Tensor
    folds: list[list[int]]
    shots: FeatureTable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print its tables. Returns the exit status."""
    parser = study_parser(__doc__, "runs/calibration-study", seeds=10)
    parser.add_argument("--shots", default="8,1,2,4,16", help="shots per class; 8 has all methods")
    given = parser.parse_args(argv)
    out, seeds = begun(given, log)
    backbone = create_backbone("embedded")
    parts = []
    for data, shots in itertools.product(given.data, map(int, given.shots.split(","))):
        name = data.partition("=")[0]
        path = out / f"{name}-{shots}.safetensors"
        if not path.is_file():
            task = load_task(source_of(data))
            write_cell(path, task, backbone, shots, seeds, development=given.development)
        parts.append(f"### {name}, {shots} shots per class\n\n{cell_text(path)}")
        log.info("%s with %d shots: done.", name, shots)
    write_text(out / "study.md", "\n\n".join(parts) + "\n")
    sys.stdout.write("\n\n".join(parts) + "\n")
    return 0


def study_parser(about: str | None, out: str, *, seeds: int) -> argparse.ArgumentParser:
    """Return the parser of what studies of training take; more can be added.

    Args:
        about: What the study is.
        out: Its folder, where none is given.
        seeds: Likewise, how many.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="cxr3, lc25000, or NAME=PATH")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--development", action="store_true", help="seeds and images that are not reported")
    return parser


def begun(given: argparse.Namespace, log: logging.Logger) -> tuple[Path, range]:
    """Return the folder and the seeds of a study, those of development apart; only the study is heard."""
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    log.setLevel(logging.INFO)
    warnings.simplefilter("ignore")
    first = 11 if given.development else 1
    out = given.out / "development" if given.development else given.out
    return out, range(first, first + given.seeds)


def source_of(data: str) -> DataConfig:
    """Return the data settings of NAME or NAME=PATH."""
    name, _, path = data.partition("=")
    if not path:
        words = [f"data.name={name}"]
    elif (Path(path) / "labels.csv").is_file():
        columns = "{path: file, label: label, group: patient, split: split}"
        words = ["data.name=table", f"data.root={path}", "data.options.table=labels.csv"]
        words.append(f"data.options.columns={columns}")
    else:
        words = ["data.name=medmnist", f"data.root={path}"]
    data_config: DataConfig = load_config(words, task="prompt").data
    return data_config


def write_cell(
    path: Path, task: TaskData, backbone: Backbone, shots: int, seeds: Sequence[int], *, development: bool
) -> None:
    """Train what a cell of the study needs, and keep the logits of every method and seed in a file."""
    cache = path.parent / "cache"
    drawn = {seed: task.draw(shots, val_shots=MORE, at_most=True, seed=seed) for seed in seeds}
    rows = sorted({row for one in drawn.values() for row in (*one.train.tolist(), *one.val.tolist())})
    at = {row: place for place, row in enumerate(rows)}
    shots_of = {seed: [at[row] for row in one.train.tolist()] for seed, one in drawn.items()}
    val_of = {seed: [at[row] for row in one.val.tolist()] for seed, one in drawn.items()}
    pool = encode(backbone, task.train.subset(rows), views=VIEWS, cache=cache)
    test = encode(backbone, task.test, cache=cache)
    fixed = zero_shot(backbone, task)
    whole = shots == 8 and not development
    presets = ("coop", "calibprompt") if whole or development else ("coop",)
    plans = [(preset, seed, shots_of[seed], True) for preset in presets for seed in seeds]
    if whole:
        plans += [("calibprompt-ls", seed, shots_of[seed], False) for seed in seeds]
        plans += [
            (f"coop, {shots + MORE} shots", seed, [*shots_of[seed], *val_of[seed]], False) for seed in seeds
        ]
    trained = train(plans, pool, fixed, backbone, task, kept=path.with_suffix(".prompts"))
    tensors: dict[str, Tensor] = {}
    groups: list[str] | None = None
    for seed in seeds:
        seen = _development_images(task, drawn[seed].train, backbone, cache) if development else test
        groups = None if development or test.groups is None else list(test.groups)
        for method, logits in said(trained, seed, val_of[seed], pool, fixed, seen, development).items():
            tensors[f"{method}|{seed}"] = logits.float().clone()
        tensors[f"labels|{seed}"] = seen.labels.clone()
    save_tensors(path, tensors, {"kind": "study", "class_names": list(task.class_names), "groups": groups})


def train(
    plans: Sequence[tuple[str, int, list[int], bool]],
    pool: FeatureTable,
    fixed: Prompt,
    backbone: Backbone,
    task: TaskData,
    *,
    kept: Path | None = None,
) -> dict[tuple[str, int], Trained]:
    """Train prompts side by side: (preset, seed, rows of the pool, whether with folds).

    Their class embeddings stay in the file `kept`, if any: other calibrations of them need no training.
    """
    prompts, loaders, known = [], [], []
    for preset, seed, rows, with_folds in plans:
        shots = pool.subset(rows)
        folds = folds_of(shots, ShotSettings(), task.class_names) if with_folds else []
        terms = resolve_terms(preset.partition(",")[0])
        for plan in plans_of(len(rows), folds, seed):
            learner = PromptLearner(backbone, task.class_names, seed=plan.seed)
            prompts.append(StackedPrompt(learner, Objective(terms), OPTIMIZER, fold=plan.fold))
            batches = FewShotDataModule(shots.subset(plan.rows), batch_size=BATCH, seed=plan.seed)
            loaders.append(batches.train_dataloader())
        known.append((preset, seed, shots, folds))
    digest = json_digest([[preset, seed, list(pool.subset(rows).ids)] for preset, seed, rows, _ in plans])
    if kept is not None and kept.is_file() and load_tensors(kept, kind="trained")[1]["plans"] == digest:
        texts = load_tensors(kept, kind="trained")[0]["texts"]
    else:
        module = PromptStackModule(backbone, prompts, fixed.text_features)
        fit_quietly(module, StackedLoader(loaders), max_epochs=EPOCHS)
        texts, _ = module.trained()
        if kept is not None:
            save_tensors(kept, {"texts": texts}, {"kind": "trained", "plans": digest})
    found, row = {}, 0
    for preset, seed, shots, folds in known:
        mine = texts[row : row + 1 + len(folds)]
        row += len(mine)
        prompt = replace(fixed, text_features=mine[0])
        found[preset, seed] = Trained(prompt, mine[1:], folds, shots.with_views(0))
    return found


def said(
    trained: Mapping[tuple[str, int], Trained],
    seed: int,
    val: list[int],
    pool: FeatureTable,
    fixed: Prompt,
    seen: FeatureTable,
    development: bool,
) -> dict[str, Tensor]:
    """Return the logits (N, C) that every method gives the images of a seed."""
    features, labels = seen.image_features, seen.labels
    found = {"zero-shot": fixed.logits(features)}
    for (name, own), one in trained.items():
        if own != seed:
            continue
        plain = one.prompt.logits(features)
        found[name] = plain
        if not one.folds:
            continue
        for method in ("scale", "experts", "auto"):
            found[f"{name} + {method}"] = _calibrated(one, fixed, ShotSettings(method=method)).logits(
                features
            )
        if development and name == "coop":
            for variant, priors in VARIANTS.items():
                settings = ShotSettings(method=variant.partition(",")[0], priors=priors)
                found[f"{name} + {variant}"] = _calibrated(one, fixed, settings).logits(features)
        if name == "coop" and not development:
            if val:
                more = pool.subset(val)
                fitted = weight_posterior({PROMPT: one.prompt.logits(more.image_features)}, more.labels)
                found[f"coop + scale on {MORE} validation images"] = float(fitted.nearest) * plain
            found["coop + images, without zero-shot and units"] = _two_experts(one, fixed, features)
            bound = weight_posterior({PROMPT: plain}, labels, sd=10)
            found["coop + scale fitted on the test set (a bound)"] = float(bound.mode) * plain
            found |= _shifted(one, fixed, features, labels)
    return found


def _calibrated(one: Trained, fixed: Prompt, settings: ShotSettings) -> Prompt:
    return calibrated(one.prompt, one.fold_texts, one.folds, one.shots, fixed.text_features, settings)[0]


def _two_experts(one: Trained, fixed: Prompt, features: Tensor) -> Tensor:
    """Return the logits of the recipe that "experts" came from: prompt and discriminant, no unit for it."""
    scale = float(torch.tensor(fixed.logit_scale).exp())
    seen, labels = one.shots.image_features, one.shots.labels
    owner = list(one.shots.ids if one.shots.groups is None else one.shots.groups)
    left_out = torch.zeros(len(labels), len(fixed.class_names))
    for rows, texts in zip(one.folds, one.fold_texts, strict=True):
        left_out[rows] = scale * seen[rows] @ texts.T
    images = LinearDiscriminant.fit(seen, labels, len(fixed.class_names))
    apart = left_out_logits(seen, labels, len(fixed.class_names), owners=owner)
    known = apart.isfinite().all(dim=1)
    if not bool(known.any()):
        return one.prompt.logits(features)
    unit = spread(scale * seen @ fixed.text_features.T) / spread(apart)
    experts = {PROMPT: left_out[known], IMAGES: unit * apart[known]}
    ours, theirs = weight_posterior(experts, labels[known], median=0.5, sd=0.8).nearest.tolist()
    return (ours * one.prompt.logits(features).double() + theirs * unit * images.logits(features)).float()


def _shifted(one: Trained, fixed: Prompt, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return logits for images resampled to classes of 1 : 3 : 9, NaN for those left out."""
    names = fixed.class_names
    shares = RATIO ** torch.arange(len(names)).double()
    shares = shares / shares.sum()
    counts = labels.bincount(minlength=len(names))
    n = float((counts / shares).min())
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for label, share in enumerate(shares.tolist()):
        rows = (labels == label).nonzero().flatten().tolist()
        rows.sort(key=lambda row: stable_hash("shift", row))
        kept[rows[: round(n * share)]] = True
    stated = ShotSettings(prevalence=dict(zip(names, shares.tolist(), strict=True)))
    found = {
        "shifted: coop": one.prompt,
        "shifted: coop + auto": _calibrated(one, fixed, ShotSettings()),
        "shifted: coop + auto, shares stated": _calibrated(one, fixed, stated),
    }
    gone = ~kept[:, None]
    return {name: prompt.logits(features).masked_fill(gone, torch.nan) for name, prompt in found.items()}


def _development_images(task: TaskData, shots: Tensor, backbone: Backbone, cache: Path) -> FeatureTable:
    """Return what shots leave of the training split, by groups, and the validation split."""
    pool = encode(backbone, task.train, cache=cache)
    owner = pool.ids if pool.groups is None else pool.groups
    taken = {owner[row] for row in shots.tolist()}
    rest = pool.subset([row for row in range(len(pool)) if owner[row] not in taken])
    if task.val is None:
        return rest
    val = encode(backbone, task.val, cache=cache)
    return replace(
        rest,
        image_features=torch.cat([rest.image_features, val.image_features]),
        labels=torch.cat([rest.labels, val.labels]),
        ids=[*rest.ids, *val.ids],
        names=[*rest.names, *val.names],
        groups=None,
    )


def cell_text(path: Path) -> str:
    """Return the tables of one cell: means over seeds, and paired differences."""
    by_method, shifted = _read(path)
    parts = [_means(by_method)]
    if shifted:
        parts.append("Test images resampled to classes of " + f"1 : {RATIO} : {RATIO**2} : ...")
        parts.append(_means(shifted))
    for baseline in ("coop", "zero-shot"):
        chosen = {
            name: runs
            for name, runs in by_method.items()
            if name in (baseline, "coop + scale", "coop + auto", "calibprompt + auto")
        }
        if len({len(run.labels) for run in by_method[baseline].values()}) == 1 and len(chosen) > 1:
            first = next(iter(by_method[baseline].values())).labels
            if all(torch.equal(run.labels, first) for run in by_method[baseline].values()):
                parts.append(f"Minus {baseline}, paired by seed and image or group, 95 % intervals:")
                parts.append(differences_table(compare(chosen, baseline=baseline, n_resamples=1000)))
    return "\n\n".join(parts)


def _read(path: Path) -> tuple[dict[str, dict[int, Judged]], dict[str, dict[int, Judged]]]:
    tensors, record = load_tensors(path, kind="study")
    groups = record["groups"]
    by_method: dict[str, dict[int, Judged]] = {}
    shifted: dict[str, dict[int, Judged]] = {}
    for key, logits in sorted(tensors.items(), key=lambda pair: int(pair[0].partition("|")[2])):
        method, _, seed = key.partition("|")
        if method == "labels":
            continue
        labels = tensors[f"labels|{seed}"]
        kept = logits.isfinite().all(dim=1)
        into, name = (
            (shifted, method.partition(": ")[2]) if method.startswith("shifted") else (by_method, method)
        )
        there = None if groups is None else [groups[row] for row in kept.nonzero().flatten().tolist()]
        into.setdefault(name, {})[int(seed)] = Judged(logits[kept], labels[kept], there)
    return by_method, shifted


def _means(by_method: Mapping[str, Mapping[int, Judged]]) -> str:
    header = ["method", *(column.title for _, column in _columns())]
    rows = []
    for name in sorted(by_method, key=_order):
        found = [summarize(run.logits, run.labels) for run in by_method[name].values()]
        cells = [format_cell(column, over_seeds([each[key] for each in found])) for key, column in _columns()]
        rows.append([name, *cells])
    return aligned(header, rows)


def _columns() -> Iterator[tuple[str, Column]]:
    titles = {"null_ece": "ECE by chance %", "classwise_ece": "classwise ECE %"}
    for key in SHOWN:
        yield key, METRICS[key].column or Column(titles[key])


def _order(name: str) -> tuple[int, int, str]:
    firsts = ("zero-shot", "coop", "calibprompt", "calibprompt-ls")
    return (firsts.index(name) if name in firsts else len(firsts), "bound" in name, name)


if __name__ == "__main__":
    sys.exit(main())
