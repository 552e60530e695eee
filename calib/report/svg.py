"""Charts as SVG: axes, steps, bars and marks whose colours and dashes come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup, escape

from calib.core.text import printable

WIDTH, HEIGHT = 360, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 12, 40
ARM, RADIUS = 4, 3.5  # of brackets, to each side; of dots


class Chart:
    """A chart on linear axes. What is drawn later lies above what was drawn before.

    Lines are told apart by their class: s0, s1, ... have a colour and dashes of their own in the style of the
    page, which knows light, dark and print.

    Args:
        title: What it is, for those who hear the page.
        description: What it shows, likewise.
        x: (low, high) of the horizontal axis.
        y: Likewise of the vertical one.
        x_label: What stands below.
        y_label: What stands beside.
        height: In units of the drawing, of which there are `WIDTH` across.
        percent: Whether the axes are fractions shown in percent, (x, y).

    Example:
        >>> chart = Chart("<Risk>", "It falls.", (0, 1), (0, 0.5), "accepted %", "wrong %")
        >>> chart.line([0, 1], [0.5, 0.25], "s0")
        >>> text = str(chart.svg("risk"))
        >>> "&lt;Risk&gt;" in text, "<Risk>" in text, 'd="M48,12L344,116"' in text
        (True, False, True)
    """

    def __init__(
        self,
        title: str,
        description: str,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str,
        *,
        height: int = HEIGHT,
        percent: tuple[bool, bool] = (True, True),
    ) -> None:
        self.title, self.description = title, description
        self._x, self._y, self._height = x, y, height
        self._labels, self._percent = (x_label, y_label), percent
        self._drawn: list[str] = []

    def at_x(self, value: float) -> float:
        """Return the place of a value on the horizontal axis, in units of the drawing."""
        low, high = self._x
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def at_y(self, value: float) -> float:
        """Return the place of a value on the vertical axis; below the ends of the axis it is cut off."""
        low, high = self._y
        value = min(max(value, low), high)
        return self._height - BOTTOM - (self._height - TOP - BOTTOM) * (value - low) / (high - low)

    def line(self, x: Iterable[float], y: Iterable[float], style: str, *, steps: bool = False) -> None:
        """Draw a line through points; a NaN interrupts it.

        Args:
            x: K values.
            y: K values.
            style: Its class, e.g. "s0" or "ideal".
            steps: Whether each value holds until the next.
        """
        words, before = [], None
        for px, py in zip(x, y, strict=True):
            if math.isnan(py) or math.isnan(px):
                before = None
                continue
            place = f"{_short(self.at_x(px))},{_short(self.at_y(py))}"
            if before is None:
                words.append(f"M{place}")
            elif steps:
                words.append(f"H{_short(self.at_x(px))}V{_short(self.at_y(py))}")
            else:
                words.append(f"L{place}")
            before = py
        self._drawn.append(f'<path class="line {style}" d="{"".join(words)}"/>')

    def area(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], style: str) -> None:
        """Fill what lies between two lines."""
        forth = [f"{_short(self.at_x(a))},{_short(self.at_y(b))}" for a, b in zip(x, low, strict=True)]
        back = [f"{_short(self.at_x(a))},{_short(self.at_y(b))}" for a, b in zip(x, high, strict=True)]
        self._drawn.append(f'<polygon class="{style}" points="{" ".join([*forth, *reversed(back)])}"/>')

    def bar(self, left: float, right: float, low: float, high: float, style: str, said: str = "") -> None:
        """Draw a bar.

        Args:
            left: Where it begins on the horizontal axis.
            right: Where it ends.
            low: Where it begins on the vertical axis.
            high: Where it ends.
            style: Its class.
            said: What a pointer on it is told.
        """
        x, top, bottom = self.at_x(left), self.at_y(max(low, high)), self.at_y(min(low, high))
        told = f"<title>{escape(printable(said))}</title>" if said else ""
        size = f'width="{_short(self.at_x(right) - x)}" height="{_short(bottom - top)}"'
        self._drawn.append(
            f'<rect class="{style}" x="{_short(x)}" y="{_short(top)}" {size}>{told}</rect>'
            if told
            else f'<rect class="{style}" x="{_short(x)}" y="{_short(top)}" {size}/>'
        )

    def bracket(self, x: float, low: float, high: float, style: str) -> None:
        """Draw an upright bracket from low to high at x."""
        at, top, bottom = self.at_x(x), self.at_y(high), self.at_y(low)
        a, b = _short(at - ARM), _short(at + ARM)
        self._drawn.append(
            f'<path class="{style}" d="M{a},{_short(top)}H{b}M{_short(at)},{_short(top)}V{_short(bottom)}'
            f'M{a},{_short(bottom)}H{b}"/>'
        )

    def mark(self, x: float, y: float, style: str) -> None:
        """Draw a dot."""
        place = f'cx="{_short(self.at_x(x))}" cy="{_short(self.at_y(y))}"'
        self._drawn.append(f'<circle class="{style}" {place} r="{RADIUS}"/>')

    def upright(self, x: float, style: str, name: str = "") -> None:
        """Draw a line from the bottom to the top; by its name a script can move it."""
        at = _short(self.at_x(x))
        known = f' id="{name}" data-left="{LEFT}" data-right="{WIDTH - RIGHT}"' if name else ""
        ends = f'x1="{at}" x2="{at}" y1="{TOP}" y2="{self._height - BOTTOM}"'
        self._drawn.append(f'<line class="{style}"{known} {ends}/>')

    def text(self, x: float, y: float, words: str, *, anchor: str = "middle", style: str = "small") -> None:
        """Write words at a point."""
        place = f'x="{_short(self.at_x(x))}" y="{_short(self.at_y(y))}"'
        self._drawn.append(
            f'<text class="{style}" {place} text-anchor="{anchor}">{escape(printable(words))}</text>'
        )

    def svg(self, name: str) -> Markup:
        """Return the drawing.

        Args:
            name: Letters, digits and hyphens: no other element of the page is called so.
        """
        height = self._height
        axes = [*self._ticks_x(), *self._ticks_y()]
        frame = f'<path class="axis" d="M{LEFT},{TOP}V{height - BOTTOM}H{WIDTH - RIGHT}"/>'
        x_label, y_label = (escape(printable(label)) for label in self._labels)
        middle = (TOP + height - BOTTOM) / 2
        labels = (
            f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 6}" '
            f'text-anchor="middle">{x_label}</text>'
            f'<text class="label" transform="translate(12 {_short(middle)}) rotate(-90)" '
            f'text-anchor="middle">{y_label}</text>'
        )
        title, description = escape(printable(self.title)), escape(printable(self.description))
        return Markup(  # every text in it is escaped
            f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
            f'<title id="{name}-t">{title}</title><desc id="{name}-d">{description}</desc>'
            f"{''.join(axes)}{''.join(self._drawn)}{frame}{labels}</svg>"
        )

    def _ticks_x(self) -> list[str]:
        y = self._height - BOTTOM
        return [
            f'<path class="grid" d="M{_short(self.at_x(tick))},{TOP}V{y}"/>'
            f'<text class="tick" x="{_short(self.at_x(tick))}" y="{y + 14}" text-anchor="middle">'
            f"{_tick(tick, self._percent[0])}</text>"
            for tick in nice_ticks(*self._x)
        ]

    def _ticks_y(self) -> list[str]:
        return [
            f'<path class="grid" d="M{LEFT},{_short(self.at_y(tick))}H{WIDTH - RIGHT}"/>'
            f'<text class="tick" x="{LEFT - 5}" y="{_short(self.at_y(tick) + 3.5)}" text-anchor="end">'
            f"{_tick(tick, self._percent[1])}</text>"
            for tick in nice_ticks(*self._y)
        ]


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers on an axis, at most so many steps apart.

    Example:
        >>> nice_ticks(0, 1), nice_ticks(0, 0.34)
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 0.1, 0.2, 0.3])
    """
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick(value: float, percent: bool) -> str:
    text = f"{100 * value:.6g}" if percent else f"{value:.6g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _short(value: float) -> str:
    """Return a coordinate to a tenth, without a zero behind the point."""
    text = f"{float(np.round(value, 1)):.1f}"
    return text.removesuffix(".0")
