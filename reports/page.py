"""report.html: one offline file that a person decides from.

What goes into it; how a page is made safe is ``document``'s. Charts are escaped as they are built
(``charts.svg``); samples are packed (``samples``), and the script sets them as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.reports import costs, diagnosis, document, manifest, methods, tables, view
from prefeval.reports.captions import captions
from prefeval.reports.charts import svg
from prefeval.reports.charts.dynamics import dynamics
from prefeval.reports.charts.frontier import frontiers, glance
from prefeval.reports.charts.judge import over_distance
from prefeval.reports.charts.length import length_over_beta, length_over_steps, raw_against_lc
from prefeval.reports.charts.position import kl_by_position
from prefeval.reports.charts.window import windows
from prefeval.reports.document import inline_json
from prefeval.reports.judge import audit as judge_audit
from prefeval.reports.judge import tables as judge_tables
from prefeval.reports.labels import key_id, tip
from prefeval.reports.labels import name as named
from prefeval.reports.run import Run, method_index, method_name
from prefeval.reports.samples import Pack, pack
from prefeval.reports.summary import NEXT_STEPS, warnings
from prefeval.reports.verdict import SIGNS, Verdict

STYLES = ("report.css",)
SCRIPTS = ("base", "points", "toggles", "zoom", "table", "diff", "samples", "page")
SECTIONS = {
    "verdict": "Verdict",
    "frontier": "Frontier",
    "window": "β window",
    "dynamics": "Dynamics",
    "length": "Length",
    "retention": "Retention",
    "diagnosis": "Diagnosis",
    "methods": "Methods",
    "checkpoints": "Checkpoints",
    "samples": "Samples",
    "judge": "Judge",
    "manifest": "Manifest",
}
NEED_CHECKPOINTS = (
    "frontier",
    "window",
    "length",
    "retention",
    "diagnosis",
    "methods",
    "checkpoints",
    "samples",
    "judge",
)


def write(run: Run, verdict: Verdict, audit: judge_audit.Audit) -> Path:
    """Write report.html into the run's folder and return its path; equal folders, equal bytes."""
    path = run.folder / "report.html"
    records.write_text(path, render(run, verdict, audit))
    return path


def render(run: Run, verdict: Verdict, audit: judge_audit.Audit) -> str:
    """The page as text."""
    return document.render("report.html", STYLES, SCRIPTS, context(run, verdict, audit))


def context(run: Run, verdict: Verdict, audit: judge_audit.Audit) -> dict[str, Any]:
    """Everything that the template names."""
    has = bool(run.checkpoints)
    sections = {k: v for k, v in SECTIONS.items() if has or k not in NEED_CHECKPOINTS}
    packed = pack(run, verdict)
    options = _options(run, verdict, packed)
    command = str(run.manifest.get("command") or "")
    version = run.manifest.get("prefeval_version", "")
    return {
        "title": f"{run.folder.resolve().name}: {verdict.headline}",
        "run_name": run.folder.resolve().name,
        "run_path": command,
        "scope": _scope(run),
        "sections": list(sections.items()),
        "methods": [{"id": m, **_method(m)} for m in run.methods],
        "captions": captions(run, verdict, packed),
        "footer": f"prefeval {version}, from saved results alone",
        "tips": inline_json(_checkpoints(run, verdict, packed)),
        **_first_screen(run, verdict),
        **_charts(run, verdict),
        "heat": tables.heat(run, verdict),
        "diagnosis": diagnosis.cards(run),
        "method_table": methods.table(run),
        "costs": costs.table(run),
        "table": tables.table(run, verdict),
        "samples": packed,
        "samples_json": inline_json(_samples(packed, options)),
        "sample_options": options,
        "trials": manifest.trial_states(run),
        "trials_title": _trials_title(run, manifest.trial_states(run)),
        "command": command,
        "judge": _judge(run, verdict, audit),
        "manifest": manifest.manifest_groups(run),
        "manifest_json": manifest.json_text(run.manifest),
    }


def _first_screen(run: Run, verdict: Verdict) -> dict[str, Any]:
    """Which checkpoint, and why."""
    return {
        "verdict": view.headline(run, verdict),
        "tiles": view.tiles(run, verdict),
        "forest": view.forest(run, verdict),
        "glance": glance(run, verdict),
        "windows": view.windows(run, verdict),
        "further": any(w.extension for w in verdict.windows),
        "next": verdict.next_steps[:NEXT_STEPS],
        "warnings": [{"tone": "warn", "text": w} for w in warnings(run, verdict)],
    }


def _charts(run: Run, verdict: Verdict) -> dict[str, Any]:
    """Every picture; without checkpoints only the training curves."""
    lengths = (raw_against_lc, length_over_steps, length_over_beta)
    has = bool(run.checkpoints)
    return {
        "frontier": frontiers(run, verdict) if has else [],
        "window_charts": [
            {
                **_method(method),
                "method": method,
                "text": _window_text(verdict, method),
                "extension": w.extension if (w := verdict.window(method)) else "",
                "charts": pictures,
            }
            for method, pictures in windows(run, verdict)
        ],
        "dynamics": dynamics(run),
        "positions": kl_by_position(run, verdict) if has else None,
        "length_charts": [draw(run, verdict) for draw in lengths] if has else [],
    }


def _method(method: str) -> dict[str, Any]:
    """A method's name, its marker, and the number of its colour."""
    index = method_index(method)
    mark = svg.el("span", tables.icon(method), class_=f"m{index}")
    return {"name": method_name(method), "index": index, "mark": mark}


def _window_text(verdict: Verdict, method: str) -> str:
    """A method's window in words, up to the command that extends it (set apart by the template)."""
    window = verdict.window(method)
    if window is None:
        return verdict.window_text(method)
    return window.text.partition(window.extension)[0] if window.extension else window.text


def _scope(run: Run) -> str:
    """What the run holds, for the page's first line."""
    counts = {"checkpoint": len(run.checkpoints), "trial": len(run.trials)}
    parts = [f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items()]
    failed = sum(t.status == "failed" for t in run.trials)
    parts += [f"{failed} failed"] if failed else []
    parts += [str(run.manifest["created"])] if run.manifest.get("created") else []
    return " · ".join(parts)


def _checkpoints(run: Run, verdict: Verdict, packed: Pack) -> dict[str, dict[str, Any]]:
    """What the page says of a checkpoint that is pointed at or selected, by id."""
    chosen = {key: beta for beta in verdict.betas for key in beta.keys}
    found = {}
    for c in run.checkpoints:
        beta = chosen.get(c.key)
        found[key_id(c.key)] = {
            "tip": tip(c),
            "path": str(c.folder.relative_to(run.folder)) if c.folder else "",
            "samples": key_id(c.key) in packed.counts,
            "state": f"{SIGNS.get(beta.state, '')} {beta.state}".strip() if beta else "",
            "tone": beta.tone if beta else "none",
            "why": "; ".join(beta.reasons) if beta else "not the chosen checkpoint of its β",
        }
    return found


def _samples(packed: Pack, options: list[dict[str, Any]]) -> dict[str, Any]:
    """What the script needs to know before it unpacks any sample."""
    first = next((o["id"] for o in options if o["selected"]), options[0]["id"] if options else "")
    return {"kinds": packed.kinds, "order": list(packed.counts), "first": first}


def _options(run: Run, verdict: Verdict, packed: Pack) -> list[dict[str, Any]]:
    """The checkpoints that have samples, the recommended one selected."""
    best = key_id(verdict.recommended_key) if verdict.recommended_key else None
    several = len({c.key.seed for c in run.checkpoints}) > 1
    return [
        {
            "id": key_id(c.key),
            "name": ("★ " if key_id(c.key) == best else "")
            + f"{named(c.key, seeds=several)} ({packed.counts[key_id(c.key)]})",
            "selected": key_id(c.key) == best,
        }
        for c in run.checkpoints
        if key_id(c.key) in packed.counts
    ]


def _trials_title(run: Run, states: list[dict[str, str]]) -> str:
    """A heading that counts what did not finish."""
    kinds = ("failed", "unfinished", "not started", "finished")
    counts = {s: sum(t["status"] == s for t in states) for s in kinds}
    words = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    return f"Trials: {words} of {len(run.trials)}"


def _judge(run: Run, verdict: Verdict, audit: judge_audit.Audit) -> dict[str, Any]:
    """The judge's audit, and its pictures."""
    return {**judge_tables.section(audit), "charts": over_distance(run, verdict, audit)}
