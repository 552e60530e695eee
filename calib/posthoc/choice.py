"""Which calibrator, if any: each is judged on rows it was not fitted on, beside doing nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import as_float64, check_kind, check_labels, check_logits, check_whole
from calib.posthoc.calibrator import Calibrator
from calib.posthoc.records import check_positive
from calib.posthoc.registry import CALIBRATORS, make_calibrator
from calib.posthoc.shares import class_weights
from calib.stats.groups import is_missing

NONE = "none"  # the candidate that leaves everything as it is
# Tried where none are named: what few rows move little. Among twelve, luck wins too often
# (benchmarks/posthoc_study.py).
DEFAULT = ("temperature_prior", "svs", "sms")
MOST_CLASSES = 100  # up to which those with C^2 parameters are among them


@dataclass(frozen=True, eq=False)
class Candidate:
    """A calibrator, judged on left-out rows.

    Attributes:
        name: Its name among the candidates; "none" leaves the probabilities as they are.
        nll: Mean NLL in nats of left-out rows, each weighted as the shares say. inf: a row had probability 0.
            None: it could not be fitted on some part.
        difference: nll minus that of "none", below 0 where it helps.
        standard_error: Of that difference: of a mean over groups, from the rows' paired differences. The
            parts share rows they were fitted on, so that it is somewhat too small.
        probs: (N, C) float64 of left-out rows, in the order of the rows. None: not fitted.
        problem: Why it could not be fitted; empty where it could.
    """

    name: str
    nll: float | None
    difference: float | None
    standard_error: float | None
    probs: Tensor | None = field(repr=False)
    problem: str = ""

    @property
    def within_noise(self) -> bool:
        """Whether its difference from "none" is at most one standard error, to either side."""
        known = self.difference is not None and self.standard_error is not None
        return known and abs(self.difference or 0.0) <= (self.standard_error or 0.0) < math.inf


@dataclass(frozen=True, eq=False)
class Choice:
    """What `choose_calibrator` found.

    Attributes:
        candidates: By name, "none" first.
        name: The winner; "none" where no candidate helps.
        calibrator: The winner, fitted on all rows. None: none helps, and probabilities stay as they are.
        folds: How many parts the rows were divided into.
    """

    candidates: dict[str, Candidate]
    name: str
    calibrator: Calibrator | None
    folds: int


def choose_calibrator(
    logits: Tensor,
    labels: Tensor,
    *,
    candidates: Sequence[str] | Mapping[str, Calibrator] | None = None,
    folds: int = 5,
    groups: Sequence[str] | None = None,
    shares: Sequence[float] | Tensor | None = None,
    seed: int = 0,
    margin: float = 0.0,
) -> Choice:
    """Return the calibrator with the lowest cross-validated NLL, if that is lower than without any.

    The rows are divided into parts; every candidate is fitted on all parts but one and judged on that one.
    The winner is the candidate with the lowest mean NLL among those that are lower than "none" by more than
    `margin` standard errors of the paired difference; it is then fitted on all rows. Of equal ones the first
    wins: name those with few parameters first.

    Args:
        logits: (N, C) of outputs the model was not trained on, C at least 2, finite.
        labels: (N,) class indices.
        candidates: Keys of CALIBRATORS, or calibrators by names of your own (they are copied, not fitted).
            None: temperature_prior, svs and sms (above 100 classes without sms), which few rows move little.
            All of CALIBRATORS are more to choose from than few rows can tell apart.
        folds: Parts, at least 2; as many as groups (rows) where there are fewer.
        groups: N names of patients, slides, ...; a group stays in one part. None: every row by itself.
        shares: (C,) class shares where it is used, as in `Calibrator.fit`; they weigh fits and judgements.
        seed: Of the division into parts.
        margin: At least 0.

    Raises:
        ValueError: An input is not as above, there are fewer than 2 groups, or the winner cannot be fitted.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> honest = torch.from_numpy(generator.normal(size=(300, 3)))
        >>> labels = (honest + torch.from_numpy(generator.gumbel(size=(300, 3)))).argmax(dim=1)
        >>> choice = choose_calibrator(5 * honest, labels, candidates=["temperature", "matrix"])
        >>> choice.name, round(choice.calibrator.parameters["temperature"].item(), 1)
        ('temperature', 4.8)
        >>> choose_calibrator(honest, labels, candidates=["matrix"]).name
        'none'
    """
    check_logits(logits)
    check_labels(labels, logits)
    check_whole(2, folds=folds)
    check_positive("margin", margin, zero=True)
    weights = class_weights(labels, logits.shape[1], shares)
    known = _candidates(candidates, logits.shape[1])
    values, labels = as_float64(logits.detach()).cpu(), labels.detach().cpu().to(torch.int64)
    group_of = _group_indices(groups, len(labels))
    parts = divide(labels, folds, groups=groups, seed=seed)
    plain = values.softmax(dim=1)
    base = _losses(values.log_softmax(dim=1), labels, weights)
    judged = {NONE: Candidate(NONE, float(base.mean()), 0.0, 0.0, plain)}
    for name, calibrator in known.items():
        judged[name] = _judge(name, calibrator, values, labels, weights, parts, base, group_of)
    better = [
        row
        for row in judged.values()
        if row.nll is not None
        and row.difference is not None
        and row.standard_error is not None
        and row.difference < -margin * row.standard_error
        and row.difference < 0
    ]
    if not better:
        return Choice(judged, NONE, None, int(parts.max()) + 1)
    name = min(better, key=lambda row: row.nll if row.nll is not None else math.inf).name
    winner = copy.copy(known[name]).fit_weighted(values, labels, weights)
    return Choice(judged, name, winner, int(parts.max()) + 1)


def divide(labels: Tensor, folds: int, *, groups: Sequence[str] | None = None, seed: int = 0) -> Tensor:
    """Return the part of every row, (N,) int64 from 0: every class is spread evenly, no group is torn apart.

    Groups are dealt in random order, large ones first, each to the part that has the smallest share of its
    classes so far.

    Args:
        labels: (N,) class indices.
        folds: Parts, at least 2; fewer where there are fewer groups.
        groups: N names. None: every row by itself.
        seed: Of the order.

    Raises:
        ValueError: There are fewer than 2 groups, or not one name for each row.

    Example:
        >>> divide(torch.tensor([0, 0, 0, 0, 1, 1]), 2).bincount().tolist()
        [3, 3]
        >>> parts = divide(torch.tensor([0, 0, 1, 1]), 5, groups=["a", "b", "a", "b"])
        >>> parts[0] == parts[2], parts[0] == parts[1]
        (tensor(True), tensor(False))
    """
    group_of = _group_indices(groups, len(labels))
    count = int(group_of.max()) + 1
    if count < 2:
        raise ValueError(
            "Cross-validation needs at least 2 rows (of 2 groups at least, where groups are given); there is "
            f"{count}."
        )
    classes = labels.cpu().to(torch.int64).numpy()
    table = np.zeros((count, int(classes.max()) + 1))  # rows of each class in each group
    np.add.at(table, (group_of, classes), 1)
    sizes, totals = table.sum(axis=1), np.maximum(table.sum(axis=0), 1)
    order = np.random.default_rng(seed).permutation(count)
    order = order[np.argsort(-sizes[order], kind="stable")]
    folds = min(folds, count)
    held, part_of = np.zeros((folds, table.shape[1])), np.zeros(count, dtype=np.int64)
    for group in order:
        crowded = held @ (table[group] / totals)
        part = int(np.lexsort((np.arange(folds), held.sum(axis=1), crowded))[0])
        held[part] += table[group]
        part_of[group] = part
    return torch.from_numpy(part_of[group_of])


def _candidates(
    given: Sequence[str] | Mapping[str, Calibrator] | None, classes: int
) -> dict[str, Calibrator]:
    if isinstance(given, Mapping):
        for name, calibrator in given.items():
            check_kind(calibrator, Calibrator, f"candidates[{name!r}]", "make_calibrator returns one.")
        found = dict(given)
    elif given is None:
        rows = {name: CALIBRATORS[name] for name in DEFAULT}
        found = {name: row() for name, row in rows.items() if classes <= MOST_CLASSES or not row.quadratic}
    else:
        found = {name: make_calibrator(name) for name in given if name != NONE}
    if not found or NONE in found:
        raise ValueError(f"Name at least one candidate ('{NONE}' is judged anyway, and no name for another).")
    return found


def _judge(
    name: str,
    calibrator: Calibrator,
    values: Tensor,
    labels: Tensor,
    weights: Tensor,
    parts: Tensor,
    base: Tensor,
    group_of: np.ndarray,
) -> Candidate:
    probs = torch.zeros_like(values)
    try:
        for part in range(int(parts.max()) + 1):
            out = parts == part
            fitted = copy.copy(calibrator).fit_weighted(values[~out], labels[~out], weights[~out])
            probs[out] = fitted(values[out])
    except ValueError as error:
        return Candidate(name, None, None, None, None, str(error))
    losses = _losses(probs.log(), labels, weights)
    away = losses - base
    if not bool(away.isfinite().all()):
        return Candidate(name, math.inf, math.inf, math.inf, probs)
    return Candidate(name, float(losses.mean()), float(away.mean()), _error(away.numpy(), group_of), probs)


def paired_error(away: Tensor, groups: Sequence[str] | None = None) -> float | None:
    """Return the standard error of a mean of paired differences, of groups where there are some.

        d_g = sum of (away_i - mean) in group g;   se = sqrt(G / (G - 1) sum_g d_g^2) / N

    Args:
        away: (N,) differences, finite.
        groups: N names of patients, slides, ... None: every row by itself.

    Returns:
        None where there is one group (row): its spread is not known.

    Example:
        >>> paired_error(torch.tensor([1.0, 3.0, 5.0, 7.0]), list("aabb")), paired_error(torch.ones(1))
        (2.0, None)
    """
    group_of = _group_indices(groups, len(away))
    return None if int(group_of.max()) == 0 else _error(as_float64(away).cpu().numpy(), group_of)


def _error(away: np.ndarray, group_of: np.ndarray) -> float:
    sums = np.bincount(group_of, weights=away - away.mean())
    return math.sqrt(float((sums**2).sum()) * len(sums) / (len(sums) - 1)) / len(away)


def _losses(log_probs: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted NLL of each row, (N,); a row of weight 0 has none, whatever its probability."""
    losses = -log_probs.gather(1, labels[:, None])[:, 0] * weights
    return torch.where(weights > 0, losses, 0.0)


def _group_indices(groups: Sequence[str] | None, rows: int) -> np.ndarray:
    """Return the number of every row's group, (N,), in the order in which groups first occur."""
    if groups is None:
        return np.arange(rows)
    if len(groups) != rows:
        raise ValueError(f"groups must be {rows} names, one per row, not {len(groups)}.")
    if any(map(is_missing, groups)):
        raise ValueError("Every row needs a group, some have None or NaN; groups=None: every row by itself.")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(map(str, groups)))}
    return np.array([numbers[str(group)] for group in groups])
