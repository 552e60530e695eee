"""The protocol: models on images as they are and under each shift, measured on the same resamples."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from calib.data.features import FeatureTable
from calib.data.notices import ProgressLog
from calib.robustness.baselines import Baseline
from calib.robustness.draws import Draws
from calib.robustness.effective import Effective, effective_robustness
from calib.robustness.measures import kind_of_interval, measured, of_counts, relative_robustness
from calib.robustness.result import (
    AS_IT_IS,
    CORRUPTION,
    MEAN,
    SHIFT,
    USUAL,
    Condition,
    Robustness,
    Row,
    Value,
)
from calib.robustness.said import Said, System

logger = logging.getLogger(__name__)


class Protocol:
    """Judges models condition by condition; what is kept of each is numbers, not images.

    Args:
        systems: Name to seed to model.
        usual: The images as they are.
        n_bins: Bins of the ECE.
        n_resamples: Resamples behind intervals.
        level: Coverage of the intervals, in (0, 1).
        seed: Of the resamples.

    Raises:
        ValueError: There is no model, or all images are of one group.
    """

    def __init__(
        self,
        systems: Mapping[str, Mapping[int, System]],
        usual: FeatureTable,
        *,
        n_bins: int = 10,
        n_resamples: int = 1000,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        if not systems or not all(systems.values()):
            raise ValueError("There is no model to judge.")
        self.systems, self.usual, self.n_bins = systems, usual, n_bins
        self._settings: dict[str, Any] = {"n_resamples": n_resamples, "level": level, "seed": seed}
        self._draws = self._drawn(usual)
        self._names = {name: _measured_by_all(runs.values(), usual) for name, runs in systems.items()}
        self._usual = self._values(usual, self._draws, 0)
        self._corrupted: dict[Condition, dict[str, np.ndarray]] = {}
        self.rows: list[Row] = []
        self._add(Condition(AS_IT_IS, USUAL), self._draws, len(usual), self._usual)

    def corrupted(self, condition: Condition, features: FeatureTable) -> None:
        """Judge the models on the same images under a corruption.

        Args:
            condition: From `Condition.of_corruption`.
            features: Of the corrupted images, in the order of the usual ones.

        Raises:
            ValueError: They are other images.
        """
        if features.ids != self.usual.ids:
            raise ValueError(f"{condition.name}: these are not the same images in the same order.")
        found = self._values(features, self._draws, 0)
        self._corrupted[condition] = found
        self._add(condition, self._draws, len(features), found, self._usual)

    def shifted(self, column: str, usual: np.ndarray, others: Mapping[str, np.ndarray]) -> None:
        """Judge the models on images of other values of a column, beside those of its usual ones.

        Args:
            column: The column.
            usual: (N,) bool, which of the images are usual.
            others: Value to (N,) bool.
        """
        before = self.usual.subset(np.flatnonzero(usual).tolist())
        base = Condition(f"{column}: usual", USUAL, column)
        draws = self._drawn(before)
        self._add(base, draws, len(before), self._values(before, draws, 0))
        for value, mask in others.items():
            after = self.usual.subset(np.flatnonzero(mask).tolist())
            draws = self._drawn(before, after)
            condition = Condition(f"{column}: {value}", SHIFT, column, against=base.name)
            found = self._values(after, draws, 1)
            self._add(condition, draws, len(after), found, self._values(before, draws, 0))

    def finished(
        self,
        *,
        sanity: Mapping[str, Baseline] | None = None,
        notes: Sequence[str] = (),
        about: Mapping[str, Any] | None = None,
    ) -> Robustness:
        """Return everything that was found, means over severities and over all corruptions among it.

        A mean leaves out conditions under which a measure is undefined, as the error where nothing is
        accepted.
        """
        effective = {}
        if self._corrupted:
            for condition, members in self._means():
                found = {
                    name: _mean_known([self._corrupted[each][name] for each in members])
                    for name in self.systems
                }
                self._add(condition, self._draws, len(self.usual), found, self._usual)
            effective = {name: self._effective(name) for name in self.systems}
        return Robustness(
            tuple(self.rows),
            effective,
            {} if sanity is None else {name: self._sane(each) for name, each in sanity.items()},
            {name: _promises_of_all(runs.values()) for name, runs in self.systems.items()},
            tuple(notes),
            {**self._about(), **(about or {})},
        )

    def _about(self) -> dict[str, Any]:
        return {
            "images": len(self.usual),
            "groups": len(set(groups_of(self.usual))),
            "corruptions": list(dict.fromkeys(each.corruption for each in self._corrupted)),
            "severities": sorted({each.severity or 0 for each in self._corrupted}),
            "seeds": {name: list(runs) for name, runs in self.systems.items()},
            "n_bins": self.n_bins,
            **self._settings,
        }

    def _drawn(self, *tables: FeatureTable) -> Draws:
        return Draws(*map(groups_of, tables), **self._settings)

    def _values(self, features: FeatureTable, draws: Draws, side: int) -> dict[str, np.ndarray]:
        """Return for each model (S, 1 + R, M): its measures of the images, by seed and resample."""
        models = sum(map(len, self.systems.values()))
        progress = ProgressLog(
            logger, "measuring, with resamples for intervals", models * (1 + draws.n_resamples)
        )
        done = 0

        def measures(run: System) -> np.ndarray:
            of = of_counts(run(features), n_bins=self.n_bins, names=names)

            def told(block: np.ndarray) -> np.ndarray:
                nonlocal done
                found = of(block)
                done += len(block)
                progress.update(done)
                return found

            return draws.values(told, side)

        values = {}
        for name, runs in self.systems.items():
            names = self._names[name]
            values[name] = np.stack([measures(run) for run in runs.values()])
        return values

    def _add(
        self,
        condition: Condition,
        draws: Draws,
        n: int,
        found: Mapping[str, np.ndarray],
        usual: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        for name, by_seed in found.items():
            values = _over_seeds(by_seed, draws)
            before = None if usual is None else _over_seeds(usual[name], draws)
            for place, measure in enumerate(self._names[name]):
                one, kind = values[:, place], kind_of_interval(measure)
                change = kept = None
                if before is not None:
                    change = _value(draws, one - before[:, place], kind)
                    kept = _value(draws, relative_robustness(measure, before[:, place], one), kind)
                spread = by_seed[:, 0, place]
                sd = float(spread.std(ddof=1)) if len(spread) > 1 else math.nan
                self.rows.append(Row(name, condition, measure, n, _value(draws, one, kind), sd, change, kept))

    def _means(self) -> Iterator[tuple[Condition, list[Condition]]]:
        """Yield conditions that are means of others: over severities, and over everything."""
        names = list(dict.fromkeys(each.corruption for each in self._corrupted))
        severities = sorted({each.severity or 0 for each in self._corrupted})
        for name in names:
            members = [each for each in self._corrupted if each.corruption == name]
            yield Condition(name, CORRUPTION, name), members
        if len(names) > 1:
            for severity in severities:
                members = [each for each in self._corrupted if each.severity == severity]
                yield Condition(f"{MEAN} {severity}", CORRUPTION, "", severity), members
            yield Condition(MEAN, CORRUPTION), list(self._corrupted)

    def _effective(self, name: str) -> Effective:
        places = [self._names[name].index(each) for each in ("accuracy", "confidence")]
        usual = self._usual[name][:, 0, places].mean(axis=0)
        return effective_robustness(
            {
                (each.corruption, each.severity or 0): tuple(found[name][:, 0, places].mean(axis=0) - usual)
                for each, found in self._corrupted.items()
            }
        )

    def _sane(self, baseline: Baseline) -> dict[str, tuple[float, float | None]]:
        plain = self._of(baseline.plain)
        fitted = None if baseline.calibrated is None else self._of(baseline.calibrated)
        return {name: (plain[name], None if fitted is None else fitted[name]) for name in plain}

    def _of(self, said: Said) -> dict[str, float]:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = of_counts(said, n_bins=self.n_bins)(np.ones((1, len(said.labels))))[0]
        return dict(zip(measured(said), values.tolist(), strict=True))


def judge(
    systems: Mapping[str, Mapping[int, System]],
    usual: FeatureTable,
    corruptions: Iterable[tuple[Condition, FeatureTable]] = (),
    **settings: Any,
) -> Robustness:
    """Return what is found of models on images as they are and corrupted; see `Protocol`.

    Args:
        systems: Name to seed to model.
        usual: The images as they are.
        corruptions: Conditions with the features of the same images, one at a time.
        **settings: n_bins, n_resamples, level, seed.
    """
    protocol = Protocol(systems, usual, **settings)
    for condition, features in corruptions:
        protocol.corrupted(condition, features)
    return protocol.finished()


def groups_of(table: FeatureTable) -> list[str]:
    """Return the groups of images; where none are known each image is its own, by its id."""
    return list(table.ids) if table.groups is None else [str(group) for group in table.groups]


def promises_of(system: System) -> dict[str, float]:
    """Return what a model's sets and review threshold were fitted for: coverage, error; what there is."""
    found = {}
    sets, review = getattr(system, "sets", None), getattr(system, "review", None)
    if sets is not None:
        found["coverage"] = float(sets.coverage)
    if review is not None and review.rule != "workload":
        found["error"] = float(review.max_error)
    return found


def _measured_by_all(runs: Iterable[System], features: FeatureTable) -> list[str]:
    """Return what can be measured of every seed: of one without prediction sets these are left out."""
    first, *others = (measured(run(features)) for run in runs)
    return [name for name in first if all(name in each for each in others)]


def _promises_of_all(runs: Iterable[System]) -> dict[str, float]:
    """Return the promises that all seeds give alike."""
    first, *others = map(promises_of, runs)
    return {name: value for name, value in first.items() if all(each.get(name) == value for each in others)}


def _over_seeds(by_seed: np.ndarray, draws: Draws) -> np.ndarray:
    """Return means over seeds, (1 + R, M); each resample draws among the seeds as well."""
    runs = len(by_seed)
    if runs == 1:
        return np.asarray(by_seed[0])
    rng = np.random.default_rng([draws.seed, 1])
    drawn = rng.integers(0, runs, (draws.n_resamples, runs))
    counts = np.stack([(drawn == run).sum(axis=1) for run in range(runs)])  # (S, R)
    weights = np.concatenate([np.ones((runs, 1)), counts], axis=1)[..., None] / runs  # (S, 1 + R, 1)
    return np.asarray(np.where(weights > 0, weights * by_seed, 0.0).sum(axis=0))


def _mean_known(values: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean of arrays (S, 1 + R, M), each number over the arrays in which it is defined."""
    stacked = np.stack(values)
    known = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):  # 0 / 0 where it is in none
        return np.asarray(np.where(known, stacked, 0.0).sum(axis=0) / known.sum(axis=0))


def _value(draws: Draws, values: np.ndarray, kind: Any) -> Value:
    low, high = draws.interval(values, kind)
    return Value(float(values[0]), low, high)
