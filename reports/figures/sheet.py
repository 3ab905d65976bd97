"""Plots on paper by matplotlib, in the frames of the page's charts: same scales, ticks, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefeval.reports.charts import svg
from prefeval.reports.charts.placement import Placed
from prefeval.reports.charts.svg import Anchor, Frame
from prefeval.reports.figures import paper
from prefeval.reports.quantities import Number, beta_text
from prefeval.reports.run import method_index, method_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALIGN = {"start": "left", "middle": "center", "end": "right"}


@dataclass(frozen=True)
class Sheet:
    """A figure of a width and height in pixels; plots stand on it by their upper left corner."""

    width: float
    height: float
    figure: Figure = field(init=False)

    def __post_init__(self) -> None:
        from matplotlib.figure import Figure

        object.__setattr__(self, "height", self.height + paper.FOOT)
        inches = (self.width * paper.PIXEL / 72, self.height * paper.PIXEL / 72)
        object.__setattr__(self, "figure", Figure(figsize=inches))

    def area(self, f: Frame, left: float = 0, top: float = 0) -> Area:
        """A plot with the frame's scales, its axes still bare."""
        box = (
            (left + f.left) / self.width,
            1 - (top + f.bottom) / self.height,
            (f.right - f.left) / self.width,
            (f.bottom - f.top) / self.height,
        )
        ax = self.figure.add_axes(box, facecolor="none")
        for axis, scale in (("x", f.x), ("y", f.y)):
            if scale.log:
                ax.set(**{f"{axis}scale": "log"})
            ax.set(**{f"{axis}lim": (scale.low, scale.high)})
        return Area(self, ax, f, left, top)

    def key(self, methods: Sequence[str], top: float) -> None:
        """Marks and names of methods in a row: for those that no label in the plot names."""
        x = 12.0
        for method in methods:
            style, extent = paper.marker(method_index(method))
            at = ([x / self.width], [1 - (top + 8) / self.height])
            colour = paper.COLOURS[method_index(method)]
            size = 2 * 4.5 * extent * paper.PIXEL
            look = {"mfc": colour, "mec": "white", "mew": 0.6}
            self.figure.add_artist(_line(at, marker=style, ms=size, **look))
            name = method_name(method)
            self.text(x + 9, top + 12, name, colour=paper.WORDS[method_index(method)])
            x += 28 + 7 * len(name)

    def text(self, x: float, y: float, said: str, anchor: Anchor = "start", **look: Any) -> None:
        """A line of text; ``y`` is its base line, in pixels from above."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            paper.words(said),
            ha=ALIGN[anchor],
            va="baseline",
            color=look.pop("colour", paper.INK),
            **look,
        )


def _line(at: tuple[list[float], list[float]], **look: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(*at, linestyle="none", **look)


@dataclass(frozen=True)
class Area:
    """One plot. Marks, lines and shades are in data units, text in the frame's pixels."""

    sheet: Sheet
    ax: Axes
    f: Frame
    left: float
    top: float

    def axes(
        self,
        x_title: str,
        y_title: str,
        *,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        betas: bool = False,
    ) -> None:
        """Grid lines, ticks and titles as on the page: the y title stands level above its axis."""
        from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

        tick_text = beta_text if betas else svg.tick_text
        for axis, ticks, said in (
            (self.ax.xaxis, x_ticks, [tick_text(v) for v in x_ticks]),
            (self.ax.yaxis, y_ticks, [svg.tick_text(v) for v in y_ticks]),
        ):
            axis.set_minor_locator(NullLocator())
            axis.set_major_locator(FixedLocator(list(ticks)))
            axis.set_major_formatter(FixedFormatter(said))
        self.ax.tick_params(
            labelsize=8, labelcolor=paper.INK, color=paper.MUTE, length=3, width=0.6, pad=2
        )
        self.ax.tick_params(axis="y", length=0)
        self.ax.grid(axis="y", color=paper.GRID, linewidth=0.6)
        self.ax.set_axisbelow(True)
        for side in ("left", "top", "right"):
            self.ax.spines[side].set_visible(False)
        self.ax.spines["bottom"].set(color=paper.MUTE, linewidth=0.6)
        middle = (self.f.left + self.f.right) / 2
        self.text(middle, self.f.bottom + 32, x_title, "middle")
        self.text(2, self.f.top - 8, y_title)

    def text(self, x: float, y: float, said: str, anchor: Anchor = "start", **look: Any) -> None:
        """A line of text at pixels of the frame."""
        self.sheet.text(self.left + x, self.top + y, said, anchor, **look)

    def note(self, x: float, y: float, said: str, anchor: Anchor = "start") -> None:
        """Small grey text inside the plot."""
        self.text(x, y, said, anchor, fontsize=7.5, colour=paper.MUTE)

    def mark(
        self,
        x: float,
        y: float,
        shape: int,
        radius: float = 5.0,
        *,
        colour: str = "",
        faint: bool = False,
        hollow: bool = False,
    ) -> None:
        """One mark; a faint one is small and pale, a hollow one white inside."""
        style, extent = paper.marker(shape)
        shade = colour or paper.COLOURS[shape]
        self.ax.plot(
            [x],
            [y],
            linestyle="none",
            marker=style,
            markersize=2 * radius * extent * paper.PIXEL,
            markerfacecolor="white" if hollow else shade,
            markeredgecolor=shade if hollow else "white",
            markeredgewidth=0.9 if hollow else 0.3 if faint else 0.6,
            alpha=0.5 if faint else 1.0,
            clip_on=False,
            zorder=4 if not faint else 3.5,
        )

    def ring(self, x: float, y: float) -> None:
        """Around the recommended checkpoint."""
        self.ax.plot(
            [x], [y], "o", ms=22 * paper.PIXEL, mfc="none", mec=paper.OK, mew=1.2, zorder=4.5
        )

    def interval(
        self,
        number: Number,
        *,
        x: float | None = None,
        y: float | None = None,
        colour: str,
        faint: bool = False,
    ) -> None:
        """The interval of a number, upright at ``x`` or level at ``y``, cut at the plot's edge."""
        if not number.has_interval:
            return
        ends = [number.low, number.high]
        at = ([x, x], ends) if x is not None else (ends, [y, y])
        width, alpha = (0.7, 0.2) if faint else (0.9, 0.7)
        self.ax.plot(*at, color=colour, lw=width, alpha=alpha, zorder=3, solid_capstyle="butt")

    def line(self, points: Sequence[tuple[float, float]], colour: str, **look: Any) -> None:
        """A line through points."""
        if len(points) > 1:
            x, y = zip(*points, strict=True)
            self.ax.plot(x, y, color=colour, **{"lw": 0.8, "zorder": 2, **look})

    def level(self, y: float, *, upright: bool = False) -> None:
        """A dashed line across the plot: where nothing has changed."""
        across = self.ax.axvline if upright else self.ax.axhline
        across(y, color=paper.MUTE, lw=0.7, dashes=(3, 3), zorder=1)

    def shade(
        self, low: float, high: float, look: tuple[str, float], *, upright: bool = False
    ) -> None:
        """A band from ``low`` to ``high``: of x where it stands ``upright``, else of y."""
        across = self.ax.axvspan if upright else self.ax.axhspan
        across(low, high, facecolor=look[0], alpha=look[1], edgecolor="none", lw=0, zorder=0.4)

    def labels(self, placed: Sequence[Placed]) -> list[str]:
        """Draw the labels that have room; the texts of those that have none."""
        for p in placed:
            if not p.crowded:
                self._label(p)
        return [p.label.text for p in placed if p.crowded]

    def _label(self, p: Placed) -> None:
        self.text(
            p.x,
            p.y,
            p.label.text,
            p.anchor,
            fontsize=7.5,
            colour=paper.label_colour(p.label.class_),
            bbox={"facecolor": "white", "alpha": 0.5, "edgecolor": "none", "pad": 0.3},
        )
