"""Prediction sets: do they keep their promise, where do they fail, and which are small?

    python benchmarks/sets_study.py simulate
    python benchmarks/sets_study.py peers
    python benchmarks/sets_study.py outputs aptos=PATH/aptos2019.npz llava=PATH/llava-v1.5-7b.jsonl
    python benchmarks/sets_study.py shots cxr3 lc25000

`simulate` draws calibration cases again and again from a large population whose coverage under any threshold
is known: mean coverage against the one asked for, and how often the sets that a clinic would get are below
it; with ties, strata, patients, a shift of the classes' shares, and that repaired. `peers` does the same
beside MAPIE and TorchCP, where these are installed. `outputs` fits sets to a few rows of each class of
recorded outputs and judges them on all others. `shots` compares the ways that need nothing but the shots on
the embedded backbone's features. Everything is drawn with fixed seeds. No setting depends on the data.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from posthoc_study import drawn, load
from torch import Tensor

from calib import create_backbone, load_data
from calib.data.encode import encode
from calib.data.few_shot import few_shot_split
from calib.io.files import write_text
from calib.metrics.sets import class_coverage_gap, class_coverages, set_coverage
from calib.posthoc import FullConformal, PredictionSets, TransductiveSets
from calib.posthoc.discriminant import LinearDiscriminant, left_out_logits
from calib.posthoc.posterior import weight_posterior
from calib.posthoc.set_levels import rank_of
from calib.prompts.zero_shot import zero_shot
from calib.report.tables import aligned

POPULATION, CLASSES = 100_000, 4
SHARES = (0.55, 0.25, 0.15, 0.05)
BALANCED = (0.25, 0.25, 0.25, 0.25)
SIZES = (16, 64, 256, 1024)
COVERAGES = (0.8, 0.9, 0.95)
SETTINGS: dict[str, dict[str, Any]] = {
    "lac": {},
    "aps": {"score": "aps"},
    "aps_randomized": {"score": "aps_randomized"},
    "raps": {"score": "raps"},
    "lac, per class": {"per_class": True},
    "lac, confidence 0.9": {"confidence": 0.9},
}
log = logging.getLogger("sets_study")


class Population:
    """Cases of a toy clinic: probabilities of a model that is too sure, labels, two hospitals, patients.

    Args:
        shares: Of the classes.
        ties: Whether probabilities are rounded to tenths, so that most scores are shared by many.
        seed: Of everything.
    """

    def __init__(self, shares: Sequence[float], *, ties: bool = False, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        n = POPULATION
        self.labels = torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator)
        self.hospital = torch.randint(2, (n,), generator=generator)  # the second is harder
        patients = torch.randn(n // 4, CLASSES, generator=generator).repeat_interleave(4, dim=0)
        noise = 0.7 * patients + 0.7 * torch.randn(n, CLASSES, generator=generator)
        easy = torch.tensor([0.8, 1.4, 1.8, 2.4])[self.labels] * (1 - 0.5 * self.hospital)
        logits = 1.5 * (noise + easy[:, None] * torch.nn.functional.one_hot(self.labels, CLASSES))
        self.probs = logits.double().softmax(dim=1)
        if ties:
            tenths = (10 * self.probs).round() + 1e-9
            self.probs = tenths / tenths.sum(dim=1, keepdim=True)


def simulate(draws: int) -> Iterator[str]:
    """Yield tables of mean coverage and of how often it is below the one asked for."""
    plain, tied = Population(SHARES), Population(SHARES, ties=True)
    balanced = Population(BALANCED, seed=1)
    worlds: dict[str, tuple[Population, Population, dict[str, Any], dict[str, Any]]] = {
        name: (plain, plain, settings, {}) for name, settings in SETTINGS.items()
    }
    worlds |= {
        "lac, ties": (tied, tied, {}, {}),
        "aps, ties": (tied, tied, {"score": "aps"}, {}),
        "lac, by hospital": (plain, plain, {}, {"strata": True}),
        "lac, fitted on balanced cases": (balanced, plain, {}, {}),
        "lac, on balanced cases, shares stated": (balanced, plain, {}, {"shares": SHARES}),
        "lac, on balanced cases, per class": (balanced, plain, {"per_class": True}, {}),
        "aps, fitted on balanced cases": (balanced, plain, {"score": "aps"}, {}),
        "aps, on balanced cases, shares stated": (balanced, plain, {"score": "aps"}, {"shares": SHARES}),
    }
    for n in SIZES:
        rows = []
        for name, (here, there, settings, how) in worlds.items():
            several = COVERAGES if name in ("lac", "aps") else (0.9,)
            rows += [[name, *_world(here, there, each, n, draws, settings, how)] for each in several]
        head = ["sets", "asked for", "mean coverage", "± 2 se", "exactly", "below it", "lowest class", "size"]
        yield f"### n = {n}, {draws} draws\n\n{aligned(head, rows)}"
    yield patients(draws)


def _world(
    here: Population,
    there: Population,
    coverage: float,
    n: int,
    draws: int,
    settings: Mapping[str, Any],
    how: Mapping[str, Any],
) -> list[str]:
    """Return the cells of one setting: thresholds from n cases of one population, coverage in the other."""
    generator = np.random.default_rng([n, round(1000 * coverage)])
    probe = PredictionSets(coverage=coverage, **settings)
    all_scores = probe.scores(there.probs)
    own = all_scores.gather(1, there.labels[:, None])[:, 0]
    stratum = there.hospital if "strata" in how else torch.zeros(POPULATION, dtype=torch.int64)
    parts = [
        [_sorted(own[(stratum == g) & (there.labels == c)]) for c in range(CLASSES)]
        for g in range(int(stratum.max()) + 1)
    ]
    sizes = [
        [_sorted(all_scores[stratum == g][:, c]) for c in range(CLASSES)]
        for g in range(int(stratum.max()) + 1)
    ]
    found, lowest, size = [], [], []
    for _ in range(draws):
        rows = torch.from_numpy(generator.integers(POPULATION, size=n))
        labels = here.labels[rows]
        if len(labels.unique()) < 2 or ("shares" in how and len(labels.unique()) < CLASSES):
            continue  # refused; such draws are rare, and n/a where they are not
        strata = here.hospital[rows] if "strata" in how else None
        if strata is not None and len(strata.unique()) < 2:
            continue
        sets = PredictionSets(coverage=coverage, **settings)
        sets.fit(here.probs[rows], labels, strata=strata, shares=how.get("shares"))
        assert sets.cells is not None
        limits = sets.cells.thresholds
        hits = np.array(
            [[_upto(part, float(limits[g, c])) for c, part in enumerate(row)] for g, row in enumerate(parts)]
        )
        counts = np.array([[len(part) for part in row] for row in parts])
        by_class = hits.sum(axis=0) / counts.sum(axis=0)
        found.append(hits.sum() / counts.sum())
        by_stratum = hits.sum(axis=1) / counts.sum(axis=1)
        lowest.append(min(by_stratum) if "strata" in how else min(by_class))
        inside = sum(
            _upto(part, float(limits[g, c])) for g, row in enumerate(sizes) for c, part in enumerate(row)
        )
        size.append(inside / POPULATION)
    if len(found) < draws / 2:
        return [f"{coverage:g}", *["n/a"] * 6]
    values = np.array(found)
    exact = rank_of(n, coverage) / (n + 1)
    plain = not how and not settings.get("per_class") and not settings.get("confidence")
    return [
        f"{coverage:g}",
        f"{values.mean():.4f}",
        f"{2 * values.std() / math.sqrt(len(values)):.4f}",
        f"{exact:.4f}" if plain else "",
        f"{100 * np.mean(values < coverage - 1e-9):.0f} %",
        f"{np.mean(lowest):.3f}",
        f"{np.mean(size):.2f}",
    ]


def _sorted(values: Tensor) -> np.ndarray:
    return np.sort(values.numpy())


def _upto(values: np.ndarray, limit: float) -> int:
    return int(np.searchsorted(values, limit, side="right"))


def patients(draws: int) -> str:
    """Return the table of sets from several images of each patient, judged on images of new patients."""
    world = Population(SHARES)
    # All images of a patient have the class of the first.
    labels = world.labels.view(-1, 4)[:, :1].expand(-1, 4).reshape(-1)
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(POPULATION // 4, CLASSES, generator=generator).repeat_interleave(4, dim=0)
    logits = 1.5 * (1.2 * base + 0.3 * torch.randn(POPULATION, CLASSES, generator=generator))
    logits = logits + 2.4 * torch.nn.functional.one_hot(labels, CLASSES)
    probs = logits.double().softmax(dim=1)
    own = (1 - probs).gather(1, labels[:, None])[:, 0]
    ordered = _sorted(own)
    rows = []
    for m in (16, 64, 256):
        by = {"images counted": [], "patients counted": []}
        widths = {"images counted": [], "patients counted": []}
        random = np.random.default_rng(m)
        for _ in range(draws):
            chosen = random.integers(POPULATION // 4, size=m)
            # as many images as come: one to four of each
            picked = np.concatenate([4 * p + np.arange(random.integers(1, 5)) for p in chosen])
            take = torch.from_numpy(picked)
            if len(labels[take].unique()) < 2:
                continue
            for name, groups in (("images counted", None), ("patients counted", take // 4)):
                sets = PredictionSets(coverage=0.9).fit(probs[take], labels[take], groups=groups)
                assert sets.cells is not None
                covered = _upto(ordered, float(sets.cells.thresholds[0, 0])) / POPULATION
                by[name].append(covered)
                low, high = sets.interval(0.95)
                widths[name].append(low <= covered <= high)
        for name, values in by.items():
            rows.append(
                [
                    str(m),
                    name,
                    f"{np.mean(values):.4f}",
                    f"{2 * np.std(values) / math.sqrt(len(values)):.4f}",
                    f"{100 * np.mean(widths[name]):.0f} %",
                ]
            )
    head = ["patients", "", "mean coverage", "± 2 se", "in the 95 % interval"]
    return (
        f"### patients with one to four alike images, 0.9 asked for, {draws} draws\n\n{aligned(head, rows)}"
    )


def peers(draws: int) -> Iterator[str]:
    """Yield the table of the same task by MAPIE and TorchCP, where they are installed."""
    try:
        mapie, torchcp = _mapie(), _torchcp()
    except ImportError as error:
        yield f"MAPIE and TorchCP are not installed ({error})."
        return
    world = Population(SHARES)
    test = slice(0, 4000)
    true = world.labels[test]
    programs: dict[str, Callable[[str, Tensor, Tensor, Tensor], Tensor]] = {
        "calib": lambda score, probs, labels, new: PredictionSets(score).fit(probs, labels)(new),
        "calib, randomised": lambda score, probs, labels, new: PredictionSets(
            score if score == "lac" else f"{score}_randomized"
        ).fit(probs, labels)(new),
        "MAPIE": mapie,
        "TorchCP": torchcp,
    }
    rows = []
    for n in (5, 16, 64, 256):
        for score in ("lac", "aps"):
            for name, program in programs.items():
                if name == "calib, randomised" and score == "lac":
                    continue
                random = np.random.default_rng(n)
                covered, sizes, refused, empty, start = [], [], 0, [], time.perf_counter()
                for _ in range(draws):
                    rows_ = torch.from_numpy(random.integers(4000, POPULATION, size=n))
                    labels = world.labels[rows_]
                    try:
                        sets = program(score, world.probs[rows_], labels, world.probs[test])
                    except (ValueError, IndexError):
                        refused += 1
                        continue
                    covered.append(float(set_coverage(sets, true)))
                    sizes.append(float(sets.double().sum(dim=1).mean()))
                    empty.append(float((~sets.any(dim=1)).double().mean()))
                took = (time.perf_counter() - start) / draws
                if not covered:
                    rows.append([str(n), score, name, *["n/a"] * 4, f"{refused}", f"{1000 * took:.1f}"])
                    continue
                rows.append(
                    [
                        str(n),
                        score,
                        name,
                        f"{np.mean(covered):.3f} ± {2 * np.std(covered) / math.sqrt(len(covered)):.3f}",
                        f"{100 * np.mean(np.array(covered) < 0.9):.0f} %",
                        f"{np.mean(sizes):.3f}",
                        f"{100 * np.mean(empty):.1f} %",
                        str(refused),
                        f"{1000 * took:.1f}",
                    ]
                )
    head = ["n", "score", "program", "coverage", "below 0.9", "size", "empty", "refused", "ms a draw"]
    yield (
        f"### beside MAPIE and TorchCP, 0.9 asked for, {draws} draws, 4,000 test cases\n\n"
        f"{aligned(head, rows)}"
    )


def _mapie() -> Callable[[str, Tensor, Tensor, Tensor], Tensor]:
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Recorded(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(CLASSES)

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return x

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x.argmax(axis=1)

    def sets(score: str, probs: Tensor, labels: Tensor, new: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = SplitConformalClassifier(
                Recorded(), confidence_level=0.9, conformity_score=score, prefit=True, random_state=0
            )
            made.conformalize(probs.numpy(), labels.numpy())
            return torch.from_numpy(made.predict_set(new.numpy())[1][:, :, 0].astype(bool))

    return sets


def _torchcp() -> Callable[[str, Tensor, Tensor, Tensor], Tensor]:
    from torchcp.classification.predictor import SplitPredictor
    from torchcp.classification.score import APS, LAC

    def sets(score: str, probs: Tensor, labels: Tensor, new: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function = LAC(score_type="identity") if score == "lac" else APS(score_type="identity")
            made = SplitPredictor(function)
            made.calculate_threshold(probs, labels, 0.1)
            return made.predict_with_logits(new).bool()

    return sets


OF_OUTPUTS: dict[str, tuple[dict[str, Any], bool]] = {
    "lac": ({}, False),
    "lac, shares": ({}, True),
    "lac, per class": ({"per_class": True}, False),
    "aps": ({"score": "aps"}, False),
    "aps, shares": ({"score": "aps"}, True),
    "aps_randomized, shares": ({"score": "aps_randomized"}, True),
    "aps, per class": ({"score": "aps", "per_class": True}, False),
    "raps, shares": ({"score": "raps"}, True),
}


def of_outputs(data: Mapping[str, Path], sizes: Sequence[int], draws: int) -> Iterator[str]:
    """Yield a table for every file, size and coverage: coverage, size, gap between classes, empty sets."""
    for name, path in data.items():
        logits, labels = load(path)
        probs = logits.softmax(dim=1)
        natural = labels.bincount(minlength=logits.shape[1]).double() / len(labels)
        for coverage in (0.95, 0.9):
            rows = []
            for size in sizes:
                for method, (settings, shares) in OF_OUTPUTS.items():
                    found: dict[str, list[float]] = {}
                    for draw in range(draws):
                        shown = drawn(labels, size, draw)
                        sets = PredictionSets(coverage=coverage, **settings)
                        sets.fit(probs[shown], labels[shown], shares=natural if shares else None)
                        judge(found, sets(probs[~shown]), labels[~shown], coverage)
                    count = int(drawn(labels, size, 0).sum())
                    rows.append([f"{size} ({count})", method, *said(found)])
            yield (
                f"### {name}: {logits.shape[1]} classes, {coverage:g} asked for, {draws} draws\n\n"
                + aligned(["per class", "sets", *HEAD], rows)
            )


HEAD = ["coverage", "lowest class", "class gap", "size", "single", "empty"]


def judge(found: dict[str, list[float]], sets: Tensor, labels: Tensor, coverage: float) -> None:
    """Add what is measured of sets to lists by name."""
    sizes = sets.sum(dim=1)
    values = {
        "coverage": float(set_coverage(sets, labels)),
        "lowest": float(class_coverages(sets, labels).nan_to_num(1.0).min()),
        "gap": float(class_coverage_gap(sets, labels, coverage=coverage)),
        "size": float(sizes.double().mean()),
        "single": float((sizes == 1).double().mean()),
        "empty": float((sizes == 0).double().mean()),
    }
    for key, value in values.items():
        found.setdefault(key, []).append(value)


def said(found: Mapping[str, list[float]]) -> list[str]:
    """Return the cells of HEAD: means over draws, with standard deviations of coverage and size."""
    mean = {key: float(np.mean(values)) for key, values in found.items()}
    return [
        f"{mean['coverage']:.3f} ± {np.std(found['coverage']):.3f}",
        f"{mean['lowest']:.2f}",
        f"{mean['gap']:.3f}",
        f"{mean['size']:.2f} ± {np.std(found['size']):.2f}",
        f"{100 * mean['single']:.0f} %",
        f"{100 * mean['empty']:.1f} %",
    ]


def of_shots(names: Sequence[str], shots: Sequence[int], seeds: int, coverage: float) -> Iterator[str]:
    """Yield a table for every task and number of shots: the ways that need no calibration images."""
    backbone = create_backbone("embedded")
    for name in names:
        task = load_data(name)
        train, test = encode(backbone, task.train, cache=None), encode(backbone, task.test, cache=None)
        fixed = zero_shot(backbone, task)
        true = test.labels
        natural = true.bincount(minlength=len(task.class_names)).double() / len(true)
        for count in shots:
            results: dict[str, dict[str, list[float]]] = {}
            seconds: dict[str, float] = {}
            for seed in range(1, seeds + 1):
                split = few_shot_split(train.labels, train.ids, count, seed=seed, groups=train.groups)
                rows = torch.tensor(split.train)
                images, labels = train.image_features[rows].double(), train.labels[rows]
                owners = None if train.groups is None else [str(train.groups[i]) for i in split.train]
                new = test.image_features.double()
                for per_class in (False, True):
                    for way, make in ways(images, labels, owners, new, fixed, natural).items():
                        if per_class and "shares" in way:
                            continue
                        start = time.perf_counter()
                        sets = make(PredictionSets("aps", coverage, per_class=per_class))
                        key = f"{way}{', per class' if per_class else ''}"
                        seconds[key] = seconds.get(key, 0.0) + time.perf_counter() - start
                        judge(results.setdefault(key, {}), sets, true, coverage)
            body = [[key, *said(found), f"{seconds[key] / seeds:.2f}"] for key, found in results.items()]
            yield (
                f"### {name}, {count} shots per class, {coverage:g} asked for, aps, {seeds} draws, "
                f"{len(true)} test images\n\n{aligned(['way', *HEAD, 's'], body)}"
            )


def ways(
    images: Tensor, labels: Tensor, owners: list[str] | None, new: Tensor, fixed: Any, natural: Tensor
) -> dict[str, Callable[[PredictionSets], Tensor]]:
    """Return functions from unfitted sets to the sets of new images, by the name of the way."""
    n_classes = len(fixed.class_names)
    scale = fixed.logit_scale
    texts = fixed.text_features.double()
    zero, zero_new = fixed.logits(images.float()).double(), fixed.logits(new.float()).double()
    half = torch.zeros(len(labels), dtype=torch.bool)
    for c in range(n_classes):
        mine = (labels == c).nonzero()[:, 0]
        half[mine[: len(mine) // 2]] = True

    def discriminant(teach: Tensor, judge_by: Tensor, logits: Tensor) -> Tensor:
        """Return the probabilities of new images by a discriminant of some shots, scaled by others."""
        found = LinearDiscriminant.fit(images[teach], labels[teach], n_classes).logits(new)
        return (float(scaled(logits, labels[judge_by])) * found).softmax(dim=1)

    def scaled(logits: Tensor, true: Tensor) -> float:
        known = logits.isfinite().all(dim=1)
        return float(weight_posterior({"images": logits[known]}, true[known], sd=2.0, median=0.3).nearest[0])

    everything = torch.ones(len(labels), dtype=torch.bool)
    apart = left_out_logits(images, labels, n_classes, owners=owners)
    factor = scaled(apart, labels)
    of_half = LinearDiscriminant.fit(images[half], labels[half], n_classes)
    half_factor = scaled(left_out_logits(images[half], labels[half], n_classes), labels[half])

    def left_out(sets: PredictionSets, shares: Tensor | None = None) -> Tensor:
        sets.fit((factor * apart).softmax(dim=1), labels, shares=shares, left_out=True)
        return sets(discriminant(everything, everything, apart))

    def split(sets: PredictionSets) -> Tensor:
        sets.fit((half_factor * of_half.logits(images[~half])).softmax(dim=1), labels[~half])
        return sets((half_factor * of_half.logits(new)).softmax(dim=1))

    def full(sets: PredictionSets, way: bool) -> Tensor:
        return FullConformal(sets, left_out=way).fit(images, labels, texts, scale)(new)

    def transductive(way: str, sets: PredictionSets, *, doubtful: bool = False) -> Tensor:
        extra = {"features": images, "new_features": new} if way == "lata" else {}
        if doubtful:
            doubts = [1 - each.softmax(dim=1).max(dim=1).values for each in (zero, zero_new)]
            extra |= {"doubt": doubts[0], "new_doubt": doubts[1]}
        return TransductiveSets(way, sets)(zero, labels, zero_new, **extra)

    return {
        "zero-shot, shots calibrate": lambda sets: sets.fit(zero.softmax(dim=1), labels)(
            zero_new.softmax(dim=1)
        ),
        "zero-shot, shares": lambda sets: sets.fit(zero.softmax(dim=1), labels, shares=natural)(
            zero_new.softmax(dim=1)
        ),
        "half teach, half calibrate": split,
        "left-out (discriminant)": left_out,
        "left-out (discriminant), shares": lambda sets: left_out(sets, natural),
        "full, FCA (SS-Text)": lambda sets: full(sets, False),
        "full, left out (SS-Text)": lambda sets: full(sets, True),
        "Conf-OT": lambda sets: transductive("conf_ot", sets),
        "LATA": lambda sets: transductive("lata", sets),
        "LATA, doubt 1 - confidence": lambda sets: transductive("lata", sets, doubtful=True),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run one part of the study and print its tables. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("simulate", "peers", "outputs", "shots"))
    parser.add_argument("data", nargs="*", help="outputs: NAME=PATH of .npz or .jsonl files; shots: tasks")
    parser.add_argument("--out", type=Path, default=Path("runs/sets-study"))
    parser.add_argument("--draws", type=int, help="simulate 1000, peers 200, outputs 25, shots 10 seeds")
    parser.add_argument("--sizes", help="rows or shots per class: outputs 8,16,32,128, shots 8,16")
    parser.add_argument("--coverage", type=float, default=0.9, help="of the shots")
    given = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    usual = {"simulate": 1000, "peers": 200, "outputs": 25, "shots": 10}
    draws = given.draws or usual[given.part]
    sizes = [
        int(size) for size in (given.sizes or ("8,16" if given.part == "shots" else "8,16,32,128")).split(",")
    ]
    if given.part == "simulate":
        tables = simulate(draws)
    elif given.part == "peers":
        tables = peers(draws)
    elif given.part == "outputs":
        files = {name: Path(path) for name, _, path in (each.partition("=") for each in given.data)}
        tables = of_outputs(files, sizes, draws)
    else:
        tables = of_shots(given.data or ["cxr3", "lc25000"], sizes, draws, given.coverage)
    text = ""
    for table in tables:
        sys.stdout.write(f"{table}\n\n")
        sys.stdout.flush()
        text += f"{table}\n\n"
    write_text(given.out / f"{given.part}.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
