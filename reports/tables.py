"""The page's large tables as plain records: every checkpoint, and the retention matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from prefeval.metrics import EXTRAS
from prefeval.reports.charts import svg
from prefeval.reports.labels import key_id, short
from prefeval.reports.quantities import Number, beta_text, fixed, interval, significant
from prefeval.reports.retention import Cell, matrix
from prefeval.reports.run import Run, method_index, method_name
from prefeval.reports.verdict import SIGNS, Verdict

TABLE = (
    # metric, heading, hover text, digits (None: three significant), sign
    ("kl", "KL", "reverse KL from the reference, nats/sequence", None, False),
    ("kl_per_token", "KL/token", "nats/token", None, False),
    ("win_rate", "raw WR %", "win rate against the reference", 1, False),
    ("lc_win_rate", "LC WR %", "length-controlled win rate", 1, False),
    ("style_win_rate", "style WR %", "win rate at equal length and Markdown style", 1, False),
    ("true_win_rate", "true WR %", "win rate by the lab's oracle", 1, False),
    ("length_ratio", "length ×", "mean tokens, policy / reference", 2, False),
    ("delta_chosen", "Δchosen", "held-out pairs, nats/sequence", 2, True),
    ("delta_rejected", "Δrejected", "held-out pairs, nats/sequence", 2, True),
    ("implicit_accuracy", "impl. acc. %", "P(Δchosen > Δrejected) on held-out pairs", 1, False),
    ("entropy", "entropy", "nats/token", 2, False),
    ("eos_rate", "ended %", "answers that end by themselves", 1, False),
    ("distinct", "distinct %", "distinct outputs among K samples of a prompt", 1, False),
    ("flip_rate", "flips %", "verdicts that flip with the order shown", 1, False),
)

WITH_INTERVAL = ("lc_win_rate", *EXTRAS)


@dataclass
class Footnotes:
    """Reasons of undefined values, lettered in order of first sight."""

    marks: dict[str, str] = field(default_factory=dict)

    def mark(self, reason: str) -> str:
        """The letter of a reason."""
        return self.marks.setdefault(reason, _letter(len(self.marks)))

    @property
    def items(self) -> list[tuple[str, str]]:
        """(letter, reason) in order."""
        return [(mark, reason) for reason, mark in self.marks.items()]


def _letter(index: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    first, last = divmod(index, 26)
    return (chr(96 + first) if first else "") + chr(97 + last)


@dataclass(frozen=True)
class Shown:
    """One table cell: text and interval, or the reason why there is none."""

    text: str
    ci: str = ""
    reason: str = ""
    mark: str = ""
    sort: str = ""
    tone: str = ""


def shown(
    number: Number,
    notes: Footnotes,
    digits: int | None = 1,
    *,
    sign: bool = False,
    ci: bool = False,
) -> Shown:
    """A number as a table cell; undefined is a dash with a footnote, never 0."""
    if not number.known:
        reason = number.reason or "undefined; no reason was saved"
        return Shown("", reason=reason, mark=notes.mark(reason))
    text = significant(number.value) if digits is None else fixed(number.value, digits, sign=sign)
    span = interval(number, 1 if digits is None else digits, sign=sign) if ci else ""
    return Shown(text, span, sort=repr(float(number.value)))


def icon(method: str) -> Markup:
    """A method's marker, 12 pixels wide; the class around it gives the colour."""
    mark = svg.marker(6, 6, method_index(method), 4.2)
    return svg.el("svg", mark, width=12, height=12, viewBox="0 0 12 12", aria_hidden="true")


def heat(run: Run, verdict: Verdict) -> dict[str, Any]:
    """The retention matrix as rows of shaded cells."""
    behaviours, cells = matrix(run)
    notes = Footnotes()
    heads = []
    for index, behaviour in enumerate(behaviours):
        sizes = {n for _, line in cells if (n := line[index].change.n)}
        heads.append(
            {
                "name": behaviour,
                "n": "–".join(str(n) for n in sorted({min(sizes), max(sizes)})) if sizes else "",
            }
        )
    rows: list[dict[str, Any]] = []
    for row, line in cells:
        classes = [] if row.key in verdict.chosen_keys else ["minor"]
        if row.key == verdict.recommended_key:
            classes.append("best")
        rows.append(
            {
                "classes": " ".join(classes),
                "method": row.key.method,
                "index": method_index(row.key.method),
                "mark": icon(row.key.method),
                "id": key_id(row.key),
                "name": f"{short(row.key)}, step {row.key.step}"
                + (" ★" if row.key == verdict.recommended_key else ""),
                "cells": [_heat_cell(c, notes) for c in line],
            }
        )
    minor = any("minor" in r["classes"] for r in rows)
    return {
        "behaviours": heads,
        "rows": rows,
        "total": len(rows),
        "minor": minor,
        "footnotes": notes.items,
    }


def _heat_cell(cell: Cell, notes: Footnotes) -> dict[str, str]:
    classes = cell.shade + (" sig" if cell.significant or cell.damaged else "")
    if not cell.change.known:
        reason = cell.change.reason
        return {"classes": classes, "tip": cell.tip, "reason": reason, "mark": notes.mark(reason)}
    sign = "▼" if cell.damaged else "*" if cell.significant else ""
    return {
        "classes": classes,
        "tip": cell.tip,
        "reason": "",
        "text": fixed(cell.change.value, sign=True) + sign,
        "small": " · ".join(
            filter(
                None,
                (
                    interval(cell.change, 0, sign=True),
                    f"{fixed(cell.passed.value, 0)}%" if cell.passed.known else "",
                ),
            )
        ),
    }


def _filter_name(heading: str) -> str:
    """How a filter names a column: one lower-case word.

    >>> _filter_name("LC WR %"), _filter_name("length ×"), _filter_name("Δchosen")
    ('lcwr', 'length', 'δchosen')
    """
    return "".join(c for c in heading.lower() if c.isalnum() or c == "/")


def _imported(run: Run) -> list[tuple[str, str, str, int | None, bool]]:
    """Columns of the metrics that other tools measured, in their own units."""
    names = [name for name in run.columns("") if name.startswith(EXTRAS)]
    return [(n, n.replace("_", " "), f"{n}: measured by another tool", 3, False) for n in names]


def table(run: Run, verdict: Verdict) -> dict[str, Any]:
    """Every checkpoint with every headline metric; columns nobody measured are left out."""
    known = [c for c in TABLE if any(c[0] in row.numbers for row in run.checkpoints)]
    columns = [*known, *_imported(run)]
    notes = Footnotes()
    states = {k: b for b in verdict.betas for k in b.keys}
    rows = []
    for row in run.checkpoints:
        beta = states.get(row.key)
        cells = [
            Shown(method_name(row.key.method), sort=method_name(row.key.method)),
            *(
                Shown(text, sort=text)
                for text in (beta_text(row.key.beta), str(row.key.seed), str(row.key.step))
            ),
            Shown(
                f"{SIGNS.get(beta.state, '')} {beta.state}".strip(), sort=beta.state, tone=beta.tone
            )
            if beta
            else Shown("", sort=""),
            *(
                shown(row.get(c[0]), notes, c[3], sign=c[4], ci=c[0].startswith(WITH_INTERVAL))
                for c in columns
            ),
        ]
        rows.append(
            {
                "classes": "best" if row.key == verdict.recommended_key else "",
                "method": row.key.method,
                "index": method_index(row.key.method),
                "mark": icon(row.key.method),
                "id": key_id(row.key),
                "state": beta.state if beta else "",
                "cells": cells,
            }
        )
    heads = [
        ("method", "method", "training method"),
        ("β", "β", "the method's own lever"),
        ("seed", "seed", "training seed"),
        ("step", "step", "optimiser steps"),
        ("verdict", "verdict", "of the chosen checkpoint of each β"),
        *((_filter_name(c[1]), c[1], c[2]) for c in columns),
    ]
    return {
        "columns": [{"name": n, "title": t, "key": k} for k, n, t in heads],
        "rows": rows,
        "footnotes": notes.items,
    }
