"""KL by position in the answer on paper, over one column (see ``chart_position``)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from prefeval.reports.charts import position as chart
from prefeval.reports.figures import paper
from prefeval.reports.figures.paper import ONE, Drawn
from prefeval.reports.figures.sheet import Area, Sheet
from prefeval.reports.labels import short
from prefeval.reports.quantities import Number
from prefeval.reports.run import Run, method_index
from prefeval.reports.verdict import Verdict

SIZE = (ONE, 230.0)


def figures(run: Run, verdict: Verdict) -> Iterator[Drawn]:
    """``position``; none where no positions were saved."""
    curves = chart.curves_of(run, verdict)
    if not curves:
        return
    sheet = Sheet(*SIZE)
    f = chart.frame_of(curves, SIZE, room=7.0)
    area = sheet.area(f)
    last = max(c.stretches[-1].last for c in curves)
    ticks = [t for t in f.x.ticks(7) if t <= last]
    area.axes(chart.X_TITLE, chart.Y_TITLE, x_ticks=ticks, y_ticks=f.y.ticks())
    area.line([(f.x.low, 0.0), (last, 0.0)], paper.MUTE, dashes=(3, 3), lw=0.7)
    for place, curve in enumerate(curves):
        _draw(area, curve, 1 + 0.03 * (place - len(curves) / 2))
    for x, y, row in chart.end_places(f, curves):
        colour = paper.WORDS[method_index(row.key.method)]
        area.text(x, y, short(row.key), fontsize=7.5, colour=colour)
    caption = (
        "Full-vocabulary KL from the reference by token of the policy's own answers: means over"
        " stretches that double in length, with 95% intervals;"
        f" {paper.counted(c.row.get('kl') for c in curves)} prompts."
    )
    yield Drawn("position", sheet.figure, caption)


def _draw(area: Area, curve: chart.Curve, aside: float) -> None:
    """Line and marks, a little aside, so that intervals do not hide each other."""
    shape = method_index(curve.row.key.method)
    colour = paper.COLOURS[shape]
    points = [(chart.middle(s) * aside, s.kl.value) for s in curve.stretches]
    area.line(points, colour, alpha=0.8, lw=1.0)
    for (x, y), stretch in zip(points, curve.stretches, strict=True):
        low, value, high = chart.ends(stretch)
        if math.isfinite(value):
            area.interval(Number(value, low, high), x=x, colour=colour)
            area.mark(x, y, shape, 3.0)
