"""Whether the judge gets worse as the policy moves away from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from prefeval.reports.charts import svg
from prefeval.reports.charts.placement import Label, place_labels
from prefeval.reports.charts.svg import Frame, el
from prefeval.reports.judge.audit import Audit, distance
from prefeval.reports.judge.words import PEOPLE_LONGER
from prefeval.reports.labels import key_id, short, trial_id
from prefeval.reports.quantities import Number, fixed, interval
from prefeval.reports.run import CheckpointRow, Key, Run, method_index
from prefeval.reports.verdict import Verdict

SIZE, MARGINS = (380.0, 270.0), (26, 12, 38, 34)
X_TITLE = "√KL from the reference (log)"


@dataclass(frozen=True)
class Measure:
    """What a chart draws: the audit's name of it, its title, its hover text, a level to compare."""

    name: str
    title: str
    said: str
    level: float | None = None
    level_said: str = ""


AGREES = Measure("agreement", "agrees with the oracle, %", "agrees with the oracle in")
FLIPS = Measure("flip_rate", "order changes the winner, %", "changes its winner with the order in")
LONGER = Measure(
    "prefers_longer",
    "prefers the longer answer, %",
    "prefers the longer answer in",
    PEOPLE_LONGER,
    f"people: {PEOPLE_LONGER:.0f}%",
)


def over_distance(run: Run, verdict: Verdict, audit: Audit) -> list[Markup]:
    """The liking for length, and beside it what shows best that a judge gets worse: agreement
    where there is an oracle, else the flips, of a judge that sees an order."""
    wanted = [AGREES] if audit.has_oracle else [FLIPS] if audit.policies["flip_rate"].value else []
    wanted.append(LONGER)
    return [chart for m in wanted if (chart := _picture(run, verdict, audit, m)) is not None]


def _picture(run: Run, verdict: Verdict, audit: Audit, what: Measure) -> Markup | None:
    """Every checkpoint with its 95% interval; None where fewer than two can be drawn."""
    values = {key: found[what.name] for key, found in audit.checkpoints.items()}
    rows = [c for c in run.checkpoints if c.key in values and values[c.key].known]
    rows = [c for c in rows if distance(c) >= 0]
    if len(rows) < 2:
        return None
    ends = [v for c in rows for v in _ends(values[c.key])]
    level = [what.level] if what.level is not None else []
    y_range = svg.padded(ends, include=level, within=svg.PERCENT)
    x_range = svg.log_padded([distance(c) for c in rows])
    f = svg.frame(*SIZE, x_range, y_range, log_x=True, margins=MARGINS)
    parts = [svg.axes(f, X_TITLE, what.title, x_ticks=f.x.ticks(5), y_ticks=f.y.ticks(5))]
    parts += _level(f, what)
    parts += _lines(f, rows, values)
    order = sorted(rows, key=lambda c: c.key in verdict.chosen_keys)
    parts += [_mark(f, c, values[c.key], what, c.key in verdict.chosen_keys) for c in order]
    parts += place_labels(_labels(f, rows, values), f, _boxes(f, rows, values), gap=6, crowding=0.3)
    return svg.picture(f, f"{what.title.rpartition(',')[0]}, by distance", *parts, class_="crowd")


def _ends(number: Number) -> tuple[float, float, float]:
    return number.low, number.value, number.high


def _level(f: Frame, what: Measure) -> list[Markup]:
    if what.level is None:
        return []
    y = f.y(what.level)
    line = el("line", x1=f.left, x2=f.right, y1=y, y2=y, class_="level")
    return [line, svg.text(f.right - 4, y - 4, what.level_said, "end", "note")]


def _at(f: Frame, row: CheckpointRow, values: Mapping[Key, Number]) -> tuple[float, float]:
    """A mark's pixels; a distance of 0 stands at the left edge."""
    return f.x.clamp(distance(row)), f.y(values[row.key].value)


def _lines(f: Frame, rows: Sequence[CheckpointRow], values: Mapping[Key, Number]) -> list[Markup]:
    """One line a trial, in training order."""
    lines = []
    for key, group in groupby(rows, key=lambda c: c.key[:3]):
        points = [_at(f, c, values) for c in group]
        if len(points) > 1:
            line = svg.path(points, "trajectory")
            classes = f"m{method_index(key[0])}"
            lines.append(el("g", line, class_=classes, data_trial=trial_id(key)))
    return lines


def _mark(f: Frame, row: CheckpointRow, number: Number, what: Measure, chosen: bool) -> Markup:
    shape = method_index(row.key.method)
    x, y = _at(f, row, {row.key: number})
    parts = []
    if number.has_interval:
        parts.append(el("line", x1=x, x2=x, y1=f.y(number.low), y2=f.y(number.high), class_="ci"))
    parts.append(svg.marker(x, y, shape, 4.6 if chosen else 2.8))
    return el(
        "g",
        *parts,
        class_=f"pt m{shape}" + ("" if chosen else " faint"),
        data_method=row.key.method,
        data_ck=key_id(row.key),
        data_more=f"judge {what.said} {fixed(number.value)}% {interval(number)} n={number.n}",
    )


def _labels(f: Frame, rows: Sequence[CheckpointRow], values: Mapping[Key, Number]) -> list[Label]:
    """Each method at its checkpoint farthest out; the others are named on hovering."""
    far = {c.key.method: c for c in sorted(rows, key=distance)}
    return [
        Label(
            *_at(f, c, values),
            short(c.key),
            f"label m{method_index(c.key.method)}",
            trial_id(c.key[:2]),
        )
        for c in far.values()
    ]


def _boxes(
    f: Frame, rows: Sequence[CheckpointRow], values: Mapping[Key, Number]
) -> list[tuple[float, float, float, float]]:
    points = [_at(f, c, values) for c in rows]
    return [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
