"""What is fitted of prediction sets: a threshold for each stratum and class, and the cases behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from calib.core.text import few
from calib.posthoc.not_drawn import KEY, others_of, read_chosen
from calib.posthoc.records import numbers
from calib.posthoc.set_levels import thresholds
from calib.posthoc.shares import check_shares, class_weights

ALL = "all"  # the one stratum, where none are told apart
LARGEST = 1e299  # stands for an infinite threshold while records are checked
KEYS = ("strata", "thresholds", "rows", "cases", "shares", "grouped", "left_out")


@dataclass(frozen=True, eq=False, kw_only=True)
class SetCells:
    """Thresholds (G, C) of G strata and C classes; those of one stratum are equal where classes share one.

    Attributes:
        strata: G names. None: none are told apart, and G is 1.
        thresholds: (G, C) float64, inf where any score is in the set.
        rows: (G, C) int64, calibration rows.
        cases: (G, C) float64: how many independent cases each threshold rests on: rows, groups where rows
            come in groups, and with shares their effective number.
        shares: (C,) float64, of the classes where the sets are used. None: not stated.
        grouped: Whether rows came in groups.
        left_out: Whether the model was trained on the rows, and each was judged by one trained without it.
        chosen: Strategies by which the rows were chosen, if not at random.
    """

    strata: tuple[str, ...] | None
    thresholds: Tensor
    rows: Tensor
    cases: Tensor
    shares: Tensor | None = None
    grouped: bool = False
    left_out: bool = False
    chosen: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The strata, or the one that stands for all."""
        return (ALL,) if self.strata is None else self.strata

    def limits(self, strata: Sequence[object] | Tensor | None, n: int) -> Tensor:
        """Return the thresholds (n, C) of new cases, or (1, C) where they are the same for all.

        Args:
            strata: (n,) names. None: none are told apart.
            n: New cases.

        Raises:
            ValueError: Strata are missing, unknown, or given where none are told apart.
        """
        if self.strata is None:
            if strata is not None:
                raise ValueError("strata are given, and the sets were fitted without: leave them out.")
            return self.thresholds
        if strata is None:
            raise ValueError(
                f"strata are missing: the sets have thresholds for {few(self.strata)}, and need to know "
                "which case belongs where."
            )
        given = texts(strata, n, "strata")
        place = {name: g for g, name in enumerate(self.strata)}
        unknown = sorted({name for name in given if name not in place})
        if unknown:
            raise ValueError(
                f"No calibration case was of the stratum {unknown[0]!r} ({len(unknown)} such strata): "
                f"nothing is known of it. Known: {few(self.strata, 20)}."
            )
        return self.thresholds[torch.tensor([place[name] for name in given], dtype=torch.int64)]

    def record(self) -> dict[str, Any]:
        """Return them as plain values for JSON; an infinite threshold is None."""
        return {
            "strata": None if self.strata is None else list(self.strata),
            "thresholds": [
                [None if value == math.inf else value for value in row] for row in self.thresholds.tolist()
            ],
            "rows": self.rows.tolist(),
            "cases": self.cases.tolist(),
            "shares": None if self.shares is None else self.shares.tolist(),
            "grouped": self.grouped,
            "left_out": self.left_out,
            **({KEY: list(self.chosen)} if self.chosen else {}),
        }

    @classmethod
    def read(cls, record: dict[str, Any], classes: int) -> SetCells:
        """Return what `record` has written, checked.

        Args:
            record: With the keys KEYS.
            classes: C.

        Raises:
            ValueError: A value is of another kind or shape, or impossible.
        """
        strata = record["strata"]
        named = isinstance(strata, list) and all(isinstance(name, str) for name in strata)
        if not (strata is None or (named and strata and len(set(strata)) == len(strata))):
            raise ValueError("strata of prediction sets must be different names, or null.")
        for key in ("grouped", "left_out"):
            if not isinstance(record[key], bool):
                raise ValueError(f"{key} of prediction sets must be true or false, not {record[key]!r}.")
        shape = (1 if strata is None else len(strata), classes)
        values = record["thresholds"]
        if isinstance(values, list) and all(isinstance(row, list) for row in values):
            values = [[LARGEST if value is None else value for value in row] for row in values]
        found = numbers(values, shape, "thresholds of prediction sets")
        found[found == LARGEST] = math.inf
        rows = numbers(record["rows"], shape, "rows of prediction sets")
        cases = numbers(record["cases"], shape, "cases of prediction sets")
        if not bool((rows >= 0).all() and (rows == rows.round()).all() and (rows < 2**53).all()):
            raise ValueError("rows of prediction sets must be whole numbers of at least 0.")
        if not bool((cases >= 0).all()) or bool((cases > rows.sum(dim=1, keepdim=True) + 1e-6).any()):
            raise ValueError("cases of prediction sets must be from 0 to the number of rows.")
        shares = record["shares"]
        if shares is not None:
            shares = numbers(shares, (classes,), "shares of prediction sets")
            check_shares(shares, classes)
        return cls(
            strata=None if strata is None else tuple(strata),
            thresholds=found,
            rows=rows.long(),
            cases=cases,
            shares=shares,
            grouped=record["grouped"],
            left_out=record["left_out"],
            chosen=read_chosen(record),
        )


def fit_cells(
    own: Tensor,
    labels: Tensor,
    classes: int,
    *,
    level: Callable[[float], float],
    per_class: bool,
    strata: Sequence[object] | Tensor | None,
    shares: Sequence[float] | Tensor | None,
    groups: Sequence[object] | Tensor | None,
    left_out: bool = False,
    chosen: Sequence[str] = (),
) -> SetCells:
    """Return the thresholds of calibration rows.

    Args:
        own: (N,) float64, the score of each row's own class.
        labels: (N,) int64.
        classes: C.
        level: From the number of cases of a threshold to the share of scores at most as large.
        per_class: Whether each class has a threshold of its own.
        strata: (N,) names. None: none are told apart.
        shares: (C,) of the classes where the sets are used. None: as here.
        groups: (N,) names of what belongs together. None: every row is a case by itself.
        left_out: Whether each row was judged by a model trained without it.
        chosen: Strategies by which the rows were chosen.

    Raises:
        ValueError: Names are missing or too few, or a class with a share above 0 has no row.
    """
    n = len(labels)
    names, index = ([ALL], torch.zeros(n).long()) if strata is None else _indexed(strata, n, "strata")
    owner = None if groups is None else _indexed(groups, n, "groups")[1]
    heavy = torch.ones(classes, dtype=torch.float64)  # what a row of each class counts
    if shares is not None:
        class_weights(labels, classes, shares)  # refuses a class without rows
        mass = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, _each(owner, labels >= 0))
        wanted = check_shares(shares, classes)
        heavy = torch.where(mass > 0, wanted * mass.sum() / mass, 0.0)
    shape = (len(names), classes)
    found, cases = torch.empty(shape, dtype=torch.float64), torch.empty(shape, dtype=torch.float64)
    rows = torch.empty(shape, dtype=torch.int64)
    everything = torch.arange(classes)
    for g in range(len(names)):
        inside = index == g
        rows[g] = labels[inside].bincount(minlength=classes)
        parts = [(inside, everything)]
        if per_class:
            parts = [(inside & (labels == c), everything[c : c + 1]) for c in range(classes)]
        for those, columns in parts:
            weights = _each(owner, those) * heavy[labels[those]]
            size = float(round(float(weights.sum())))
            if shares is not None:  # of groups, where rows come in groups: copies of a patient are one case
                units = weights if owner is None else torch.zeros(n).double().index_add_(0, owner, weights)
                size = float(units.sum() ** 2 / units.square().sum())
            found[g, columns] = thresholds(own[those], weights, heavy[columns], level(size))
            cases[g, columns] = size
    return SetCells(
        strata=None if strata is None else tuple(names),
        thresholds=found,
        rows=rows,
        cases=cases,
        shares=None if shares is None else check_shares(shares, classes),
        grouped=groups is not None,
        left_out=left_out,
        chosen=others_of(chosen),
    )


def texts(values: Sequence[object] | Tensor, n: int, what: str) -> list[str]:
    """Return names as texts; refuse other than one for each case, and missing ones.

    Args:
        values: (n,) strings or whole numbers.
        n: How many there must be.
        what: What they are, for the message.

    Raises:
        ValueError: They are not as above.

    Example:
        >>> texts(["a", 2], 2, "strata")
        ['a', '2']
    """
    given = values.tolist() if isinstance(values, Tensor) else values
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != n:
        size = len(given) if isinstance(given, Sequence) else type(given).__name__
        raise ValueError(f"{what} must be {n} names, one for each case, not {size}.")
    for i, value in enumerate(given):
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise ValueError(f"{what} must be names or whole numbers; case {i} has {value!r}.")
    return [str(value) for value in given]


def _indexed(values: Sequence[object] | Tensor, n: int, what: str) -> tuple[list[str], Tensor]:
    """Return the different names, sorted, and the index of each case's."""
    given = texts(values, n, what)
    names = sorted(set(given))
    place = {name: i for i, name in enumerate(names)}
    return names, torch.tensor([place[name] for name in given], dtype=torch.int64)


def _each(owner: Tensor | None, chosen: Tensor) -> Tensor:
    """Return what the chosen rows count: 1, or 1 / size of the group among them."""
    if owner is None:
        return torch.ones(int(chosen.sum()), dtype=torch.float64)
    mine = owner[chosen]
    return 1 / mine.bincount(minlength=int(owner.max()) + 1)[mine].double()
