"""`evaluate.py`: apply exported prompts to a data set, and compare methods over seeds with intervals."""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from calib.backbones.base import Backbone
from calib.commands.machine import to_json
from calib.config import EvaluateRun, ReportRun
from calib.core import ranks
from calib.core.errors import unknown_name
from calib.core.hashing import json_digest
from calib.data import FeatureTable, ImageTable
from calib.data.predictions import Predictions
from calib.data.task import AbsentSplitError
from calib.io.files import read_json
from calib.metrics import METRICS, columns_of, needed_by, summarize
from calib.report.compare import compare, over_seeds
from calib.report.document import Document
from calib.report.plots import reliability_panels
from calib.report.tables import differences_table, markdown, results_table
from calib.runs.entries import Entry, find_entries, looked_at
from calib.runs.evaluation_folder import EvaluationFolder, open_evaluation
from calib.runs.folder import RunFolder
from calib.runs.material import Material, of_entry
from calib.runs.prepare import features_of, load_task, restored_backbone
from calib.runs.reports import document_from

log = logging.getLogger(__name__)

LONGEST_NAME = 200  # bytes of a file's name without its ending; file systems take 255
EVALUATED = ("test", "val")  # splits that a prompt can be judged on
SHORT_NAME = 40  # letters that a longer name is cut to; each has four bytes at most


def evaluate(config: EvaluateRun) -> dict[str, Any]:
    """Evaluate prompts and return the metrics per method and seed, and the differences from the baseline.

    Writes predictions, metrics.json, table.md, reliability.png and report.html to the folder `out`. Several
    processes encode together; the first one does the rest.

    Args:
        config: The settings.

    Returns:
        {"methods": {name: {seed: metrics}}, "text": the tables in Markdown, "folder": path}.

    Raises:
        FileNotFoundError: A run, its data or its weights are not there.
        ValueError: A prompt does not fit the data, the baseline is not among the methods, two different
            prompts of one method have the same seed, or `out` belongs to something else.
    """
    folder = open_evaluation(config.out or "runs/evaluation")
    entries = find_entries(config)
    methods = list(dict.fromkeys(entry.method for entry in entries))
    if config.baseline is not None and config.baseline not in methods:
        raise unknown_name("baseline", config.baseline, methods)
    predictions, reported = _predict_all(entries, config)
    return _report(entries, methods, predictions, config, folder, reported)


@ranks.by_first
def _report(
    entries: Sequence[Entry],
    methods: Sequence[str],
    predictions: Sequence[Predictions],
    config: EvaluateRun,
    folder: EvaluationFolder,
    reported: Material,
) -> dict[str, Any]:
    """Compute the metrics, tables and differences, write them to the folder, and return them."""
    metrics: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in methods}
    for entry, each in zip(entries, predictions, strict=True):
        metrics[entry.method][entry.seed] = summarize(
            each.logits, each.labels, class_names=each.class_names, n_bins=config.n_bins
        )
    by_method = {
        name: {e.seed: p for e, p in zip(entries, predictions, strict=True) if e.method == name}
        for name in methods
    }
    shown = needed_by(columns_of(METRICS))
    table = results_table(
        {
            name: {key: over_seeds([values[key] for values in seeds.values()]) for key in shown}
            for name, seeds in metrics.items()
        }
    )
    intervals = {}
    if config.baseline is not None:
        intervals = compare(
            by_method,
            baseline=config.baseline,
            n_bins=config.n_bins,
            n_resamples=config.n_resamples,
            level=config.level,
            seed=config.seed,
        )
    differences = differences_table(intervals) if intervals else None
    parts = [heading(predictions, config), table]
    if differences:
        parts += [_differences_heading(predictions[0], config), differences]
    files: dict[str, dict[int, str]] = {name: {} for name in methods}
    for entry, file in zip(entries, file_names(entries), strict=True):
        files[entry.method][entry.seed] = file
    folder.write(
        config,
        dict(zip(file_names(entries), predictions, strict=True)),
        "\n\n".join(parts) + "\n",
        _reliability(by_method, config.n_bins),
        {
            "baseline": config.baseline,
            "methods": metrics,
            "differences": {
                name: {key: vars(d) for key, d in row.items()} for name, row in intervals.items()
            },
            "files": files,
        },
        _document(by_method, reported, config, metrics) if config.report else None,
    )
    return {"methods": metrics, "text": "\n\n".join(parts), "folder": str(folder.path)}


def _document(
    by_method: Mapping[str, Mapping[int, Predictions]],
    reported: Material,
    config: EvaluateRun,
    metrics: Mapping[str, Mapping[int, Mapping[str, Any]]],
) -> Document | None:
    """Return the report. None: the prompts were evaluated on different images, and there can be none."""
    runs = [each for seeds in by_method.values() for each in seeds.values()]
    if not all(each.same_images(runs[0]) and each.class_names == runs[0].class_names for each in runs):
        log.info(
            "No report.html: the prompts were evaluated on different data, and a report is about one set."
        )
        return None
    same = ("names", "images", "baseline", "n_bins", "n_resamples", "level", "seed")
    how = ReportRun(**{name: getattr(config, name) for name in same})
    return document_from(replace(reported, by_method=by_method), how, metrics)


def heading(predictions: Sequence[Predictions], config: EvaluateRun) -> str:
    """Return the line above a table of results: which images, how many, how many seeds."""
    sizes = dict.fromkeys(f"{markdown(p.about['data'])} ({len(p.labels)} images)" for p in predictions)
    seeds = sorted({int(p.about["seed"] or 0) for p in predictions})
    spread = ", mean ± standard deviation over seeds" if len(seeds) > 1 else ""
    listed = ", ".join(str(seed) for seed in seeds)
    plural = "s" if len(seeds) > 1 else ""
    return (
        f"{', '.join(sizes)}, {config.split} split, seed{plural} {listed}{spread}; "
        f"ECE with {config.n_bins} bins."
    )


def _differences_heading(first: Predictions, config: EvaluateRun) -> str:
    unit = "image" if first.groups is None else "group of images (patient)"
    return (
        f"Minus {markdown(str(config.baseline))}, paired by seed and {unit}, with {config.level:.0%} "
        f"bootstrap intervals ({config.n_resamples} resamples):"
    )


def _predict_all(entries: Sequence[Entry], config: EvaluateRun) -> tuple[list[Predictions], Material]:
    """Return each entry's predictions, and what the one that is looked at adds to the report.

    A backbone is built and a data set encoded once.
    """
    backbones: dict[str, Backbone] = {}
    tables: dict[str, tuple[FeatureTable, list[str], ImageTable | None]] = {}
    reported: Material | None = None
    shown, predictions = looked_at(entries), []
    for entry in entries:
        described = str(sorted((key, str(value)) for key, value in entry.prompt.backbone.items()))
        if described not in backbones:
            backbones[described] = restored_backbone(
                entry.prompt, weights=config.backbone.weights, tokenizer=config.backbone.tokenizer
            )
        key = described + str(entry.data) + str(sorted(entry.prompt.class_names))
        if key not in tables:
            tables[key] = _encode(entry, backbones[described], config.split)
        table, names, images = tables[key]
        try:
            prompt = entry.prompt.in_order(names)
        except ValueError as error:
            raise ValueError(f"{entry.path} on {entry.data.name}: {error}") from error
        predictions.append(prompt.predict(table, data=entry.data.name))
        if entry is shown:
            reported = replace(of_entry(entry, prompt), split=config.split, images=images)
    assert reported is not None  # there is an entry
    return predictions, reported


def _encode(
    entry: Entry, backbone: Backbone, split: str
) -> tuple[FeatureTable, list[str], ImageTable | None]:
    """Return the image features of a data set's split, its class names, and the images, if there are any."""
    if split not in EVALUATED:
        raise ValueError(
            f"{entry.data.name} has no split '{split}'; splits that can be evaluated: test, and val where "
            f"there is one."
        )
    try:
        task = load_task(entry.data, needs=(split,), among=entry.prompt.class_names)
    except AbsentSplitError as error:
        other = [each for each in EVALUATED if each != split and each in error.there]
        instead = "".join(f", or the {each} split (split={each})" for each in other)
        raise ValueError(
            f"{error} To evaluate {entry.path}, give data with test images (data.root=IMAGES, with "
            f"test/<class>/* or <class>/* alone){instead}."
        ) from error
    table = task.splits()[split]
    images = table if isinstance(table, ImageTable) else None
    return features_of(table, backbone, entry.data), task.class_names, images


def _reliability(by_method: Mapping[str, Mapping[int, Predictions]], n_bins: int) -> Any:
    """Return one reliability diagram per method, its seeds pooled."""
    panels = {
        f"{name}, {len(seeds)} seeds pooled" if len(seeds) > 1 else name: (
            torch.cat([p.probs for p in seeds.values()]),
            torch.cat([p.labels for p in seeds.values()]),
        )
        for name, seeds in by_method.items()
    }
    once = all(len(seeds) == 1 for seeds in by_method.values())
    return reliability_panels(panels, n_bins=n_bins, independent=once)


def file_names(entries: Sequence[Entry]) -> list[str]:
    """Return what the predictions of each entry are called: by its method and seed, each another name.

    A name that is too long for a file, or that another method has as well, ends with a digest of its own.
    """
    plain = [re.sub(r"[^\w.+=-]+", "_", f"{entry.method}-s{entry.seed}") for entry in entries]
    counts = Counter(name.casefold() for name in plain)
    return [
        name
        if len(name.encode()) <= LONGEST_NAME and counts[name.casefold()] == 1
        else f"{name[:SHORT_NAME]}-{json_digest([entry.method, entry.seed])[:8]}"
        for name, entry in zip(plain, entries, strict=True)
    ]


def main(config: EvaluateRun) -> int:
    """Run `evaluate.py` and print its tables. Returns the exit status."""
    results = evaluate(config)
    say = sys.stdout.write
    if config.json:
        folder = RunFolder(results["folder"])
        say(to_json({"folder": str(folder.path), **read_json(folder.metrics)}) + "\n")
        return 0
    say(f"\n{results['text']}\n\nReport, predictions, metrics: {results['folder']}\n")
    return 0
