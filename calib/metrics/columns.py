"""What a metric looks like in a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Column:
    """The column of a metric.

    Attributes:
        title: What stands above it. With a "%" in it fractions are shown in percent, otherwise as they are.
        decimals: Decimals shown.
        signed: Whether a positive value has a "+".
        order: Position among the columns, lowest first; equal ones stand as in the table of metrics.
        beside: A metric whose value is shown in brackets behind this one. None: nothing is.
        beside_title: What stands in brackets behind the title.

    Example:
        >>> Column("ECE %").scale, Column("NLL", decimals=3).scale
        (100, 1)
    """

    title: str
    decimals: int = 1
    signed: bool = False
    order: int = 100
    beside: str | None = None
    beside_title: str = ""

    @property
    def scale(self) -> int:
        """What a value is multiplied with when it is shown: 100 or 1."""
        return 100 if "%" in self.title else 1


class _HasColumn(Protocol):
    @property
    def column(self) -> Column | None: ...


def columns_of(table: Mapping[str, _HasColumn]) -> dict[str, Column]:
    """Return the columns of those metrics that have one, by metric, from left to right.

    Args:
        table: METRICS or FAILURE_METRICS, as it is now: what was added since has its column too.

    Example:
        >>> from calib.metrics import METRICS
        >>> list(columns_of(METRICS))[:4]
        ['accuracy', 'balanced_accuracy', 'macro_f1', 'ece']
    """
    shown = {name: metric.column for name, metric in table.items() if metric.column is not None}
    return dict(sorted(shown.items(), key=lambda item: item[1].order))


def needed_by(columns: Mapping[str, Column]) -> list[str]:
    """Return the metrics that a table with these columns shows, those in brackets among them.

    Args:
        columns: Metric to column.

    Example:
        >>> ece = Column("ECE %", beside="null_ece", beside_title="chance")
        >>> needed_by({"ece": ece, "nll": Column("NLL")})
        ['ece', 'null_ece', 'nll']
    """
    pairs = ((name, column.beside) for name, column in columns.items())
    return [name for pair in pairs for name in pair if name is not None]
