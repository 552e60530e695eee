"""What `calib.vqa` finds on stored and simulated answers, as tables, and how long it takes.

    python benchmarks/vqa_study.py logits FOLDER    stored option logits of many models: which method, does
                                                    quality follow accuracy, standing options, orders, a shift
    python benchmarks/vqa_study.py builtin          the embedded backbone on the embedded tasks, offline
    python benchmarks/vqa_study.py simulate DRAWS   the null of collapse without and with fragility; coverage
    python benchmarks/vqa_study.py speed N          N questions, 8 methods, 2,000 resamples; and growth

FOLDER holds `items.jsonl` and `<model>.jsonl` of VLM-Uncertainty-Bench as `benchmarks/vqa_demonstration.py`
says, and `summary.csv` with the published accuracies and ECEs.
"""

from __future__ import annotations

import csv
import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from calib.processes.threads import prepare_threads

prepare_threads()

import torch

import calib
from calib.core.binning import bin_statistics
from calib.metrics.calibration import error_from_sums
from calib.report.tables import aligned
from calib.vqa import Evaluation, Items, Outputs, Protocol, evaluate
from calib.vqa.collapse import collapse_null
from calib.vqa.resampling import ClusterBootstrap, ranked
from calib.vqa.uncertainty.options import option_entropy, option_msp, softmax_rows

BASE_MODELS = (
    "Monkey",
    "Qwen-VL",
)  # not tuned to follow instructions: they choose "I don't know" and the like


def read_folder(folder: Path, models: list[str]) -> tuple[Items, Outputs]:
    """Return all questions with six options each, in all their orders; four are listed, two stand behind."""
    rows, names = [], {}
    for line in (folder / "items.jsonl").open(encoding="utf-8"):
        row = json.loads(line)  # a few cells are NaN
        rotation, base = row.get("rotation") or 0, row.get("base", row["item"])
        own = [*row["option_id"], None, None][:4]
        ids = [f"o{each}" if each is not None else f"pad{rotation}-{k}" for k, each in enumerate(own)]
        right = ids[row["gold"]]
        ids = [each if ids.index(each) == k or each == right else f"twin{k}" for k, each in enumerate(ids)]
        ids = [each if each != right or k == row["gold"] else f"twin{k}" for k, each in enumerate(ids)]
        condition = "original" if rotation == 0 else f"rotation{rotation}"
        rows.append(
            {"item_id": f"{base}#{condition}", "base_id": base, "condition": condition, "group_id": base}
        )
        rows[-1] |= {"dataset": "mmbench" if row["dataset"].startswith("mmbench") else "oodcv"}
        rows[-1] |= {"option_ids": [*ids, "idk", "nota"], "correct_index": row["gold"]}
        rows[-1] |= {"question_type": row.get("category")}
        names[row["item"]] = rows[-1]["item_id"]
    items = Items.of_rows(rows)
    said = [
        {"model_id": model, "item_id": names[row["item"]], "option_logit": row["option_logits"]}
        for model in models
        for row in map(json.loads, (folder / f"{model}.jsonl").open(encoding="utf-8"))
    ]
    return items, Outputs.of_rows(said, items)


def published(folder: Path, items: Items, outputs: Outputs) -> float:
    """Return the largest difference from the published accuracies and ECEs."""
    from sklearn.model_selection import train_test_split

    logits = outputs.padded("option_logit")
    datasets = items.texts("dataset")[outputs.item_rows]
    worst = 0.0
    for row in csv.DictReader((folder / "summary.csv").open(encoding="utf-8")):
        mine = np.flatnonzero((outputs.models == row["model"]) & (datasets == row["dataset"]))
        if not len(mine):
            continue
        half = train_test_split(np.arange(len(mine)), train_size=0.5, random_state=42)[1]
        accuracy = outputs.right[mine][half].mean()
        confidence = torch.from_numpy(softmax_rows(logits[mine]).max(axis=1))
        right = torch.from_numpy(outputs.right[mine])
        ece = float(error_from_sums(bin_statistics(confidence, right, 15, closed="right")))
        worst = max(
            worst, abs(accuracy - float(row["published_accuracy"])), abs(ece - float(row["published_ece"]))
        )
    return worst


def logits(folder: Path, n_resamples: int = 2000) -> Evaluation:
    """Print what the stored logits say."""
    every = sorted(path.stem for path in folder.glob("*.jsonl") if path.stem != "items")
    start = time.perf_counter()
    items, outputs = read_folder(folder, every)
    print(f"{len(every)} models, {len(items):,} questions, read in {time.perf_counter() - start:.0f} s")
    worst = published(folder, items, outputs)
    print(f"largest difference from the published accuracies and ECEs: {worst:.2e}\n")
    tuned = outputs.take(~np.isin(outputs.models.astype(str), BASE_MODELS))
    start, busy = time.perf_counter(), time.process_time()
    protocol = Protocol(by=(), shift=("question_type", "iid"), n_resamples=n_resamples)
    found = evaluate(items, tuned, protocol)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(f"{len(tuned):,} answers evaluated in {seconds:.0f} s ({busy:.0f} s of the processor)\n")
    print(found.text(), "\n")
    print(found.table("tracking"))
    _which_method(found)
    _standing(items, outputs)
    print(found.table("orders"))
    _by_shift(found)
    return found


def _which_method(found: Evaluation) -> None:
    rows = found.rows("errors", condition="original")
    best: Counter[tuple[str, str]] = Counter()
    for place in {(row["system"], row["dataset"]) for row in rows}:
        here = [row for row in rows if (row["system"], row["dataset"]) == place and "auroc" in row]
        own = [row for row in here if row["method"].startswith("option_")]
        best[(place[1], max(own, key=lambda row: row["auroc"])["method"])] += 1
    body = []
    for dataset in ("mmbench", "oodcv"):
        for method in dict.fromkeys(row["method"] for row in rows):
            values = [
                r["auroc"] for r in rows if r["method"] == method and r["dataset"] == dataset and "auroc" in r
            ]
            mine = [r for r in rows if r["method"] == method and r["dataset"] == dataset]
            better = sum(r["p_holm"] <= 0.05 and r["difference"] > 0 for r in mine)
            worse = sum(r["p_holm"] <= 0.05 and r["difference"] < 0 for r in mine)
            if values:
                body.append([dataset, method, f"{100 * np.mean(values):.1f}", f"{100 * np.min(values):.1f}"])
                body[-1] += [
                    f"{100 * np.max(values):.1f}",
                    str(best[(dataset, method)]),
                    str(better),
                    str(worse),
                ]
    header = ["data set", "method", "mean AUROC %", "lowest", "highest", "best of", "better", "worse"]
    print("### Which method (better and worse than option_msp: p <= 0.05 after Holm)\n")
    print(aligned(header, body), "\n")


def _standing(items: Items, outputs: Outputs) -> None:
    datasets = items.texts("dataset")[outputs.item_rows]
    scores = outputs.padded("option_logit")
    body = []
    for dataset in ("mmbench", "oodcv"):
        shares = []
        for model in dict.fromkeys(outputs.models.tolist()):
            mine = (outputs.models == model) & (datasets == dataset)
            right = items.correct[outputs.item_rows[mine]]
            listed = scores[mine][:, :4].argmax(axis=1) == right
            shares.append([model, *(np.mean(outputs.choices[mine] == k) for k in (4, 5))])
            shares[-1] += [outputs.right[mine].mean(), listed.mean()]
        most = sorted(shares, key=lambda row: -(row[1] + row[2]))[:6]
        body += [[dataset, row[0], *(f"{100 * value:.1f}" for value in row[1:])] for row in most]
    header = [
        "data set",
        "model",
        "I don't know %",
        "none of the above %",
        "accuracy %",
        "among the listed %",
    ]
    print("### Standing options, which are never right: the six models that choose them most\n")
    print(aligned(header, body), "\n")


def _by_shift(found: Evaluation) -> None:
    rows = found.rows("robustness")
    body = []
    for value in dict.fromkeys(row["shift"] for row in rows):
        mine = [row for row in rows if row["shift"] == value]
        ratios = [row["ratio"] for row in mine]
        below = sum(row.get("ratio_high", 2) < 1 for row in mine)
        change = [row["auroc_change"] for row in mine if "auroc_change" in row]
        body.append(
            [value, str(mine[0]["n"]), f"{np.median(ratios):.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}"]
        )
        body[-1] += [f"{below} of {len(mine)}", f"{100 * np.median(change):+.1f}" if change else "n/a"]
    header = [
        "nuisance",
        "n",
        "median ratio",
        "lowest",
        "highest",
        "below 1 (interval)",
        "median change of AUROC",
    ]
    print("### A real shift: accuracy there / accuracy on usual images\n")
    print(aligned(header, body), "\n")


def builtin() -> Evaluation:
    """Print what the embedded backbone does when the right option is hidden: by text and by threshold."""
    start = time.perf_counter()
    backbone = calib.create_backbone("embedded")
    tables, said = [], []
    for name, options in (("cxr3", 3), ("lc25000", 4)):
        task = calib.load_data(name)
        items, held_out = (
            calib.vqa.from_task(task, options=options, split=split) for split in ("test", "val")
        )
        kinds = ("replace_correct", "replace_distractor", "permute")
        asked = [items, *(calib.vqa.perturb(items, kind, seed=0) for kind in kinds)]
        controls = calib.vqa.perturb(held_out, "replace_distractor", seed=0)
        by_text = calib.vqa.ZeroShot(backbone, model_id="embedded, text")
        by_threshold = calib.vqa.ZeroShot(backbone, nota="threshold", model_id="embedded, threshold")
        said += [calib.vqa.answer(each, asked) for each in (by_text, by_threshold.fit_nota(controls))]
        tables.append(said[-1].items)
    found = evaluate(tables, said)
    print(found.text(), "\n")
    for name in ("shift", "collapse"):
        print(found.table(name))
    print(f"{time.perf_counter() - start:.0f} s")
    return found


def simulate(draws: int) -> None:
    """Print how often the null of collapse is rejected, and what intervals cover."""
    rng = np.random.default_rng(1)
    body = []
    for fragility, offset in ((0.0, 0.0), (0.0, 1.0), (0.0, 3.0), (0.2, 0.0), (0.2, 3.0), (0.5, 1.0)):
        for level in (True, False):
            found = [_collapse_draw(rng, fragility, offset, level) for _ in range(draws)]
            rejected = np.mean([each.p <= 0.05 for each in found], axis=0)
            row = [f"{fragility:g}", f"{offset:g}", "known" if level else "left out"]
            row += [f"{100 * np.mean([each.auroc[0] for each in found]):.1f}"]
            row += [f"{100 * np.mean([each.null_mean[0] for each in found]):.1f}"]
            body.append([*row, *(f"{100 * share:.1f}" for share in rejected)])
    header = ["fragility", "offset", "level", "AUROC %", "null %", "rejected % (entropy)", "(MSP)"]
    print(f"### The null of collapse, {draws} draws of 600 questions, 199 exchanges\n")
    print(aligned(header, body), "\n")
    _coverage(rng, draws)


def _collapse_draw(rng: np.random.Generator, fragility: float, offset: float, level: bool) -> Any:
    scores = rng.normal(size=(600, 4)) + np.array([2.0, 0, 0, 0])
    scores = scores[scores.argmax(axis=1) == 0]
    shared = offset * rng.normal(size=len(scores))
    doubts = np.stack([f(softmax_rows(scores)) for f in (option_entropy, option_msp)], axis=1)
    standard = (doubts[:, 0] - doubts[:, 0].mean()) / doubts[:, 0].std()
    nota = rng.normal(size=len(scores)) - fragility * standard + shared
    raw = scores + shared[:, None]
    known = raw.mean(axis=1) if level else None
    rival = raw[:, 1:].max(axis=1)
    return collapse_null(
        doubts, nota, rival, level=known, n_permutations=199, seed=int(rng.integers(1 << 30))
    )


def _coverage(rng: np.random.Generator, draws: int) -> None:
    def drawn(images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        common, style = rng.normal(size=(2, images, 1))
        hard = 0.7 * common + 0.7 * rng.normal(size=(images, 6))
        failure = hard + 0.8 * rng.normal(size=(images, 6)) > 0.3
        doubt = 0.45 * hard + 0.8 * style + 0.6 * rng.normal(size=(images, 6))
        return doubt.ravel(), failure.ravel(), np.repeat(np.arange(images), 6)

    doubt, failure, image = drawn(60_000)
    truth = ranked(["auroc"], doubt, failure, image).of_counts(np.ones((1, 60_000), dtype=np.uint8))[0, 0]
    body = []
    for images in (40, 80, 160):
        covered = np.zeros(2)
        for draw in range(draws):
            doubt, failure, image = drawn(images)
            for i, groups in enumerate((image, np.arange(len(image)))):
                boot = ClusterBootstrap(groups, n_resamples=1000, seed=draw)
                low, high = boot.interval(boot.values(ranked(["auroc"], doubt, failure, boot.index))[:, 0])
                covered[i] += low <= truth <= high
        body.append([str(images), *(f"{share / draws:.3f}" for share in covered)])
    print(f"### Coverage of intervals of 95 % for AUROC, 6 questions an image, {draws} draws\n")
    print(aligned(["images", "drawn by image", "drawn by question"], body), "\n")


def speed(n: int) -> None:
    """Print how long an evaluation takes, and how it grows with questions and models."""
    body = []
    for questions, models in ((n, 1), (n // 10, 1), (n // 3, 1), (n // 10, 3)):
        items, outputs = _stored(questions, models)
        start, busy = time.perf_counter(), time.process_time()
        found = evaluate(items, outputs, Protocol(methods=EIGHT))
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        known = sum("auroc" in row for row in found.rows("errors"))
        body.append([f"{questions:,}", str(models), str(known), f"{seconds:.1f}"])
        body[-1] += [f"{busy:.1f}", f"{memory:.2f}"]
        print(" ".join(body[-1]), file=sys.stderr, flush=True)
    print("### 8 methods, 2,000 resamples of images (5 questions each); memory is the highest so far\n")
    print(
        aligned(["questions", "models", "AUROCs with intervals", "seconds", "of the processor", "GiB"], body)
    )
    print(f"{torch.get_num_threads()} threads")


EIGHT = (
    "option_msp",
    "option_entropy",
    "option_margin",
    "perplexity",
    "mean_token_entropy",
    "answer_entropy",
    "verbalised",
    "p_true",
)


def _stored(n: int, models: int) -> tuple[Items, Outputs]:
    """Return n questions with everything the panel needs."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, 4, n)
    names = [f"set/{i}" for i in range(n)]
    ids = ["o0", "o1", "o2", "o3"]
    items = Items.of_rows(
        {"item_id": name, "group_id": f"image{i // 5}", "option_ids": ids, "correct_index": int(places[i])}
        for i, name in enumerate(names)
    )
    rows = []
    for model in range(models):
        scores = rng.normal(size=(n, 4))
        scores[np.arange(n), places] += rng.normal(1.0, 1.0, n)
        probs = softmax_rows(scores)
        top = probs.max(axis=1)
        drawn = (rng.random((n, 10, 1)) > probs.cumsum(axis=1)[:, None]).sum(axis=2).clip(0, 3)
        tokens = np.log(top)[:, None] * rng.random((n, 3))
        said = np.clip(top + rng.normal(0, 0.2, n), 0, 1)
        truth = np.clip(top + rng.normal(0, 0.15, n), 0, 1)
        rows += [
            {
                "model_id": f"m{model}",
                "item_id": names[i],
                "option_logit": scores[i],
                "answer_token_logprobs": tokens[i],
                "answer_token_entropies": -tokens[i],
                "sample_pred_index": drawn[i],
                "verbalized_confidence": float(said[i]),
                "p_true": float(truth[i]),
            }
            for i in range(n)
        ]
    return items, Outputs.of_rows(rows, items)


if __name__ == "__main__":
    task, *given = sys.argv[1:]
    if task == "logits":
        logits(Path(given[0]), *map(int, given[1:]))
    elif task == "builtin":
        builtin()
    elif task == "simulate":
        simulate(int(given[0]))
    else:
        speed(int(given[0]) if given else 100_000)
