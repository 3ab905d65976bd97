"""Where in an answer the policy leaves its reference: KL by position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from prefeval.metrics.kl import Stretch, by_position
from prefeval.reports.charts import svg
from prefeval.reports.charts.svg import Frame, el
from prefeval.reports.files import read_rows
from prefeval.reports.labels import key_id, short
from prefeval.reports.quantities import fixed
from prefeval.reports.run import CheckpointRow, Run, method_index
from prefeval.reports.verdict import Verdict

SIZE = (460.0, 290.0)
X_TITLE, Y_TITLE = "token of the answer (log)", "KL, nats/token"


class Curve(NamedTuple):
    """One checkpoint's KL by position."""

    row: CheckpointRow
    stretches: Sequence[Stretch]


def kl_by_position(run: Run, verdict: Verdict) -> Markup | None:
    """One line a checkpoint that is shown; None where no positions were saved."""
    curves = curves_of(run, verdict)
    if not curves:
        return None
    f = frame_of(curves)
    parts = [
        svg.axes(f, X_TITLE, Y_TITLE, x_ticks=f.x.ticks(7)),
        el("line", x1=f.left, x2=f.right, y1=f.y(0), y2=f.y(0), class_="level"),
    ]
    for place, curve in enumerate(curves):
        parts.append(_drawn(f, curve, 1 + 0.03 * (place - len(curves) / 2)))
    parts += _end_labels(f, curves)
    return svg.picture(f, "KL from the reference by position in the answer", *parts)


def curves_of(run: Run, verdict: Verdict) -> list[Curve]:
    """The curves of what is shown, where positions were saved."""
    return [Curve(row, found) for row in shown(run, verdict) if (found := _stretches(row))]


def frame_of(curves: Sequence[Curve], size: tuple[float, float] = SIZE, room: float = 2.6) -> Frame:
    """Log axes up to ``room`` times the last token: the names stand behind the lines."""
    last = max(c.stretches[-1].last for c in curves)
    y_range = svg.padded([v for c in curves for s in c.stretches for v in ends(s)], include=[0.0])
    return svg.frame(*size, (0.8, last * room), y_range, log_x=True, margins=(26, 12, 38, 44))


def shown(run: Run, verdict: Verdict) -> list[CheckpointRow]:
    """Of each method the recommended checkpoint, else the chosen one of the highest LC WR; of a
    single method, what was chosen at every β."""
    if len(run.methods) == 1:
        return [c for c in run.checkpoints if c.key in verdict.chosen_keys]
    found = []
    for method in run.methods:
        mine = [c for c in run.checkpoints if c.key.method == method]
        best = [c for c in mine if c.key == verdict.recommended_key]
        chosen = [c for c in mine if c.key in verdict.chosen_keys] or mine
        ranked = sorted(chosen, key=lambda c: _rank(c.get("lc_win_rate").value))
        found += (best or ranked)[-1:]
    return found


def _rank(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _stretches(row: CheckpointRow) -> Sequence[Stretch]:
    saved = read_rows(row.folder / "samples.jsonl") if row.folder is not None else []
    kept = [r for r in saved if isinstance(r.get("kl_by_position"), list)]
    clusters = [str(r.get("cluster") or r.get("prompt_id")) for r in kept]
    return by_position([r["kl_by_position"] for r in kept], clusters)


def ends(stretch: Stretch) -> tuple[float, float, float]:
    """Lower end, value and upper end, in nats/token."""
    return stretch.kl.ci_low, stretch.kl.value, stretch.kl.ci_high


def middle(stretch: Stretch) -> float:
    """Where a stretch of tokens stands on a log axis."""
    return math.sqrt(stretch.first * stretch.last)


def end_places(f: Frame, curves: Sequence[Curve]) -> list[tuple[float, float, CheckpointRow]]:
    """Where the names stand behind the lines, spread from the lowest upwards so that none covers
    another: x, base line, and whose name it is."""
    x = max(f.x(middle(c.stretches[-1])) for c in curves) + 10
    floor, places = f.bottom + 4.0, []
    for c in sorted(curves, key=lambda c: c.stretches[-1].kl.value):
        floor = min(f.y(c.stretches[-1].kl.value) + 4, floor - 12)
        places.append((x, floor, c.row))
    return places


def _end_labels(f: Frame, curves: Sequence[Curve]) -> list[Markup]:
    labels = []
    for x, y, row in end_places(f, curves):
        method = row.key.method
        words = svg.text(x, y, short(row.key), "start", f"label m{method_index(method)}")
        labels.append(el("g", words, data_trial=method))
    return labels


def _drawn(f: Frame, curve: Curve, aside: float) -> Markup:
    """Line and marks, a little aside, so that intervals do not hide each other."""
    method = curve.row.key.method
    points = [(f.x(middle(s) * aside), f.y(s.kl.value)) for s in curve.stretches]
    parts = [svg.path(points, "trajectory strong")] if len(points) > 1 else []
    for (x, y), s in zip(points, curve.stretches, strict=True):
        low, value, high = ends(s)
        bar = el("line", x1=x, x2=x, y1=f.y(low), y2=f.y(high), class_="ci")
        where = f"token {s.first}" if s.first == s.last else f"tokens {s.first}-{s.last}"
        more = f"{where}: {fixed(value, 3)} [{fixed(low, 3)}, {fixed(high, 3)}] nats/token"
        mark = svg.marker(x, y, method_index(method), 3.4)
        drawn = (bar, mark) if math.isfinite(low) else (mark,)
        parts.append(
            el(
                "g",
                *drawn,
                class_="pt",
                data_ck=key_id(curve.row.key),
                data_more=f"{more}, n = {s.n_tokens} tokens",
            )
        )
    return el("g", *parts, class_=f"m{method_index(method)}", data_method=method)
