"""How good prediction sets are: coverage, size, empty and single ones, and how coverage differs by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib.core.checks import check_labels, check_tensor
from calib.stats.bootstrap import MeanStatistic, bootstrap_interval
from calib.stats.bounds import check_share
from calib.stats.groups import group_numbers
from calib.stats.proportions import proportion_interval

COUNTED = ("coverage", "mean_size", "empty", "singletons", "full")  # means over cases


def set_coverage(sets: Tensor, labels: Tensor) -> Tensor:
    """Return the share of cases whose class is in their set, ().

    Args:
        sets: (N, C) bool.
        labels: (N,) class indices.

    Raises:
        ValueError: They are not so.

    Example:
        >>> sets = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
        >>> float(set_coverage(sets, torch.tensor([0, 1, 0, 1])))
        0.5
    """
    return _hits(sets, labels).mean()


def set_size(sets: Tensor) -> Tensor:
    """Return the mean number of classes in a set, ().

    Args:
        sets: (N, C) bool.

    Raises:
        ValueError: They are not so.

    Example:
        >>> float(set_size(torch.tensor([[True, False], [True, True]])))
        1.5
    """
    _check_sets(sets)
    return sets.double().sum(dim=1).mean()


def class_coverages(sets: Tensor, labels: Tensor) -> Tensor:
    """Return the coverage among the cases of each class, (C,); NaN for one without cases.

    Args:
        sets: (N, C) bool.
        labels: (N,) class indices.

    Raises:
        ValueError: They are not so.

    Example:
        >>> sets = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
        >>> class_coverages(sets, torch.tensor([0, 1, 0, 1])).tolist()
        [0.5, 0.5]
    """
    hits, labels = _hits(sets, labels), labels.to(sets.device).long()
    sums = hits.new_zeros(sets.shape[1]).index_add_(0, labels, hits)
    return sums / labels.bincount(minlength=sets.shape[1])


def class_coverage_gap(sets: Tensor, labels: Tensor, *, coverage: float) -> Tensor:
    """Return the mean over classes of |coverage among its cases - coverage asked for|, ().

    Few cases of a class make a gap by chance alone (`chance_gap`). Classes without cases do not count.

    Args:
        sets: (N, C) bool.
        labels: (N,) class indices.
        coverage: As it was asked for, in (0, 1).

    Raises:
        ValueError: They are not so.

    Example:
        >>> sets = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
        >>> round(float(class_coverage_gap(sets, torch.tensor([0, 1, 0, 1]), coverage=0.9)), 6)
        0.4

    Source: Ding et al. 2023 (NeurIPS), CovGap; the CCV of Silva-Rodríguez et al. 2025 is 100 times it.
    """
    check_share("coverage", coverage)
    return (class_coverages(sets, labels) - coverage).abs().nanmean()


def chance_gap(labels: Tensor, *, coverage: float) -> float:
    """Return the class-conditional gap that chance alone makes where every class has the coverage asked for.

    The mean over classes of E |K / n - coverage|, K ~ Binomial(n, coverage), n the cases of the class.

    Args:
        labels: (N,) class indices.
        coverage: In (0, 1).

    Example:
        >>> round(chance_gap(torch.tensor([0] * 10 + [1] * 90), coverage=0.9), 4)
        0.0474
    """
    check_share("coverage", coverage)
    gaps = []
    for n in labels.long().bincount().tolist():
        if n:
            m = math.floor(n * coverage) + 1  # E |K - np| = 2 m P(K = m) (1 - p), De Moivre 1730
            log_choices = math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)
            log_odds = m * math.log(coverage) + (n - m + 1) * math.log(1 - coverage)
            gaps.append(2 * m * math.exp(log_choices + log_odds) / n)
    return math.fsum(gaps) / len(gaps)


def summarize_sets(
    sets: Tensor,
    labels: Tensor,
    *,
    coverage: float | None = None,
    class_names: Sequence[str] | None = None,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what is to be said of prediction sets of labelled cases, as plain values.

    Args:
        sets: (N, C) bool.
        labels: (N,) class indices.
        coverage: As it was asked for. None: gaps are not computed.
        class_names: C names. None: "class 0", ...
        groups: (N,) patients, slides, ...: intervals allow for these. None: every case by itself.
        level: Of the intervals, in (0, 1).
        n_resamples: Of the bootstrap.
        seed: Of its draws.

    Returns:
        n; coverage, mean_size, empty, singletons and full (shares of the sets with no, one and all classes);
        singleton_accuracy (of the sets of one class, how many are right; None: there are none); sizes (how
        many sets have 0, 1, ... C classes); per_class (for each: name, n, coverage and mean_size, None
        without cases, and low and high of the coverage); lowest_class_coverage; with `coverage` class_gap and
        class_gap_by_chance; intervals (low, high) of coverage, mean_size, empty, singletons and full. Those
        of shares are exact (Clopper and Pearson) where cases are independent. With groups those of coverage
        are that of `proportion_interval`, the others bootstrap by group; None where there is one group.

    Raises:
        ValueError: They are not so.

    Example:
        >>> sets = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
        >>> found = summarize_sets(sets, torch.tensor([0, 1, 0, 1]), coverage=0.9)
        >>> found["coverage"], found["mean_size"], found["empty"], found["sizes"]
        (0.5, 1.0, 0.25, [1, 2, 1])
        >>> [round(end, 3) for end in found["intervals"]["coverage"]]
        [0.068, 0.932]
    """
    check_share("level", level)
    hits = _hits(sets, labels)
    sizes = sets.sum(dim=1)
    n, classes = sets.shape
    names = [f"class {c}" for c in range(classes)] if class_names is None else list(class_names)
    if len(names) != classes:
        raise ValueError(f"There are {len(names)} class names for sets of {classes} classes.")
    columns = torch.stack(
        [hits, sizes.double(), *((sizes == size).double() for size in (0, 1, classes))], dim=1
    )
    counts = labels.long().bincount(minlength=classes).tolist()
    covered = class_coverages(sets, labels).tolist()
    owners = None if groups is None else group_numbers(groups, n)
    alone = (n if owners is None else int(owners.max()) + 1) < 2  # nothing can be resampled
    intervals: dict[str, tuple[float, float] | None] = {}
    for i, name in enumerate(COUNTED):
        if name == "coverage" or (groups is None and name != "mean_size"):
            intervals[name] = _share_interval(columns[:, i], owners, level)
            continue
        if alone:
            intervals[name] = None
            continue
        found = bootstrap_interval(
            MeanStatistic(lambda values: values[:, None], lambda means: means[:, 0]),
            columns[:, i].cpu().numpy(),
            groups=groups,
            n_resamples=n_resamples,
            level=level,
            seed=seed,
        )
        intervals[name] = (found.low, found.high)
    single = sizes == 1
    per_class = []
    for c, name in enumerate(names):
        mine = labels == c
        low, high = _share_interval(hits[mine], None if owners is None else owners[mine.cpu().numpy()], level)
        per_class.append(
            {
                "name": name,
                "n": counts[c],
                "coverage": covered[c] if counts[c] else None,
                "mean_size": float(sizes[mine].double().mean()) if counts[c] else None,
                "low": low,
                "high": high,
            }
        )
    return {
        "n": n,
        **dict(zip(COUNTED, columns.mean(dim=0).tolist(), strict=True)),
        "singleton_accuracy": float(hits[single].mean()) if bool(single.any()) else None,
        "sizes": sizes.bincount(minlength=classes + 1).tolist(),
        "per_class": per_class,
        "lowest_class_coverage": min(value for value in covered if not math.isnan(value)),
        **(
            {}
            if coverage is None
            else {
                "class_gap": float(class_coverage_gap(sets, labels, coverage=coverage)),
                "class_gap_by_chance": chance_gap(labels, coverage=coverage),
            }
        ),
        "intervals": intervals,
    }


def _share_interval(hits: Tensor, groups: np.ndarray | None, level: float) -> tuple[float, float]:
    """Return the interval of the share of hits (n,), (0, 1) where there are no cases."""
    if not len(hits):
        return 0.0, 1.0
    return proportion_interval(hits.cpu().numpy() > 0.5, groups, level=level)[1:]


def _hits(sets: Tensor, labels: Tensor) -> Tensor:
    _check_sets(sets)
    check_labels(labels, sets)
    return sets.gather(1, labels.long()[:, None].to(sets.device))[:, 0].double()


def _check_sets(sets: Tensor) -> None:
    check_tensor(sets, "sets")
    if sets.dtype != torch.bool or sets.ndim != 2 or sets.numel() == 0 or sets.shape[1] < 2:
        raise ValueError(
            f"sets must be (N, C) bool with N > 0 and C > 1, got {tuple(sets.shape)} {sets.dtype}."
        )
