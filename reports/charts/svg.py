"""Static SVG by pure functions: scales, ticks, axes, markers.

Why not a plotting library: plotly's script weighs 4.8 MB a report and sets styles inline, which a
strict content-security policy forbids. These charts weigh some 20 kB each, need no script to be
seen, follow the page's light, dark and print colours by CSS classes, and equal inputs give equal
bytes. All text passes through ``markupsafe.escape``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

Anchor = Literal["start", "middle", "end"]
PERCENT = (0.0, 100.0)


def number(value: float) -> str:
    """A coordinate in at most two decimals, without a trailing zero or a minus zero."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


def el(tag: str, *children: str, **attributes: str | float | None) -> Markup:
    """One element; text and attribute values are escaped, ``None`` attributes left out.

    ``class_`` becomes ``class`` and ``stroke_width`` becomes ``stroke-width``.

    >>> str(el("text", "a < b", x=1.50, class_="tick"))
    '<text x="1.5" class="tick">a &lt; b</text>'
    """
    parts = []
    for key, value in attributes.items():
        if value is not None:
            text = value if isinstance(value, str) else number(value)
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(text)}"')
    inner = Markup("").join(children)
    return Markup(f"<{tag}{''.join(parts)}>{inner}</{tag}>")


def join(parts: Iterable[Markup]) -> Markup:
    """Elements one after the other."""
    return Markup("").join(parts)


@dataclass(frozen=True)
class Scale:
    """Maps data to pixels, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of ``value``."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def attribute(self) -> str:
        """Domain, pixels and kind, for the page's script."""
        ends = f"{self.low:.8g} {self.high:.8g} {number(self.start)} {number(self.end)}"
        return f"{ends} log" if self.log else ends

    def clamp(self, value: float) -> float:
        """The pixel of ``value``, kept inside the plot."""
        return self(min(max(value, self.low), self.high))

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the domain."""
        if self.log:
            return log_ticks(self.low, self.high, count)
        return linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` multiples of 1, 2 or 5 times a power of ten in [low, high].

    >>> linear_ticks(0, 9, 4)
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / raw)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples 1, 3 (or 1, 2, 5) of powers of ten in [low, high].

    >>> log_ticks(0.05, 3)
    [0.1, 0.3, 1.0, 3.0]
    """
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    chosen: list[float] = []
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        chosen = [round(m * 10.0**e, 12) for e in exponents for m in multiples]
        chosen = [v for v in chosen if low * 0.999 <= v <= high * 1.001]
        if len(chosen) <= count:
            break
    return chosen


def padded(
    values: Iterable[float],
    *,
    include: Sequence[float] = (),
    share: float = 0.06,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """The range of the finite values, widened by ``share`` on both sides, kept ``within`` bounds.

    (0, 1) when there is no value.
    """
    finite = [v for v in (*values, *include) if math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    pad = (high - low) * share or max(abs(high) * 0.1, 0.5)
    return max(low - pad, within[0]), min(high + pad, within[1])


def log_padded(values: Iterable[float]) -> tuple[float, float]:
    """The range of positive values, widened on a log axis so that end marks are whole."""
    positive = [v for v in values if math.isfinite(v) and v > 0]
    if not positive:
        return 0.1, 1.0
    low, high = min(positive), max(positive)
    factor = (high / low) ** 0.1 if high > low else 2.0
    return low / factor, high * factor


@dataclass(frozen=True)
class Frame:
    """A plot's box: the size of the picture and the scales inside its margins."""

    width: float
    height: float
    x: Scale
    y: Scale

    @property
    def left(self) -> float:
        """Pixel of the plot's left edge."""
        return self.x.start

    @property
    def right(self) -> float:
        """Pixel of the plot's right edge."""
        return self.x.end

    @property
    def top(self) -> float:
        """Pixel of the plot's upper edge."""
        return self.y.end

    @property
    def bottom(self) -> float:
        """Pixel of the plot's lower edge."""
        return self.y.start


def frame(
    width: float,
    height: float,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    log_x: bool = False,
    margins: tuple[float, float, float, float] = (14, 14, 38, 44),
) -> Frame:
    """A frame with margins (top, right, bottom, left) in pixels."""
    top, right, bottom, left = margins
    return Frame(
        width,
        height,
        Scale(*x_range, left, width - right, log_x),
        Scale(*y_range, height - bottom, top),
    )


def tick_text(value: float) -> str:
    """A tick's label: plain digits and a true minus sign."""
    return f"{value:g}".replace("-", "\u2212")


def axes(
    f: Frame,
    x_title: str,
    y_title: str,
    *,
    x_ticks: Sequence[float] | None = None,
    y_ticks: Sequence[float] | None = None,
    y_labels: bool = True,
) -> Markup:
    """Grid lines, tick labels and axis titles; the y title stands level above the axis."""
    parts = []
    for value in f.y.ticks() if y_ticks is None else y_ticks:
        y = f.y(value)
        parts.append(el("line", x1=f.left, x2=f.right, y1=y, y2=y, class_="grid"))
        if y_labels:
            parts.append(text(f.left - 6, y + 4, tick_text(value), "end", "tick"))
    for value in f.x.ticks() if x_ticks is None else x_ticks:
        x = f.x(value)
        parts.append(el("line", x1=x, x2=x, y1=f.bottom, y2=f.bottom + 4, class_="axis"))
        parts.append(text(x, f.bottom + 16, tick_text(value), "middle", "tick"))
    parts.append(el("line", x1=f.left, x2=f.right, y1=f.bottom, y2=f.bottom, class_="axis"))
    if x_title:
        parts.append(text((f.left + f.right) / 2, f.bottom + 32, x_title, "middle", "title"))
    if y_title:
        parts.append(text(2, f.top - 8, y_title, "start", "title"))
    return join(parts)


def text(
    x: float, y: float, content: str, anchor: Anchor = "start", class_: str = "label"
) -> Markup:
    """A line of text."""
    return el("text", escape(content), x=x, y=y, text_anchor=anchor, class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A polyline through pixel points."""
    d = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return el("path", d=d, class_=class_)


def picture(
    f: Frame, title: str, *children: Markup, class_: str = "", data_trial: str | None = None
) -> Markup:
    """The ``<svg>`` element, named for screen readers.

    It carries its scales, by which the page's script zooms: low, high, first and last pixel, "log".
    ``data_trial`` is what all of it shows: it goes with that method, β and seed when switched off.
    """
    return el(
        "svg",
        *children,
        data_x=f.x.attribute(),
        data_y=f.y.attribute(),
        data_trial=data_trial,
        viewBox=f"0 0 {number(f.width)} {number(f.height)}",
        width=f.width,
        height=f.height,
        class_=f"chart {class_}".strip(),
        role="img",
        aria_label=title,
    )


SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    (),  # a circle
    ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    (
        *((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4)),
        *((0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
    ),
    ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    ((0, -1.2), (1.1, -0.5), (1.1, 0.5), (0, 1.2), (-1.1, 0.5), (-1.1, -0.5)),
)


def marker(x: float, y: float, shape: int, radius: float, class_: str = "mark") -> Markup:
    """One of seven shapes of about equal area, so that colour is never the only sign."""
    corners = SHAPES[shape % len(SHAPES)]
    if not corners:
        return el("circle", cx=x, cy=y, r=radius, class_=class_)
    points = " ".join(f"{number(x + radius * a)},{number(y + radius * b)}" for a, b in corners)
    return el("polygon", points=points, class_=class_, data_at=f"{number(x)} {number(y)}")
