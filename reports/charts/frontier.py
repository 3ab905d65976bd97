"""The frontier: how far each checkpoint moved from the reference, and what it gained by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from markupsafe import Markup

from prefeval.reports.charts import svg
from prefeval.reports.charts.placement import Box, Label, place_labels
from prefeval.reports.charts.svg import Frame, el, join
from prefeval.reports.labels import key_id, short, trial_id
from prefeval.reports.quantities import beta_text, fixed
from prefeval.reports.run import CheckpointRow, Key, Run, method_index
from prefeval.reports.verdict import Verdict

X_TITLE, Y_TITLE = "√KL from the reference (√nats per sequence)", "LC win rate, %"
GLANCE = (294.0, 132.0)
WIDE, DETAIL, NARROW = (1160.0, 470.0), (770.0, 430.0), (380.0, 430.0)


class Picture(NamedTuple):
    """A chart with its heading and the CSS class that says on which pages it is shown."""

    title: str
    shown_on: str
    chart: Markup


def frontier(
    run: Run, verdict: Verdict, size: tuple[float, float] = WIDE, limit: float = math.inf
) -> Markup:
    """√KL (√nats/sequence) against LC win rate (%), every checkpoint, with intervals.

    The stepped line is the Pareto frontier of the point estimates (Gao et al. 2022 plot gold
    against √KL): no checkpoint off it has both less KL and a higher win rate than one on it.
    Checkpoints beyond √KL = ``limit`` are left out.
    """
    shown = within(run, limit)
    narrow = size[0] < 600
    f = frame_of(shown, size)
    notable, gap = verdict.chosen_keys, 12.0 if narrow else 9.0
    parts = [
        svg.axes(
            f,
            X_TITLE,
            Y_TITLE,
            x_ticks=f.x.ticks(4 if narrow else 9),
        ),
        _reference(f),
        _pareto(f, shown),
        join(_trajectories(f, shown)),
        join(_points(f, shown, notable, verdict.recommended_key)),
        join(place_labels(*wanted_labels(f, shown, verdict, few=narrow), gap=gap)),
    ]
    title = (
        f"Frontier: square root of KL against length-controlled win rate of {len(shown)}"
        " checkpoints with 95% intervals; the values are in the checkpoint table."
    )
    return svg.picture(f, title, *parts)


def glance(run: Run, verdict: Verdict) -> Markup | None:
    """The frontier in small, for the first screen: the chosen checkpoint of every β."""
    chosen = [
        c for c in within(run, zoom_limit(run, verdict) or math.inf) if c.key in verdict.chosen_keys
    ]
    if not chosen:
        return None
    f = svg.frame(*GLANCE, *ranges(chosen), margins=(20, 8, 20, 24))
    wanted, _, taken = wanted_labels(f, chosen, verdict, few=True)
    best = verdict.recommended_key
    wanted = [replace(w, text=f"★ {short(best)}") for w in wanted if best and w.text[0] == "★"]
    parts = [
        svg.axes(
            f,
            "",
            f"{Y_TITLE}, over √KL (√nats per sequence)",
            x_ticks=f.x.ticks(4),
            y_ticks=f.y.ticks(3),
        ),
        el("line", x1=f.left, x2=f.right, y1=f.y(50), y2=f.y(50), class_="level"),
        svg.marker(f.x(0), f.y(50), 0, 4, "mark reference"),
        _pareto(f, chosen),
        join(_points(f, chosen, verdict.chosen_keys, verdict.recommended_key)),
        join(place_labels(wanted, f, taken)),
    ]
    title = (
        f"Square root of KL against length-controlled win rate of {len(chosen)} chosen"
        " checkpoints; their values are in the table beside it."
    )
    return svg.picture(f, title, *parts)


def within(run: Run, limit: float) -> list[CheckpointRow]:
    """The checkpoints that have both coordinates, up to √KL = ``limit``."""
    known = (c for c in run.checkpoints if c.get("lc_win_rate").known)
    return [c for c in known if 0 <= sqrt_kl(c)[0] <= limit]


def frame_of(shown: Sequence[CheckpointRow], size: tuple[float, float]) -> Frame:
    """A frame for ``ranges``."""
    return svg.frame(*size, *ranges(shown), margins=(26, 18, 40, 34))


def ranges(shown: Sequence[CheckpointRow]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Axes that hold every checkpoint, every interval of a win rate, and the reference."""
    x_high = svg.padded([sqrt_kl(c)[0] for c in shown], include=[0.0])[1]
    rates = [c.get("lc_win_rate") for c in shown]
    y_range = svg.padded(
        [v for rate in rates for v in (rate.low, rate.high)],
        include=[49, 51, *(rate.value for rate in rates)],
        share=0.05,
        within=svg.PERCENT,
    )
    return (-0.02 * x_high, x_high), y_range


def frontiers(run: Run, verdict: Verdict) -> list[Picture]:
    """The frontier for wide and narrow pages; in two pictures when damage dwarfs the rest."""
    limit = zoom_limit(run, verdict)
    if limit is None:
        return [
            Picture("", "wide-only", frontier(run, verdict, WIDE)),
            Picture("", "narrow-only", frontier(run, verdict, NARROW)),
        ]
    near = f"√KL up to {fixed(limit, 1)}: as far as usable and undecided β reach"
    return [
        Picture(near, "wide-only", frontier(run, verdict, DETAIL, limit)),
        Picture(near, "narrow-only", frontier(run, verdict, NARROW, limit)),
        Picture("The whole range", "", frontier(run, verdict, NARROW)),
    ]


def zoom_limit(run: Run, verdict: Verdict) -> float | None:
    """√KL up to which usable and undecided β reach, when far less than the whole range."""
    reach = {c.key: sqrt_kl(c)[0] for c in run.checkpoints if c.get("lc_win_rate").known}
    sound = [reach.get(k, -1.0) for b in verdict.betas if b.state != "not usable" for k in b.keys]
    if not sound or max(sound) <= 0 or max(sound) > 0.6 * max(reach.values()):
        return None
    return 1.1 * max(sound)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both: lower x, higher y; in order of x.

    >>> pareto([(1, 52), (2, 51), (3, 60), (0.5, 50)])
    [(0.5, 50), (1, 52), (3, 60)]
    """
    best, found = -math.inf, []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if y > best:
            found.append((x, y))
            best = y
    return found


def sqrt_kl(row: CheckpointRow) -> tuple[float, float, float]:
    """√KL and its interval; from KL's own where √KL was not saved. Negative when unknown."""
    root = row.get("sqrt_kl")
    if root.known:
        return root.value, root.low, root.high
    kl = row.get("kl")
    if not kl.known or kl.value < 0:
        return -1.0, math.nan, math.nan
    ends = [math.sqrt(max(v, 0)) if math.isfinite(v) else math.nan for v in (kl.low, kl.high)]
    return math.sqrt(kl.value), ends[0], ends[1]


def _reference(f: Frame) -> Markup:
    """The reference at (0, 50) and its level."""
    y = f.y(50)
    return join(
        [
            el("line", x1=f.left, x2=f.right, y1=y, y2=y, class_="level"),
            svg.text(f.right, y + 14, "50%: no better than the reference", "end", "note"),
            svg.marker(f.x(0), y, 0, 4, "mark reference"),
        ]
    )


def staircase(shown: Sequence[CheckpointRow], end: float) -> list[tuple[float, float]]:
    """The corners of the Pareto frontier's steps, from the reference (0, 50) to x = ``end``."""
    points = [(0.0, 50.0)] + [(sqrt_kl(c)[0], c.get("lc_win_rate").value) for c in shown]
    corners: list[tuple[float, float]] = []
    for x, y in pareto(points):
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return [*corners, (end, corners[-1][1])]


def _pareto(f: Frame, shown: Sequence[CheckpointRow]) -> Markup:
    corners = staircase(shown, f.x.high)
    return svg.path([(f.x(x), f.y(y)) for x, y in corners], "pareto")


def _trajectories(f: Frame, shown: Sequence[CheckpointRow]) -> list[Markup]:
    """A thin line from the reference through a trial's checkpoints, in training order."""
    lines = []
    for trial, group in groupby(shown, key=lambda c: c.key[:3]):
        points = [(f.x(sqrt_kl(c)[0]), f.y(c.get("lc_win_rate").value)) for c in group]
        path = svg.path([(f.x(0), f.y(50)), *points], "trajectory")
        classes = f"m{method_index(trial[0])}"
        lines.append(el("g", path, class_=classes, data_trial=trial_id(trial)))
    return lines


def _points(
    f: Frame, shown: Sequence[CheckpointRow], notable: frozenset[Key], best: Key | None
) -> list[Markup]:
    """Faint marks first, then the chosen checkpoint of every β, then the recommended one."""
    order = sorted(shown, key=lambda c: (c.key in notable, c.key == best))
    return [point(f, c, c.key in notable, c.key == best) for c in order]


def point(f: Frame, row: CheckpointRow, notable: bool, best: bool) -> Markup:
    """A checkpoint's mark with its two intervals."""
    x_value, x_low, x_high = sqrt_kl(row)
    lc = row.get("lc_win_rate")
    x, y = f.x(x_value), f.y(lc.value)
    parts = []
    if lc.has_interval:
        parts.append(el("line", x1=x, x2=x, y1=f.y(lc.low), y2=f.y(lc.high), class_="ci"))
    if math.isfinite(x_low) and math.isfinite(x_high):
        parts.append(el("line", x1=f.x.clamp(x_low), x2=f.x.clamp(x_high), y1=y, y2=y, class_="ci"))
    if best:
        parts.append(el("circle", cx=x, cy=y, r=11, class_="ring"))
    shape = method_index(row.key.method)
    parts.append(svg.marker(x, y, shape, 5.5 if notable or best else 3.2))
    classes = f"pt m{shape}" + ("" if notable or best else " faint")
    return el("g", *parts, class_=classes, data_method=row.key.method, data_ck=key_id(row.key))


def wanted_labels(
    f: Frame, shown: Sequence[CheckpointRow], verdict: Verdict, *, few: bool
) -> tuple[list[Label], Frame, list[Box]]:
    """Direct labels: the recommended checkpoint, one full name a method, then (unless ``few``) each
    chosen β; and the marks and the level that they may not cover."""
    notable, best = verdict.chosen_keys, verdict.recommended_key
    places = {c.key: (f.x(sqrt_kl(c)[0]), f.y(c.get("lc_win_rate").value)) for c in shown}
    obstacles = [(x - 4, y - 4, x + 4, y + 4) for x, y in places.values()]
    level = f.y(50)
    obstacles += [
        (f.left, level - 2, f.right, level + 2),
        (f.right - 175, level, f.right, level + 18),
    ]
    wanted = [Label(f.x(0), f.y(50), "reference", "label quiet")]
    if best in places:
        x, y = places[best]
        obstacles.append((x - 11, y - 11, x + 11, y + 11))
        wanted.insert(0, Label(x, y, f"★ {short(best)}, step {best.step}", "label best"))
    chosen = [c for c in shown if c.key in notable and c.key != best]
    widest = {c.key.method: c for c in sorted(chosen, key=lambda c: places[c.key][0])}
    for c in (*widest.values(), *(() if few else chosen)):
        x, y = places[c.key]
        full = c is widest[c.key.method]
        words = short(c.key) if full else beta_text(c.key.beta)
        colour = f"label m{method_index(c.key.method)}"
        label = Label(x, y, words, colour, trial_id(c.key[:2]))
        if label not in wanted:
            wanted.append(label)
    return wanted, f, obstacles
