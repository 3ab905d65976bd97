"""The β window: what each method's lever does to win rate, drift and retention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prefeval.reports.charts import svg
from prefeval.reports.charts.svg import Frame, Scale, el, join
from prefeval.reports.labels import key_id
from prefeval.reports.quantities import Number
from prefeval.reports.run import CheckpointRow, Run, method_index, method_name
from prefeval.reports.verdict import Verdict, worst_change

SMALL, LARGE = (240.0, 168.0), (370.0, 230.0)
Measure = Callable[[CheckpointRow], Number]


@dataclass(frozen=True)
class Plot:
    """What one plot draws against β: title, measure, the level of no change, log axis or not."""

    title: str
    measure: Measure
    level: float | None = None
    log: bool = False


def plots() -> tuple[Plot, ...]:
    """Win rate, drift and retention."""
    return (
        Plot("LC win rate, %", lambda c: c.get("lc_win_rate"), 50.0),
        Plot("KL, nats/sequence (log)", lambda c: _positive(c.get("kl")), log=True),
        Plot("worst behaviour's change, points", lambda c: worst_change(c)[1], 0.0),
    )


def windows(run: Run, verdict: Verdict) -> list[tuple[str, list[Markup]]]:
    """For each method three pictures on the same log β axis; the same y axes for all methods."""
    ranges = [y_range(run.checkpoints, plot) for plot in plots()]
    charts = []
    for method in run.methods:
        mine = [c for c in run.checkpoints if c.key.method == method and c.key.beta > 0]
        if mine:
            size = SMALL if len(run.methods) > 2 else LARGE
            pictures = [
                _picture(mine, plot, found, verdict, size)
                for plot, found in zip(plots(), ranges, strict=True)
            ]
            charts.append((method, pictures))
    return charts


def _positive(number: Number) -> Number:
    """A number for a log axis: NaN at or below 0, its lower end kept above 0."""
    if not number.known or number.value <= 0:
        return Number(math.nan)
    low = number.low if number.low > 0 else number.value / 10
    return Number(number.value, low if number.has_interval else math.nan, number.high, number.n)


def y_range(rows: Sequence[CheckpointRow], plot: Plot) -> tuple[float, float]:
    """The y range that holds every checkpoint's value and interval (on a log axis, its value)."""
    numbers = [plot.measure(c) for c in rows]
    if plot.log:
        return svg.log_padded(n.value for n in numbers)
    include = [] if plot.level is None else [plot.level - 1, plot.level + 1]
    values = [v for n in numbers for v in (n.value, n.low, n.high)]
    return svg.padded(values, include=include, within=(-100.0, 100.0))


def _picture(
    rows: Sequence[CheckpointRow],
    plot: Plot,
    ends: tuple[float, float],
    verdict: Verdict,
    size: tuple[float, float],
) -> Markup:
    """The usable band, every checkpoint faintly, the chosen one of each β in full."""
    method = rows[0].key.method
    f = frame_of(rows, plot, ends, size)
    x_ticks = beta_ticks(f, rows)
    parts = [
        _band(f, rows, verdict),
        svg.axes(f, "β (log)", plot.title, x_ticks=x_ticks, y_ticks=f.y.ticks(4)),
    ]
    if plot.level is not None:
        y = f.y(plot.level)
        parts.append(el("line", x1=f.left, x2=f.right, y1=y, y2=y, class_="level"))
    chosen = [c for c in rows if c.key in verdict.chosen_keys and plot.measure(c).known]
    line = [(f.x(c.key.beta), f.y(plot.measure(c).value)) for c in chosen]
    if len(line) > 1:
        parts.append(svg.path(line, "trajectory strong"))
    index = method_index(method)
    for c in sorted(rows, key=lambda c: c in chosen):
        if plot.measure(c).known:
            parts.append(_mark(f, c, plot.measure(c), index, c in chosen))
    title = f"{method_name(method)}: {plot.title} against log β"
    return svg.picture(f, title, el("g", *parts, class_=f"m{index}"))


def frame_of(
    rows: Sequence[CheckpointRow],
    plot: Plot,
    ends: tuple[float, float],
    size: tuple[float, float],
) -> Frame:
    """A plot's axes: log β, and ``ends`` of y."""
    x = Scale(*svg.log_padded(c.key.beta for c in rows), 34, size[0] - 8, log=True)
    return Frame(*size, x, Scale(*ends, size[1] - 34, 22, log=plot.log))


def beta_ticks(f: Frame, rows: Sequence[CheckpointRow]) -> list[float]:
    """The β that were run, where there is room for them."""
    betas = sorted({c.key.beta for c in rows})
    return betas if len(betas) <= 5 else f.x.ticks(5)


def _mark(f: Frame, row: CheckpointRow, number: Number, shape: int, chosen: bool) -> Markup:
    """A checkpoint at its β; only chosen ones get their interval, so that the plot is legible."""
    x, y = f.x(row.key.beta), f.y(number.value)
    parts = []
    if chosen and number.has_interval:
        ends = f.y.clamp(number.low), f.y.clamp(number.high)
        parts.append(el("line", x1=x, x2=x, y1=ends[0], y2=ends[1], class_="ci"))
    parts.append(svg.marker(x, y, shape, 5 if chosen else 2.6))
    return el("g", *parts, class_="pt" if chosen else "pt faint", data_ck=key_id(row.key))


def bands(rows: Sequence[CheckpointRow], verdict: Verdict) -> list[tuple[float, float]]:
    """From the lowest to the highest usable β tested, and a little beyond to be seen."""
    betas = sorted({c.key.beta for c in rows})
    step = (betas[-1] / betas[0]) ** (0.22 / max(len(betas) - 1, 1)) if len(betas) > 1 else 1.2
    return [(low / step, high * step) for low, high in verdict.bands(rows[0].key.method)]


def _band(f: Frame, rows: Sequence[CheckpointRow], verdict: Verdict) -> Markup:
    shaded = []
    for low, high in bands(rows, verdict):
        x1, x2 = f.x.clamp(low), f.x.clamp(high)
        shaded.append(
            el("rect", x=x1, y=f.top, width=x2 - x1, height=f.bottom - f.top, class_="usable")
        )
    return join(shaded)
