"""Tables of results as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from calib.core.text import printable
from calib.metrics import METRICS, Column, columns_of


@dataclass(frozen=True)
class Cell:
    """One number of a table, with its spread or its interval where it has one.

    Attributes:
        value: The number, or the mean over runs. None or NaN: undefined.
        sd: Standard deviation over runs. None: one run.
        interval: Lower and upper end. None: not known.
    """

    value: float | None
    sd: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Difference:
    """A method's metric minus the baseline's, with its paired bootstrap interval.

    Attributes:
        estimate: The difference, averaged over seeds.
        low: Lower end of the interval.
        high: Upper end.
        level: Coverage of the interval.
        seeds: Seeds that both methods have.
    """

    estimate: float
    low: float
    high: float
    level: float
    seeds: int


def format_cell(column: Column, cell: Cell | float | None, *, difference: bool = False) -> str:
    """Return a number as it stands in a table.

    Args:
        column: Its metric's.
        cell: The number, a fraction where the column is in percent.
        difference: Whether it is one of two numbers, which always has a sign.

    Example:
        >>> format_cell(Column("ECE %"), Cell(0.0614, sd=0.011)), format_cell(Column("NLL", decimals=3), None)
        ('6.1 ± 1.1', 'n/a')
        >>> format_cell(Column("ECE %"), Cell(0.01, interval=(-0.02, 0.05)), difference=True)
        '+1.0 [-2.0, +5.0]'
    """
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    if cell.value is None or cell.value != cell.value:
        return "n/a"
    sign = "+" if difference or column.signed else ""

    def shown(value: float, sign: str = sign) -> str:
        return f"{column.scale * value:{sign}.{column.decimals}f}"

    text = shown(cell.value)
    if cell.sd is not None and cell.sd == cell.sd:
        text += f" ± {shown(cell.sd, '')}"
    if cell.interval is not None:
        text += f" [{', '.join(shown(end) for end in cell.interval)}]"
    return text


def metrics_table(
    corner: str,
    columns: Mapping[str, Column],
    rows: Mapping[str, Mapping[str, Cell | float | None]],
    *,
    difference: bool = False,
) -> str:
    """Return a Markdown table, aligned for reading as it is: a row per name, a column per metric.

    A column may have another metric in brackets behind its own (`Column.beside`), as the ECE has that of a
    perfectly calibrated model; differences have none.

    Args:
        corner: What stands above the names of the rows.
        columns: Metric to column, as from `calib.metrics.columns_of`.
        rows: Name to metrics; one that a row lacks is n/a.
        difference: Whether the numbers are differences.
    """
    bracketed = {key: column.beside for key, column in columns.items() if column.beside and not difference}

    def cell(key: str, column: Column, row: Mapping[str, Cell | float | None]) -> str:
        text = format_cell(column, row.get(key), difference=difference)
        if key not in bracketed:
            return text
        beside = row.get(bracketed[key])
        return f"{text} ({format_cell(column, beside.value if isinstance(beside, Cell) else beside)})"

    titles = [
        f"{column.title} ({column.beside_title})" if key in bracketed else column.title
        for key, column in columns.items()
    ]
    body = [
        [name, *(cell(key, column, row) for key, column in columns.items())] for name, row in rows.items()
    ]
    return aligned([corner, *titles], body)


def results_table(rows: Mapping[str, Mapping[str, Cell | float | None]]) -> str:
    """Return the Markdown table of methods with every metric of METRICS that has a column.

    Args:
        rows: Method to metrics by name (fractions).
    """
    return metrics_table("method", columns_of(METRICS), rows)


def differences_table(rows: Mapping[str, Mapping[str, Difference]]) -> str:
    """Return a Markdown table of differences from a baseline with their intervals.

    Args:
        rows: Method to differences by metric name (fractions).
    """
    columns = {
        name: column
        for name, column in columns_of(METRICS).items()
        if all(name in row for row in rows.values())
    }
    cells = {
        method: {name: Cell(d.estimate, interval=(d.low, d.high)) for name, d in row.items()}
        for method, row in rows.items()
    }
    return metrics_table("minus baseline", columns, cells, difference=True)


def aligned(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up: the first to the left, the others to the right.

    What users name their classes, files and methods cannot break out of its cell, see `markdown`.

    Example:
        >>> print(aligned(["a", "b"], [["x", "1.0"]]))
        | a |   b |
        |:--|----:|
        | x | 1.0 |
    """
    header, body = [markdown(text) for text in header], [[markdown(text) for text in row] for row in body]
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    lines = [
        _line(header, widths),
        "|:" + "-" * (widths[0] + 1) + "|" + "".join("-" * (w + 1) + ":|" for w in widths[1:]),
    ]
    return "\n".join([*lines, *(_line(row, widths) for row in body)])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        row[0].ljust(widths[0]),
        *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)),
    ]
    return "| " + " | ".join(cells) + " |"


def markdown(text: str) -> str:
    r"""Return text that stands in Markdown as it is: on one line, in one cell, no HTML, no link, no command.

    Example:
        >>> print(markdown("a|b\n<script>"))
        a\|b &lt;script>
    """
    line = " ".join(printable(text).split("\n")).replace("\t", " ")
    return line.replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    r"""Return rows of cells as the text of a CSV file.

    Args:
        rows: The header and what stands below it; names from elsewhere are to be safe already.

    Example:
        >>> csv_text([["file", "dice"], ["a,b.png", "0.5"]])
        'file,dice\n"a,b.png",0.5\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
