"""Robustness: what corruptions and real shifts do to prompts, doubts, and guarantees of thresholds and sets.

    python benchmarks/robustness_study.py cxr3=FOLDER lc25000=FOLDER fundus=FOLDER pneumoniamnist=FILE.npz

The embedded backbone; zero-shot, CE (coop), CalibPrompt, and CalibPrompt calibrated by its 8 shots per class,
seeds 1 to 3. On what the draw leaves of training images, with the validation images, each model gets
prediction sets (LAC, 90 %) and a review threshold: at most 10 % wrong among the accepted, with 90 %
confidence, one case of a patient counted; where so few images cannot show that little for a model that is
wrong that often, 20 % (cxr3, sites) or 40 % (fundus). For a doubt that has to be learned (the stack of
`calib.fit_failure_head`, and single scores) they are halved by patient: one half teaches it, the other gives
the threshold. Temperatures of sanity baselines are fitted on that half as well.

Corruptions at severities 1, 3, 5 of `--images` test images, drawn by content with whole patients (100: an
image takes 40 ms to encode, and there are 27 or 33 conditions). Real shifts, on all test images:

    cxr3        source: NIH against Hannover, both in training. Class and source are confounded.
    fundus      eye: left against right, where nothing should change; maculopathy: without against with.
    site        no finding or pneumonia, learned and calibrated on NIH adults (cxr3), used on children in
                Guangzhou (pneumoniamnist, 28 pixels), and the other way round. With both data sets given.

Everything that takes long is kept in `--out`: encoded images, prompts, doubts. `--seconds` stops after the
piece in which they have passed; the same command goes on behind it, and writes the tables at its end. About
25 minutes of one core in all.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calib.processes.threads import prepare_threads

prepare_threads()  # before torch is imported

import numpy as np
import torch

import calib
from calib.backbones.base import Backbone
from calib.core.hashing import stable_hash
from calib.data.features import FeatureTable
from calib.data.judged import rounded_doubt
from calib.data.records import ImageTable
from calib.data.task import TaskData
from calib.failure.export import FailureHead
from calib.io.files import write_text
from calib.posthoc.conformal import PredictionSets
from calib.posthoc.review import ReviewThreshold
from calib.prompts.export import Prompt
from calib.report.plots import save_figure
from calib.report.tables import aligned
from calib.robustness.assess import some_of
from calib.robustness.baselines import blank_features, sanity_baselines
from calib.robustness.corrupted import encode_corrupted, of_grey_images
from calib.robustness.corruptions import CORRUPTIONS
from calib.robustness.picture import severity_picture
from calib.robustness.protocol import Protocol, groups_of
from calib.robustness.result import AS_IT_IS, MEAN, Condition, Robustness
from calib.robustness.said import Said
from calib.robustness.shift import split_by_column
from calib.robustness.tables import glance, heading, tables
from calib.robustness.words import findings
from calib.scores import fit as fit_score
from calib.scores.registry import ReadyScore

SEVERITIES = (1, 3, 5)
SEEDS = (1, 2, 3)
SHOTS, EPOCHS, HEAD_EPOCHS = 8, 50, 30
COVERAGE, DELTA = 0.9, 0.1
ERRORS = {"lc25000": 0.1, "pneumoniamnist": 0.1, "fundus": 0.4}  # of the accepted, of others 0.2
MOST_TRAINING = 300  # images of a training split, where it has thousands
SCORES = ("entropy", "class_gaussians", "image_prototypes", "logit_scaling")
RESAMPLES = 500
CALIBRATED, DOUBT = "calibrated", "calibrated + doubt"
FUNDUS = {
    "no_dr": "no diabetic retinopathy",
    "mild_dr": "mild diabetic retinopathy",
    "moderate_dr": "moderate diabetic retinopathy",
    "severe_or_proliferative_dr": "severe or proliferative diabetic retinopathy",
}
SHIFTED = ("cxr3", "fundus")
PAIR = ["no finding", "pneumonia"]
SITES = {"nih": "NIH adults", "guangzhou": "Guangzhou children"}


@dataclass
class Judged:
    """A prompt with what was fitted on calibration images.

    Attributes:
        prompt: The prompt.
        sets: Prediction sets.
        review: A threshold on the doubt.
        head: A failure head whose uncertainty is the doubt. None: 1 - confidence.
        scores: Further doubts.
    """

    prompt: Prompt
    sets: PredictionSets
    review: ReviewThreshold
    head: FailureHead | None = None
    scores: Mapping[str, ReadyScore] = field(default_factory=dict)

    def doubt(self, features: FeatureTable) -> torch.Tensor:
        """Return the doubts (N,) that the threshold is on."""
        return doubt_of(self.prompt, self.head, features)

    def __call__(self, features: FeatureTable) -> Said:
        """Return what it says of images."""
        found = self.prompt.predict(features)
        doubt = self.doubt(features)
        others = {name: score(found) for name, score in self.scores.items()}
        if self.head is not None:
            others = {"confidence": 1 - found.confidence, **others}
        return Said(
            found.logits.double(), features.labels, doubt, others, self.sets(found.probs), self.review(doubt)
        )


def doubt_of(prompt: Prompt, head: FailureHead | None, features: FeatureTable) -> torch.Tensor:
    """Return the doubts (N,) of a prompt's predictions, rounded as thresholds see them."""
    found = prompt.predict(features)
    if head is None:
        return rounded_doubt(1 - found.confidence)
    return rounded_doubt(head.uncertainty(features.image_features, found.predictions).cpu())


class Clock:
    """Stops the study once its seconds have passed, between two pieces."""

    def __init__(self, seconds: float | None) -> None:
        self.until = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """Stop where the time has passed."""
        if self.until is not None and time.monotonic() > self.until:
            sys.stderr.write("Stopped after --seconds; the same command goes on.\n")
            raise SystemExit(3)


@dataclass
class Material:
    """A task with features, and how its images are divided.

    Attributes:
        task: The task.
        learn: Features of images that doubts learn from, by seed.
        calibrate: Features of images that sets and thresholds are fitted on, by seed.
        shots: Features of the shots, by seed.
    """

    task: TaskData
    learn: dict[int, FeatureTable]
    calibrate: dict[int, FeatureTable]
    shots: dict[int, FeatureTable]


def load(name: str, path: str) -> TaskData:
    """Return a task of the study; of thousands of training images some, drawn by content."""
    if name == "fundus":
        task = calib.load_data(
            "table", path, class_names=FUNDUS, template="A fundus photograph of {}.", table="labels.csv"
        )
    else:
        task = calib.load_data(name, path)
    return cut(task)


def cut(task: TaskData) -> TaskData:
    """Return the task with at most MOST_TRAINING training images and a third of that for validation."""
    task.train = task.train.subset(some_of(task.train, MOST_TRAINING))
    if task.val is not None:
        task.val = task.val.subset(some_of(task.val, MOST_TRAINING // 3))
    return task


def halves(table: FeatureTable) -> tuple[list[int], list[int]]:
    """Return rows of two halves of images, by patient."""
    groups = groups_of(table)
    second = [stable_hash("half", group) % 2 == 1 for group in groups]
    return [i for i, late in enumerate(second) if not late], [i for i, late in enumerate(second) if late]


def joined(first: FeatureTable, second: FeatureTable) -> FeatureTable:
    """Return two tables as one; images without a group are their own."""
    return FeatureTable(
        torch.cat([first.image_features, second.image_features]),
        torch.cat([first.labels, second.labels]),
        [*first.ids, *second.ids],
        [*first.names, *second.names],
        [*groups_of(first), *groups_of(second)],
        None,
        dict(first.meta),
    )


def divided(task: TaskData, backbone: Backbone, how: Mapping[str, Any]) -> Material:
    """Return a task's images divided for each seed."""
    train = calib.encode(backbone, task.train, **how)
    learn, calibrate, shots = {}, {}, {}
    for seed in SEEDS:
        drawn = task.draw(SHOTS, seed=seed)
        owners = groups_of(train)
        taken = {owners[row] for row in drawn.train.tolist()}  # their patients stay out of the rest
        rest = train.subset([row for row, owner in enumerate(owners) if owner not in taken])
        if task.val is not None and len(task.val):
            rest = joined(rest, calib.encode(backbone, task.val, **how))
        first, second = halves(rest)
        learn[seed], calibrate[seed] = rest.subset(first), rest.subset(second)
        shots[seed] = train.subset(drawn.train)
    return Material(task, learn, calibrate, shots)


def kept(path: Path, load_it: Callable[[Path], Any], make: Callable[[], Any], clock: Clock) -> Any:
    """Return what a file holds, or make it, keep it, and look at the clock."""
    if path.is_file():
        return load_it(path)
    made = make()
    made.save(path)
    clock.check()
    return made


def systems_of(
    name: str, data: Material, backbone: Backbone, out: Path, clock: Clock, how: Mapping[str, Any]
) -> dict[str, dict[int, Judged]]:
    """Return the models of a task by name and seed, trained or taken from the folder."""
    systems: dict[str, dict[int, Judged]] = {}
    for seed in SEEDS:
        folder = out / "models" / f"{name}-s{seed}"
        folder.mkdir(parents=True, exist_ok=True)

        def trained(objective: str, calibrate: str, seed: int = seed, folder: Path = folder) -> Prompt:
            def make() -> Prompt:
                return calib.fit_prompt(
                    backbone,
                    data.task,
                    shots=SHOTS,
                    objective=objective,
                    seed=seed,
                    calibrate=calibrate,
                    epochs=EPOCHS,
                    cache=how["cache"],
                )

            prompt: Prompt = kept(folder / f"{objective}.safetensors", Prompt.load, make, clock)
            return prompt

        whole = trained("calibprompt", "auto")
        prompts = {
            CALIBRATED: whole,
            "CalibPrompt": whole.bare(),
            "CE": trained("coop", "none"),
            "zero-shot": calib.zero_shot(backbone, data.task),
        }
        seen = data.learn[seed]
        head = kept(
            folder / "doubt.safetensors",
            FailureHead.load,
            lambda whole=whole, seen=seen, seed=seed: calib.fit_failure_head(
                whole, seen, seed=seed, epochs=HEAD_EPOCHS
            ),
            clock,
        )
        predicted = whole.predict(seen)
        scores = {
            each: fit_score(each, predicted, text_features=whole.text_features)
            for each in SCORES
            if each == "entropy" or bool(predicted.failure.any())
        }
        error = ERRORS.get(name, 0.2)
        systems.setdefault(DOUBT, {})[seed] = fitted(whole, head, scores, data.calibrate[seed], error)
        rest = joined(data.learn[seed], data.calibrate[seed])
        for key, prompt in prompts.items():
            systems.setdefault(key, {})[seed] = fitted(prompt, None, {}, rest, error)
    return systems


def fitted(
    prompt: Prompt,
    head: FailureHead | None,
    scores: Mapping[str, ReadyScore],
    held: FeatureTable,
    error: float,
) -> Judged:
    """Return a prompt with sets and threshold fitted on held-out images."""
    found, groups = prompt.predict(held), groups_of(held)
    sets = PredictionSets("lac", coverage=COVERAGE).fit(found.probs, held.labels, groups=groups)
    review = ReviewThreshold(error, DELTA, patients="one")
    review.fit(doubt_of(prompt, head, held), found.failure, groups=groups)
    return Judged(prompt, sets, review, head, scores)


def corrupted(
    protocol: Protocol, table: ImageTable, backbone: Backbone, clock: Clock, how: Mapping[str, Any]
) -> list[str]:
    """Judge the models under every corruption and severity; return what is left out."""
    grey = of_grey_images(table)
    names = [name for name, row in CORRUPTIONS.items() if not (grey and row.of_colour)]
    features = []
    for name in names:
        for severity in SEVERITIES:
            started = time.monotonic()
            found = encode_corrupted(backbone, table, name, severity, **how)
            features.append((Condition.of_corruption(name, severity), found))
            if time.monotonic() - started > 1:  # it was not in the cache
                clock.check()
    for condition, found in features:
        protocol.corrupted(condition, found)
    return [] if not grey else ["The images are grey: stain and colour change nothing and are left out."]


def study(
    name: str, data: Material, systems: Any, backbone: Backbone, images: int, clock: Clock, how: Any
) -> Robustness:
    """Return what corruptions do to a task's models."""
    table = data.task.test
    assert isinstance(table, ImageTable)
    some = table.subset(some_of(table, images))
    protocol = Protocol(systems, calib.encode(backbone, some, **how), n_resamples=RESAMPLES)
    notes = corrupted(protocol, some, backbone, clock, how)
    main: Judged = systems[CALIBRATED][SEEDS[0]]
    sanity = sanity_baselines(
        main.prompt.logits,
        protocol.usual,
        n_classes=len(data.task.class_names),
        labelled=data.shots[SEEDS[0]],
        counts=data.task.train.labels.bincount(minlength=len(data.task.class_names)),
        validation=data.calibrate[SEEDS[0]],
        blank=blank_features(backbone),
    )
    notes.append(f"{len(some)} of {len(table)} test images.")
    return protocol.finished(sanity=sanity, notes=notes, about={"data": name})


def columns_of(name: str, path: str, table: FeatureTable) -> dict[str, tuple[list[str], list[str]]]:
    """Return the columns of real shifts of a task: what they say of each image, and the usual values."""
    if name == "cxr3":
        sites = ["NIH" if group.startswith("nih") else "Hannover" for group in groups_of(table)]
        return {"source": (sites, ["NIH"])}
    with (Path(path) / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    columns = {"eye": ["L"], "maculopathy": ["0"]}
    return {
        column: ([rows[image][column] or "not said" for image in table.names], usual)
        for column, usual in columns.items()
    }


def shifted(
    systems: Any, table: FeatureTable, columns: Mapping[str, tuple[list[str], list[str]]]
) -> Robustness:
    """Return what real shifts do to a task's models."""
    protocol = Protocol(systems, table, n_resamples=RESAMPLES)
    notes: list[str] = []
    for column, (values, usual) in columns.items():
        shift = split_by_column(values, column, usual, groups=groups_of(table), least=15)
        protocol.shifted(column, shift.usual, shift.others)
        notes += shift.notes
    return protocol.finished(notes=notes)


def pair_of(task: TaskData, labels: Mapping[int, int], name: str) -> TaskData:
    """Return a task of the two classes that both sites have."""

    def of_both(table: Any) -> Any:
        rows = [row for row, label in enumerate(table.labels.tolist()) if label in labels]
        some = table.subset(rows)
        return some.with_labels(torch.tensor([labels[label] for label in some.labels.tolist()]))

    return TaskData(
        name=name,
        class_names=PAIR,
        template="A chest X-ray image of {}.",
        train=of_both(task.train),
        test=of_both(task.test),
        val=None if task.val is None else of_both(task.val),
    )


def sites(
    tasks: Mapping[str, TaskData], backbone: Backbone, out: Path, clock: Clock, how: Mapping[str, Any]
) -> Iterator[tuple[str, Robustness]]:
    """Yield what another site does to models that were learned and calibrated at one."""
    of = {
        "nih": pair_of(tasks["cxr3"], {0: 0, 1: 1}, "nih"),
        "guangzhou": pair_of(tasks["pneumoniamnist"], {0: 0, 1: 1}, "guangzhou"),
    }
    tests = {name: calib.encode(backbone, task.test, **how) for name, task in of.items()}
    clock.check()
    both = joined(tests["nih"], tests["guangzhou"])
    values = [SITES[name] for name, table in tests.items() for _ in range(len(table))]
    for name, task in of.items():
        data = divided(task, backbone, how)
        clock.check()
        systems = systems_of(f"site-{name}", data, backbone, out, clock, how)
        yield f"site, learned at {name}", shifted(systems, both, {"site": (values, [SITES[name]])})


def promises(found: Robustness) -> str:
    """Return a table of what becomes of sets and thresholds: means by severity, the worst, how many break."""
    steps = [AS_IT_IS, *(f"{MEAN} {severity}" for severity in SEVERITIES)]
    single = [each for each in found.conditions if each.corruption and each.severity is not None]
    head = [
        "model",
        *(
            f"{what} {step}"
            for what in ("coverage", "error", "accepted")
            for step in ("0", *map(str, SEVERITIES))
        ),
    ]
    rows = []
    for system in found.systems:
        cells = []
        for measure in ("coverage", "error", "accepted"):
            for step in steps:
                row = found.find(system, step, measure)
                value = float("nan") if row is None else row.value.value
                cells.append("n/a" if np.isnan(value) else f"{100 * value:.1f}")
        broken = []
        asked = found.promised[system]
        for measure, bound in (("coverage", COVERAGE), ("error", asked["error"])):
            under = [found.find(system, c.name, measure) for c in single]
            known = [row.value for row in under if row is not None and np.isfinite(row.value.value)]
            beyond = [v for v in known if (v.high < bound if measure == "coverage" else v.low > bound)]
            broken.append(f"{len(beyond)} of {len(known)}")
        rows.append([system, *cells, *broken])
    return aligned([*head, "coverage broken", "error broken"], rows)


def doubts(found: Robustness) -> str:
    """Return a table of failure AUROC and AURC of every doubt of the calibrated prompt, by severity."""
    steps = [AS_IT_IS, *(f"{MEAN} {severity}" for severity in SEVERITIES)]
    names = {"": "stack (P(wrong))", "confidence": "confidence", **{each: each for each in SCORES}}
    rows = []
    for key, label in names.items():
        cells = []
        for metric in ("auroc", "aurc"):
            for step in steps:
                row = found.find(DOUBT, step, f"{metric}:{key}" if key else metric)
                cells.append("n/a" if row is None else f"{100 * row.value.value:.1f}")
        rows.append([label, *cells])
    head = [f"{what} {step}" for what in ("AUROC", "AURC") for step in ("0", *map(str, SEVERITIES))]
    return aligned(["doubt", *head], rows)


def effects(found: Robustness) -> str:
    """Return a table of how confidence moves with accuracy."""
    rows = []
    for system, each in found.effective.items():
        ranks = "n/a" if each.ranks is None else f"{each.ranks.rho:+.2f} (p {each.ranks.p:.3f})"
        follows = "n/a" if each.followed is None else f"{100 * each.followed:.0f} %"
        rows.append(
            [
                system,
                f"{100 * each.accuracy:+.1f}",
                f"{100 * each.confidence:+.1f}",
                follows,
                f"{100 * each.gap:+.1f}",
                ranks,
            ]
        )
    return aligned(
        ["model", "accuracy", "confidence", "followed", "overconfidence", "rank correlation"], rows
    )


def real(found: Robustness) -> str:
    """Return a table of a real shift: each model at home and away, with the change and its interval."""
    rows = []
    measures = ("accuracy", "ece", "nll", "auroc", "coverage", "error", "accepted")
    for condition in [each for each in found.conditions if each.kind == "shift"]:
        for system in found.systems:
            cells = []
            for measure in measures:
                home = found.find(system, condition.against, measure)
                away = found.find(system, condition.name, measure)
                if home is None or away is None or away.change is None:
                    cells.append("-")
                    continue
                if np.isnan(home.value.value + away.value.value):
                    cells.append("n/a")
                    continue
                scale, digits = (1, 3) if measure == "nll" else (100, 1)
                change = [scale * each for each in (away.change.low, away.change.high)]
                cells.append(
                    f"{scale * home.value.value:.{digits}f} → {scale * away.value.value:.{digits}f} "
                    f"[{change[0]:+.{digits}f}, {change[1]:+.{digits}f}]"
                )
            rows.append([f"{condition.name}: {system}", *cells])
    return aligned(["shift", *measures], rows)


def told(name: str, found: Robustness) -> str:
    """Return the tables of a task under corruptions."""
    lines = "\n".join(f"- {line}" for line in findings(found))
    parts = [
        f"## {name}: corruptions",
        heading(found),
        glance(found),
        f"Guarantees (coverage of at least 90 %, error of at most {100 * ERRORS.get(name, 0.2):g} %), by "
        "severity (0: as it is), and under how many of the conditions the interval lies beyond:",
        promises(found),
        "Doubts of the calibrated prompt, by severity:",
        doubts(found),
        "Does confidence follow? Mean changes in points:",
        effects(found),
        lines,
    ]
    return "\n\n".join(parts) + "\n\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study as far as the time goes and print its tables. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="NAME=PATH of cxr3, lc25000, fundus, pneumoniamnist")
    parser.add_argument("--out", type=Path, default=Path("runs/robustness-study"))
    parser.add_argument(
        "--images", type=int, default=100, help="test images that are corrupted; 0: none, real shifts alone"
    )
    parser.add_argument("--seconds", type=float, help="stop after the piece in which they have passed")
    given = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    paths = dict(each.partition("=")[::2] for each in given.data)
    backbone, clock = calib.create_backbone("embedded"), Clock(given.seconds)
    how: dict[str, Any] = {"cache": given.out / "features"}
    tasks = {name: load(name, path) for name, path in paths.items()}
    text = ""
    real_ones: list[tuple[str, Robustness]] = []
    for name, task in tasks.items():
        if not given.images and name not in SHIFTED:
            continue
        data = divided(task, backbone, how)
        clock.check()
        systems = systems_of(name, data, backbone, given.out, clock, how)
        if given.images:
            found = study(name, data, systems, backbone, given.images, clock, how)
            write_text(given.out / f"{name}.md", tables(found))
            figure = severity_picture(found)
            assert figure is not None
            save_figure(figure, given.out / f"{name}.png")
            text += told(name, found)
        if name in SHIFTED:
            whole = calib.encode(backbone, task.test, **how)
            clock.check()
            real_ones.append((name, shifted(systems, whole, columns_of(name, paths[name], whole))))
    if {"cxr3", "pneumoniamnist"} <= tasks.keys():
        real_ones += sites(tasks, backbone, given.out, clock, how)
    for name, found in real_ones:
        notes = "\n".join(f"- {line}" for line in found.notes)
        text += f"## {name}: real shift, with intervals of the change\n\n{real(found)}\n\n{notes}\n\n"
        write_text(given.out / f"{name.replace(', ', '-').replace(' ', '-')}-shift.md", tables(found))
    sys.stdout.write(text)
    write_text(given.out / "study.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
