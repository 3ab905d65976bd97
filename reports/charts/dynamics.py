"""Log-probability dynamics: what training did to the chosen and the rejected answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from markupsafe import Markup

from prefeval.reports.charts import svg
from prefeval.reports.charts.svg import Frame, el
from prefeval.reports.files import as_float, read_rows
from prefeval.reports.labels import key_id, listed, trial_id
from prefeval.reports.quantities import beta_text, fixed, interval
from prefeval.reports.run import CheckpointRow, Run, TrialLog, method_name

SIZE = (272.0, 178.0)
BINS = 60
COLLAPSE = -0.2  # nats/token of Δchosen: severe displacement (prefeval's own threshold)
SERIES = (("delta_chosen", "chosen"), ("delta_rejected", "rejected"))


@dataclass(frozen=True)
class Panel:
    """The trials of one method and β (several when there are several seeds)."""

    method: str
    beta: float
    trials: tuple[TrialLog, ...]
    checkpoints: tuple[CheckpointRow, ...]


def panels(run: Run) -> list[Panel]:
    """One panel for each method and β, in order."""
    cells = {(t.method, t.beta) for t in run.trials} | {c.key[:2] for c in run.checkpoints}
    order = sorted(cells, key=lambda cell: (run.methods.index(cell[0]), cell[1]))
    return [
        Panel(
            method,
            beta,
            tuple(t for t in run.trials if (t.method, t.beta) == (method, beta)),
            tuple(c for c in run.checkpoints if c.key[:2] == (method, beta)),
        )
        for method, beta in order
    ]


def dynamics(run: Run) -> list[tuple[str, list[Markup]]]:
    """For each method its pictures, one a β.

    Each y axis holds its own values, and at least from 0 to the edge of the collapse zone: the
    zone is the common yardstick, and one collapsed trial does not flatten the others.
    """
    length = chosen_length(run)
    found = []
    for method in run.methods:
        mine = [p for p in panels(run) if p.method == method]
        found.append((method, [_picture(run, p, length) for p in mine]))
    return found


def chosen_length(run: Run) -> float:
    """Mean length of the held-out chosen answers in tokens; NaN when no pairs were saved."""
    for c in run.checkpoints:
        if c.folder is not None and (pairs := read_rows(c.folder / "pairs.jsonl")):
            lengths = pd.DataFrame(pairs).get("chosen_lengths")
            return float(lengths.mean()) if lengths is not None else math.nan
    return math.nan


@dataclass(frozen=True)
class Bend:
    """Where Δchosen begins to fall faster, in steps, with its 95% interval."""

    step: float
    low: float
    high: float


def falls_from(run: Run, panel: Panel) -> Bend | None:
    """The bend of a panel's one trial, if it has one that is shown (p < 1%) and leads down."""
    if len(panel.trials) != 1:
        return None
    saved = (run.summary.get("bends") or {}).get(panel.trials[0].name) or {}
    found = saved.get("delta_chosen") or {}
    numbers = {k: as_float(v) for k, v in found.items() if k not in ("reason", "n")}
    if not (numbers and numbers["p"] < 0.01 and numbers["slope_after"] < numbers["slope_before"]):
        return None
    return Bend(numbers["step"], numbers["ci_low"], numbers["ci_high"])


def bends(run: Run) -> str:
    """The bends in words; an empty text where none is shown."""
    found = []
    for panel in panels(run):
        if (bend := falls_from(run, panel)) is not None:
            name = f"{method_name(panel.method)} {beta_text(panel.beta)}"
            found.append(f"{name} at {bend.step:.0f} [{bend.low:.0f}, {bend.high:.0f}]")
    return f" Δchosen begins to fall faster at a step: {listed(found)}." if found else ""


def binned(log: pd.DataFrame, column: str, bins: int = BINS) -> list[tuple[float, float]]:
    """(mean step, mean value) of at most ``bins`` runs of consecutive steps; batches are noisy."""
    if column not in log or "step" not in log:
        return []
    found = [pd.to_numeric(log[name], errors="coerce") for name in ("step", column)]
    data = np.array([values.to_numpy(dtype=np.float64) for values in found])
    data = data[:, ~np.isnan(data).any(axis=0)]
    count = data.shape[1]
    if not count:
        return []
    starts = np.arange(0, count, math.ceil(count / bins))
    sizes = np.diff([*starts, count])
    steps, means = (np.add.reduceat(values, starts) / sizes for values in data)
    return list(zip(steps.tolist(), means.tolist(), strict=True))


def _extremes(panel: Panel) -> list[float]:
    """All values that a panel draws, ends of intervals included."""
    values = []
    for column, _ in SERIES:
        for trial in panel.trials:
            values += [v for _, v in binned(trial.log, column)]
        for c in panel.checkpoints:
            number = c.get(column)
            values += [number.value, number.low, number.high]
    return values


def frame_of(panel: Panel, length: float, size: tuple[float, float] = SIZE) -> Frame:
    """A panel's axes: its own values, and the yardstick."""
    yardstick = [0.0] if math.isnan(length) else [0.0, 1.1 * COLLAPSE * length]
    y_range = svg.padded(_extremes(panel), include=yardstick)
    last = max(steps_of(panel), default=1)
    return svg.frame(*size, (0, last * 1.04), y_range, margins=(40, 10, 34, 34))


def steps_of(panel: Panel) -> list[int]:
    """The steps of its checkpoints, and the last one of each training log."""
    steps = [c.key.step for c in panel.checkpoints]
    logs = [t.log["step"] for t in panel.trials if "step" in t.log and len(t.log)]
    return steps + [int(log.max()) for log in logs]


def _picture(run: Run, panel: Panel, length: float) -> Markup:
    """Training batches as lines, held-out pairs as marks, the collapse zone shaded."""
    f = frame_of(panel, length)
    name = f"{method_name(panel.method)} β = {beta_text(panel.beta)}"
    what = trial_id((panel.method, panel.beta))
    head = svg.text(2, 12, name, "start", "head")
    if not steps_of(panel):
        words = svg.text(2, 30, no_lines(panel), "start", "note")
        small = replace(f, height=44)
        return svg.picture(small, f"{name}: {no_lines(panel)}", head, words, data_trial=what)
    zone, words = _zone(f, length)
    parts = [
        head,
        zone,
        svg.axes(f, "step", "nats/sequence", x_ticks=f.x.ticks(4), y_ticks=f.y.ticks(4)),
        words,
        el("line", x1=f.left, x2=f.right, y1=f.y(0), y2=f.y(0), class_="level"),
    ]
    if (bend := falls_from(run, panel)) is not None:
        x = f.x(bend.step)
        parts.append(el("line", x1=x, x2=x, y1=f.top, y2=f.bottom, class_="level"))
        parts.append(svg.text(x - 3, f.bottom - 18, f"bend {bend.step:.0f}", "end", "note"))
    drawn = False
    for column, kind in SERIES:
        for trial in panel.trials:
            points = [(f.x(s), f.y(v)) for s, v in binned(trial.log, column)]
            if len(points) > 1:
                parts.append(svg.path(points, f"line {kind}"))
                drawn = True
        parts += _held_out(f, panel.checkpoints, column, kind)
    if not drawn:
        parts.append(svg.text(f.right, 12, no_lines(panel), "end", "note"))
    title = f"{name}: change of chosen and rejected log-probability by step"
    return svg.picture(f, title, *parts, data_trial=what)


def no_lines(panel: Panel) -> str:
    """Why a panel has no training lines."""
    failed = [t for t in panel.trials if t.status == "failed"]
    if failed:
        return "trial failed"
    if panel.trials and all(t.log.empty for t in panel.trials):
        return "no training log"
    return "held-out pairs only"


def _held_out(
    f: Frame, checkpoints: Sequence[CheckpointRow], column: str, kind: str
) -> list[Markup]:
    """The checkpoints' values on held-out pairs."""
    marks = []
    for c in checkpoints:
        number = c.get(column)
        if number.known:
            x, y = f.x(c.key.step), f.y(number.value)
            parts = []
            if number.has_interval:
                parts.append(
                    el("line", x1=x, x2=x, y1=f.y(number.low), y2=f.y(number.high), class_="ci")
                )
            parts.append(svg.marker(x, y, 0 if kind == "chosen" else 1, 3.4))
            value = f"{fixed(number.value, 2)} {interval(number, 2)}"
            more = f"Δ{kind} {value} nats/sequence, held-out pairs"
            marks.append(
                el("g", *parts, class_=f"pt {kind}", data_ck=key_id(c.key), data_more=more)
            )
    return marks


def _zone(f: Frame, length: float) -> tuple[Markup, Markup]:
    """Below −0.2 nats/token × the mean chosen length, and its name where there is room."""
    limit = COLLAPSE * length
    if not math.isfinite(limit) or limit <= f.y.low:
        return Markup(""), Markup("")
    top = f.y(min(limit, f.y.high))
    zone = el(
        "rect", x=f.left, y=top, width=f.right - f.left, height=f.bottom - top, class_="collapse"
    )
    words = svg.text(f.left + 4, f.bottom - 5, "collapse zone", "start", "note")
    return zone, words if f.bottom - top > 20 else Markup("")
