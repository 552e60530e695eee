"""`evaluate.py`: apply exported prompts to a data set, and compare methods over seeds with intervals."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calib.backbones.base import Backbone
from calib.checkpoints import PromptCheckpoint
from calib.config import DataConfig, EvaluateRun, load_config, part_from_dict, split_arguments
from calib.core import ranks
from calib.core.errors import unknown_name
from calib.data import FeatureTable
from calib.jobs.evaluation_folder import EvaluationFolder
from calib.jobs.identity import FREE, flat, is_among
from calib.jobs.predict import prompt_path, restore_backbone
from calib.jobs.prepare import features_of, load_task
from calib.losses import PRESETS
from calib.metrics import interval_statistic, summarize
from calib.plots import reliability_panels
from calib.predictions import Predictions
from calib.report.tables import COLUMNS, Cell, Difference, differences_table, markdown, results_table
from calib.stats import mean_sd, paired_bootstrap

# Means of absolute values of noise: the percentile interval of such a metric is off by its bias, the basic
# ("mirrored") one much less; see calib.stats.
BIASED_UPWARDS = frozenset(
    {"ece", "mce", "ace", "classwise_ece", "kde_ece", "overconfidence", "underconfidence"}
)

# The table's metrics but the adaptive ECE, whose resamples cannot be shared and would take minutes.
COMPARED = [metric for _, metric, _ in COLUMNS if metric != "ace"]


# Settings that do not make another method, or are shown in words of their own.
TOLD = (
    "backbone",
    "data.class_names",
    "data.name",
    "data.options",
    "data.root",
    "data.shots",
    "data.template",
    "loss",
    "n_bins",
    "parity.metrics",
    "preset",
    "prompt.n_ctx",
    "seed",
    "task",
)


@dataclass
class Entry:
    """One exported prompt to evaluate.

    Attributes:
        path: The export.
        checkpoint: What is in it.
        data: The data set to apply it to.
        facts: What sets its training apart: method, changed loss settings, shots, n_ctx, backbone, data set.
        method: Its name in the tables, from the facts that differ between the entries.
    """

    path: Path
    checkpoint: PromptCheckpoint
    data: DataConfig
    facts: dict[str, str]
    method: str = ""

    @property
    def seed(self) -> int:
        """Seed of the training; prompts of one seed are compared in pairs."""
        return int(self.checkpoint.training.get("seed") or 0)


def evaluate(config: EvaluateRun) -> dict[str, Any]:
    """Evaluate prompts and return the metrics per method and seed, and the differences from the baseline.

    Writes predictions, metrics.json, table.md and reliability.png to the folder `out`. Several processes
    encode together; the first one does the rest.

    Args:
        config: The settings.

    Returns:
        {"methods": {name: {seed: metrics}}, "text": the tables in Markdown, "folder": path}.

    Raises:
        FileNotFoundError: A run, its data or its weights are not there.
        ValueError: A prompt does not fit the data, the baseline is not among the methods, two different
            prompts of one method have the same seed, or `out` belongs to something else.
    """
    folder = EvaluationFolder(config.out or "runs/evaluation")
    ranks.meet()  # nothing is written before all have looked
    entries = find_entries(config)
    methods = list(dict.fromkeys(entry.method for entry in entries))
    if config.baseline is not None and config.baseline not in methods:
        raise unknown_name("baseline", config.baseline, methods)
    predictions = _predict_all(entries, config)
    return ranks.decided(lambda: _report(entries, methods, predictions, config, folder))


def _report(
    entries: Sequence[Entry],
    methods: Sequence[str],
    predictions: Sequence[Predictions],
    config: EvaluateRun,
    folder: EvaluationFolder,
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
    table = results_table({name: _over_seeds(seeds) for name, seeds in metrics.items()})
    intervals = compare(by_method, config) if config.baseline is not None else {}
    differences = differences_table(intervals) if intervals else None
    parts = [heading(predictions, config), table]
    if differences:
        parts += [_differences_heading(predictions[0], config), differences]
    folder.write(
        config,
        {f"{_file_name(e.method)}-s{e.seed}": p for e, p in zip(entries, predictions, strict=True)},
        "\n\n".join(parts) + "\n",
        _reliability(by_method, config.n_bins),
        {
            "baseline": config.baseline,
            "methods": metrics,
            "differences": {
                name: {key: vars(d) for key, d in row.items()} for name, row in intervals.items()
            },
        },
    )
    return {"methods": metrics, "text": "\n\n".join(parts), "folder": str(folder.path)}


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


def find_entries(config: EvaluateRun) -> list[Entry]:
    """Return the exports that the settings name, with their baselines, data and names in the tables.

    Raises:
        FileNotFoundError: A path holds no export.
        ValueError: Nothing is named, or two different prompts would have the same name and seed.
    """
    if not config.runs:
        raise ValueError("Nothing to evaluate: name run folders or prompt.safetensors files.")
    paths: list[Path] = []
    for run in _expanded(config.runs):
        paths.append(prompt_path(run))
        if Path(run).is_dir():
            paths += sorted(Path(run).glob("baselines/*/prompt.safetensors"))
    entries = [_entry(path, config.data) for path in dict.fromkeys(paths)]
    _name_methods(entries)
    return _without_repeats(entries)


def _expanded(runs: Sequence[str]) -> list[str]:
    """Return the paths that patterns name, and the other paths as they are."""
    found: list[str] = []
    for run in runs:
        fits = sorted(glob.glob(run)) if glob.has_magic(run) and not Path(run).exists() else [run]
        if not fits:
            raise FileNotFoundError(f"The pattern '{run}' fits no run folder and no prompt.safetensors.")
        found += fits
    return found


def _entry(path: Path, override: DataConfig) -> Entry:
    checkpoint = PromptCheckpoint.load(path)
    training = checkpoint.training
    data = (training.get("config") or {}).get("data")
    own = DataConfig(name="") if data is None else part_from_dict(DataConfig, data, source=str(path))
    blank = DataConfig(name="")
    changes = {f.name: getattr(override, f.name) for f in fields(DataConfig)}
    data = replace(own, **{key: value for key, value in changes.items() if value != getattr(blank, key)})
    if not data.name:
        raise ValueError(
            f"{path} does not say which data set it was trained on; give one: data.name=... data.root=..."
        )
    method = training.get("method", path.parent.name)
    learned = checkpoint.context is not None
    facts = {
        "method": method,
        "loss": _changed_settings(method, training.get("objective", {})),
        "n_ctx": f"n_ctx={checkpoint.prompt.get('n_ctx')}" if learned else "",
        "shots": f"{own.shots} shots" if learned else "",
        "backbone": checkpoint.backbone["name"],
        "trained on": own.name,
    }
    if learned:
        facts |= _other_settings(training.get("config", {}))
    return Entry(path, checkpoint, data, facts)


def _other_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that no other fact tells, as they are shown where they differ among the runs."""
    return {
        key: f"{'.'.join(key.split('.')[-2:])}={value}"
        for key, value in flat(dict(config)).items()
        if not is_among(key, (*FREE, *TOLD))
    }


def _changed_settings(method: str, objective: Mapping[str, Mapping[str, Any]]) -> str:
    usual = PRESETS.get(method, {})
    changed = [
        f"{loss}.{key}={value}"
        for loss, settings in objective.items()
        for key, value in settings.items()
        if usual.get(loss, {}).get(key) != value
    ]
    return " ".join(changed)


def _name_methods(entries: list[Entry]) -> None:
    """Name every entry by its method and by whatever else differs among the entries."""
    values: dict[str, set[str]] = {}
    for entry in entries:
        for key, said in entry.facts.items():
            values.setdefault(key, set()).update({said} - {""})
    varying = [key for key, different in values.items() if key != "method" and len(different) > 1]
    for entry in entries:
        shown = [entry.facts.get(key, "") for key in ("loss", *varying)]
        parts = [entry.facts["method"], *(said for said in shown if said)]
        entry.method = " ".join(dict.fromkeys(parts))


def _without_repeats(entries: list[Entry]) -> list[Entry]:
    kept: dict[tuple[str, int], Entry] = {}
    for entry in entries:
        twin = kept.setdefault((entry.method, entry.seed), entry)
        if twin is not entry and not torch.equal(
            twin.checkpoint.text_features, entry.checkpoint.text_features
        ):
            raise ValueError(
                f"{twin.path} and {entry.path} are different prompts, both '{entry.method}' with seed "
                f"{entry.seed}. "
                "Evaluate them one at a time."
            )
    return list(kept.values())


def _predict_all(entries: Sequence[Entry], config: EvaluateRun) -> list[Predictions]:
    """Return each entry's predictions; a backbone is built and a data set encoded once."""
    backbones: dict[str, Backbone] = {}
    tables: dict[str, tuple[FeatureTable, list[str]]] = {}
    predictions = []
    for entry in entries:
        described = str(sorted((key, str(value)) for key, value in entry.checkpoint.backbone.items()))
        if described not in backbones:
            backbones[described] = restore_backbone(
                entry.checkpoint, weights=config.backbone.weights, tokenizer=config.backbone.tokenizer
            )
        key = described + str(entry.data)
        if key not in tables:
            tables[key] = _encode(entry, backbones[described], config.split)
        table, names = tables[key]
        try:
            prompt = entry.checkpoint.in_order(names)
        except ValueError as error:
            raise ValueError(f"{entry.path} on {entry.data.name}: {error}") from error
        predictions.append(Predictions.of(prompt, table, data=entry.data.name))
    return predictions


def _encode(entry: Entry, backbone: Backbone, split: str) -> tuple[FeatureTable, list[str]]:
    """Return the image features of a data set's split, and its class names."""
    task = load_task(entry.data)
    table = {"test": task.test, "val": task.val}.get(split)
    if table is None:
        raise ValueError(
            f"{entry.data.name} has no split '{split}'; splits that can be evaluated: test, and val where "
            f"there is one."
        )
    return features_of(table, backbone, entry.data), task.class_names


def compare(
    by_method: Mapping[str, Mapping[int, Predictions]], config: EvaluateRun
) -> dict[str, dict[str, Difference]]:
    """Return every method's difference from the baseline, metric by metric, with paired bootstrap intervals.

    Runs are paired by seed and images by id: a resample draws the same seeds and the same images for both
    methods.

    Args:
        by_method: Method to seed to predictions.
        config: Baseline, level, resamples and seed of the bootstrap.

    Raises:
        ValueError: A method shares no seed with the baseline, or was evaluated on other images.
    """
    reference = by_method[str(config.baseline)]
    return {
        name: {metric: _difference(name, metric, seeds, reference, config) for metric in COMPARED}
        for name, seeds in by_method.items()
        if name != config.baseline
    }


def _difference(
    name: str,
    metric: str,
    method: Mapping[int, Predictions],
    reference: Mapping[int, Predictions],
    config: EvaluateRun,
) -> Difference:
    seeds = sorted(method.keys() & reference.keys())
    if not seeds:
        raise ValueError(
            f"'{name}' (seeds {sorted(method)}) and '{config.baseline}' (seeds {sorted(reference)}) share no "
            f"seed."
        )
    first = reference[seeds[0]]
    for each in [*(method[seed] for seed in seeds), *(reference[seed] for seed in seeds)]:
        if not each.same_images(first):
            raise ValueError(
                f"'{name}' and '{config.baseline}' were not evaluated on the same images; they cannot be "
                f"paired."
            )
    labels = np.broadcast_to(first.labels.numpy(), (len(seeds), len(first.labels)))  # (S, N)
    ours, theirs = (np.stack([runs[seed].logits.numpy() for seed in seeds]) for runs in (method, reference))
    interval = paired_bootstrap(
        interval_statistic(metric, n_bins=config.n_bins),
        (ours, labels),  # (S, N, C), (S, N)
        (theirs, labels),
        groups=first.groups,
        several_runs=True,
        n_resamples=config.n_resamples,
        level=config.level,
        kind="basic" if metric in BIASED_UPWARDS else "percentile",
        seed=config.seed,
    )
    return Difference(interval.estimate, interval.low, interval.high, interval.level, len(seeds))


def _over_seeds(seeds: Mapping[int, Mapping[str, Any]]) -> dict[str, Cell]:
    cells = {}
    for _, metric, _ in COLUMNS:
        mean, sd = mean_sd([values[metric] for values in seeds.values()])
        cells[metric] = Cell(mean, sd if len(seeds) > 1 else None)
    return cells


def _reliability(by_method: Mapping[str, Mapping[int, Predictions]], n_bins: int) -> Any:
    """Return one reliability diagram per method, its seeds pooled."""
    panels = {
        f"{name}, {len(seeds)} seeds pooled" if len(seeds) > 1 else name: (
            torch.cat([p.probs for p in seeds.values()]),
            torch.cat([p.labels for p in seeds.values()]),
        )
        for name, seeds in by_method.items()
    }
    return reliability_panels(panels, n_bins=n_bins)


def _file_name(method: str) -> str:
    return re.sub(r"[^\w.+=-]+", "_", method)


def main(argv: Sequence[str]) -> int:
    """Run `evaluate.py` and print its tables. Returns the exit status."""
    settings, runs = split_arguments(argv)
    config = load_config(settings, task="evaluate")
    config = replace(config, runs=[*config.runs, *runs])
    results = evaluate(config)
    say = sys.stdout.write
    say(f"\n{results['text']}\n\nPredictions, metrics and diagrams: {results['folder']}\n")
    return 0
