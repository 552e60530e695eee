"""Prediction sets: the classes a case may be of, with a stated coverage, from labelled outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from calib.core import byname
from calib.core.checks import as_float64, check_labels, check_probs, check_whole
from calib.core.errors import unknown_name
from calib.posthoc.records import check_positive
from calib.posthoc.set_cells import SetCells, fit_cells
from calib.posthoc.set_guarantee import LEVEL, sentences
from calib.posthoc.set_levels import (
    Level,
    fewest_cases,
    realised_interval,
)
from calib.posthoc.set_records import NAME, VERSION, check_set_record, check_thresholds
from calib.posthoc.set_scores import SETS, rounded, row_noise
from calib.stats.bounds import check_share


class PredictionSets:
    """Sets of classes that hold the true one with a stated coverage, for cases like the calibration cases.

    `fit` finds how strange the true class is at most for a share `coverage` of the calibration cases; a set
    holds every class that would be no stranger. What is then promised, in plain sentences: `guarantee`.

    Args:
        score: A key of SETS: "lac", "aps", "aps_randomized", "raps", "raps_randomized".
        coverage: 1 - alpha, in (0, 1).
        per_class: Whether each class has a threshold of its own, so that the coverage holds among the cases
            of each class, however frequent it is. False: over all cases together.
        confidence: Small-sample correction: the coverage is at least as stated with this probability over the
            choice of the calibration cases. None: on average over that choice.
        penalty: Of RAPS, as in `raps`. None: 0.01.
        free: Of RAPS, as in `raps`. None: 1.
        never_empty: Whether the most probable class is in every set: its score is 0. False: as published; APS
            that is not random then leaves the sets of the surest cases empty.
        seed: Of randomised scores, see `row_noise`.

    Attributes:
        classes: C of the outputs it was fitted on. None: not fitted.
        cells: What was fitted. None: nothing yet.

    Raises:
        ValueError: An argument is not as above.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]).double()
        >>> sets = PredictionSets("lac", coverage=0.75).fit(probs, torch.tensor([0, 0, 1, 1]))
        >>> sets(torch.tensor([[0.95, 0.05], [0.6, 0.4]]).double()).tolist()  # threshold 0.6
        [[True, False], [True, True]]

    Source: Vovk, Gammerman and Shafer 2005; the scores are those of `calib.posthoc.set_scores`. Class shares:
        Podkopaev and Ramdas 2021 (UAI). Groups: Lee, Barber and Willett 2023 (arXiv 2306.06342).
    """

    def __init__(
        self,
        score: str = "lac",
        coverage: float = 0.9,
        *,
        per_class: bool = False,
        confidence: float | None = None,
        penalty: float | None = None,
        free: int | None = None,
        never_empty: bool = True,
        seed: int = 0,
    ) -> None:
        if not isinstance(score, str) or score not in SETS:
            raise unknown_name("score of prediction sets", score, SETS)
        self.score = score
        self.coverage = check_share("coverage", coverage)
        self.confidence = None if confidence is None else check_share("confidence", confidence)
        for name, flag in (("per_class", per_class), ("never_empty", never_empty)):
            if not isinstance(flag, bool):
                raise ValueError(f"{name} must be True or False, not {flag!r}.")
        self.per_class, self.never_empty = per_class, never_empty
        if (penalty is not None or free is not None) and not byname.settings(SETS[score]):
            raise ValueError(f"penalty and free are settings of raps, and the score is '{score}'.")
        check_positive("penalty", penalty, zero=True, none=True)
        check_whole(0, seed=seed, **({} if free is None else {"free": free}))
        self.penalty, self.free, self.seed = penalty, free, seed
        self.classes: int | None = None
        self.cells: SetCells | None = None

    def scores(self, probs: Tensor) -> Tensor:
        """Return how strange each class would be, (N, C) float64, higher = stranger.

        Args:
            probs: (N, C), rows sum to 1.

        Raises:
            ValueError: They are none.
        """
        check_probs(probs)
        values = as_float64(probs.detach())
        function = SETS[self.score]
        given: dict[str, Any] = {"probs": values, **self._of_raps()}
        if "noise" in byname.tensors(function):
            given["noise"] = row_noise(values, self.seed).to(values.device)
        found = rounded(function(**given))
        if self.never_empty:  # part of the score, so that the threshold allows for it
            found = found.masked_fill(values == values.max(dim=1, keepdim=True).values, 0.0)
        return found

    def fit(
        self,
        probs: Tensor,
        labels: Tensor,
        *,
        strata: Sequence[object] | Tensor | None = None,
        shares: Sequence[float] | Tensor | None = None,
        groups: Sequence[object] | Tensor | None = None,
        left_out: bool = False,
        chosen: Sequence[str] | Mapping[str, int] = (),
    ) -> PredictionSets:
        """Return self, fitted.

        Args:
            probs: (N, C) of cases the model was not trained on, C at least 2; nor was a calibrator of its
                outputs, which on the same 60 cases of 4 classes makes 84 % (matrix) or 87 % (vector) of 90 %.
            labels: (N,) class indices.
            strata: (N,) what tells cases apart that each get a coverage of their own: hospital, device. They
                must be known for new cases too, and not follow from the label. None: none.
            shares: (C,) how frequent the classes are where the sets are used, summing to 1. None: as among
                the calibration rows.
            groups: (N,) what belongs together, such as patients: each counts as one case. None: every row is
                a case by itself.
            left_out: Whether the model was trained on these cases, and each is judged by a model trained
                without it: then nothing is exact, which the guarantee says.
            chosen: By which strategies (`calib select`): unless at random, nothing is guaranteed.

        Raises:
            ValueError: An input is not as above; all labels are of one class; shares are stated where a
                coverage for each class or stratum makes them meaningless, or of a class without rows, or with
                a confidence.
        """
        check_probs(probs)
        check_labels(labels, probs)
        labels = labels.detach().cpu().long()
        if len(labels.unique()) < 2:
            raise ValueError(
                f"All {len(labels)} labels are of class {int(labels[0])}: they say nothing of the other "
                "classes. Fit on cases of several classes."
            )
        if shares is not None:
            self._check_shares(strata is not None)
        own = self.scores(probs).cpu().gather(1, labels[:, None])[:, 0]
        cells = fit_cells(
            own,
            labels,
            probs.shape[1],
            level=self._level.share,
            per_class=self.per_class,
            strata=strata,
            shares=shares,
            groups=groups,
            left_out=left_out,
            chosen=list(chosen),
        )
        self.classes, self.cells = probs.shape[1], cells
        return self

    def __call__(self, probs: Tensor, strata: Sequence[object] | Tensor | None = None) -> Tensor:
        """Return which classes are in the set of each case, (N, C) bool.

        Args:
            probs: (N, C) of the classes it was fitted on.
            strata: (N,) as in `fit`, where it was fitted with some.

        Raises:
            ValueError: Not fitted; probs are not so; strata are missing, unknown, or given for nothing.
        """
        cells = self._require_fitted()
        check_probs(probs)
        if probs.shape[1] != self.classes:
            raise ValueError(
                f"The prediction sets were fitted on {self.classes} classes, and probs have {probs.shape[1]}."
            )
        limits = cells.limits(strata, len(probs))
        scores = self.scores(probs)
        return scores <= limits.to(scores.device)

    @property
    def guarantee(self) -> str:
        """What is promised, of whom, and what is not, in plain sentences; classes are numbers there."""
        return self.described()

    def described(self, class_names: Sequence[str] | None = None, *, between: str = " ") -> str:
        """Return the guarantee with the names of the classes.

        Args:
            class_names: C names. None: "class 0", ...
            between: What stands between its points.

        Raises:
            ValueError: Not fitted, or there is not one name for each class.
        """
        cells, classes = self._require_fitted(), self.classes or 0
        names = [f"class {c}" for c in range(classes)] if class_names is None else list(class_names)
        if len(names) != classes:
            raise ValueError(f"There are {len(names)} class names for {classes} classes.")
        found = sentences(
            self.table(LEVEL),
            names,
            coverage=self.coverage,
            confidence=self.confidence,
            counts=cells.rows,
            shares=cells.shares,
            grouped=cells.grouped,
            left_out=cells.left_out,
            chosen=cells.chosen,
        )
        return between.join(found)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return between which values the coverage over new cases lies, at this number of calibration cases.

        It is that of `realised_interval`; with several thresholds, from the lowest lower end to the highest
        upper end (`table` has each). It is approximate with groups of several rows, and with shares, where
        the number of cases is an effective one.

        Args:
            level: Of the interval, in (0, 1).

        Raises:
            ValueError: Not fitted, or the level is not as above.

        Example:
            >>> import torch
            >>> probs, labels = torch.tensor([[0.5, 0.5]] * 19), torch.tensor([0] * 9 + [1] * 10)
            >>> low, high = PredictionSets(coverage=0.9).fit(probs, labels).interval()
            >>> round(low, 3), round(high, 3)
            (0.74, 0.987)
        """
        rows = self.table(level)
        return min(row["low"] for row in rows), max(row["high"] for row in rows)

    def table(self, level: float = LEVEL) -> list[dict[str, Any]]:
        """Return one row for each threshold that is fitted by itself.

        Args:
            level: Of the interval, in (0, 1).

        Returns:
            Each: stratum and label (None: not told apart), rows, cases (independent ones), threshold (None:
            every class is in the set; with shares the largest), low and high of the coverage, needed (the
            fewest cases for a threshold).

        Raises:
            ValueError: Not fitted, or the level is not as above.
        """
        check_share("level", level)
        cells, found = self._require_fitted(), []
        labels: list[int | None] = list(range(self.classes or 0)) if self.per_class else [None]
        for g, stratum in enumerate(cells.names):
            for label in labels:
                columns = slice(None) if label is None else slice(label, label + 1)
                n, limits = float(cells.cases[g, columns][0]), cells.thresholds[g, columns]
                full = bool(limits.isinf().all())
                rank = self._level.rank(n) if cells.shares is None else (n + 1) * self.coverage
                low, high = (1.0, 1.0) if full else realised_interval(n, rank, level)
                found.append(
                    {
                        "stratum": None if cells.strata is None else stratum,
                        "label": label,
                        "rows": int(cells.rows[g, columns].sum()),
                        "cases": n,
                        "threshold": None if full else float(limits[limits.isfinite()].max()),
                        "low": low,
                        "high": high,
                        "needed": fewest_cases(self.coverage, self.confidence),
                    }
                )
        return found

    def to_record(self) -> dict[str, Any]:
        """Return the fitted sets as plain values for JSON; `from_record` reads them.

        Raises:
            ValueError: Not fitted.
        """
        cells = self._require_fitted()
        settings = {key: getattr(self, key) for key in _settings()}
        known = {"name": NAME, "version": VERSION, "classes": self.classes, "settings": settings}
        return {**known, **cells.record()}

    @classmethod
    def from_record(cls, record: Any) -> PredictionSets:
        """Return the sets that `to_record` has written, checked.

        Args:
            record: What was read from a file.

        Raises:
            ValueError: It is of another kind or version, something is missing or unknown, or a number could
                not have been fitted.
        """
        check_set_record(record, _settings())
        sets = cls(**record["settings"])
        cells = SetCells.read(record, record["classes"])
        if cells.shares is not None:
            sets._check_shares(cells.strata is not None)
        settings: Mapping[str, Any] = {**byname.settings(SETS[sets.score]), **sets._of_raps()}
        over = settings["penalty"] * max(0, record["classes"] - settings["free"]) if settings else 0.0
        full = [[sets._level.rank(n) > n for n in row] for row in cells.cases.tolist()]
        stated = cells.shares is not None
        check_thresholds(
            cells.thresholds,
            largest=1 + over,
            shared=not sets.per_class and not stated,
            full=None if stated else full,
        )
        sets.classes, sets.cells = record["classes"], cells
        return sets

    def _of_raps(self) -> dict[str, float]:
        """Return the settings of RAPS that were given."""
        return {key: value for key in ("penalty", "free") if (value := getattr(self, key)) is not None}

    @property
    def _level(self) -> Level:
        return Level(self.coverage, self.confidence)

    def _check_shares(self, strata: bool) -> None:
        if self.per_class or strata:
            raise ValueError(
                "shares are for one coverage over all cases. With a coverage for each class they do not "
                "matter; within strata they would have to be stated for each: leave them out."
            )
        if self.confidence is not None:
            raise ValueError(
                "confidence, the small-sample correction, is not known for weighted cases: leave it out or "
                "the shares. A coverage for each class takes a confidence, and holds whatever the shares."
            )

    def _require_fitted(self) -> SetCells:
        if self.cells is None:
            raise ValueError("The prediction sets are not fitted: call fit first.")
        return self.cells


def _settings() -> list[str]:
    return ["score", "coverage", *byname.settings(PredictionSets)]
