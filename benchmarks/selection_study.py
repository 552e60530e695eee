"""Which images to label: does a strategy beat a draw at random, and what is calibration from its shots worth?

    python benchmarks/selection_study.py development cxr3 lc25000
    python benchmarks/selection_study.py probe cxr3 lc25000 pneumoniamnist=FILE.npz fundus=FOLDER
    python benchmarks/selection_study.py prompts cxr3 lc25000 pneumoniamnist=FILE.npz fundus=FOLDER
    python benchmarks/selection_study.py tables

The embedded backbone. Each of seeds 1 to 10 sees a pool of three quarters of the training groups (patients,
tiles), from which every strategy chooses 4, 8 or 16 images per class *in all*, one per group: how many of
each class come out is its own doing. Judged are all test images.

`probe` is the whole grid: zero-shot with a linear head learned from the shots (logistic, Gaussian prior),
which needs no training, and the same calibrated by the shots as `calib train` does. `prompts` trains the
default prompt, calibrated, and plain CE, at 8 per class, all seeds of a strategy side by side. Beside the
strategies stand `balanced`, the usual benchmark draw of as many of every class, which knows the labels, and
strategies in two halves, the second of which knows the labels of the first.

`development` judges seeds 11 to 20 on the training images outside their pool and the validation split: there
the settings were chosen that the others use, which are the defaults of the strategies. Finished cells are
kept in `--out`; the same command goes on behind them, and `--minutes` ends it early. FOLDER holds labels.csv
with the columns file, label, patient and split.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import numpy as np
import torch
from calibration_study import source_of, train
from scipy.optimize import minimize
from torch import Tensor

from calib.backbones import create_backbone
from calib.backbones.base import Backbone
from calib.core.hashing import stable_hash
from calib.data import FeatureTable, TaskData
from calib.data.encode import encode
from calib.data.folds import make_folds, owners
from calib.data.selection import STRATEGIES, select
from calib.io.files import read_json, write_json, write_text
from calib.metrics import summarize
from calib.metrics.failure import summarize_failure
from calib.metrics.sets import set_coverage
from calib.posthoc import Familiarity, FullConformal, PredictionSets
from calib.posthoc.shot_parts import Shots
from calib.posthoc.shots import calibrate_from_shots
from calib.prompts.export import Prompt
from calib.prompts.shots import ShotSettings, calibrated
from calib.prompts.zero_shot import zero_shot
from calib.report.tables import aligned
from calib.runs.prepare import load_task
from calib.stats.tests import adjusted_p, sign_flip_test

POOL = 0.75  # share of the training groups that a seed's pool holds
BUDGETS = (4, 8, 16)  # images per class in all
FOLDS = 5
COVERAGE = 0.9
VIEWS = 8
RANDOM, BALANCED = "random", "balanced"
SOURCE = {"pneumoniamnist": "cxr3", "cxr3": "pneumoniamnist"}  # of one modality, for `aligned`
HALVES = {  # strategies in two halves
    "entropy in halves": ("entropy", "entropy"),
    "epig in halves": ("epig", "epig"),
    "typicality, entropy": ("typicality", "entropy"),
}
WAYS = (BALANCED, *STRATEGIES, *HALVES)
HEAD_SD = 10.0  # of the probe's weights; chosen by `development`, as the settings that strategies have
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{name} {share} {clusters}": (name, {"doubt_share": share, "clusters": clusters})
        for name in ("dual",)
        for share in (0.0, 0.25, 0.5, 0.75)
        for clusters in (4, 16)
    },
    **{f"epig {sd}": ("epig", {"head_sd": sd}) for sd in (0.3, 1.0, 3.0, 10.0, 30.0)},
    **{f"typicality {k}": ("typicality", {"neighbours": k}) for k in (5, 20)},
}
HEAD_SDS = (1.0, 3.0, 10.0, 30.0)
METRICS = ("accuracy", "ece", "nll", "aurc")
log = logging.getLogger("selection_study")


@dataclass
class Subject:
    """A data set with its features.

    Attributes:
        name: What it is called.
        task: The data set.
        backbone: The frozen model.
        train: Plain features of the training split.
        test: Those of the test split.
        val: Those of the validation split. None: there is none.
        fixed: Zero-shot.
        source: (M, D) of the domain that `aligned` aligns to. None: there is none.
        cache: Where features are kept.
    """

    name: str
    task: TaskData
    backbone: Backbone
    train: FeatureTable
    test: FeatureTable
    val: FeatureTable | None
    fixed: Prompt
    cache: Path
    source: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """(C, D) of zero-shot."""
        return self.fixed.linear_map().weight

    def pool(self, seed: int) -> list[int]:
        """Return the rows of the training split that a seed may choose from."""
        owner = owners(self.train)
        order = sorted(set(owner), key=lambda name: stable_hash("pool", seed, name))
        inside = set(order[: round(POOL * len(order))])
        return [row for row, name in enumerate(owner) if name in inside]


def subjects(data: Sequence[str], cache: Path) -> Iterator[Subject]:
    """Yield the data sets in NAME or NAME=PATH words."""
    backbone = create_backbone("embedded")
    found = {}
    for word in data:
        name = word.partition("=")[0]
        task = load_task(source_of(word))
        parts = [
            None if table is None or not len(table) else encode(backbone, table, cache=cache)
            for table in (task.train, task.test, task.val)
        ]
        assert parts[0] is not None
        assert parts[1] is not None
        fixed = zero_shot(backbone, task)
        found[name] = Subject(name, task, backbone, parts[0], parts[1], parts[2], fixed, cache)
    for name, subject in found.items():
        if SOURCE.get(name) in found:
            subject.source = found[SOURCE[name]].train.image_features
    yield from found.values()


def chosen_rows(subject: Subject, way: str, count: int, seed: int, **settings: Any) -> list[int]:
    """Return the rows of the training split that a way of choosing takes, `count` in all.

    Args:
        subject: The data set.
        way: A strategy, one in halves, or "balanced".
        count: How many.
        seed: Of the pool and the choice.
        **settings: Of the strategy.
    """
    rows = subject.pool(seed)
    pool = subject.train.subset(rows)
    if way == BALANCED:
        labels = pool.labels.tolist()
        order = sorted(range(len(rows)), key=lambda row: stable_hash(seed, pool.ids[row]))
        left = dict.fromkeys(range(len(subject.task.class_names)), count // len(subject.task.class_names))
        taken, seen = [], set()
        owner = owners(pool)
        for row in order:
            if left[labels[row]] and owner[row] not in seen:
                left[labels[row]] -= 1
                seen.add(owner[row])
                taken.append(rows[row])
        return taken
    given: dict[str, Any] = {"seed": seed, "weight": subject.weight, "groups": pool.groups}
    parts = HALVES.get(way, (way,))
    found: list[int] = []
    for number, strategy in enumerate(parts, start=1):
        part = count // len(parts) if number < len(parts) else count - len(found)
        labelled = {pool.ids[row]: int(pool.labels[row]) for row in found}
        extra = {"source": subject.source} if strategy == "aligned" else {}
        picked = select(
            pool.image_features,
            pool.ids,
            part,
            strategy=strategy,
            labelled=labelled,
            **given,
            **settings,
            **extra,
        )
        found += picked.rows
    return [rows[row] for row in found]


def probe_weight(weight: Tensor, shots: FeatureTable, rows: Sequence[int], sd: float) -> Tensor:
    """Return zero-shot's weights (C, D) after learning from some shots: the most probable ones."""
    seen = shots.image_features[list(rows)].double().numpy()
    start = seen @ weight.numpy().T
    true = np.eye(len(weight))[shots.labels[list(rows)].numpy()]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        added = flat.reshape(len(weight), -1)
        logits = start + seen @ added.T
        logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        slope = (np.exp(logs) - true).T @ seen + added / sd**2
        return float(-(true * logs).sum() + np.square(added).sum() / (2 * sd**2)), slope.ravel()

    found = minimize(loss, np.zeros(weight.numel()), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return weight + torch.from_numpy(found.x.reshape(weight.shape))


def judged_probe(subject: Subject, rows: list[int], seen: FeatureTable, sd: float) -> dict[str, Any]:
    """Return what a probe of the shots says of images, as it is and calibrated by the shots."""
    shots = subject.train.subset(rows)
    names, weight = subject.task.class_names, subject.weight.double()
    everything = range(len(rows))
    folds = make_folds(shots.labels, owners(shots), FOLDS, names, every_class=False)
    apart = torch.full((len(rows), len(names)), torch.nan, dtype=torch.float64)
    for fold in folds:
        rest = sorted(set(everything) - set(fold))
        apart[fold] = shots.image_features[fold].double() @ probe_weight(weight, shots, rest, sd).T
    learned = probe_weight(weight, shots, everything, sd)
    found = calibrate_from_shots(
        Shots(
            features=shots.image_features.double(),
            labels=shots.labels,
            logits=apart,
            zero_shot_logits=shots.image_features.double() @ weight.T,
            owners=owners(shots),
        ),
        learned,
        weight,
    )
    new = seen.image_features.double()
    plain, better = new @ learned.T, new @ found.weight.T + found.bias
    return {"probe": values_of(plain, seen), "probe, calibrated": values_of(better, seen)} | about(
        subject, shots, seen, found.logits, better, found.method
    )


def values_of(logits: Tensor, seen: FeatureTable) -> dict[str, float]:
    """Return the metrics of logits (N, C) on images with labels."""
    found = summarize(logits, seen.labels)
    confidence, top = logits.double().softmax(dim=1).max(dim=1)
    aurc = summarize_failure(1 - confidence, top != seen.labels)["aurc"]
    return {**{key: float(found[key]) for key in METRICS if key != "aurc"}, "aurc": float(aurc)}


def about(
    subject: Subject, shots: FeatureTable, seen: FeatureTable, apart: Tensor, better: Tensor, method: str
) -> dict[str, Any]:
    """Return what the shots are, and what they say of images to come: where they are no sample, it is wrong.

    Args:
        subject: The data set.
        shots: The chosen images.
        seen: Images to come.
        apart: (n, C) calibrated logits of the left-out shots.
        better: (N, C) those of images to come.
        method: By which they were calibrated.
    """
    classes = len(subject.task.class_names)
    counts = shots.labels.bincount(minlength=classes)
    top, true = better.argmax(dim=1), seen.labels
    absent = [c for c in range(classes) if not counts[c] and bool((true == c).any())]
    missed = [float((top[true == c] == c).double().mean()) for c in absent]
    others = [float((top[true == c] == c).double().mean()) for c in range(classes) if counts[c]]
    found: dict[str, Any] = {
        "counts": counts.tolist(),
        "absent": len(absent),
        "recall of absent": float(np.mean(missed)) if missed else None,
        "recall of others": float(np.mean(others)),
        "method": method,
        "claimed accuracy": float((apart.argmax(dim=1) == shots.labels).double().mean()),
        "claimed nll": float(-apart.log_softmax(dim=1).gather(1, shots.labels[:, None]).mean()),
    }
    if len(shots.labels.unique()) > 1:
        sets = PredictionSets("lac", COVERAGE).fit(
            apart.softmax(dim=1), shots.labels, groups=shots.groups, left_out=True
        )
        ours = sets(better.softmax(dim=1))
        found["left-out coverage"] = float(set_coverage(ours, true))
        found["left-out size"] = float(ours.double().sum(dim=1).mean())
    if not absent and bool((counts > 0).all()):
        texts, scale = subject.fixed.text_features, subject.fixed.logit_scale
        full = FullConformal(PredictionSets("lac", COVERAGE)).fit(
            shots.image_features, shots.labels, texts, scale
        )
        ours = full(seen.image_features)
        found["full coverage"] = float(set_coverage(ours, true))
        found["full size"] = float(ours.double().sum(dim=1).mean())
    known = Familiarity().fit(shots.image_features, shots.labels, owners=owners(shots))
    found["false alarms"] = float(known(seen.image_features).double().mean())
    found["stated alarms"] = known.false_alarm_rate
    return found


def judged_prompts(subject: Subject, way: str, count: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return what prompts trained on the shots of every seed say of the test images."""
    rows_of = {seed: chosen_rows(subject, way, count, seed) for seed in seeds}
    rows = sorted({row for each in rows_of.values() for row in each})
    at = {row: place for place, row in enumerate(rows)}
    pool = encode(subject.backbone, subject.task.train.subset(rows), views=VIEWS, cache=subject.cache)
    plans = [
        (preset, seed, [at[row] for row in rows_of[seed]], preset == "calibprompt")
        for preset in ("coop", "calibprompt")
        for seed in seeds
    ]
    trained = train(plans, pool, subject.fixed, subject.backbone, subject.task)
    found = []
    for seed in seeds:
        ce, ours = trained["coop", seed], trained["calibprompt", seed]
        shots = ours.shots
        done, calibration = calibrated(
            ours.prompt, ours.fold_texts, ours.folds, shots, subject.fixed.text_features, ShotSettings()
        )
        logits = {
            "CE": ce.prompt.logits(subject.test.image_features),
            "calibprompt": ours.prompt.logits(subject.test.image_features),
            "calibprompt, calibrated": done.logits(subject.test.image_features),
        }
        values = {name: values_of(each.double(), subject.test) for name, each in logits.items()}
        better = logits["calibprompt, calibrated"].double()
        more = about(subject, shots, subject.test, calibration.logits, better, calibration.method)
        found.append({"seed": seed, **values, **more})
    return found


def development_images(subject: Subject, seed: int) -> FeatureTable:
    """Return the training images outside a seed's pool, and the validation split."""
    inside = set(subject.pool(seed))
    rest = subject.train.with_views(0).subset([row for row in range(len(subject.train)) if row not in inside])
    if subject.val is None:
        return rest
    both = (rest, subject.val)
    return FeatureTable(
        torch.cat([each.image_features for each in both]),
        torch.cat([each.labels for each in both]),
        [id_ for each in both for id_ in each.ids],
        [f"{part}/{name}" for part, each in zip("tv", both, strict=True) for name in each.names],
    )


class Clock:
    """Whether there is time left for another cell."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def over(self) -> bool:
        """Return whether it is over."""
        return time.monotonic() > self._end


def run(
    part: str, data: Sequence[str], out: Path, seeds: int, clock: Clock, ways: Sequence[str] = ()
) -> bool:
    """Compute the cells of a part that are not there yet, of some ways or all; return whether all are."""
    first = 11 if part == "development" else 1
    numbers = range(first, first + seeds)
    budgets = BUDGETS if part == "probe" else (8,)
    for subject in subjects(data, out / "cache"):
        classes = len(subject.task.class_names)
        for budget in budgets:
            for way in [each for each in ways_of(part, subject) if not ways or each in ways]:
                path = out / part / f"{subject.name}-{budget}-{way.replace(' ', '_')}.json"
                if path.is_file():
                    continue
                if clock.over():
                    log.info("Time is up; the same command goes on with %s.", path.name)
                    return False
                count = budget * classes
                if part == "prompts":
                    cell = judged_prompts(subject, way, count, numbers)
                else:
                    cell = [probe_cell(part, subject, way, count, seed) for seed in numbers]
                write_json(path, {"data": subject.name, "budget": budget, "way": way, "seeds": cell})
                log.info("%s done.", path.name)
    return True


def ways_of(part: str, subject: Subject) -> list[str]:
    """Return what is compared on a data set."""
    if part == "development":
        return [RANDOM, *(f"head {sd}" for sd in HEAD_SDS), *VARIANTS]
    return [way for way in WAYS if way != "aligned" or subject.source is not None]


def probe_cell(part: str, subject: Subject, way: str, count: int, seed: int) -> dict[str, Any]:
    """Return the values of one seed."""
    seen, strategy, settings, sd = subject.test, way, {}, HEAD_SD
    if part == "development":
        seen = development_images(subject, seed)
        strategy, settings = VARIANTS.get(way, (RANDOM, {}))
        if way.startswith("head "):
            sd = float(way.split()[1])
    rows = chosen_rows(subject, strategy, count, seed, **settings)
    return {"seed": seed, **judged_probe(subject, rows, seen, sd)}


def read_cells(folder: Path) -> dict[tuple[str, int, str], list[dict[str, Any]]]:
    """Return the finished cells by data set, budget and way."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        found[record["data"], record["budget"], record["way"]] = record["seeds"]
    return found


def means_table(cells: Mapping[tuple[str, int, str], list[dict[str, Any]]], learner: str) -> str:
    """Return the means over seeds of one learner, a row for each way and a column for each cell."""
    keys = sorted({key[:2] for key in cells})
    rows = []
    for way in [
        w for w in (*WAYS, *VARIANTS, *(f"head {sd}" for sd in HEAD_SDS)) if any(k[2] == w for k in cells)
    ]:
        row = [way]
        for data, budget in keys:
            cell = cells.get((data, budget, way))
            if cell is None:
                row.append("n/a")
                continue
            mean = {key: np.mean([each[learner][key] for each in cell]) for key in METRICS}
            row.append(
                f"{100 * mean['accuracy']:.1f} / {100 * mean['ece']:.1f} / {mean['nll']:.3f} / "
                f"{100 * mean['aurc']:.1f}"
            )
        rows.append(row)
    return aligned(["way", *(f"{data}, {budget}" for data, budget in keys)], rows)


def differences(
    cells: Mapping[tuple[str, int, str], list[dict[str, Any]]],
    learner: str,
    metric: str,
    way: str,
    data: str | None,
) -> np.ndarray:
    """Return way minus random by data set and seed, averaged over budgets: (units,)."""
    found: dict[tuple[str, int], list[float]] = {}
    for (name, budget, other), cell in cells.items():
        base = cells.get((name, budget, RANDOM))
        if other != way or base is None or data not in (None, name):
            continue
        for ours, theirs in zip(cell, base, strict=True):
            value = ours[learner][metric] - theirs[learner][metric]
            found.setdefault((name, ours["seed"]), []).append(value)
    return np.array([np.mean(each) for each in found.values()])


def against_random(cells: Mapping[tuple[str, int, str], list[dict[str, Any]]], learner: str) -> str:
    """Return each way minus random over all cells, with intervals and Holm-corrected tests."""
    ways = [way for way in WAYS if way != RANDOM and any(key[2] == way for key in cells)]
    ours = [way for way in ways if way != BALANCED]  # which knows the labels: beside the strategies, no test
    table = {way: [way] for way in ways}
    for metric in METRICS:
        factor = 1 if metric == "nll" else 100
        p = {way: sign_flip_test(differences(cells, learner, metric, way, None)) for way in ours}
        corrected = dict(zip(ours, adjusted_p([p[way] for way in ours]), strict=True))
        for way in ways:
            value = factor * differences(cells, learner, metric, way, None)
            low, high = interval(value)
            said = (
                f"{value.mean():+.{3 if metric == 'nll' else 1}f} [{low:+.{3 if metric == 'nll' else 1}f}, "
            )
            said += f"{high:+.{3 if metric == 'nll' else 1}f}]"
            table[way] += [said, f"{corrected[way]:.3f}" if way in corrected else ""]
    head = ["way minus random"]
    for metric in METRICS:
        head += [metric if metric == "nll" else f"{metric} %", "p (Holm)"]
    return aligned(head, list(table.values()))


def by_data(cells: Mapping[tuple[str, int, str], list[dict[str, Any]]], learner: str, metric: str) -> str:
    """Return each way minus random by data set, with intervals over seeds that nothing corrects."""
    names = sorted({key[0] for key in cells})
    rows = []
    for way in [way for way in WAYS if way != RANDOM and any(key[2] == way for key in cells)]:
        row = [way]
        for name in names:
            value = (1 if metric == "nll" else 100) * differences(cells, learner, metric, way, name)
            if not len(value):
                row.append("n/a")
                continue
            low, high = interval(value)
            digits = 3 if metric == "nll" else 1
            row.append(f"{value.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]")
        rows.append(row)
    return aligned([f"{metric}, way minus random", *names], rows)


def interval(values: np.ndarray, resamples: int = 4000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean over pairs (data set, seed)."""
    random = np.random.default_rng(0)
    means = values[random.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def sample_table(cells: Mapping[tuple[str, int, str], list[dict[str, Any]]], learner: str) -> str:
    """Return what the shots say of images to come, and what is true of these: means over everything."""
    rows = []
    for way in [way for way in WAYS if any(key[2] == way for key in cells)]:
        units = [each for key, cell in cells.items() if key[2] == way for each in cell]

        def mean(key: str, units: list[dict[str, Any]] = units) -> float:
            values = [each[key] for each in units if each.get(key) is not None]
            return float(np.mean(values)) if values else math.nan

        ends = interval(np.array([each["claimed accuracy"] - each[learner]["accuracy"] for each in units]))
        covers = [each["left-out coverage"] for each in units if "left-out coverage" in each]
        low, high = interval(np.array(covers))
        fulls = [each["full coverage"] for each in units if "full coverage" in each]
        rows.append(
            [
                way,
                f"{mean('absent'):.2f}",
                f"{100 * mean('recall of absent'):.0f}",
                f"{100 * mean('recall of others'):.0f}",
                f"{100 * mean('claimed accuracy'):.1f}",
                f"{100 * np.mean([each[learner]['accuracy'] for each in units]):.1f}",
                f"{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}",
                f"{100 * np.mean(covers):.1f} [{100 * low:.1f}, {100 * high:.1f}]",
                f"{mean('left-out size'):.2f}",
                f"{100 * np.mean(fulls):.1f} ({len(fulls)} of {len(units)})" if fulls else "n/a",
                f"{100 * mean('stated alarms'):.1f} / {100 * mean('false alarms'):.1f}",
            ]
        )
    head = [
        "way",
        "classes without a shot",
        "recall there",
        "elsewhere",
        "accuracy claimed by left-out shots",
        "true",
        "claimed - true, 95 %",
        "coverage of 90 % sets from left-out shots",
        "size",
        "of full conformal sets",
        "unlike: stated / true %",
    ]
    return aligned(head, rows)


def worth_table(cells: Mapping[tuple[str, int, str], list[dict[str, Any]]], plain: str, better: str) -> str:
    """Return what calibration from the shots of each way is worth: calibrated minus not."""
    rows = []
    for way in [way for way in WAYS if any(key[2] == way for key in cells)]:
        units = [each for key, cell in cells.items() if key[2] == way for each in cell]
        row = [way]
        for metric in ("ece", "nll", "accuracy"):
            factor = 1 if metric == "nll" else 100
            value = factor * np.array([each[better][metric] - each[plain][metric] for each in units])
            low, high = interval(value)
            digits = 3 if metric == "nll" else 1
            row += [
                f"{value.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]",
                f"{np.mean(value > 0):.2f}",
            ]
        rows.append(row)
    head = ["way", "ECE %", "worse in", "NLL", "worse in", "accuracy %", "better in"]
    return aligned(head, rows)


def tables(out: Path) -> str:
    """Return all tables of the parts that are there."""
    parts = []
    for part, learners in (
        ("development", ("probe", "probe, calibrated")),
        ("probe", ("probe", "probe, calibrated")),
        ("prompts", ("CE", "calibprompt", "calibprompt, calibrated")),
    ):
        cells = read_cells(out / part)
        if not cells:
            continue
        for learner in learners:
            parts.append(
                f"### {part}: {learner}: accuracy % / ECE % / NLL / AURC %\n\n{means_table(cells, learner)}"
            )
            if part != "development":
                parts.append(
                    f"{learner}, over all data sets and budgets; 95 % intervals and sign-flip tests over "
                    f"data sets and seeds\n\n{against_random(cells, learner)}"
                )
                parts += [by_data(cells, learner, metric) for metric in METRICS]
        if part != "development":
            best = learners[-1]
            parts.append(f"### {part}: what the shots say of images to come\n\n{sample_table(cells, best)}")
            worth = worth_table(cells, learners[-2], best)
            parts.append(f"### {part}: calibrated minus not\n\n{worth}")
    return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one part of the study. Returns the exit status: 0 done, 75 when time was up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("development", "probe", "prompts", "tables"))
    parser.add_argument("data", nargs="*", help="cxr3, lc25000, or NAME=PATH")
    parser.add_argument("--out", type=Path, default=Path("runs/selection-study"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--ways", default="", metavar="A,B,...", help="some of them (default: all)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end before a cell after so many")
    given = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    log.setLevel(logging.INFO)
    warnings.simplefilter("ignore")
    ways = [way for way in given.ways.split(",") if way]
    unknown = [way for way in ways if way not in (*WAYS, *VARIANTS)]
    if unknown:
        parser.error(f"unknown way {unknown[0]!r}: {', '.join(WAYS)}")
    clock = Clock(given.minutes)
    if given.part != "tables" and not run(given.part, given.data, given.out, given.seeds, clock, ways):
        return 75
    text = tables(given.out)
    write_text(given.out / "study.md", text)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
