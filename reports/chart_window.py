"""The β window: what each method's lever does to win rate, drift and retention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup

from prefeval.reports import svg
from prefeval.reports.labels import key_id, tip
from prefeval.reports.numbers import Number
from prefeval.reports.run import CheckpointRow, Run, method_index, method_name
from prefeval.reports.svg import Frame, Scale, el, join
from prefeval.reports.verdict import Verdict, worst_change

WIDTH, HEIGHT, TOP, GAP = 290.0, 132.0, 40.0, 42.0
Measure = Callable[[CheckpointRow], Number]


def windows(run: Run, verdict: Verdict) -> list[tuple[str, Markup]]:
    """One picture a method, three plots each on a shared log β axis; the same y axes for all."""
    plots: list[tuple[str, Measure, float | None]] = [
        ("LC win rate, %", lambda c: c.get("lc_win_rate"), 50.0),
        ("KL, nats/sequence (log)", lambda c: _positive(c.get("kl")), None),
        ("worst behaviour's change, points", lambda c: worst_change(c)[1], 0.0),
    ]
    ranges = [_range(run.checkpoints, m, level, index == 1) for index, (_, m, level) in enumerate(plots)]
    found = []
    for method in run.methods:
        mine = [c for c in run.checkpoints if c.key.method == method and c.key.beta > 0]
        if mine:
            found.append((method, _method(method, mine, verdict, plots, ranges)))
    return found


def _positive(number: Number) -> Number:
    """A number for a log axis: NaN at or below 0, its lower end kept above 0."""
    if not number.known or number.value <= 0:
        return Number(math.nan)
    low = number.low if number.low > 0 else number.value / 10
    return Number(number.value, low if number.has_interval else math.nan, number.high, number.n)


def _range(
    rows: Iterable[CheckpointRow], measure: Measure, level: float | None, log: bool
) -> tuple[float, float]:
    values = [v for c in rows for v in (measure(c).value, measure(c).low, measure(c).high)]
    if log:
        return svg.log_padded([measure(c).value for c in rows])
    return svg.padded(values, include=[] if level is None else [level - 1, level + 1])


def _method(
    method: str,
    rows: Sequence[CheckpointRow],
    verdict: Verdict,
    plots: Sequence[tuple[str, Measure, float | None]],
    ranges: Sequence[tuple[float, float]],
) -> Markup:
    """The three plots of one method, one under the other."""
    x = Scale(*svg.log_padded(c.key.beta for c in rows), 44, WIDTH - 12, log=True)
    height = TOP + len(plots) * (HEIGHT + GAP)
    index = method_index(method)
    parts = [
        el("g", svg.marker(8, 10, index, 5), class_=f"m{index}"),
        svg.text(20, 14, f"{method_name(method)}: {verdict.window_text(method)}", "start", "head"),
    ]
    for number, ((title, measure, level), (low, high)) in enumerate(zip(plots, ranges, strict=True)):
        top = TOP + 8 + number * (HEIGHT + GAP)
        y = Scale(low, high, top + HEIGHT, top, log=number == 1)
        last = number == len(plots) - 1
        parts.append(_plot(Frame(WIDTH, height, x, y), title, rows, measure, level, verdict, last))
    label = f"{method_name(method)}: LC win rate, KL and worst retention change against log β"
    return svg.picture(Frame(WIDTH, height, x, x), label, *parts)


def _plot(
    f: Frame,
    title: str,
    rows: Sequence[CheckpointRow],
    measure: Measure,
    level: float | None,
    verdict: Verdict,
    last: bool,
) -> Markup:
    """One plot: the usable band, every checkpoint faintly, the chosen one of each β in full."""
    betas = sorted({c.key.beta for c in rows})
    parts = [_band(f, betas, verdict, rows[0].key.method)]
    ticks = betas if len(betas) <= 5 else f.x.ticks(5)
    parts.append(svg.axes(f, "β (log)" if last else "", title, x_ticks=ticks, y_ticks=f.y.ticks(4)))
    if level is not None:
        parts.append(el("line", x1=f.left, x2=f.right, y1=f.y(level), y2=f.y(level), class_="level"))
    index = method_index(rows[0].key.method)
    chosen = [c for c in rows if c.key in verdict.chosen_keys and measure(c).known]
    line = [(f.x(c.key.beta), f.y(measure(c).value)) for c in chosen]
    if len(line) > 1:
        parts.append(svg.path(line, "trajectory strong"))
    for c in sorted(rows, key=lambda c: c in chosen):
        if measure(c).known:
            parts.append(_mark(f, c, measure(c), index, c in chosen))
    return el("g", *parts, class_=f"m{index}")


def _mark(f: Frame, row: CheckpointRow, number: Number, shape: int, chosen: bool) -> Markup:
    """A checkpoint at its β; the interval is drawn for chosen ones only, to keep the plot legible."""
    x, y = f.x(row.key.beta), f.y(number.value)
    parts = []
    if chosen and number.has_interval:
        ends = f.y.clamp(number.low), f.y.clamp(number.high)
        parts.append(el("line", x1=x, x2=x, y1=ends[0], y2=ends[1], class_="ci"))
    parts.append(svg.marker(x, y, shape, 5 if chosen else 2.6))
    return el(
        "g", *parts, class_="pt" if chosen else "pt faint", data_ck=key_id(row.key), data_tip=tip(row)
    )


def _band(f: Frame, betas: Sequence[float], verdict: Verdict, method: str) -> Markup:
    """Shade from the lowest to the highest usable β tested, and a little beyond to be seen."""
    bands = []
    step = (betas[-1] / betas[0]) ** (0.22 / max(len(betas) - 1, 1)) if len(betas) > 1 else 1.2
    for low, high in verdict.bands(method):
        x1, x2 = f.x.clamp(low / step), f.x.clamp(high * step)
        bands.append(
            el("rect", x=x1, y=f.top, width=x2 - x1, height=f.bottom - f.top, class_="usable")
        )
    return join(bands)
