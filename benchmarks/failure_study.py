"""Failure scores over seeds and sizes: does the head beat the confidence, and who beats the head?

    python benchmarks/failure_study.py --out runs/study cxr3 lc25000 pneumoniamnist=PATH/pneumoniamnist.npz

Zero-shot predictions of the embedded backbone are judged by every score that `train.py configs/failure.yaml`
knows, by the default head (residual) and by the plain ViLU head, learned from 8, 16, 64 and all training
images per class, for several seeds. No setting depends on the data set and nothing is chosen on the test
images. Runs that are finished are read back.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calib.commands.failure.run import train_failure
from calib.config import load_config
from calib.io.files import write_json, write_text
from calib.io.tensors import load_tensors
from calib.metrics.failure import failure_statistic
from calib.report.tables import aligned
from calib.runs.prepare import load_task
from calib.stats import mean_sd, paired_bootstrap

HEADS = {"residual": [], "plain": ["head.residual=false", "doubt=head"]}
METRICS = {"auroc": ("AUROC %", 1), "fpr95": ("FPR95 %", 1), "aurc": ("AURC %", 2)}
log = logging.getLogger("failure_study")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print its tables. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data",
        nargs="+",
        help="cxr3, lc25000, or NAME=PATH: a folder of its images, or a MedMNIST file",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/failure-study"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", default="8,16,64,all", help="training images per class")
    parser.add_argument("--settings", nargs="*", default=[], help="key=value for every run")
    given = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    for data in given.data:  # what is misspelt or not there is said now; left out are only single sizes
        load_task(load_config(source_of(data), task="failure").data)
    results: dict[str, Any] = {}
    for data in given.data:
        for size in given.sizes.split(","):
            name = f"{data.partition('=')[0]}, {size} per class"
            runs = run_cell(data, size, given.seeds, given.out, given.settings)
            results[name] = runs if isinstance(runs, str) else pooled(runs)
            log.info("%s: done.", name)
    text = "\n\n".join(f"### {name}\n\n{cell_text(cell)}" for name, cell in results.items())
    write_text(given.out / "study.md", text + "\n")
    write_json(given.out / "study.json", results)
    sys.stdout.write(f"{text}\n")
    return 0


def source_of(data: str) -> list[str]:
    """Return the settings of NAME or NAME=PATH."""
    name, _, path = data.partition("=")
    if not path:
        return [f"data.name={name}"]
    return [f"data.name={name if Path(path).is_dir() else 'medmnist'}", f"data.root={path}"]


def run_cell(
    data: str, size: str, seeds: int, out: Path, settings: Sequence[str]
) -> dict[str, list[Path]] | str:
    """Return the run folders of every head by seed; or why there are none."""
    name, source = data.partition("=")[0], source_of(data)
    shots = "null" if size == "all" else size
    folders: dict[str, list[Path]] = {head: [] for head in HEADS}
    for seed in range(1, seeds + 1):
        for head, changes in HEADS.items():
            folder = out / name / size / f"{head}-s{seed}"
            run = [
                *source,
                *changes,
                f"data.shots={shots}",
                "data.val_shots=0",  # nothing is chosen, and "all" is the same images for every seed
                f"seed={seed}",
                "n_resamples=1",  # intervals are over seeds, below
                "trainer.enable_progress_bar=false",
                f"out={folder}",
                *settings,
            ]
            try:
                train_failure(load_config(run, task="failure"))
            except ValueError as error:
                if folder.exists():
                    raise
                return f"left out: {error}"
            folders[head].append(folder)
    return folders


def pooled(folders: Mapping[str, Sequence[Path]]) -> dict[str, dict[str, Any]]:
    """Return, for every score and metric, mean and sd over seeds and the paired difference from MCP."""
    values: dict[str, np.ndarray] = {}
    for head, paths in folders.items():
        loaded = [load_tensors(path / "uncertainties.safetensors", kind="uncertainties") for path in paths]
        if any(record["ids"] != loaded[0][1]["ids"] for _, record in loaded):
            raise ValueError(f"The runs beside {paths[0]} were judged on different images.")
        names = set.intersection(*(set(tensors) for tensors, _ in loaded))
        for name in sorted(names):
            key = name.removeprefix("uncertainty.")
            is_head = key.startswith("vilu")
            if name.startswith("uncertainty.") and (head == "residual" or is_head):
                values[key] = np.stack([tensors[name].double().numpy() for tensors, _ in loaded])  # (S, N)
        failure = np.stack([tensors["failure"].numpy() for tensors, _ in loaded]).astype(bool)
        groups = loaded[0][1]["groups"]
    cell: dict[str, dict[str, Any]] = {}
    for name, uncertainty in values.items():
        row: dict[str, Any] = {"n": failure.shape[1], "failures": int(failure[0].sum())}
        for metric in METRICS:
            statistic = failure_statistic(metric)
            single = [statistic(u, f) for u, f in zip(uncertainty, failure, strict=True)]
            mean, sd = mean_sd(single)
            row[metric] = {"mean": mean, "sd": sd}
            if name != "mcp":
                difference = paired_bootstrap(
                    statistic,
                    (uncertainty, failure),
                    (values["mcp"], failure),
                    groups=groups,
                    several_runs=True,
                    undefined="drop",
                )
                row[metric]["minus_mcp"] = [difference.low, difference.estimate, difference.high]
        cell[name] = row
    return cell


def cell_text(cell: dict[str, dict[str, Any]] | str) -> str:
    """Return a cell's results as Markdown."""
    if isinstance(cell, str):
        return cell
    first = next(iter(cell.values()))
    header = ["score"] + [title for title, _ in METRICS.values() for title in (title, "minus mcp")]
    body = []
    for name, row in sorted(cell.items(), key=lambda item: -item[1]["auroc"]["mean"]):
        words = [name]
        for metric, (_, decimals) in METRICS.items():
            value = row[metric]
            spread = f" ± {100 * value['sd']:.{decimals}f}" if value["sd"] == value["sd"] else ""
            words.append(f"{100 * value['mean']:.{decimals}f}{spread}")
            low, middle, high = (100 * v for v in value.get("minus_mcp", [0, 0, 0]))
            words.append(
                f"{middle:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]" if name != "mcp" else ""
            )
        body.append(words)
    note = (
        f"{first['n']} test images, {first['failures']} predictions wrong; mean ± sd over seeds, "
        "95 % intervals over seeds and patients or images."
    )
    return f"{note}\n\n{aligned(header, body)}"


if __name__ == "__main__":
    sys.exit(main())
