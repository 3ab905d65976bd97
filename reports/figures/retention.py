"""Retention on paper, over two columns: each behaviour's paired change, with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from prefeval.reports.charts import svg
from prefeval.reports.charts.svg import Frame
from prefeval.reports.figures import paper
from prefeval.reports.figures.paper import TWO, Drawn
from prefeval.reports.figures.sheet import Area, Sheet
from prefeval.reports.labels import short
from prefeval.reports.retention import Cell, matrix
from prefeval.reports.run import CheckpointRow, Run, method_index
from prefeval.reports.verdict import Verdict

ROW, TALLEST = 13.0, 26.0  # px: the row of a β with one seed, with many
NAMES, COLUMNS = 78.0, 6  # px: the names' column; behaviours beside each other
Line = tuple[CheckpointRow, tuple[Cell, ...]]


def figures(run: Run, verdict: Verdict) -> Iterator[Drawn]:
    """``retention``: a plot a behaviour, a row a β, a mark a seed, of the chosen checkpoints."""
    behaviours, lines = matrix(run)
    lines = [line for line in lines if line[0].key in verdict.chosen_keys]
    rows = [list(group) for _, group in groupby(lines, key=lambda line: line[0].key[:2])]
    if not behaviours or not rows:
        return
    columns = min(len(behaviours), COLUMNS)
    seeds = max(map(len, rows))
    row = ROW if seeds == 1 else min(0.8 * ROW * seeds, TALLEST)
    width, height = (TWO - NAMES) / columns, 62 + row * len(rows)
    sheet = Sheet(TWO, height * math.ceil(len(behaviours) / columns))
    cells = [cell for _, line in lines for cell in line]
    x_range = svg.padded(
        [v for c in cells for v in (c.change.value, c.change.low, c.change.high)],
        include=[-verdict.margin - 1, 1],
        within=(-100.0, 100.0),
    )
    for index, behaviour in enumerate(behaviours):
        down, across = divmod(index, columns)
        f = svg.frame(width, height, x_range, (len(rows) - 0.4, -0.6), margins=(24, 5, 38, 5))
        area = sheet.area(f, NAMES + across * width, down * height)
        _behaviour(area, behaviour, index, rows, verdict)
        if across == 0:
            _names(sheet, f, rows, down * height)
    yield Drawn("retention", sheet.figure, _caption(verdict))


def _caption(verdict: Verdict) -> str:
    return (
        "Change of the share of prompts that pass each behaviour's check, chosen checkpoint less"
        " reference, same prompts, greedy answers, in points with 95% intervals; n under each axis."
        f" Shaded: a loss of more than {verdict.margin:g} points. Filled: shown different from 0;"
        " large and filled: shown worse by more than that margin (exact McNemar and one-sided"
        " tests, Holm-corrected over the behaviours of a checkpoint, 5%); hollow: neither."
    )


def _names(sheet: Sheet, f: Frame, rows: Sequence[Sequence[Line]], top: float) -> None:
    for place, lines in enumerate(rows):
        key = lines[0][0].key
        y, colour = top + f.y(place) + 4, paper.WORDS[method_index(key.method)]
        sheet.text(NAMES - 4, y, short(key), "end", colour=colour)


def _behaviour(
    area: Area,
    behaviour: str,
    index: int,
    rows: Sequence[Sequence[Line]],
    verdict: Verdict,
) -> None:
    f = area.f
    cells = [line[index] for lines in rows for _, line in lines]
    area.axes(
        f"points; {paper.counted(c.change for c in cells)}", "", x_ticks=f.x.ticks(3), y_ticks=[]
    )
    middle = (f.left + f.right) / 2
    area.text(middle, f.top - 8, paper.cut(behaviour, f.width), "middle")
    area.shade(f.x.low, -verdict.margin, paper.COLLAPSE, upright=True)
    area.level(0, upright=True)
    for place, lines in enumerate(rows):
        for seed, (row, line) in enumerate(lines):
            aside = 0.6 * (seed + 0.5) / len(lines) - 0.3
            _cell(area, place + aside, line[index], method_index(row.key.method))


def _cell(area: Area, y: float, cell: Cell, shape: int) -> None:
    if cell.change.known:
        area.interval(cell.change, y=y, colour=paper.COLOURS[shape])
        shown = cell.damaged or cell.significant
        radius = 4.2 if cell.damaged else 3.0
        area.mark(cell.change.value, y, shape, radius, hollow=not shown)
