"""Where the rows of a table come from, so that a message can name the file and the line of a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from calib.core.text import few


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the rows of a table come from, for messages.

    Attributes:
        names: Files, or what else they are called.
        units: "row" or "line" of each.
        parts: (N,) which of them every row comes from.
        numbers: (N,) its number there, from 1.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    parts: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, name: str, unit: str, count: int) -> Origin:
        """Return the origin of all the rows of one file."""
        return cls((name,), (unit,), np.zeros(count, dtype=np.int32), np.arange(1, count + 1))

    def where(self, row: int) -> str:
        """Return where a row stands: file and number."""
        part = self.parts[row]
        return f"{self.names[part]}, {self.units[part]} {self.numbers[row]}"

    def take(self, rows: np.ndarray) -> Origin:
        """Return the origin of some of the rows, (n,) places."""
        return Origin(self.names, self.units, self.parts[rows], self.numbers[rows])


def refuse(origin: Origin, wrong: np.ndarray, why: Callable[[int], str]) -> None:
    """Raise for the first row that is wrong.

    Args:
        origin: Where the rows stand.
        wrong: (N,) bool.
        why: What is wrong with a row, and what to do.

    Raises:
        ValueError: One is.
    """
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        count = int(wrong.sum())
        more = f" ({count} such rows)" if count > 1 else ""
        raise ValueError(f"{origin.where(row)}: {why(row)}{more}")


def joined(parts: Sequence[tuple[Any, Origin]]) -> tuple[Any, Origin]:
    """Return the rows of several tables as one, columns of some being null in others.

    Raises:
        ValueError: There is no table, or a column of one name holds texts here and numbers there.
    """
    if not parts:
        raise ValueError("No table is given.")
    origins = [origin for _, origin in parts]
    before = np.cumsum([0, *(len(origin.names) for origin in origins)])
    origin = Origin(
        tuple(name for each in origins for name in each.names),
        tuple(unit for each in origins for unit in each.units),
        np.concatenate([each.parts + n for each, n in zip(origins, before[:-1], strict=True)]),
        np.concatenate([each.numbers for each in origins]),
    )
    try:
        table = pa.concat_tables([table for table, _ in parts], promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"{few(origin.names)} do not fit together: {error}") from error
    return table, origin
