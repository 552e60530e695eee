"""What is measured under a shift, what counts as good, and how much of it is left: relative robustness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from calib.metrics import METRICS, Column, interval_statistic
from calib.metrics.failure.statistic import failures_of_counts
from calib.robustness.said import Said
from calib.stats import MeanStatistic

OF_DOUBT = ("auroc", "aurc")  # failure metrics, of every doubt
SEPARATOR = ":"  # between a failure metric and the name of a further doubt


@dataclass(frozen=True)
class Measure:
    """A row of MEASURES.

    Attributes:
        column: What stands above it in tables.
        good: From its value m to how good it is, from 0 to 1: m where higher is better, 1 - m where lower is,
            exp(-m) of an NLL. None: it is neither good nor bad.
        of: What it needs of `Said` beside logits: "sets" or "accepted". Empty: nothing.
        interval: Kind of its bootstrap interval, see `calib.metrics.interval_statistic`.
    """

    column: Column
    good: Callable[[np.ndarray], np.ndarray] | None
    of: str = ""
    interval: Literal["percentile", "basic"] = "percentile"

    @property
    def more_is_better(self) -> bool:
        """Whether a higher value is better: then a share of it that is left says something by itself."""
        return self.good is _itself


def _itself(values: np.ndarray) -> np.ndarray:
    return values


def _rest(values: np.ndarray) -> np.ndarray:
    return 1 - values


def _likelihood(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-values))


MEASURES: dict[str, Measure] = {
    "accuracy": Measure(Column("accuracy %"), _itself),
    "ece": Measure(Column("ECE %"), _rest, interval="basic"),
    "nll": Measure(Column("NLL", decimals=3), _likelihood),
    "confidence": Measure(Column("confidence %"), None),
    "auroc": Measure(Column("failure AUROC %"), _itself),
    "aurc": Measure(Column("AURC %"), _rest),
    "coverage": Measure(Column("sets: coverage %"), _itself, of="sets"),
    "set_size": Measure(Column("sets: size", decimals=2), None, of="sets"),
    "error": Measure(Column("error of accepted %"), _rest, of="accepted"),
    "accepted": Measure(Column("accepted %"), _itself, of="accepted"),
}


def measure_of(name: str) -> Measure:
    """Return the row of a measure; that of "auroc:entropy", of a further doubt, is that of "auroc".

    Raises:
        KeyError: There is none.
    """
    return MEASURES[name.partition(SEPARATOR)[0]]


def relative_robustness(name: str, usual: np.ndarray | float, shifted: np.ndarray | float) -> np.ndarray:
    """Return how much of what is good about a measure is left under a shift.

        RR = 1 - (g(usual) - g(shifted)) / g(usual) = g(shifted) / g(usual)

    with g(m) = m where higher is better (accuracy, AUROC, coverage, acceptance), 1 - m where lower is better
    (ECE, AURC, error of the accepted), and exp(-m) of the NLL, the geometric mean of the probability of the
    true class. 1: nothing is lost; above 1: it is better than usual. NaN where nothing was good to begin
    with, g(usual) = 0, where a value is undefined, and of what is neither good nor bad (confidence, size).

    Args:
        name: A key of MEASURES, or a failure metric of a further doubt.
        usual: Values under usual conditions, fractions.
        shifted: As many under the shift.

    Example:
        >>> cases = ("accuracy", 0.8, 0.6), ("ece", 0.1, 0.28)
        >>> [float(relative_robustness(*case).round(4)) for case in cases]
        [0.75, 0.8]

    Source: SURE-VQA (arXiv 2411.19688) for the accuracy; its extension to measures where lower is better is
        ours: the accuracy's complement, the error, has the RR of the accuracy so.
    """
    good = measure_of(name).good
    before, after = np.asarray(usual, dtype=np.float64), np.asarray(shifted, dtype=np.float64)
    if good is None:
        return np.full(np.broadcast_shapes(before.shape, after.shape), np.nan)
    before, after = good(before), good(after)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(before > 0, after / before, np.nan)


def measured(said: Said) -> list[str]:
    """Return what can be measured of what a model says, in the order of a table."""
    there = {"": True, "sets": said.sets is not None, "accepted": said.accepted is not None}
    names = [name for name, row in MEASURES.items() if there[row.of]]
    return names + [f"{metric}{SEPARATOR}{doubt}" for doubt in said.others for metric in OF_DOUBT]


def of_counts(
    said: Said, *, n_bins: int = 10, names: Sequence[str] | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from counts (R, N) of the images to the measures of each resample, (R, M).

    An AUROC without a wrong or a right prediction, and an error of no accepted image, is NaN.

    Args:
        said: Of N images.
        n_bins: Bins of the ECE.
        names: Some of what `measured` names, in the order of the columns. None: all.

    Example:
        >>> import torch
        >>> said = Said(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]]), torch.tensor([0, 1, 1]))
        >>> found = of_counts(said)(np.array([[1, 1, 1], [1, 1, 0]]))
        >>> dict(zip(measured(said), found.T.round(3).tolist()))["accuracy"]
        [0.667, 1.0]
    """
    names = measured(said) if names is None else names
    means = {name: _means(name, said, n_bins) for name in names if _bare(name) not in OF_DOUBT}
    columns = [
        np.asarray(statistic.columns(*arrays), dtype=np.float64) for statistic, *arrays in means.values()
    ]
    ends = np.cumsum([each.shape[1] for each in columns])[:-1]
    joined = np.concatenate(columns, axis=1)
    failure = said.failure.cpu().numpy()
    ranked = {
        name: failures_of_counts(OF_DOUBT, doubt.double().cpu().numpy(), failure)
        for name, doubt in said.doubts.items()
    }

    def of(counts: np.ndarray) -> np.ndarray:
        shares = counts / counts.sum(axis=1, keepdims=True)
        parts = np.split(shares @ joined, ends, axis=1)
        found = {
            name: statistic.finish(part)
            for (name, (statistic, *_)), part in zip(means.items(), parts, strict=True)
        }
        for doubt, ranking in ranked.items():
            for metric, values in zip(OF_DOUBT, ranking(counts).T, strict=True):
                found[f"{metric}{SEPARATOR}{doubt}" if doubt else metric] = values
        return np.stack([found[name] for name in names], axis=1)

    return of


def kind_of_interval(name: str) -> Literal["percentile", "basic"]:
    """Return the kind of a measure's bootstrap interval."""
    return measure_of(name).interval


def _bare(name: str) -> str:
    return name.partition(SEPARATOR)[0]


def _means(name: str, said: Said, n_bins: int) -> tuple[Any, ...]:
    """Return a measure as a function of means over images, and the arrays it is of."""
    if name in METRICS:
        statistic = interval_statistic(name, n_bins=n_bins)
        assert isinstance(statistic, MeanStatistic)
        return statistic, said.logits.double().cpu().numpy(), said.labels.cpu().numpy()
    columns: list[np.ndarray]
    if name == "confidence":
        columns = [said.probs.max(dim=1).values.cpu().numpy()]
    elif name in ("coverage", "set_size"):
        assert said.sets is not None
        sets = said.sets.cpu().numpy()
        covered = sets[np.arange(len(sets)), said.labels.cpu().numpy()]
        columns = [covered if name == "coverage" else sets.sum(axis=1)]
    else:
        assert said.accepted is not None
        accepted = said.accepted.cpu().numpy()
        wrong = accepted & said.failure.cpu().numpy()
        columns = [accepted] if name == "accepted" else [wrong, accepted]
    ratio = len(columns) == 2
    finish = (lambda m: m[:, 0] / m[:, 1]) if ratio else (lambda m: m[:, 0])
    return MeanStatistic(lambda values: values, finish), np.stack(columns, axis=1).astype(np.float64)
