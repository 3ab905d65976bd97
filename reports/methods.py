"""The table of methods: what each costs and what it is like to use, a row a method.

The numbers are ``metrics.method_table``'s, which the sweep saved in summary.json, the costs of
``costs``, and what `prefeval report RUN OTHER...` saved of runs on noisier labels (related.json).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from prefeval.reports import costs
from prefeval.reports.files import as_float
from prefeval.reports.method_columns import COLUMNS, NOISE, Column
from prefeval.reports.quantities import DASH, Number, beta_text, fixed, interval, missing
from prefeval.reports.run import Run, method_index, method_name
from prefeval.reports.tables import Footnotes, icon
from prefeval.reports.verdict import SIGNS

UNFINISHED = "the run is unfinished; its verdict comes first"
OLD = "this run was concluded before it was measured; prefeval score measures it"
NO_BEST = "no β is both undamaged and identified, so none stands for the method"
NO_NOISE = (
    "no run on noisier labels was named: sweep with --lab noise=0.3 (or your pairs, some of them"
    " swapped), then name this run and that one to prefeval report"
)
LEAD = (
    "A row a method, by its best β: the one that ranks first on the half of the prompts that"
    " chooses. Every win rate is measured on the other half. 95% intervals; with one training seed"
    " they cover prompts, not training. A dash is not measured, and says why."
)
SPENT = ("trials", "models", "ratio")  # taken from the costs


@dataclass(frozen=True)
class Cell:
    """One cell: value, interval and what hovering it says, or the reason why it is blank."""

    text: str
    ci: str = ""
    tip: str = ""
    reason: str = ""
    mark: str = ""


def columns(run: Run) -> tuple[Column, ...]:
    """``COLUMNS``, then one for each run on noisier labels, or one that says there is none."""
    found = []
    for other in compared(run):
        about = f"{other['differs']} ({other['name']})"
        found.append(replace(NOISE, key=f"noise {other['name']}", title=f"{NOISE.title}. {about}"))
    return (*COLUMNS, *(found or [NOISE]))


def compared(run: Run) -> list[Mapping[str, Any]]:
    """The runs of related.json that differ in their labels alone."""
    return [r for r in run.related if not r.get("reason")]


def numbers(run: Run) -> dict[str, dict[str, Number]]:
    """Every method's numbers by column; what is not there says why."""
    saved = run.summary.get("methods")
    rows = {str(r.get("method")): r for r in saved or () if isinstance(r, dict)}
    absent = UNFINISHED if not run.selection else OLD if saved is None else NO_BEST
    cost = costs.by_method(run)
    found = {}
    for method in run.methods:
        values = (rows.get(method) or {}).get("numbers") or {}
        known = {key: _number(value) for key, value in values.items()}
        own = {c.key: known.get(c.key) or missing(absent) for c in COLUMNS}
        spent = cost.get(method) or dict.fromkeys(SPENT, missing(costs.NO_COSTS))
        own |= {key: spent[key] for key in SPENT}
        own["usable"] = _usable(run, method)
        found[method] = own | _noise(run, method)
    return found


def _number(saved: Mapping[str, Any]) -> Number:
    n = saved.get("n")
    value, low, high = (as_float(saved.get(k)) for k in ("value", "ci_low", "ci_high"))
    return Number(
        value, low, high, int(n) if n is not None else None, str(saved.get("reason") or "")
    )


def _usable(run: Run, method: str) -> Number:
    """How many β are usable, and how many may be, of how many."""
    states = [b.get("state") for b in run.selection.get("betas") or () if b["method"] == method]
    if not states:
        return missing(UNFINISHED)
    usable, undecided = states.count("usable"), states.count("undecided")
    return Number(usable, usable, usable + undecided, len(states))


def _noise(run: Run, method: str) -> dict[str, Number]:
    """One number for each run on noisier labels."""
    found = {}
    for other in compared(run):
        key = f"noise {other['name']}"
        saved = _of_noise(run, key, method)
        found[key] = _number(saved) if saved else missing(f"{other['name']} was without it")
    refused = "; ".join(f"{r['name']}: {r['reason']}" for r in run.related if r.get("reason"))
    return found or {"noise": missing(refused or NO_NOISE)}


def table(run: Run) -> dict[str, Any]:
    """The page's table: groups, columns, a row a method, footnotes, and how each is computed."""
    notes = Footnotes()
    heads, found = columns(run), numbers(run)
    rows = [
        {
            "method": method,
            "index": method_index(method),
            "mark": icon(method),
            "name": method_name(method),
            "small": _best(run, method),
            "cells": [_cell(own, c, run, method, notes) for c in heads],
        }
        for method, own in found.items()
    ]
    groups: dict[str, int] = {}
    for column in heads:
        groups[column.group] = groups.get(column.group, 0) + 1
    return {
        "groups": [{"name": name, "span": span} for name, span in groups.items()],
        "columns": [
            {
                "name": c.name,
                "title": c.title,
                "first": c.group != before,
                "said": f"{c.group}, {c.name}",
                "n": _sizes(found, c),
            }
            for c, before in zip(heads, ["", *(c.group for c in heads)], strict=False)
        ],
        "rows": rows,
        "footnotes": notes.items,
    }


def _row(run: Run, method: str) -> Mapping[str, Any]:
    """What the sweep saved of a method."""
    saved = run.summary.get("methods") or ()
    return next((r for r in saved if r.get("method") == method), {})


def _of_noise(run: Run, key: str, method: str) -> Mapping[str, Any]:
    """What related.json has of a method in the column of one run."""
    other = next((r for r in compared(run) if key == f"noise {r['name']}"), {})
    return (other.get("methods") or {}).get(method) or {}


def _best(run: Run, method: str) -> str:
    """The best β, its step and its state: "β 0.165, step 125 ✓"."""
    row = _row(run, method)
    if not row.get("seeds"):
        return ""
    seeds = f", {len(row['seeds'])} seeds" if len(row["seeds"]) > 1 else ""
    sign = SIGNS.get(str(row["state"]), "")
    return f"β {beta_text(as_float(row['beta']))}, step {row['step']}{seeds} {sign}".strip()


def _sizes(found: Mapping[str, Mapping[str, Number]], column: Column) -> str:
    """Over how many observations a column is, or the range over methods."""
    sizes = sorted({n.n for own in found.values() if (n := own[column.key]).known and n.n})
    if not sizes:
        return ""
    what = {"seed": "trials", "usable": "β", "models": "trials", "ratio": "trials"}
    size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"n = {size} {what.get(column.key, 'prompts')}"


def _cell(
    own: Mapping[str, Number], column: Column, run: Run, method: str, notes: Footnotes
) -> Cell:
    number = own[column.key]
    if not number.known:
        reason = number.reason or "undefined; no reason was saved"
        return Cell("", reason=reason, mark=notes.mark(reason))
    row = _row(run, method)
    tip = _sizes({method: own}, column)
    if column.key == "usable":
        span = interval(number, 0) if number.high > number.low else ""
        return Cell(f"{fixed(number.value, 0)} of {number.n}", span, tip)
    if betas := _of_noise(run, column.key, method).get("betas"):
        tip = f"β {', '.join(map(beta_text, betas))}; {tip}"
    if column.key == "lever" and row.get("compared"):
        tip = f"{row['compared']} β compared, {tip}"
    text = fixed(number.value, column.digits, sign=column.sign)
    span = interval(number, column.digits, sign=column.sign)
    if column.key in SPENT:
        few = f"{number.n} of {own['trials'].n} trials" if number.n != own["trials"].n else ""
        span = " ".join(filter(None, (span if number.low != number.high else "", few)))
    if column.key == "half_gain" and row.get("half_at_first"):
        text = f"≤ {text}"
        span = f"[≤ {span[1:]}" if number.low != number.high else ""
    if number.reason:
        tip = f"{tip}; {number.reason}"
    if column.key in ("per_thousand", "half_gain"):
        tip += f"; {fixed(as_float(row.get('seen')), 0)} examples at the chosen checkpoint"
    return Cell(text, span, tip)


def text_rows(run: Run) -> tuple[list[list[str]], list[str]]:
    """For summary.md: heading and rows, without the clock, which differs between equal runs; and
    what the dashes and the columns are."""
    notes = Footnotes()
    heads, found = columns(run), numbers(run)
    rows = [["method", *(f"{c.group}: {c.name}" for c in heads)]]
    for method, own in found.items():
        cells = [_cell(own, c, run, method, notes) for c in heads]
        best = _best(run, method)
        name = f"{method_name(method)} ({best})" if best else method_name(method)
        rows.append([name, *(_text(c) for c in cells)])
    said = [f"({mark}) {reason}." for mark, reason in notes.items]
    return rows, said


def _text(cell: Cell) -> str:
    return f"{DASH} ({cell.mark})" if cell.reason else f"{cell.text} {cell.ci}".strip()
