"""compare.html and compare.md: two checkpoints side by side, in one offline file each.

Made safe as report.html is (``document``); the answers are JSON that the script sets as text.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prefeval import records
from prefeval.metrics.differences import POINTS, TIMES, Difference
from prefeval.reports import document
from prefeval.reports.charts import svg
from prefeval.reports.compare import text as compare_text
from prefeval.reports.compare import words
from prefeval.reports.compare.data import Answer, Changed, Compared
from prefeval.reports.compare.samples import KINDS
from prefeval.reports.document import inline_json

BAR = (200.0, 22.0)  # px
EDGE = 7.0
SCRIPTS = ("diff", "compare")
STYLES = ("report.css", "compare.css")
MAX_CHARACTERS = 20_000
NAMES = ("compare.html", "compare.md")


def write(folder: Path, compared: Compared) -> tuple[Path, ...]:
    """Write both files into ``folder`` (made where it is not there); equal inputs, equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    page, text = (folder / name for name in NAMES)
    records.write_text(page, render(compared))
    records.write_text(text, compare_text.markdown(compared))
    return page, text


def render(compared: Compared) -> str:
    """The page as text."""
    return document.render("compare.html", STYLES, SCRIPTS, context(compared))


def context(compared: Compared) -> dict[str, Any]:
    """Everything that the template names."""
    head, tone = words.headline(compared)
    scale = points_scale([*compared.lines, *(t.line for t in compared.trials)])
    shown = {k for sample in compared.samples for k in sample.kinds}
    return {
        "title": f"{compared.b.name} beside {compared.a.name}: {head}",
        "headline": head,
        "tone": tone,
        "a": compared.a,
        "b": compared.b,
        "joined": words.joined(compared),
        "notes": compared.notes,
        "groups": words.groups(compared),
        "axis": _axis(scale),
        "families": [
            (name, [_row(words.title(x), x, scale) for x in lines])
            for name, lines in words.families(compared)
        ],
        "trials": [_row(t.name, t.line, scale) for t in compared.trials],
        "method": f"{words.UNITS} {words.METHOD}",
        "trials_text": words.TRIALS,
        "manifest": compared.manifest,
        "kinds": {k: _kind(compared, k) for k in KINDS if k in shown},
        "samples": len(compared.samples),
        "samples_json": inline_json([_sample(s) for s in compared.samples]),
    }


def _kind(compared: Compared, kind: str) -> str:
    """A filter's name, with how many of how many are in the page."""
    here = sum(kind in sample.kinds for sample in compared.samples)
    total = (compared.counts or {}).get(kind, here)
    return f"{KINDS[kind]} ({here} of {total})" if total > here else f"{KINDS[kind]} ({here})"


def _row(name: str, line: Difference, scale: svg.Scale) -> dict[str, str | Markup]:
    """One row of the table; its bar on the axis of points, or on one of its own."""
    return {
        "name": name,
        "meaning": words.meaning(line),
        "a": words.value(line, line.a),
        "b": words.value(line, line.b),
        "change": words.change(line),
        "span": words.span(line),
        "counts": words.counts(line) if line.name not in words.TITLES else "",
        "unit": "" if line.unit in (POINTS, TIMES) else line.unit,
        "bar": bar(line, scale if line.unit == POINTS else _own_scale(line)),
        "p": words.p_value(line),
        "raw_p": f"uncorrected p = {line.p:.2g}, {line.test}" if math.isfinite(line.p) else "",
        "n": str(line.difference.n),
        "tone": words.TONES.get(line.verdict, "none"),
        "mark": words.MARKS.get(line.verdict, ""),
        "verdict": words.verdict(line),
        "note": line.difference.reason if line.verdict != "not compared" else "",
    }


def points_scale(lines: list[Difference]) -> svg.Scale:
    """One scale for every difference in points, with 0 in its middle."""
    found = [x.difference for x in lines if x.unit == POINTS]
    ends = [abs(v) for d in found for v in (d.value, d.ci_low, d.ci_high) if math.isfinite(v)]
    reach = 1.05 * max([1.0, *ends])
    return svg.Scale(-reach, reach, EDGE, BAR[0] - EDGE)


def _own_scale(line: Difference) -> svg.Scale:
    """A scale that holds one line's interval, its null in the middle; factors by logarithm."""
    found = line.difference
    reach = max((abs(_place(line, v)) for v in (found.value, found.ci_low, found.ci_high)
                 if math.isfinite(v)), default=0.0)  # fmt: skip
    reach = 1.2 * reach or 1.0
    return svg.Scale(-reach, reach, EDGE, BAR[0] - EDGE)


def _place(line: Difference, value: float) -> float:
    if line.unit != TIMES:
        return value
    return math.log(value) if value > 0 else math.nan


def bar(line: Difference, scale: svg.Scale) -> Markup:
    """A difference and its interval, beside the line of no difference."""
    width, height = BAR
    found, y = line.difference, BAR[1] / 2
    tone = words.TONES.get(line.verdict, "none")
    parts = [svg.el("line", x1=scale(0), x2=scale(0), y1=0, y2=height, class_="level")]
    low, value, high = (_place(line, v) for v in (found.ci_low, found.value, found.ci_high))
    if math.isfinite(low) and math.isfinite(high):
        parts.append(svg.el("line", x1=scale(low), x2=scale(high), y1=y, y2=y, class_="ci"))
    if math.isfinite(value):
        parts.append(svg.marker(scale(value), y, 0 if tone == "none" else 3, 4.2))
    return svg.el(
        "svg",
        *parts,
        width=width,
        height=height,
        viewBox=f"0 0 {width:g} {height:g}",
        aria_hidden="true",
        class_=f"bar-cell {tone}",
    )


def _axis(scale: svg.Scale) -> Markup:
    """Ticks of the axis of points."""
    ticks = svg.linear_ticks(scale.low, scale.high, 4)
    parts = [svg.text(scale(v), 12, svg.tick_text(v), "middle", "tick") for v in ticks]
    return svg.el(
        "svg", *parts, width=BAR[0], height=14, viewBox=f"0 0 {BAR[0]:g} 14",
        class_="chart-axis", role="img", aria_label="difference in points",
    )  # fmt: skip


def _sample(sample: Changed) -> dict[str, Any]:
    """A sample as JSON."""
    return {
        "id": sample.prompt_id,
        "behaviour": sample.behaviour,
        "kinds": [[k, f"{KINDS[k]}: {compare_text.what_changed(sample, k)}"] for k in sample.kinds],
        "turns": [[role, _cut(text)] for role, text in sample.turns],
        "a": _answer(sample.a),
        "b": _answer(sample.b),
        "reference": _answer(sample.reference),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = records.to_jsonable(answer)
    found["text"] = _cut(answer.text)
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " […]"
