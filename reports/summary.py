"""The verdict as text: the table for a terminal, summary.md, and plain lines for a log."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefeval import records
from prefeval.reports import costs, diagnosis, methods
from prefeval.reports import verdict as verdicts
from prefeval.reports.captions import estimator
from prefeval.reports.judge import audit as judge_audit
from prefeval.reports.judge import words as judge_words
from prefeval.reports.quantities import DASH, Number, beta_text, fixed, interval, significant
from prefeval.reports.run import CheckpointRow, Run, method_name
from prefeval.reports.turning import turning_points
from prefeval.reports.verdict import Beta, Verdict

TURNING = (
    "Curves d (α − β log d) with d = √KL (Gao et al. 2022) through all checkpoints of a method; the"
    " peak with its 95% interval, where the checkpoints show one."
)

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "method": "method",
    "beta": "β",
    "step": "step",
    "kl": "KL",
    "raw": "raw WR",
    "lc": "LC WR [95%]",
    "length": "length",
    "delta": "Δchosen",
    "worst": "worst retention",
    "verdict": "verdict",
}
NEXT_STEPS = 3  # of a terminal and the report; summary.md and summary.json have all
STYLES = {"ok": "green", "bad": "red", "unsure": "yellow", "none": "dim"}


@dataclass(frozen=True)
class SummaryRow:
    """One β, by its chosen checkpoint, as text."""

    method: str
    beta: str
    step: str
    kl: str
    raw: str
    lc: str
    length: str
    delta: str
    worst: str
    verdict: str


def ordered(run: Run, verdict: Verdict) -> list[Beta]:
    """The verdict's β in the order of methods, then of β."""
    order = {m: i for i, m in enumerate(run.methods)}
    return sorted(verdict.betas, key=lambda b: (order.get(b.method, 99), b.method, b.beta))


def checkpoint_of(run: Run, beta: Beta, verdict: Verdict) -> CheckpointRow | None:
    """The checkpoint whose numbers stand for a β: the recommended seed, else the first."""
    keys = sorted(beta.keys, key=lambda k: k != verdict.recommended_key)
    return next((c for k in keys for c in run.checkpoints if c.key == k), None)


def rows(run: Run, verdict: Verdict) -> list[SummaryRow]:
    """One row a β. LC WR is the reporting half's; the rest is over all prompts."""
    found = []
    for beta in ordered(run, verdict):
        row = checkpoint_of(run, beta, verdict)
        behaviour, change = beta.worst
        star = " ★" if verdict.recommended_key in beta.keys else ""
        found.append(
            SummaryRow(
                method=method_name(beta.method),
                beta=beta_text(beta.beta),
                step=str(beta.keys[0].step),
                kl=significant(row.get("kl").value) if row else DASH,
                raw=fixed(row.get("win_rate").value) if row else DASH,
                lc=_lc(beta.lc),
                length=fixed(row.get("length_ratio").value, 2) if row else DASH,
                delta=fixed(row.get("delta_chosen").value, 2) if row else DASH,
                worst=f"{behaviour} {fixed(change.value, sign=True)}" if behaviour else DASH,
                verdict=beta.state + star,
            )
        )
    return found


def _lc(number: Number) -> str:
    return f"{fixed(number.value)} {interval(number)}".strip() if number.known else DASH


def table(run: Run, verdict: Verdict) -> Table:
    """The table for a terminal; a narrow one wraps the behaviour that changed most."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = [f.name for f in fields(SummaryRow) if f.name != "step"]
    grid = Table(
        box=box.SIMPLE_HEAD,
        header_style="bold",
        show_edge=False,
        pad_edge=False,
        padding=0,
    )
    for column in shown:
        left = column in ("method", "worst", "verdict")
        justify: Literal["left", "right"] = "left" if left else "right"
        wraps = column == "worst"
        grid.add_column(
            COLUMNS[column],
            justify=justify,
            no_wrap=not wraps,
            overflow="fold",
            min_width=9 if wraps else None,
        )
    tones = {beta.state: STYLES[beta.tone] for beta in verdict.betas}
    for row in rows(run, verdict):
        style = tones.get(row.verdict.removesuffix(" ★"), "")
        cells = [Text(getattr(row, c), style=style if c == "verdict" else "") for c in shown]
        grid.add_row(*cells, style="bold" if row.verdict.endswith("★") else None)
    return grid


def lines(run: Run, verdict: Verdict, report: Path | None = None) -> list[str]:
    """What follows the table: windows, the recommendation and why, warnings, paths."""
    found = ["KL and Δchosen in nats/sequence, win rates in %, retention in points.", ""]
    found += [f"Usable β  {method_name(w.method)}: {_window(w)}" for w in verdict.windows]
    found += ["", verdict.headline]
    found += [f"  {_mark(r.tone)} {r.text}" for r in verdict.reasons]
    if path := checkpoint_path(run, verdict):
        found.append(f"  {path}")
    found += [f"  ! {w}" for w in warnings(run, verdict)]
    if found_wrong := diagnosis.lines(run):
        found += ["", "Diagnosis of each trial's last checkpoint (more: prefeval diagnose RUN)"]
        found += [f"  {line}" for line in found_wrong]
    for place, step in enumerate(verdict.next_steps[:NEXT_STEPS]):
        found += ["", "Next"] if place == 0 else []
        found.append(f"  {place + 1}. {step.said}: {step.why}")
        found += [f"     {step.command}"] if step.command else []
    if report is not None:
        found += ["", f"Report: {report}"]
    return found


def _window(window: verdicts.Window) -> str:
    """A window in words, with the extension to run where its best point is at an edge."""
    words = window.text or ", ".join(beta_text(b) for b in window.usable) or "none"
    if window.extension and window.extension not in words:
        words += f"; to extend: {window.extension}"
    return words


def _mark(tone: str) -> str:
    return {"ok": "✓", "bad": "✗", "unsure": "?"}.get(tone, "-")


def checkpoint_path(run: Run, verdict: Verdict) -> Path | None:
    """The recommended checkpoint's folder, relative to the run."""
    row = next((c for c in run.checkpoints if c.key == verdict.recommended_key), None)
    if row is None or row.folder is None:
        return None
    return row.folder.relative_to(run.folder)


def warnings(run: Run, verdict: Verdict) -> tuple[str, ...]:
    """Everything a reader should know before acting, once each."""
    found = [*verdict.warnings, *(str(w) for w in run.summary.get("warnings") or ())]
    caveat = str((run.manifest.get("judge") or {}).get("caveat") or "")
    if caveat and not any(caveat in w for w in found):
        found.insert(0, caveat[0].upper() + caveat[1:])
    failed = [t for t in run.trials if t.status == "failed"]
    if failed:
        words = "; ".join(f"{t.name}: {t.error or 'no reason saved'}" for t in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        found.append(f"{len(failed)} of {len(run.trials)} trials failed ({words}{more})")
    return tuple(dict.fromkeys([*found, *run.problems]))


def plain(run: Run, verdict: Verdict, report: Path | None = None) -> str:
    """Table and text without colour, for a pipe or a log."""
    cells = _cells(run, verdict)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    out = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    ]
    return "\n".join([*out, "", *lines(run, verdict, report)]) + "\n"


def _cells(run: Run, verdict: Verdict) -> list[list[str]]:
    """The table as text, its heading first."""
    names = [f.name for f in fields(SummaryRow)]
    return [
        [COLUMNS[n] for n in names],
        *([getattr(r, n) for n in names] for r in rows(run, verdict)),
    ]


def _table(cells: list[list[str]]) -> list[str]:
    """A Markdown table, its heading first."""
    heading, *body = ("| " + " | ".join(map(_escaped, line)) + " |" for line in cells)
    return [heading, "|" + "---|" * len(cells[0]), *body]


def markdown(run: Run, verdict: Verdict, audit: judge_audit.Audit) -> str:
    """summary.md: headline, reasons, table, windows, methods, warnings; never model output."""
    parts = [f"# {verdict.headline}", ""]
    parts += [f"- {_mark(r.tone)} {_escaped(r.text)}" for r in verdict.reasons]
    if path := checkpoint_path(run, verdict):
        parts.append(f"- Checkpoint: `{path}`")
    parts += [
        "",
        *_table(_cells(run, verdict)),
        "",
        _caption(verdict) + estimator(run),
        "",
        "## Usable β",
        "",
    ]
    parts += [
        f"- **{method_name(w.method)}**: {_escaped(_window(w))}" for w in verdict.windows
    ] or ["- none yet"]
    if steps := verdict.next_steps:
        parts += ["", "## What to run next", ""]
    for place, step in enumerate(steps, 1):
        parts.append(f"{place}. {_escaped(step.said)}: {_escaped(step.why)}.")
        parts += ["", f"       {' '.join(step.command.split())}", ""] if step.command else []
    if found_wrong := diagnosis.lines(run):
        parts += ["", "## Diagnosis, of each trial's last checkpoint", ""]
        parts += [f"- {_escaped(line)}" for line in found_wrong]
    if run.checkpoints:
        cells, reasons = methods.text_rows(run)
        parts += ["", "## Methods: the table you actually want", "", *_table(cells), ""]
        parts += [" ".join([methods.LEAD, costs.ESTIMATE, *map(_escaped, reasons)])]
    if turns := turning_points(run):
        parts += ["", "## Where more distance stops helping", ""]
        parts += [*(f"- {_escaped(t)}" for t in turns), "", TURNING]
    if run.checkpoints:
        about = judge_words.text_lines(audit)
        parts += ["", "## The judge", "", *(f"- {_escaped(line)}" for line in about)]
    if found := warnings(run, verdict):
        parts += ["", "## Before you ship", "", *(f"- {_escaped(w)}" for w in found)]
    if command := run.manifest.get("command"):
        parts += ["", "## Command", "", f"    {' '.join(str(command).split())}"]
    return "\n".join(parts) + "\n"


def _caption(verdict: Verdict) -> str:
    if verdict.halves is None:
        return "Numbers are over all evaluation prompts."
    choosing, reporting = verdict.halves
    return (
        f"LC WR comes from {reporting} prompts that had no part in choosing checkpoints"
        f" ({choosing} others chose them); the other columns are over all prompts."
        " Intervals are 95%."
    )


def _escaped(text: str) -> str:
    """Text that Markdown does not read as markup or as a table's border."""
    flat = " ".join(text.split())
    for character in "\\`*<|":
        flat = flat.replace(character, "\\" + character)
    return flat.replace("](", "]\\(")


def write(run: Run, verdict: Verdict, audit: judge_audit.Audit) -> Path:
    """Write summary.md into the run's folder and return its path."""
    path = run.folder / "summary.md"
    records.write_text(path, markdown(run, verdict, audit))
    return path
