"""What the tables of questions and of answers have in common: named columns as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from calib.core.errors import unknown_name
from calib.core.text import few
from calib.vqa.columns import padded
from calib.vqa.origin import Origin


class Table:
    """What both tables have in common: named columns as arrays."""

    table: Any
    origin: Origin

    def __repr__(self) -> str:
        """Return the kind and number of rows: questions and patients stay out of logs."""
        return f"<{type(self).__name__}: {len(self)} rows of {few(self.origin.names)}>"

    def __len__(self) -> int:
        return len(self.table)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.table.column_names)

    def has(self, name: str) -> bool:
        """Return whether a column says something in any row."""
        return name in self.table.column_names and self.table.column(name).null_count < len(self)

    def texts(self, name: str) -> np.ndarray:
        """Return a column as texts, (N,) of str or None.

        Raises:
            ValueError: There is no such column.
        """
        values: np.ndarray = self.column(name).cast(pa.string()).to_numpy(zero_copy_only=False)
        return values

    def numbers(self, name: str) -> np.ndarray:
        """Return a column as numbers, (N,) float64, NaN where there is none."""
        values: np.ndarray = self.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
        return values

    def padded(self, name: str) -> np.ndarray:
        """Return a column of lists as numbers, (N, longest) float64, NaN behind the end of a list."""
        return padded(self.column(name))

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries."""
        found: list[dict[str, Any]] = self.table.to_pylist()
        return found

    def where(self, row: int) -> str:
        """Return where a row stands: file and number."""
        return self.origin.where(row)

    def cell(self, name: str, row: int) -> Any:
        """Return one cell as a Python value."""
        return self.table.column(name)[row].as_py()

    def column(self, name: str) -> Any:
        """Return a column as one Arrow array.

        Raises:
            ValueError: There is no such column.
        """
        if name not in self.table.column_names:
            raise unknown_name("column", name, self.table.column_names)
        return self.table.column(name).combine_chunks()

    def _of(self, rows: Any) -> tuple[Any, Origin]:
        rows = np.asarray(rows)
        picked = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return self.table.take(pa.array(picked)), self.origin.take(picked)
