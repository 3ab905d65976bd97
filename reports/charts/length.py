"""Length: what a win rate owes to longer answers, and how lengths drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from markupsafe import Markup

from prefeval.reports.charts import svg
from prefeval.reports.charts.placement import Box, Label, place_labels
from prefeval.reports.charts.svg import Frame, el, join
from prefeval.reports.labels import key_id, short, trial_id
from prefeval.reports.run import CheckpointRow, Run, method_index, method_name
from prefeval.reports.verdict import Verdict

SIZE, MARGINS = (380.0, 330.0), (26, 12, 38, 36)
RATIO = "length ratio (tokens, policy / reference)"


def raw_against_lc(run: Run, verdict: Verdict) -> Markup:
    """Raw (x) against length-controlled (y) win rate: below the diagonal, length won."""
    shown = rated(run)
    both = rate_range(shown)
    f = svg.frame(*SIZE, both, both, margins=MARGINS)
    left, low, right, high = f.x(both[0]), f.y(both[0]), f.x(both[1]), f.y(both[1])
    triangle = svg.path([(left, low), (right, high), (right, low), (left, low)], "longer")
    parts = [
        triangle,
        svg.axes(
            f, "raw win rate, %", "LC win rate, %", x_ticks=f.y.ticks(5), y_ticks=f.y.ticks(5)
        ),
        el("line", x1=left, y1=low, x2=right, y2=high, class_="level"),
        el("line", x1=f.left, x2=f.right, y1=f.y(50), y2=f.y(50), class_="level"),
        svg.text(f.right - 4, f.bottom - 6, "won by being longer", "end", "note"),
    ]
    order = sorted(shown, key=lambda c: c.key in verdict.chosen_keys)
    parts += [_scatter(f, c, c.key in verdict.chosen_keys) for c in order]
    title = "Raw against length-controlled win rate of every checkpoint"
    return svg.picture(f, title, *parts, class_="crowd")


def rated(run: Run) -> list[CheckpointRow]:
    """The checkpoints that have a raw and a length-controlled win rate."""
    return [c for c in run.checkpoints if c.get("lc_win_rate").known and c.get("win_rate").known]


def rate_range(shown: Sequence[CheckpointRow]) -> tuple[float, float]:
    """One range for both rates: it holds all their intervals."""
    ends = [v for c in shown for n in ("win_rate", "lc_win_rate") for v in _ends(c, n)]
    return svg.padded(ends, include=[45, 55], within=svg.PERCENT)


def _ends(row: CheckpointRow, name: str) -> tuple[float, float, float]:
    number = row.get(name)
    return number.low, number.value, number.high


def _scatter(f: Frame, row: CheckpointRow, chosen: bool) -> Markup:
    raw, lc = row.get("win_rate"), row.get("lc_win_rate")
    x, y = f.x(raw.value), f.y(lc.value)
    parts = []
    if chosen and lc.has_interval:
        parts.append(el("line", x1=x, x2=x, y1=f.y(lc.low), y2=f.y(lc.high), class_="ci"))
    if chosen and raw.has_interval:
        parts.append(el("line", x1=f.x(raw.low), x2=f.x(raw.high), y1=y, y2=y, class_="ci"))
    return _mark(row, x, y, chosen, parts)


def _mark(
    row: CheckpointRow, x: float, y: float, chosen: bool, parts: Sequence[Markup] = ()
) -> Markup:
    shape = method_index(row.key.method)
    mark = svg.marker(x, y, shape, 4.8 if chosen else 2.8)
    classes = f"pt m{shape}" + ("" if chosen else " faint")
    return el(
        "g", *parts, mark, class_=classes, data_method=row.key.method, data_ck=key_id(row.key)
    )


def length_over_steps(run: Run, verdict: Verdict) -> Markup:
    """Length ratio to the reference over training steps, one line a trial."""
    shown = [c for c in run.checkpoints if c.get("length_ratio").known]
    f = step_frame(shown)
    parts = [svg.axes(f, "step", RATIO, x_ticks=f.x.ticks(4))]
    parts += _lines(f, shown, lambda c: c.key.step, lambda c: c.key[:3], start=True)
    parts.append(_one(f))
    parts += [_ratio_mark(f, c, c.key.step, c.key in verdict.chosen_keys) for c in shown]
    parts += place_labels(extreme_labels(f, shown), f, [], gap=6, crowding=0.35)
    return svg.picture(f, "Length ratio over training steps", *parts)


def extreme_labels(f: Frame, shown: Sequence[CheckpointRow]) -> list[Label]:
    """At the end of each method's most lengthened trial; the others are named on hovering."""
    last = {c.key[:3]: c for c in shown}.values()
    extreme = {
        c.key.method: c for c in sorted(last, key=lambda c: abs(c.get("length_ratio").value - 1))
    }
    return [
        Label(
            f.x(c.key.step),
            f.y(c.get("length_ratio").value),
            short(c.key),
            f"label m{method_index(c.key.method)}",
            trial_id(c.key[:2]),
        )
        for c in reversed(extreme.values())
    ]


def length_over_beta(run: Run, verdict: Verdict) -> Markup:
    """Length ratio of the chosen checkpoint at each β, one line a method."""
    shown = chosen_ratios(run, verdict)
    f = beta_frame(shown)
    parts = [svg.axes(f, "β (log)", RATIO, x_ticks=f.x.ticks(5))]
    parts.append(_one(f))
    parts += _lines(f, shown, lambda c: c.key.beta, lambda c: c.key[:1], start=False)
    parts += [_ratio_mark(f, c, c.key.beta, True) for c in shown]
    parts += place_labels(*end_labels(f, shown), gap=9)
    return svg.picture(f, "Length ratio against β", *parts)


def chosen_ratios(run: Run, verdict: Verdict) -> list[CheckpointRow]:
    """The chosen checkpoints that have a length ratio and a place on a log axis."""
    chosen = (c for c in run.checkpoints if c.key in verdict.chosen_keys)
    return [c for c in chosen if c.get("length_ratio").known and c.key.beta > 0]


def end_labels(f: Frame, shown: Sequence[CheckpointRow]) -> tuple[list[Label], Frame, list[Box]]:
    """Each method's name at its last β, and the marks that it may not cover."""
    ends = {c.key.method: c for c in shown}
    labels = [
        Label(
            f.x(c.key.beta),
            f.y(c.get("length_ratio").value),
            method_name(m),
            f"label m{method_index(m)}",
            m,
        )
        for m, c in ends.items()
    ]
    points = [(f.x(c.key.beta), f.y(c.get("length_ratio").value)) for c in shown]
    return labels, f, [(x - 5, y - 5, x + 5, y + 5) for x, y in points]


def step_frame(
    shown: Sequence[CheckpointRow], size: tuple[float, float] = SIZE, room: float = 1.3
) -> Frame:
    """Axes of the ratio against steps, up to ``room`` times the last: labels stand behind it."""
    last = max((c.key.step for c in shown), default=1)
    return svg.frame(*size, (0, last * room), _ratio_range(shown), margins=MARGINS)


def beta_frame(
    shown: Sequence[CheckpointRow], size: tuple[float, float] = SIZE, room: float = 0.0
) -> Frame:
    """Axes of the ratio against log β, longer by a share ``room``: labels stand behind the last."""
    low, high = svg.log_padded(c.key.beta for c in shown)
    x_range = (low, high * (high / low) ** room)
    return svg.frame(*size, x_range, _ratio_range(shown), log_x=True, margins=MARGINS)


def _ratio_range(shown: Sequence[CheckpointRow]) -> tuple[float, float]:
    values = [v for c in shown for v in _ends(c, "length_ratio")]
    return svg.padded(values, include=[0.95, 1.05])


def _one(f: Frame) -> Markup:
    y = f.y(1)
    return join(
        [
            el("line", x1=f.left, x2=f.right, y1=y, y2=y, class_="level"),
            svg.text(f.left + 4, y + 13, "as long as the reference", "start", "note"),
        ]
    )


def _lines(
    f: Frame,
    shown: Sequence[CheckpointRow],
    x_of: Callable[[CheckpointRow], float],
    group_of: Callable[[CheckpointRow], object],
    *,
    start: bool,
) -> list[Markup]:
    """One line a group; over steps it starts at the reference, ratio 1."""
    lines = []
    for _, group in groupby(shown, key=group_of):
        members = list(group)
        points = [(f.x(x_of(c)), f.y(c.get("length_ratio").value)) for c in members]
        if start:
            points.insert(0, (f.x(0), f.y(1)))
        if len(points) > 1:
            key = members[0].key
            line = svg.path(points, "trajectory")
            what = trial_id(key[:3]) if start else key.method
            lines.append(el("g", line, class_=f"m{method_index(key.method)}", data_trial=what))
    return lines


def _ratio_mark(f: Frame, row: CheckpointRow, x_value: float, chosen: bool) -> Markup:
    number = row.get("length_ratio")
    x, parts = f.x(x_value), []
    if chosen and number.has_interval:
        parts.append(el("line", x1=x, x2=x, y1=f.y(number.low), y2=f.y(number.high), class_="ci"))
    return _mark(row, x, f.y(number.value), chosen, parts)
