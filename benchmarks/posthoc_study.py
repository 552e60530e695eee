"""Post-hoc calibration from few labelled rows: which calibrator helps, which harms, and is choosing one safe?

    python benchmarks/posthoc_study.py aptos=PATH/aptos2019.npz llava=PATH/llava-v1.5-7b.jsonl

Recorded outputs with labels: an .npz with probs or logits and labels, or a .jsonl of option logits beside its
items.jsonl (the first rotation of MMBench questions with four listed options; the classes are the letters A
to D). A few rows of each class are drawn, at most half of a class, every calibrator is fitted to them with
its default settings and judged on all other rows: once as it is, once told the true class shares. "chosen" is
what cross-validation on the drawn rows takes, none included, among the candidates that are tried by default
or among all; "1 se" asks for an NLL lower by one standard error. No setting depends on the data set. Finished
draws are read back from the CSV.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from calib.data.outputs import read_outputs
from calib.io.files import write_text
from calib.metrics import (
    accuracy,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood_from_probs,
)
from calib.posthoc import CALIBRATORS, make_calibrator
from calib.posthoc.choice import DEFAULT, MOST_CLASSES, NONE, choose_calibrator
from calib.report.tables import aligned

METRICS = ("accuracy", "ece", "nll", "brier")
CHOSEN = {"chosen": 0.0, "chosen, 1 se": 1.0, "chosen of all": 0.0, "chosen of all, 1 se": 1.0}
METHODS = (NONE, *CALIBRATORS, *CHOSEN)
CELL = ("data", "per_class", "weights", "draw")
FIELDS = (*CELL, "method", *METRICS, "chosen", "problem")
WEIGHTS = ("none", "shares")
BINS = 15
Row = dict[str, str]
log = logging.getLogger("posthoc_study")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print its tables. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="NAME=PATH of an .npz or .jsonl file of outputs")
    parser.add_argument("--out", type=Path, default=Path("runs/posthoc-study"))
    parser.add_argument("--sizes", default="8,32,128", help="labelled rows per class")
    parser.add_argument("--draws", type=int, default=25)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no draw after so long")
    given = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    sizes = [int(size) for size in given.sizes.split(",")]
    data = {name: load(Path(path)) for name, _, path in (each.partition("=") for each in given.data)}
    file = given.out / "draws.csv"
    done = {key(row) for row in read_rows(file)}
    start = time.monotonic()
    for cell in cells(list(data), sizes, given.draws):
        if time.monotonic() - start > 60 * given.minutes:
            log.info("The time is over: the same command goes on.")
            break
        if cell not in done:
            append_rows(file, judge(*data[cell[0]], cell))
    text = tables(read_rows(file), {name: labels for name, (_, labels) in data.items()})
    write_text(given.out / "study.md", text)
    sys.stdout.write(text)
    return 0


def load(path: Path) -> tuple[Tensor, Tensor]:
    """Return logits (N, C) float64 and labels (N,) of a file of recorded outputs.

    Raises:
        ValueError: It has no labels, or is not as above.
    """
    if path.suffix != ".jsonl":
        outputs = read_outputs(path)
        assert outputs.labels is not None
        return outputs.logits, outputs.labels
    items = {}
    for line in (path.parent / "items.jsonl").read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        first = item["dataset"].startswith("mmbench") and item["rotation"] == 0
        if first and item["n_listed"] == 4:
            items[item["item"]] = item["gold"]
    logits, labels = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["item"] in items:
            logits.append(record["option_logits"][:4])
            labels.append(items[record["item"]])
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)


def cells(names: Sequence[str], sizes: Sequence[int], draws: int) -> Iterator[tuple[str, ...]]:
    """Yield every draw to be judged: stopped anywhere, all data sets have about as many."""
    for draw in range(draws):
        for name in names:
            for size in sizes:
                for weights in WEIGHTS:
                    yield name, str(size), weights, str(draw)


def drawn(labels: Tensor, per_class: int, draw: int) -> Tensor:
    """Return which rows are labelled, (N,) bool: per class at most so many, and at most half."""
    generator = np.random.default_rng([draw, per_class])
    shown = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique().tolist():
        rows = (labels == c).nonzero()[:, 0].numpy()
        count = min(per_class, max(1, len(rows) // 2))
        shown[generator.choice(rows, size=count, replace=False)] = True
    return shown


def judge(logits: Tensor, labels: Tensor, cell: tuple[str, ...]) -> list[Row]:
    """Return one row per method for a draw."""
    _, size, weights, draw = cell
    shown = drawn(labels, int(size), int(draw))
    shares = None
    if weights == "shares":
        shares = torch.bincount(labels, minlength=logits.shape[1]) / len(labels)
    seen, told, test, true = logits[shown], labels[shown], logits[~shown], labels[~shown]
    names = [
        name for name, row in CALIBRATORS.items() if logits.shape[1] <= MOST_CLASSES or not row.quadratic
    ]
    first = dict(zip(CELL, cell, strict=True))
    rows = [{**first, "method": NONE, **measured(test.softmax(dim=1), true)}]
    fitted: dict[str, Row] = {NONE: rows[0]}
    for name in names:
        try:
            probs = make_calibrator(name).fit(seen, told, shares=shares)(test)
            rows.append({**first, "method": name, **measured(probs, true)})
        except ValueError as error:
            rows.append({**first, "method": name, "problem": str(error).split(":")[0]})
        fitted[name] = rows[-1]
    choice = choose_calibrator(seen, told, candidates=names, shares=shares, seed=int(draw))
    for method, margin in CHOSEN.items():
        better = [
            row
            for row in choice.candidates.values()
            if row.difference is not None
            and row.standard_error is not None
            and math.isfinite(row.difference)
            and row.difference < -margin * row.standard_error
            and not fitted[row.name].get("problem")
            and ("all" in method or row.name in DEFAULT)
        ]
        name = min(better, key=lambda row: row.nll or 0.0).name if better else NONE
        rows.append({**fitted[name], "method": method, "chosen": name})
    return rows


def measured(probs: Tensor, labels: Tensor) -> Row:
    """Return the metrics of probabilities, as they stand in the CSV."""
    confidence, predictions = probs.max(dim=1)
    values = {
        "accuracy": accuracy(predictions, labels),
        "ece": expected_calibration_error(confidence.clamp_max(1), predictions == labels, n_bins=BINS),
        "nll": negative_log_likelihood_from_probs(probs, labels),
        "brier": brier_score(probs, labels),
    }
    return {name: f"{float(value):.8g}" for name, value in values.items()}


def key(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return which draw a row is of."""
    return tuple(row[name] for name in CELL)


def read_rows(file: Path) -> list[Row]:
    """Return the rows of all draws that were written whole, those of a draw that was begun twice once."""
    if not file.is_file():
        return []
    # Line by line: the quote of a line that was cut off would swallow those after it.
    lines = [next(csv.reader([line]), []) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [dict(zip(FIELDS, line, strict=True)) for line in lines if len(line) == len(FIELDS)]
    by_cell: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if row["method"] in METHODS:
            by_cell.setdefault(key(row), {})[row["method"]] = row
    whole = [cell for cell in by_cell.values() if METHODS[-1] in cell]  # the last row of a draw
    return [row for cell in whole for row in cell.values()]


def append_rows(file: Path, rows: Sequence[Row]) -> None:
    """Add the rows of a draw."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torn = file.is_file() and not file.read_bytes().endswith(b"\n")
    with file.open("a", encoding="utf-8", newline="") as stream:
        if torn:
            stream.write("\n")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([row.get(name, "") for name in FIELDS] for row in rows)


def tables(rows: Sequence[Row], labels: Mapping[str, Tensor]) -> str:
    """Return the results as Markdown: mean ± sd over draws; how often a method has a lower NLL than none."""
    text = []
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["data"] in labels:
            groups.setdefault((row["data"], row["per_class"], row["weights"]), []).append(row)
    for (data, size, weights), group in sorted(
        groups.items(), key=lambda item: (item[0][0], int(item[0][1]))
    ):
        by_method = {name: [row for row in group if row["method"] == name] for name in METHODS}
        base = {row["draw"]: float(row["nll"]) for row in by_method[NONE]}
        body = [line(name, found, base) for name, found in by_method.items() if found]
        shots = int(drawn(labels[data], int(size), 0).sum())
        said = "told the true class shares" if weights == "shares" else "no shares"
        taken = Counter(row["chosen"] for row in by_method["chosen"]).most_common()
        text.append(
            f"### {data}, {size} rows per class ({shots} rows, {len(labels[data]) - shots} test), {said}, "
            f"{len(base)} draws\n\n"
            + aligned(["method", "accuracy %", f"ECE-{BINS} %", "NLL", "Brier", "NLL lower"], body)
            + f"\n\nchosen: {', '.join(f'{name} {count}' for name, count in taken)}"
        )
    return "\n\n".join(text) + "\n"


def line(method: str, rows: Sequence[Row], base: Mapping[str, float]) -> list[str]:
    """Return a method's line: over the draws in which it could be fitted."""
    fitted = [row for row in rows if row["nll"]]
    name = method if len(fitted) == len(rows) else f"{method} ({len(fitted)} fits)"
    if not fitted:
        return [name, *["n/a"] * 5]
    cells = []
    for metric in METRICS:
        values = np.array([float(row[metric]) for row in fitted])
        scale, digits = (100, 1) if metric in ("accuracy", "ece") else (1, 3)
        spread = (
            ""
            if len(values) < 2 or not np.isfinite(values).all()
            else (f" ± {scale * values.std(ddof=1):.{digits}f}")
        )
        cells.append(f"{scale * values.mean():.{digits}f}{spread}")
    lower = np.mean([float(row["nll"]) < base[row["draw"]] for row in fitted])
    return [name, *cells, "" if method == NONE else f"{100 * lower:.0f} %"]


if __name__ == "__main__":
    sys.exit(main())
