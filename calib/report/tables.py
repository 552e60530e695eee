"""Tables of results as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calib.core.text import printable

# column title, metric name, decimals; all are fractions shown in percent but NLL and Brier
COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("accuracy %", "accuracy", 1),
    ("bal. acc. %", "balanced_accuracy", 1),
    ("macro-F1 %", "macro_f1", 1),
    ("ECE %", "ece", 1),
    ("adaptive ECE %", "ace", 1),
    ("NLL", "nll", 3),
    ("Brier", "brier", 3),
    ("conf. - acc. %", "confidence_gap", 1),
)


SIGNED = {"confidence_gap"}


@dataclass(frozen=True)
class Cell:
    """One number of a table, with its spread and its interval where there are several runs.

    Attributes:
        value: The number, or the mean over runs.
        sd: Standard deviation over runs. None: one run.
    """

    value: float
    sd: float | None = None


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


def format_value(metric: str, cell: Cell | float, decimals: int, *, percent: bool) -> str:
    """Return a number as it stands in a table.

    Example:
        >>> format_value("ece", Cell(0.0614, 0.011), 1, percent=True)
        '6.1 ± 1.1'
    """
    cell = cell if isinstance(cell, Cell) else Cell(float(cell))
    if cell.value is None or cell.value != cell.value:
        return "n/a"
    scale = 100 if percent else 1
    sign = "+" if metric in SIGNED else ""
    text = f"{scale * cell.value:{sign}.{decimals}f}"
    if cell.sd is not None and cell.sd == cell.sd:
        text += f" ± {scale * cell.sd:.{decimals}f}"
    return text


def results_table(rows: Mapping[str, Mapping[str, Cell | float]]) -> str:
    """Return a Markdown table, aligned for reading as it is, with one row per method.

    Args:
        rows: Method to metrics by name (fractions; see `COLUMNS`).
    """
    header = ["method", *(title for title, _, _ in COLUMNS)]
    body = [
        [method, *(format_value(name, values[name], d, percent="%" in title) for title, name, d in COLUMNS)]
        for method, values in rows.items()
    ]
    return aligned(header, body)


def differences_table(rows: Mapping[str, Mapping[str, Difference]]) -> str:
    """Return a Markdown table of differences from a baseline with their intervals.

    Args:
        rows: Method to differences by metric name (fractions).
    """
    columns = [column for column in COLUMNS if all(column[1] in row for row in rows.values())]
    body = [
        [method, *(_interval_text(row[name], d, 100 if "%" in title else 1) for title, name, d in columns)]
        for method, row in rows.items()
    ]
    return aligned(["minus baseline", *(title for title, _, _ in columns)], body)


def _interval_text(d: Difference, decimals: int, scale: int) -> str:
    low, middle, high = (f"{scale * x:+.{decimals}f}" for x in (d.low, d.estimate, d.high))
    return f"{middle} [{low}, {high}]"


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
