"""Log-probability dynamics of each method on paper (see ``chart_dynamics``)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from prefeval.reports.charts import dynamics as chart
from prefeval.reports.charts.dynamics import COLLAPSE, Panel
from prefeval.reports.charts.placement import Box, Label, place
from prefeval.reports.figures import paper
from prefeval.reports.figures.paper import ONE, TWO, Drawn
from prefeval.reports.figures.sheet import Area, Sheet
from prefeval.reports.quantities import beta_text, fixed
from prefeval.reports.run import CheckpointRow, Run, method_name
from prefeval.reports.verdict import Verdict

HEIGHT, COLUMNS = 176.0, 4
BEND = (paper.MUTE, 0.15)


def figures(run: Run, verdict: Verdict) -> Iterator[Drawn]:
    """``dynamics-<method>``: a panel a β, in rows of four; one column holds one or two."""
    length = chart.chosen_length(run)
    for method in run.methods:
        panels = [p for p in chart.panels(run) if p.method == method and chart.steps_of(p)]
        if not panels:
            continue
        columns = min(len(panels), COLUMNS)
        width = ONE if columns < 3 else TWO
        size = (width / columns, HEIGHT)
        sheet = Sheet(width, HEIGHT * math.ceil(len(panels) / columns))
        for index, panel in enumerate(panels):
            row, column = divmod(index, columns)
            f = chart.frame_of(panel, length, size)
            _draw(sheet.area(f, column * size[0], row * HEIGHT), run, panel, length, index)
        yield Drawn(f"dynamics-{method}", sheet.figure, _caption(method, length))


def _caption(method: str, length: float) -> str:
    edge = ""
    if math.isfinite(length):
        edge = (
            f", {fixed(COLLAPSE * length, 1)} nats/sequence at a mean of {fixed(length, 0)} tokens"
        )
    return (
        f"{method_name(method)}: change of the log-probability of chosen and rejected answers from"
        " the reference, nats/sequence, a panel a β. Lines: training batches, averaged over"
        " neighbouring steps; marks: held-out pairs with 95% intervals, n under each axis. Shaded:"
        f" severe displacement, below {fixed(COLLAPSE, 1)} nats/token{edge}. Dashed upright, where"
        " there is one: the step at which Δchosen begins to fall faster, with its 95% interval."
        " Each y axis holds its own values."
    )


def _draw(area: Area, run: Run, panel: Panel, length: float, index: int) -> None:
    f, limit = area.f, COLLAPSE * length
    numbers = [c.get(column) for c in panel.checkpoints for column, _ in chart.SERIES]
    name = f"{method_name(panel.method)}, β = {beta_text(panel.beta)}"
    area.text(2, 12, f"{paper.letter(index)} {name}")
    area.axes(
        f"step; {paper.counted(numbers)}",
        "nats/sequence",
        x_ticks=f.x.ticks(3),
        y_ticks=f.y.ticks(4),
    )
    area.level(0)
    if math.isfinite(limit) and limit > f.y.low:
        area.shade(f.y.low, min(limit, f.y.high), paper.COLLAPSE)
        if f.bottom - f.y(min(limit, f.y.high)) > 16:
            area.note(f.left + 3, f.bottom - 4, "collapse zone")
    if (bend := chart.falls_from(run, panel)) is not None:
        area.level(bend.step, upright=True)
        area.shade(bend.low, bend.high, BEND, upright=True)
        area.note(f.x(bend.step) - 3, f.bottom - 18, f"bend {bend.step:.0f}", "end")
    if not any(len(chart.binned(t.log, c)) > 1 for t in panel.trials for c, _ in chart.SERIES):
        area.note(f.right, f.bottom - 30, chart.no_lines(panel), "end")
    _curves(area, panel, named=index == 0)


def _curves(area: Area, panel: Panel, *, named: bool) -> None:
    """Lines of training batches, marks of held-out pairs, and their names in one panel."""
    f = area.f
    names: list[Label] = []
    boxes: list[Box] = []
    for column, kind in chart.SERIES:
        dashes = {"dashes": (4, 2)} if kind == "rejected" else {}
        lines = [chart.binned(trial.log, column) for trial in panel.trials]
        for points in lines:
            area.line(points, paper.KINDS[kind], lw=1.0, **dashes)
            places = [(f.x(x), f.y(y)) for x, y in points]
            boxes += [(x - 3, y - 3, x + 3, y + 3) for x, y in places]
        for row in panel.checkpoints:
            boxes += _held_out(area, row, column, kind)
        names += _name(area, panel, lines, column, kind)
    if named:
        area.labels(place(names, f, boxes, gap=6, crowding=0.6))


def _held_out(area: Area, row: CheckpointRow, column: str, kind: str) -> list[Box]:
    """The value on held-out pairs; the box of its mark."""
    number = row.get(column)
    if not number.known:
        return []
    colour = paper.KINDS[kind]
    area.interval(number, x=row.key.step, colour=colour)
    area.mark(row.key.step, number.value, int(kind == "rejected"), 3.0, colour=colour)
    x, y = area.f.x(row.key.step), area.f.y(number.value)
    return [(x - 4, y - 4, x + 4, y + 4)]


def _name(
    area: Area, panel: Panel, lines: list[list[tuple[float, float]]], column: str, kind: str
) -> list[Label]:
    """The name of a curve, wanted in the middle of its line, else at its last mark."""
    points = next((p for p in lines if len(p) > 1), [])
    points = points or [
        (float(c.key.step), n.value) for c in panel.checkpoints if (n := c.get(column)).known
    ]
    if not points:
        return []
    x, y = points[len(points) // 2]
    return [Label(area.f.x(x), area.f.y(y), kind, f"label {kind}")]
