"""What the page's template shows, as plain records: verdict, tables, windows, manifest."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from prefeval.reports import summary, svg
from prefeval.reports.labels import key_id, short
from prefeval.reports.numbers import Number, beta_text, fixed, interval, missing, significant
from prefeval.reports.retention import Cell, matrix
from prefeval.reports.run import CheckpointRow, Run, canonical, method_index, method_name
from prefeval.reports.verdict import SIGNS, TONES, Beta, Verdict, Window, worst_change

FOREST = (146.0, 22.0)
TABLE = (
    # metric, heading, hover text, digits (None: three significant), sign
    ("kl", "KL", "reverse KL from the reference, nats/sequence", None, False),
    ("kl_per_token", "KL/token", "nats/token", None, False),
    ("win_rate", "raw WR %", "win rate against the reference", 1, False),
    ("lc_win_rate", "LC WR %", "length-controlled win rate", 1, False),
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
    number: Number, notes: Footnotes, digits: int | None = 1, *, sign: bool = False, ci: bool = False
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


def tiles(run: Run, verdict: Verdict) -> list[dict[str, str]]:
    """The recommended checkpoint in five numbers."""
    row = next((c for c in run.checkpoints if c.key == verdict.recommended_key), None)
    if row is None:
        return []
    raw = verdict.numbers.get("win_rate") or row.get("win_rate")
    behaviour, change = next(
        (b.worst for b in verdict.betas if row.key in b.keys), worst_change(row)
    )
    found = [
        _tile("LC win rate", f"{fixed(verdict.lc.value)}%", f"{interval(verdict.lc)} n={verdict.lc.n}"),
        _tile("raw win rate", f"{fixed(raw.value)}%", interval(raw)),
        _tile("KL, nats/seq", significant(row.get("kl").value), f"√KL {fixed(math.sqrt(max(row.get('kl').value, 0)), 2)}"),
        _tile("length", f"×{fixed(row.get('length_ratio').value, 2)}", interval(row.get("length_ratio"), 2)),
        _tile("worst retention", f"{fixed(change.value, sign=True)} pt", f"{behaviour} {interval(change, sign=True)}"),
    ]
    true = row.get("true_win_rate")
    if true.known:
        found.insert(2, _tile("true win rate", f"{fixed(true.value)}%", f"{interval(true)} oracle"))
    return found


def _tile(title: str, text: str, small: str) -> dict[str, str]:
    return {"name": title, "text": text, "small": small}


def headline(run: Run, verdict: Verdict) -> dict[str, Any]:
    """The hero: tone, headline, one sentence, path, reasons."""
    tone = {"recommended": "ok", "none": "bad", "unfinished": "unsure"}[verdict.state]
    if verdict.state == "none" and any(b.state == "undecided" for b in verdict.betas):
        tone = "unsure"
    eyebrow = {"recommended": "Recommended checkpoint", "none": "No recommendation"}
    path = summary.checkpoint_path(run, verdict)
    return {
        "tone": tone,
        "eyebrow": eyebrow.get(verdict.state, "Unfinished run"),
        "headline": verdict.headline,
        "sentence": _sentence(verdict),
        "path": str(path) if path else "",
        "why": "Progress" if verdict.state == "unfinished" else "Why",
        "before": "Before you ship" if verdict.state == "recommended" else "Keep in mind",
        "reasons": verdict.reasons,
    }


def _sentence(verdict: Verdict) -> str:
    """In one line; the reasons beside the table say more."""
    if verdict.state != "recommended":
        return verdict.text or "No β passed the rule: gain shown, and no behaviour shown damaged."
    prompts = f" on {verdict.halves[1]} prompts not used to choose it" if verdict.halves else ""
    return f"Better than the reference at equal length{prompts}; no behaviour shown damaged."


def forest(run: Run, verdict: Verdict) -> dict[str, Any]:
    """The verdict's table: one row a β, its LC win rate drawn against 50%."""
    betas = summary.ordered(run, verdict)
    ends = [v for b in betas for v in (b.lc.value, b.lc.low, b.lc.high)]
    scale = svg.Scale(*svg.padded(ends, include=[48, 52]), 6, FOREST[0] - 6)
    notes = Footnotes()
    rows, previous = [], ""
    for beta in betas:
        row = summary.checkpoint_of(run, beta, verdict)
        rows.append(_forest_row(beta, row, verdict, scale, notes, first=beta.method != previous))
        previous = beta.method
    half = f"LC win rates are of {verdict.halves[1]} prompts not used for choosing; " if verdict.halves else ""
    return {
        "title": f"{'Last' if verdict.state == 'unfinished' else 'Chosen'} checkpoint of every β",
        "axis": _forest_axis(scale),
        "rows": rows,
        "footnotes": notes.items,
        "caption": f"{half}KL, raw win rate, length and Δchosen are of all prompts. Bars are 95% intervals.",
    }


def _forest_row(
    beta: Beta, row: CheckpointRow | None, verdict: Verdict, scale: svg.Scale, notes: Footnotes, *, first: bool
) -> dict[str, Any]:
    get = row.get if row else lambda _: missing("this checkpoint's metrics are not in results.parquet")
    best = verdict.recommended_key in beta.keys
    behaviour, change = beta.worst
    worst = shown(change, notes, sign=True, ci=True)
    if behaviour:
        worst = Shown(f"{behaviour} {worst.text}", worst.ci)
    return {
        "classes": " ".join(filter(None, ("best" if best else "", "first" if first else ""))),
        "method": beta.method,
        "index": method_index(beta.method),
        "mark": icon(beta.method),
        "id": key_id(beta.keys[0]),
        "more": "\n".join(beta.reasons),
        "name": short(beta.keys[0]),
        "best": best,
        "step": beta.keys[0].step,
        "kl": shown(get("kl"), notes, None),
        "raw": shown(get("win_rate"), notes),
        "graph": _forest_bar(beta, scale),
        "lc": shown(beta.lc, notes, ci=True),
        "length": shown(get("length_ratio"), notes, 2),
        "delta": shown(get("delta_chosen"), notes, 2, sign=True),
        "worst": worst,
        "tone": beta.tone,
        "status": f"{SIGNS.get(beta.state, '')} {beta.state}".strip(),
    }


def _forest_bar(beta: Beta, scale: svg.Scale) -> Markup:
    """The interval and its mark, with the 50% line behind."""
    width, height = FOREST
    parts = [svg.el("line", x1=scale(50), x2=scale(50), y1=0, y2=height, class_="level")]
    if beta.lc.known:
        if beta.lc.has_interval:
            y = height / 2
            parts.append(
                svg.el("line", x1=scale(beta.lc.low), x2=scale(beta.lc.high), y1=y, y2=y, class_="ci")
            )
        parts.append(svg.marker(scale(beta.lc.value), height / 2, method_index(beta.method), 4.4))
    return svg.el("svg", *parts, width=width, height=height, viewBox=f"0 0 {width:g} {height:g}", aria_hidden="true", class_="bar-cell")


def _forest_axis(scale: svg.Scale) -> Markup:
    """Tick labels over the column of bars."""
    width = FOREST[0]
    ticks = svg.linear_ticks(scale.low, scale.high, 4)
    parts = [svg.text(scale(v), 12, svg.tick_text(v), "middle", "tick") for v in ticks]
    return svg.el("svg", *parts, width=width, height=14, viewBox=f"0 0 {width:g} 14", class_="chart-axis", role="img", aria_label="LC win rate, percent")


def windows(run: Run, verdict: Verdict) -> list[dict[str, Any]]:
    """For each method its β as chips, and the window in words."""
    found = []
    for method in run.methods:
        window = verdict.window(method)
        mine = {b.beta: b for b in verdict.betas if b.method == method}
        grid = sorted({*(window.grid if window else ()), *mine})
        if not grid:
            continue
        chips = [_chip(beta, mine.get(beta), verdict) for beta in grid]
        if window is not None and window.extension:
            further = _further(window)
            chips = [further, *chips] if window.at_edge == "low" else [*chips, further]
        found.append(
            {
                "name": method_name(method),
                "index": method_index(method),
                "mark": icon(method),
                "chips": chips,
                "text": window.text if window else "",
            }
        )
    return found


def _further(window: Window) -> dict[str, Any]:
    """Where the best β is the grid's last: the end of the range to run next."""
    ends = window.extension.rpartition(" ")[2].rpartition("=")[2].split(":")
    low = window.at_edge == "low"
    text = f"← {ends[0]}" if low else f"→ {ends[-1]}"
    return {"text": text, "tone": "further", "sign": "", "best": False, "title": window.text}


def _chip(value: float, beta: Beta | None, verdict: Verdict) -> dict[str, Any]:
    state = beta.state if beta else "not evaluated"
    return {
        "text": beta_text(value),
        "tone": TONES.get(state, "none"),
        "sign": SIGNS.get(state, "·"),
        "best": beta is not None and verdict.recommended_key in beta.keys,
        "title": "; ".join([state, *(beta.reasons if beta else ())]),
    }


def heat(run: Run, verdict: Verdict) -> dict[str, Any]:
    """The retention matrix as rows of shaded cells."""
    behaviours, cells = matrix(run)
    notes = Footnotes()
    heads = []
    for index, behaviour in enumerate(behaviours):
        sizes = {line[index].change.n for _, line in cells if line[index].change.n}
        heads.append({"name": behaviour, "n": "–".join(str(n) for n in sorted({min(sizes), max(sizes)})) if sizes else ""})
    rows = []
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
                "name": f"{short(row.key)}, step {row.key.step}" + (" ★" if row.key == verdict.recommended_key else ""),
                "cells": [_heat_cell(c, notes) for c in line],
            }
        )
    minor = any("minor" in r["classes"] for r in rows)
    return {"behaviours": heads, "rows": rows, "total": len(rows), "minor": minor, "footnotes": notes.items}


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


def table(run: Run, verdict: Verdict) -> dict[str, Any]:
    """Every checkpoint with every headline metric; columns nobody measured are left out."""
    columns = [c for c in TABLE if any(c[0] in row.numbers for row in run.checkpoints)]
    notes = Footnotes()
    states = {k: b for b in verdict.betas for k in b.keys}
    rows = []
    for row in run.checkpoints:
        beta = states.get(row.key)
        cells = [
            Shown(method_name(row.key.method), sort=method_name(row.key.method)),
            *(Shown(text, sort=text) for text in (beta_text(row.key.beta), str(row.key.seed), str(row.key.step))),
            Shown(f"{SIGNS.get(beta.state, '')} {beta.state}".strip(), sort=beta.state, tone=beta.tone)
            if beta
            else Shown("", sort=""),
            *(shown(row.get(c[0]), notes, c[3], sign=c[4], ci=c[0] == "lc_win_rate") for c in columns),
        ]
        rows.append(
            {
                "classes": "best" if row.key == verdict.recommended_key else "",
                "method": row.key.method,
                "index": method_index(row.key.method),
                "mark": icon(row.key.method),
                "id": key_id(row.key),
                "cells": cells,
            }
        )
    heads = [("method", "training method"), ("β", "the method's own lever"), ("seed", "training seed"), ("step", "optimiser steps")]
    heads += [("verdict", "of the chosen checkpoint of each β"), *((c[1], c[2]) for c in columns)]
    return {
        "columns": [{"name": n, "title": t} for n, t in heads],
        "rows": rows,
        "footnotes": notes.items,
    }


def manifest_groups(run: Run) -> list[dict[str, Any]]:
    """The manifest as titled lists; long values as one line of JSON."""
    manifest = run.manifest
    plain = ("prefeval_version", "created", "schema", "threads", "seeds")
    groups = [_group("Run", {k: manifest[k] for k in plain if k in manifest})]
    titles = {"config": "Configuration", "data_counts": "Data", "judge": "Judge", "lab": "Lab", "hashes": "Hashes", "versions": "Versions"}
    for key, title in titles.items():
        value = manifest.get(key)
        if isinstance(value, dict) and value:
            groups.append(_group(title, value, mono=key == "hashes"))
    return [g for g in [*groups, _costs(run)] if g["rows"]]


def _group(title: str, values: Mapping[str, Any], *, mono: bool = False) -> dict[str, Any]:
    rows = [(str(k).replace("_", " "), canonical(v)) for k, v in values.items()]
    return {"name": title, "rows": rows, "mono": mono}


def _costs(run: Run) -> dict[str, Any]:
    """Mean cost of a trial of each method, on the machine that ran it."""
    rows = []
    if "method" in run.costs:
        for method, group in run.costs.groupby("method", sort=False):
            mean = group.mean(numeric_only=True)
            words = [
                f"{fixed(mean[c], digits)} {unit}"
                for c, digits, unit in (
                    ("train_seconds", 1, "s training"),
                    ("eval_seconds", 1, "s evaluation"),
                    ("peak_memory_mb", 0, "MB peak"),
                )
                if c in mean
            ]
            rows.append((f"{method_name(str(method))}, {len(group)} trials", ", ".join(words)))
    return {"name": "Cost of a trial (mean)", "rows": rows, "mono": False}


def trial_states(run: Run) -> list[dict[str, str]]:
    """The trials that did not finish; all of them while the run is unfinished."""
    tones = {"failed": "bad", "unfinished": "unsure", "finished": "ok"}
    return [
        {
            "name": t.name,
            "status": t.status,
            "tone": tones.get(t.status, "none"),
            "error": t.error or ("" if t.log.empty else f"trained to step {int(t.log['step'].max())}" if "step" in t.log else ""),
        }
        for t in run.trials
        if t.status != "finished" or not run.selection
    ]


def json_text(value: Any) -> str:
    """Pretty JSON of a manifest, for reading."""
    return json.dumps(value, indent=1, ensure_ascii=False)
