"""Length on paper, over two columns (see ``chart_length``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from prefeval.reports.charts import length as chart
from prefeval.reports.charts import svg
from prefeval.reports.charts.placement import place
from prefeval.reports.charts.svg import Frame
from prefeval.reports.figures import paper
from prefeval.reports.figures.paper import TWO, Drawn
from prefeval.reports.figures.sheet import Area, Sheet
from prefeval.reports.run import CheckpointRow, Run, method_index
from prefeval.reports.verdict import Verdict

SIZE = (TWO / 3, 240.0)
RATIO = "tokens, policy / reference"


def figures(run: Run, verdict: Verdict) -> Iterator[Drawn]:
    """``length``: raw against length-controlled win rate, and how lengths drift."""
    sheet = Sheet(TWO, SIZE[1])
    rates, ratios = chart.rated(run), [c for c in run.checkpoints if c.get("length_ratio").known]
    if not rates and not ratios:
        return
    _rates(sheet, rates, verdict)
    _over_steps(sheet, ratios, verdict)
    _over_betas(sheet, chart.chosen_ratios(run, verdict))
    caption = (
        "(a) Raw against length-controlled win rate: below the diagonal, a checkpoint wins more"
        " than its quality at equal length explains. (b, c) Mean tokens, policy over reference,"
        " over training steps and, for the chosen checkpoint of each β, against log β. 95%"
        " intervals on chosen checkpoints;"
        f" {paper.counted(c.get('length_ratio') for c in ratios)} prompts."
    )
    yield Drawn("length", sheet.figure, caption)


def _rates(sheet: Sheet, rows: Sequence[CheckpointRow], verdict: Verdict) -> None:
    both = chart.rate_range(rows)
    f = svg.frame(*SIZE, both, both, margins=chart.MARGINS)
    area = sheet.area(f)
    ticks = f.y.ticks(5)
    size = paper.counted(c.get("lc_win_rate") for c in rows)
    area.axes(f"raw win rate, %; {size}", "(a) LC win rate, %", x_ticks=ticks, y_ticks=ticks)
    area.ax.fill_between(both, both[0], both, color=paper.SOFT, lw=0, zorder=0.3)
    area.line([(both[0], both[0]), (both[1], both[1])], paper.MUTE, dashes=(3, 3), lw=0.7)
    area.level(50)
    area.note(f.right - 3, f.bottom - 5, "won by being longer", "end")
    for row in sorted(rows, key=lambda c: c.key in verdict.chosen_keys):
        raw, rate = row.get("win_rate"), row.get("lc_win_rate")
        if row.key in verdict.chosen_keys:
            colour = paper.COLOURS[method_index(row.key.method)]
            area.interval(rate, x=raw.value, colour=colour)
            area.interval(raw, y=rate.value, colour=colour)
        _mark(area, row, raw.value, rate.value, row.key in verdict.chosen_keys)


def _over_steps(sheet: Sheet, rows: Sequence[CheckpointRow], verdict: Verdict) -> None:
    f = chart.step_frame(rows, SIZE, room=1.75)
    last = max((c.key.step for c in rows), default=1)
    area = _ratios(sheet, f, 1, "step", [t for t in f.x.ticks(5) if t <= last])
    _lines(area, rows, lambda c: c.key.step, lambda c: c.key[:3], start=[(0.0, 1.0)])
    for row in rows:
        _ratio_mark(area, row, row.key.step, row.key in verdict.chosen_keys)
    area.labels(place(chart.extreme_labels(f, rows), f, [], gap=6, crowding=0.35))


def _over_betas(sheet: Sheet, rows: Sequence[CheckpointRow]) -> None:
    f = chart.beta_frame(rows, SIZE, room=0.25)
    area = _ratios(sheet, f, 2, "β (log)", f.x.ticks(5))
    by_seed = sorted(rows, key=lambda c: (c.key.method, c.key.seed, c.key.beta))
    _lines(area, by_seed, lambda c: c.key.beta, lambda c: (c.key.method, c.key.seed), start=[])
    for row in rows:
        _ratio_mark(area, row, row.key.beta, True)
    area.labels(place(*chart.end_labels(f, rows)))


def _ratios(sheet: Sheet, f: Frame, index: int, x_title: str, x_ticks: Sequence[float]) -> Area:
    area = sheet.area(f, index * SIZE[0])
    title = f"{paper.letter(index)} {RATIO}"
    area.axes(x_title, title, x_ticks=x_ticks, y_ticks=f.y.ticks())
    area.level(1)
    return area


def _lines(
    area: Area,
    rows: Sequence[CheckpointRow],
    x_of: Callable[[CheckpointRow], float],
    group_of: Callable[[CheckpointRow], object],
    *,
    start: list[tuple[float, float]],
) -> None:
    for _, group in groupby(rows, key=group_of):
        members = list(group)
        points = [(x_of(c), c.get("length_ratio").value) for c in members]
        colour = paper.COLOURS[method_index(members[0].key.method)]
        area.line([*start, *points], colour, alpha=0.4, lw=0.7)


def _ratio_mark(area: Area, row: CheckpointRow, x: float, chosen: bool) -> None:
    number = row.get("length_ratio")
    if chosen:
        area.interval(number, x=x, colour=paper.COLOURS[method_index(row.key.method)])
    _mark(area, row, x, number.value, chosen)


def _mark(area: Area, row: CheckpointRow, x: float, y: float, chosen: bool) -> None:
    shape = method_index(row.key.method)
    area.mark(x, y, shape, 4.2 if chosen else 2.4, faint=not chosen)
