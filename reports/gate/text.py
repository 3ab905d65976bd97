"""A gate's verdict for a terminal, a pipe, a job summary and JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prefeval import records
from prefeval.metrics.gate.decision import Check
from prefeval.reports.compare.samples import visible
from prefeval.reports.compare.text import columns
from prefeval.reports.gate import words
from prefeval.reports.gate.data import Gated
from prefeval.reports.quantities import p_text

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
SCHEMA = 1
WIDE = 100  # columns of a terminal from which p and n are shown
HEADS = ("", "check", "baseline", "checkpoint", "change or value", "limit", "p", "n")


def show(gated: Gated, console: Console) -> None:
    """Print the verdict, every check, and what would decide."""
    from rich.text import Text

    style = STYLES[gated.verdict.outcome]
    console.print(Text(words.headline(gated), style=f"bold {style}"), soft_wrap=True)
    for line in words.about(gated):
        console.print(Text(line), soft_wrap=True)
    console.print()
    rows = [HEADS, *map(_cells, gated.verdict.checks)]
    narrow = console.is_terminal and console.width < WIDE
    lines = list(columns([row[: -2 if narrow else None] for row in rows]))
    styles = ["bold", *(STYLES[c.outcome] for c in gated.verdict.checks)]
    for line, tone in zip(lines, styles, strict=True):
        console.print(Text(line, style=tone), soft_wrap=True)
    console.print()
    for check in gated.verdict.checks:
        if check.outcome != "pass":
            told = f"{MARKS[check.outcome]} {words.title(check)}: {words.why(check)}"
            console.print(Text(told, style=STYLES[check.outcome]), soft_wrap=True)
    for line in filter(None, (words.what_next(gated), words.method(gated))):
        console.print(Text(line, style="dim"), soft_wrap=True)


def _cells(check: Check) -> tuple[str, ...]:
    return (
        MARKS[check.outcome],
        words.title(check),
        *(_own(check, value) for value in (check.a, check.b)),
        f"{words.amount(check, check.value)} {words.interval(check)}".rstrip(),
        words.limit(check),
        p_text(check.p_holm).removeprefix("p ").removeprefix("= "),
        str(check.n),
    )


def _own(check: Check, value: float) -> str:
    """The baseline's or the checkpoint's own value, without a sign."""
    return words.amount(check, value).lstrip("+×")


def markdown(gated: Gated) -> str:
    """For a job summary: the verdict, a table, what would decide. Names are escaped."""
    return "\n".join(_markdown(gated)) + "\n"


def _markdown(gated: Gated) -> Iterator[str]:
    yield f"### prefeval gate: {MARKS[gated.verdict.outcome]} {escaped(words.headline(gated))}"
    yield ""
    yield f"Checkpoint {escaped(gated.checkpoint)}; baseline {escaped(gated.baseline)}."
    yield ""
    yield "| " + " | ".join(HEADS) + " |"
    yield "|---|---|---:|---:|---|---|---|---:|"
    for check in gated.verdict.checks:
        yield "| " + " | ".join(escaped(cell) for cell in _cells(check)) + " |"
    yield ""
    for check in gated.verdict.checks:
        if check.outcome != "pass":
            mark = MARKS[check.outcome]
            yield f"- {mark} {escaped(words.title(check))}: {escaped(words.why(check))}"
    yield from (f"- ! {escaped(note)}" for note in gated.notes)
    yield ""
    yield " ".join(filter(None, (escaped(words.what_next(gated)), words.method(gated))))


def escaped(text: str) -> str:
    """Text that Markdown takes as text: no table, markup, link or HTML comes of it."""
    shown = visible(text)
    return re.sub(r"([\\`*_{}\[\]<>#|~!&@])", r"\\\1", shown) if shown.strip() else shown


def as_object(gated: Gated) -> dict[str, Any]:
    """Everything, for ``--json``; undefined is null."""
    found: dict[str, Any] = records.to_jsonable(
        {
            "schema": SCHEMA,
            "outcome": gated.verdict.outcome,
            "counts_as": gated.counts_as,
            "exit_code": gated.code,
            "checkpoint": gated.checkpoint,
            "baseline": gated.baseline,
            "level": gated.verdict.level,
            "anytime": gated.anytime,
            "decided_after": gated.decided_after,
            "notes": gated.notes,
            "checks": [
                {**records.to_jsonable(check), "why": words.why(check)}
                for check in gated.verdict.checks
            ],
        }
    )
    return found
