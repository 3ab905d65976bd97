"""The β window of each method on paper, over two columns (see ``chart_window``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from prefeval.reports.charts import window as chart
from prefeval.reports.figures import paper
from prefeval.reports.figures.paper import TWO, Drawn
from prefeval.reports.figures.sheet import Sheet
from prefeval.reports.run import CheckpointRow, Run, method_index, method_name
from prefeval.reports.verdict import Verdict

SIZE = (TWO / 3, 176.0)


def figures(run: Run, verdict: Verdict) -> Iterator[Drawn]:
    """``window-<method>``: win rate, drift and retention against log β, y axes alike for all."""
    ranges = [chart.y_range(run.checkpoints, plot) for plot in chart.plots()]
    for method in run.methods:
        rows = [c for c in run.checkpoints if c.key.method == method and c.key.beta > 0]
        if not rows:
            continue
        sheet = Sheet(TWO, SIZE[1])
        for index, (plot, ends) in enumerate(zip(chart.plots(), ranges, strict=True)):
            _draw(sheet, index, rows, plot, ends, verdict)
        yield Drawn(f"window-{method}", sheet.figure, _caption(method, verdict))


def _caption(method: str, verdict: Verdict) -> str:
    return (
        f"{method_name(method)}: what its β does to (a) the length-controlled win rate, (b) the KL"
        " divergence from the reference and (c) the behaviour that changed most for the worse, in"
        " points. In full, joined: the chosen checkpoint of each β with its 95% interval; pale: the"
        f" others. n under each axis. Shaded, what was found usable: {verdict.window_text(method)}."
    )


def _draw(
    sheet: Sheet,
    index: int,
    rows: Sequence[CheckpointRow],
    plot: chart.Plot,
    ends: tuple[float, float],
    verdict: Verdict,
) -> None:
    f = chart.frame_of(rows, plot, ends, SIZE)
    area = sheet.area(f, index * SIZE[0])
    method = rows[0].key.method
    shape = method_index(method)
    colour = paper.COLOURS[shape]
    size = paper.counted(plot.measure(c) for c in rows)
    area.axes(
        f"{method_name(method)} β (log), {size}",
        f"{paper.letter(index)} {plot.title}",
        x_ticks=chart.beta_ticks(f, rows),
        y_ticks=f.y.ticks(4),
        betas=True,
    )
    for low, high in chart.bands(rows, verdict):
        area.shade(low, high, paper.USABLE, upright=True)
        if index == 0:
            area.note(f.x.clamp((low * high) ** 0.5), f.top + 9, "usable", "middle")
    if plot.level is not None:
        area.level(plot.level)
    chosen = [c for c in rows if c.key in verdict.chosen_keys and plot.measure(c).known]
    by_seed = sorted(chosen, key=lambda c: (c.key.seed, c.key.beta))
    for _, line in groupby(by_seed, key=lambda c: c.key.seed):
        area.line([(c.key.beta, plot.measure(c).value) for c in line], colour, alpha=0.8, lw=1.0)
    for row in rows:
        number = plot.measure(row)
        if number.known:
            full = row in chosen
            if full:
                area.interval(number, x=row.key.beta, colour=colour)
            area.mark(row.key.beta, number.value, shape, 4.4 if full else 2.4, faint=not full)
