"""The frontier on paper, for one and for two columns (see ``charts.frontier``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from prefeval.reports.charts import frontier as chart
from prefeval.reports.charts.placement import Placed, place
from prefeval.reports.charts.svg import Frame
from prefeval.reports.figures import paper
from prefeval.reports.figures.paper import ONE, TWO, Drawn
from prefeval.reports.figures.sheet import Sheet
from prefeval.reports.labels import short
from prefeval.reports.quantities import Number
from prefeval.reports.run import CheckpointRow, Run, method_index
from prefeval.reports.verdict import Verdict

KEY = 18.0  # px of the row that names what no label does


def figures(run: Run, verdict: Verdict) -> Iterator[Drawn]:
    """``frontier`` over two columns, with the whole range beside it where damage dwarfs the rest;
    ``frontier-column`` over one."""
    limit = chart.zoom_limit(run, verdict) or math.inf
    whole, near = chart.within(run, math.inf), chart.within(run, limit)
    if not whole:
        return
    size = paper.counted(c.get("lc_win_rate") for c in whole)
    caption = (
        "Length-controlled win rate over the reference (%) against the distance from it, the square"
        f" root of the KL divergence, with 95% intervals ({size} prompts). Large marks: the chosen"
        " checkpoint of each β, labelled; small: the others, joined in training order. Dotted: the"
        " Pareto frontier of the point estimates. Ring: the recommended checkpoint."
    )
    beside = " (b) the whole range." if len(near) < len(whole) else ""
    parts = [(near, TWO * 0.64), (whole, TWO * 0.36)] if beside else [(whole, TWO)]
    yield Drawn("frontier", _sheet(parts, 370.0, verdict).figure, caption + beside)
    yield Drawn("frontier-column", _sheet([(near, ONE)], 300.0, verdict).figure, caption)


def _sheet(
    parts: Sequence[tuple[list[CheckpointRow], float]], height: float, verdict: Verdict
) -> Sheet:
    """The plots side by side; a row above names the methods that no label names."""
    lacking = [_unnamed(rows, width, verdict) for rows, width in parts]
    unnamed = [m for m in lacking[0] if all(m in methods for methods in lacking)]
    room = KEY if unnamed else 0.0
    sheet, left = Sheet(sum(width for _, width in parts), height + room), 0.0
    sheet.key(unnamed, 0)
    for index, (rows, width) in enumerate(parts):
        name = f"{paper.letter(index)} " if len(parts) > 1 else ""
        _draw(sheet, rows, chart.frame_of(rows, (width, height)), verdict, (left, room), name)
        left += width
    return sheet


def _few(f: Frame) -> bool:
    """Whether there is room for the methods' names alone."""
    return f.width < 400


def _placed(f: Frame, rows: list[CheckpointRow], verdict: Verdict) -> list[Placed]:
    """The page's labels; in a narrow plot without the recommended checkpoint's step."""
    labels, _, boxes = chart.wanted_labels(f, rows, verdict, few=_few(f))
    if _few(f):
        labels = [replace(label, text=label.text.partition(",")[0]) for label in labels]
    return place(labels, f, boxes)


def _unnamed(rows: list[CheckpointRow], width: float, verdict: Verdict) -> list[str]:
    """The methods that have no label with their name."""
    f = chart.frame_of(rows, (width, 370.0))
    said = " ".join(p.label.text for p in _placed(f, rows, verdict) if not p.crowded)
    names = {c.key.method: short(c.key).split()[0] for c in rows}
    return [method for method, name in names.items() if name not in said]


def _draw(
    sheet: Sheet,
    rows: list[CheckpointRow],
    f: Frame,
    verdict: Verdict,
    at: tuple[float, float],
    name: str,
) -> None:
    area = sheet.area(f, *at)
    few = _few(f)
    area.axes(
        chart.X_TITLE if f.width > 300 else "√KL (√nats per sequence)",
        name + chart.Y_TITLE,
        x_ticks=f.x.ticks(4 if few else 9),
        y_ticks=f.y.ticks(),
    )
    area.level(50)
    area.note(f.right, f.y(50) + 13, "50%: as good as the reference", "end")
    area.mark(0, 50, 0, 4, colour=paper.MUTE)
    area.line(chart.staircase(rows, f.x.high), paper.INK, ls=":", lw=1.0, alpha=0.6)
    for (method, _, _), group in groupby(rows, key=lambda c: c.key[:3]):
        points = [(chart.sqrt_kl(c)[0], c.get("lc_win_rate").value) for c in group]
        colour = paper.COLOURS[method_index(method)]
        area.line([(0.0, 50.0), *points], colour, alpha=0.3, lw=0.6)
    big = verdict.chosen_keys | {verdict.recommended_key}
    for row in sorted(rows, key=lambda c: c.key in big):
        root, rate = Number(*chart.sqrt_kl(row)), row.get("lc_win_rate")
        shape, faint = method_index(row.key.method), row.key not in big
        colour = paper.COLOURS[shape]
        area.interval(rate, x=root.value, colour=colour, faint=faint)
        area.interval(root, y=rate.value, colour=colour, faint=faint)
        area.mark(root.value, rate.value, shape, 2.8 if faint else 4.8, faint=faint)
        if row.key == verdict.recommended_key:
            area.ring(root.value, rate.value)
    area.labels(_placed(f, rows, verdict))
    size = paper.counted(c.get("lc_win_rate") for c in rows)
    area.note(f.right, f.top - 8, f"{size} prompts", "end")
