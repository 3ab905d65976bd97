"""The verdict on paper, over one column: every β's win rate on the reporting half."""

from __future__ import annotations

from collections.abc import Iterator

from prefeval.reports.charts import svg
from prefeval.reports.figures import paper
from prefeval.reports.figures.paper import ONE, Drawn
from prefeval.reports.figures.sheet import Area, Sheet
from prefeval.reports.labels import short
from prefeval.reports.run import Run, method_index
from prefeval.reports.summary import ordered
from prefeval.reports.verdict import Beta, Verdict

ROW, LEFT, RIGHT = 14.0, 80.0, 78.0  # px: a row; the names' and the states' columns


def figures(run: Run, verdict: Verdict) -> Iterator[Drawn]:
    """``verdict``: a row a β in the order of methods, and its state in a word."""
    betas = [b for b in ordered(run, verdict) if b.lc.known]
    if not betas:
        return
    height = 46 + ROW * len(betas)
    x_range = svg.padded(
        [v for b in betas for v in (b.lc.low, b.lc.value, b.lc.high)],
        include=[48, 52],
        within=svg.PERCENT,
    )
    y_range = (len(betas) - 0.4, -0.6)
    f = svg.frame(ONE, height, x_range, y_range, margins=(8, RIGHT, 38, LEFT))
    sheet = Sheet(ONE, height)
    area = sheet.area(f)
    size = paper.counted(b.lc for b in betas)
    area.axes(f"LC WR, %; {size}", "", x_ticks=f.x.ticks(4), y_ticks=[])
    area.level(50, upright=True)
    for row, beta in enumerate(betas):
        _row(area, row, beta, best=verdict.recommended_key in beta.keys)
    yield Drawn("verdict", sheet.figure, _caption(size, verdict))


def _caption(size: str, verdict: Verdict) -> str:
    apart = " that had no part in choosing checkpoints" if verdict.halves else ""
    return (
        "Length-controlled win rate of the chosen checkpoint of each β with its 95% interval, on"
        f" prompts{apart} ({size}). Dashed: no better than the reference. Beside it what was"
        f" decided; usable: the interval is above 50% and no behaviour is shown worse by more than"
        f" {verdict.margin:g} points. Star: recommended."
    )


def _row(area: Area, row: int, beta: Beta, *, best: bool) -> None:
    shape = method_index(beta.method)
    y = area.f.y(row) + 4
    area.text(LEFT - 8, y, short(beta.keys[0]), "end", colour=paper.WORDS[shape])
    area.interval(beta.lc, y=row, colour=paper.COLOURS[shape])
    area.mark(beta.lc.value, row, shape, 4.0)
    colour = paper.OK if best else paper.INK if beta.state == "usable" else paper.MUTE
    area.text(area.f.right + 6, y, beta.state + (" ★" if best else ""), colour=colour)
