"""Review thresholds: is the guarantee kept, how often is there a threshold, and how many labels does it take?

    python benchmarks/review_study.py --mapie PATH
    python benchmarks/review_study.py --mapie "" aptos=PATH/aptos2019.npz llava=PATH/llava-v1.5-7b.jsonl

Simulated first: doubts whose true error among the accepted is known, 23 % of the predictions wrong, so that
an error of at most 10 % can be had at an acceptance of 52 %. "ties": doubts rounded to 0.05. "patients": 1 to
5 cases of each, alike in how hard they are; the error is the share of patients with a wrong accepted case.
"falling": the least doubtful cases are wrong more often than those after them, against the condition that own
quantiles need. "shift": fitted as before, used where every prediction is wrong half as often again. A
violation is a threshold whose true error exceeds r; at most the share delta of the draws may have one.
"none": no threshold was found. Methods: `ReviewThreshold` with thresholds from the labelled cases' own doubts
("own") and from 300 others ("300 unlabelled"); a sequence of 20 thresholds begun at the strictest; all 20 at
delta / 20; the largest acceptance with an observed error of at most r; and MAPIE's precision control by its
two ways. Then the batch rule: the mean share of wrong ones among the accepted of 300.

Recorded outputs (NAME=PATH, as benchmarks/posthoc_study.py reads them) are divided at random: some rows are
labelled, and the others say what the threshold does. "above r": the share of draws in which more than r of
those others were wrong; where few are left that happens by chance too, so it may exceed delta.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calib.posthoc.review import ReviewThreshold
from calib.report.tables import aligned
from calib.stats.bounds import p_value

SIZES = (16, 64, 256, 1024)
LEVELS = ((0.05, 0.1), (0.1, 0.1), (0.1, 0.05), (0.2, 0.1))  # r and delta
TOP, STEEP = 0.523, 1.274  # doubt = TOP u^STEEP: the mean is 0.23, and 0.1 of the 52 % least doubtful
REFERENCE = 200_000  # cases behind a true error
UNLABELLED = BATCH = 300


@dataclass(frozen=True)
class World:
    """Where cases come from.

    Attributes:
        draw: (n, generator) -> doubts, chance to be wrong, and patients or None, of n cases or patients.
    """

    draw: Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray | None]]


def _plain(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
    doubt = TOP * rng.random(n) ** STEEP
    return doubt, doubt, None


def _ties(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
    doubt, chance, _ = _plain(n, rng)
    return np.round(doubt / 0.05) * 0.05, chance, None


def _patients(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    patient = np.repeat(np.arange(n), rng.integers(1, 6, n))
    hard = rng.random(n)[patient]
    mixed = np.clip(0.7 * hard + 0.3 * rng.random(len(patient)), 0, 1)
    doubt = TOP * mixed**STEEP * 0.6  # easier, as one wrong case of several is enough
    return doubt, doubt, patient


def _falling(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, None]:
    u = rng.random(n)
    chance = np.where(u < 0.15, 0.13, np.where(u < 0.5, 0.04, TOP * u**STEEP))
    return u, chance, None


WORLDS = {
    "continuous": World(_plain),
    "ties": World(_ties),
    "patients": World(_patients),
    "falling": World(_falling),  # where the error among the accepted does not rise with the threshold
}


class Truth:
    """The true error among the accepted at any threshold, from a large reference.

    Args:
        world: Where cases come from.
        worse: What every chance to be wrong is multiplied with.
    """

    def __init__(self, world: World, worse: float = 1.0) -> None:
        rng = np.random.default_rng(99)
        doubt, chance, patient = world.draw(REFERENCE, rng)
        chance = np.minimum(worse * chance, 1)
        order = np.argsort(doubt, kind="stable")
        self._doubt, self._n = doubt[order], len(doubt)
        if patient is None:
            self._units, self._wrong = self._doubt, np.append(0, np.cumsum(chance[order]))
            return
        wrong = rng.random(len(doubt)) < chance  # many patients: their chance is not written down
        size = int(patient.max()) + 1
        first, first_wrong = np.full(size, np.inf), np.full(size, np.inf)
        np.minimum.at(first, patient, doubt)
        np.minimum.at(first_wrong, patient[wrong], doubt[wrong])
        self._units, finite = np.sort(first), np.sort(first_wrong)
        self._wrong = np.searchsorted(finite, np.append(-np.inf, self._units), side="right").astype(float)

    def __call__(self, threshold: float | None) -> tuple[float, float]:
        """Return the accepted share of the cases and the true error among them; 0 and 0 of nothing."""
        if threshold is None:
            return 0.0, 0.0
        m = int(np.searchsorted(self._units, threshold, side="left"))
        share = float(np.searchsorted(self._doubt, threshold, side="left")) / self._n
        return share, float(self._wrong[m]) / m if m else 0.0


Sample = tuple[np.ndarray, np.ndarray, np.ndarray | None]
Method = Callable[[Sample, np.ndarray, float, float], float | None]


def _fitted(sample: Sample, others: np.ndarray | None, r: float, delta: float) -> float | None:
    doubt, wrong, patient = sample
    groups = None if patient is None else patient.tolist()
    unlabelled = None if others is None else torch.from_numpy(others)
    fitted = ReviewThreshold(r, delta)
    fitted.fit(torch.from_numpy(doubt), torch.from_numpy(wrong), groups=groups, unlabelled=unlabelled)
    return fitted.threshold


def _twenty(sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return 20 thresholds at equal steps of the accepted share, and accepted and wrong cases at each."""
    doubt, wrong, _ = sample
    after = np.append(np.sort(doubt), np.inf)
    at = np.unique(after[np.linspace(len(doubt) / 20, len(doubt), 20).astype(int)])
    counts = [np.searchsorted(np.sort(each), at, side="left") for each in (doubt, doubt[wrong])]
    return at, counts[0], counts[1]


def _strictest(sample: Sample, others: np.ndarray, r: float, delta: float) -> float | None:
    at, m, k = _twenty(sample)
    fails = np.flatnonzero(p_value(k, m, r) > delta)
    last = len(at) if not len(fails) else fails[0]
    return float(at[last - 1]) if last else None


def _bonferroni(sample: Sample, others: np.ndarray, r: float, delta: float) -> float | None:
    at, m, k = _twenty(sample)
    passes = np.flatnonzero(p_value(k, m, r) <= delta / len(at))
    return float(at[passes[-1]]) if len(passes) else None


def _observed(sample: Sample, others: np.ndarray, r: float, delta: float) -> float | None:
    at, m, k = _twenty(sample)
    passes = np.flatnonzero((m > 0) & (k <= r * m))
    return float(at[passes[-1]]) if len(passes) else None


def mapie_methods(path: str) -> dict[str, Method]:
    """Return MAPIE's control of the precision of "the prediction is right", by two ways.

    Args:
        path: Where MAPIE lies, beside those that are installed.
    """
    if path:
        sys.path.append(path)
    from mapie.risk_control import BinaryClassificationController

    def by(name: str) -> Method:
        def found(sample: Sample, others: np.ndarray, r: float, delta: float) -> float | None:
            doubt, wrong, _ = sample
            control = BinaryClassificationController(
                lambda x: np.column_stack([x[:, 0], 1 - x[:, 0]]),
                risk="precision",
                target_level=1 - r,
                confidence_level=1 - delta,
                fwer_method=name,
            )
            control.calibrate(doubt[:, None], (~wrong).astype(int))
            best = control.best_predict_param
            return (
                None if best is None else float(np.nextafter(1 - float(best), 2))
            )  # accepted: 1 - doubt >= best

        return found

    return {"MAPIE, Holm": by("bonferroni_holm"), "MAPIE, fixed sequence": by("fixed_sequence")}


OURS: dict[str, Method] = {
    "own": lambda sample, others, r, delta: _fitted(sample, None, r, delta),
    "300 unlabelled": lambda sample, others, r, delta: _fitted(sample, others, r, delta),
}
SIMPLE: dict[str, Method] = {
    "from the strictest": _strictest,
    "delta / 20 each": _bonferroni,
    "observed error at most r": _observed,
}


def simulate(
    name: str, n: int, r: float, delta: float, draws: int, methods: dict[str, Method]
) -> list[list[str]]:
    """Return one row for each method.

    Args:
        name: A key of WORLDS, or "shift".
        n: Labelled cases, or patients.
        r: The error that is allowed.
        delta: How often it may be exceeded.
        draws: Of the labelled cases.
        methods: Name to method.
    """
    world = WORLDS["continuous" if name == "shift" else name]
    truth = Truth(world, 1.5 if name == "shift" else 1.0)
    found: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    for draw in range(draws):
        rng = np.random.default_rng([draw, n, round(1000 * r)])
        doubt, chance, patient = world.draw(n, rng)
        sample = (doubt, rng.random(len(doubt)) < chance, patient)
        others = world.draw(UNLABELLED, rng)[0]
        for method, function in methods.items():
            found[method].append(truth(function(sample, others, r, delta)))
    rows = []
    for method, values in found.items():
        shares, errors = np.array(values).T
        broken = float((errors > r + 1e-9).mean())
        se = (max(broken * (1 - broken), 0.25 / draws) / draws) ** 0.5
        cells = [f"{100 * broken:.1f} ± {100 * se:.1f}", f"{100 * (shares == 0).mean():.1f}"]
        rows.append([name, str(n), f"{r:g}", f"{delta:g}", method, *cells, f"{shares.mean():.3f}"])
    return rows


def simulate_batches(n: int, r: float, draws: int) -> list[str]:
    """Return the row of the batch rule: the mean share of wrong ones among the accepted of a batch."""
    wrong_shares, shares = [], []
    for draw in range(draws):
        rng = np.random.default_rng([draw, n, round(1000 * r), 7])
        doubt, chance, _ = _plain(n + BATCH, rng)
        wrong = rng.random(n + BATCH) < chance
        rule = ReviewThreshold(r, 0.1, rule="batch").fit(
            torch.from_numpy(doubt[:n]), torch.from_numpy(wrong[:n])
        )
        accepted = rule(torch.from_numpy(doubt[n:])).numpy()
        wrong_shares.append(float(wrong[n:][accepted].mean()) if accepted.any() else 0.0)
        shares.append(float(accepted.mean()))
    spread = float(np.std(wrong_shares, ddof=1)) / draws**0.5
    mean = f"{100 * np.mean(wrong_shares):.2f} ± {100 * spread:.2f}"
    return [str(n), f"{r:g}", mean, f"{100 * np.mean(np.array(shares) == 0):.1f}", f"{np.mean(shares):.3f}"]


def real(name: str, path: Path, sizes: Sequence[int], draws: int) -> list[list[str]]:
    """Return one row for each number of labelled rows and each error, of recorded outputs."""
    from posthoc_study import load

    logits, labels = load(path)
    probs = logits.double().softmax(dim=1)
    doubt, wrong = 1 - probs.max(dim=1).values, probs.argmax(dim=1) != labels
    total, rows = len(labels), []
    for r in (0.05, 0.1):
        for n in (size for size in sizes if size <= 0.8 * total):
            shares, errors, needed = [], [], []
            for draw in range(draws):
                order = torch.from_numpy(np.random.default_rng([draw, n]).permutation(total))
                own, rest = order[:n], order[n:]
                fitted = ReviewThreshold(r, 0.1).fit(doubt[own], wrong[own], unlabelled=doubt[rest])
                accepted = fitted(doubt[rest])
                shares.append(float(accepted.double().mean()))
                errors.append(float(wrong[rest][accepted].double().mean()) if bool(accepted.any()) else 0.0)
                needed.append(fitted.needed or np.nan)
            there = np.array(shares) > 0
            about = "-" if np.isnan(needed).all() else f"{np.nanmedian(needed):.0f}"
            rows.append(
                [
                    f"{name} ({100 * float((~wrong).double().mean()):.1f} % right)",
                    f"{r:g}",
                    str(n),
                    f"{100 * there.mean():.0f}",
                    f"{np.mean(shares):.2f}",
                    f"{100 * np.mean(np.array(errors)[there]):.1f}" if there.any() else "-",
                    f"{100 * np.mean(np.array(errors) > r):.0f}",
                    about,
                ]
            )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print its tables. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", help="NAME=PATH of recorded outputs; without any only simulations")
    parser.add_argument("--mapie", metavar="PATH", help="where MAPIE is installed; empty: beside the others")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--mapie-draws", type=int, default=300, help="of the simulation with MAPIE beside")
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--real-sizes", type=int, nargs="*", default=[50, 100, 200, 400, 800, 1600])
    given = parser.parse_args(argv)
    say = sys.stdout.write
    head = ["world", "n", "r", "delta", "method", "violations %", "none %", "mean accepted"]
    plans: list[tuple[str, int, dict[str, Method], tuple[tuple[float, float], ...]]] = []
    if not given.data:
        plans += [("continuous", given.draws, {**OURS, **SIMPLE}, LEVELS)]
        plans += [
            (name, given.draws, dict(OURS), LEVELS[:2]) for name in ("ties", "patients", "falling", "shift")
        ]
    if given.mapie is not None:
        beside = {**mapie_methods(given.mapie), **OURS}
        plans += [("continuous", given.mapie_draws, beside, LEVELS[:2])]
    for name, draws, methods, levels in plans:
        rows: list[list[Any]] = []
        for r, delta in levels:
            for n in given.sizes:
                rows += simulate(name, n, r, delta, draws, methods)
        say(f"### {name}, {draws} draws\n\n{aligned(head, rows)}\n\n")
        sys.stdout.flush()
    if not given.data:
        batch = [simulate_batches(n, r, given.draws) for r in (0.05, 0.1) for n in given.sizes]
        head = ["n", "r", "wrong among accepted %", "none %", "mean accepted"]
        say(f"### batch rule, batches of {BATCH}, {given.draws} draws\n\n{aligned(head, batch)}\n\n")
    for word in given.data:
        name, _, path = word.partition("=")
        body = real(name, Path(path), given.real_sizes, min(given.draws, 200))
        head = ["data", "r", "labelled", "found %", "mean accepted", "error %", "above r %", "needed"]
        say(f"### {name}, thresholds with 90 % confidence\n\n{aligned(head, body)}\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
