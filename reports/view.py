"""The page's first screen as plain records: headline, tiles, the table of β, the windows."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from prefeval.reports import summary
from prefeval.reports.charts import svg
from prefeval.reports.labels import key_id, short, trial_id
from prefeval.reports.quantities import Number, beta_text, fixed, interval, missing, significant
from prefeval.reports.run import CheckpointRow, Run, method_index, method_name
from prefeval.reports.tables import Footnotes, Shown, icon, shown
from prefeval.reports.verdict import SIGNS, TONES, Beta, Verdict, Window, worst_change

FOREST, WIDE_FOREST, FEW = (146.0, 22.0), (330.0, 22.0), 10  # px; the wide one for few β


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
        _rate_tile("LC win rate", verdict.lc),
        _rate_tile("raw win rate", raw),
        _tile(
            "KL, nats/seq",
            significant(row.get("kl").value),
            interval(row.get("kl"), 2),
        ),
        _tile(
            "length",
            f"×{fixed(row.get('length_ratio').value, 2)}",
            interval(row.get("length_ratio"), 2),
        ),
        _tile(
            "worst retention",
            f"{fixed(change.value, sign=True)} pt",
            f"{behaviour} {interval(change, sign=True)}",
        ),
    ]
    true = verdict.numbers.get("true_win_rate") or row.get("true_win_rate")
    if true.known:
        found.insert(2, _rate_tile("true win rate", true))
    return found


def _rate_tile(title: str, rate: Number) -> dict[str, str]:
    small = " ".join(filter(None, (interval(rate), f"n={rate.n}" if rate.n else "")))
    return _tile(title, f"{fixed(rate.value)}%", small)


def _tile(title: str, text: str, small: str) -> dict[str, str]:
    return {"name": title, "text": text, "small": small}


def headline(run: Run, verdict: Verdict) -> dict[str, Any]:
    """The hero: tone, headline, one sentence, path, reasons."""
    tones = {"recommended": "ok", "none": "bad", "failed": "bad", "unfinished": "unsure"}
    tone = tones[verdict.state]
    if verdict.state == "none" and any(b.state == "undecided" for b in verdict.betas):
        tone = "unsure"
    eyebrow = {
        "recommended": "Recommended checkpoint",
        "none": "No recommendation",
        "failed": "Failed run",
    }
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
    size = WIDE_FOREST if len(betas) < FEW else FOREST
    scale = svg.Scale(*svg.padded(ends, include=[48, 52]), 6, size[0] - 6)
    notes = Footnotes()
    rows, previous = [], ""
    for beta in betas:
        row = summary.checkpoint_of(run, beta, verdict)
        rows.append(_forest_row(beta, row, verdict, scale, notes, first=beta.method != previous))
        previous = beta.method
    half = (
        f"LC win rates are of {verdict.halves[1]} prompts not used for choosing; "
        if verdict.halves
        else ""
    )
    return {
        "title": f"{'Last' if verdict.state == 'unfinished' else 'Chosen'} checkpoint of every β",
        "axis": _forest_axis(scale, size[0]),
        "flat": len(betas) < FEW,
        "rows": rows,
        "footnotes": notes.items,
        "caption": f"{half}KL, raw win rate, length and Δchosen are of all prompts."
        " Bars are 95% intervals.",
    }


def _forest_row(
    beta: Beta,
    row: CheckpointRow | None,
    verdict: Verdict,
    scale: svg.Scale,
    notes: Footnotes,
    *,
    first: bool,
) -> dict[str, Any]:
    get = (
        row.get
        if row
        else lambda _: missing("this checkpoint's metrics are not in results.parquet")
    )
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
    width, height = scale.end + scale.start, FOREST[1]
    parts = [svg.el("line", x1=scale(50), x2=scale(50), y1=0, y2=height, class_="level")]
    if beta.lc.known:
        if beta.lc.has_interval:
            y = height / 2
            parts.append(
                svg.el(
                    "line", x1=scale(beta.lc.low), x2=scale(beta.lc.high), y1=y, y2=y, class_="ci"
                )
            )
        parts.append(svg.marker(scale(beta.lc.value), height / 2, method_index(beta.method), 4.4))
    return svg.el(
        "svg",
        *parts,
        width=width,
        height=height,
        viewBox=f"0 0 {width:g} {height:g}",
        aria_hidden="true",
        class_="bar-cell",
    )


def _forest_axis(scale: svg.Scale, width: float) -> Markup:
    """Tick labels over the column of bars."""
    ticks = svg.linear_ticks(scale.low, scale.high, 4)
    parts = [svg.text(scale(v), 12, svg.tick_text(v), "middle", "tick") for v in ticks]
    return svg.el(
        "svg",
        *parts,
        width=width,
        height=14,
        viewBox=f"0 0 {width:g} 14",
        class_="chart-axis",
        role="img",
        aria_label="LC win rate, percent",
    )


def windows(run: Run, verdict: Verdict) -> list[dict[str, Any]]:
    """For each method its β as chips, and the window in words."""
    found = []
    for method in run.methods:
        window = verdict.window(method)
        mine = {b.beta: b for b in verdict.betas if b.method == method}
        grid = sorted({*(window.grid if window else ()), *mine})
        if not grid:
            continue
        chips = [_chip(method, beta, mine.get(beta), verdict) for beta in grid]
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
    return {
        "text": text,
        "tone": "further",
        "sign": "",
        "best": False,
        "title": window.text,
        "id": "",
    }


def _chip(method: str, value: float, beta: Beta | None, verdict: Verdict) -> dict[str, Any]:
    state = beta.state if beta else "not evaluated"
    return {
        "id": trial_id((method, value)),
        "text": beta_text(value),
        "tone": TONES.get(state, "none"),
        "sign": SIGNS.get(state, "·"),
        "best": beta is not None and verdict.recommended_key in beta.keys,
        "title": "; ".join([state, *(beta.reasons if beta else ())]),
    }
