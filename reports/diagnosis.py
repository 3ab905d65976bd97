"""What went wrong, a card each, as the sweep or `prefeval diagnose` found it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefeval.metrics.diagnosis import words
from prefeval.reports.quantities import beta_text
from prefeval.reports.run import Run, method_name

TONES = {"error": "bad", "warning": "unsure", "info": ""}
MARKS = {"error": "✗", "warning": "!", "info": "i"}
SHOWN_PLACES = 6


def cards(run: Run) -> dict[str, Any]:
    """The findings as cards, the checks passed, and what was not checked, by what is missing.

    ``known`` is false for runs that were concluded before there were diagnoses.
    """
    found = run.summary.get("diagnosis")
    if not isinstance(found, Mapping):
        return {"known": False, "cards": [], "checks": [], "skipped": [], "notes": []}
    return {
        "known": True,
        "cards": [_card(f, _names(run)) for f in found.get("findings", [])],
        "checks": found.get("checks", []),
        "skipped": _by_need(found.get("skipped", [])),
        "notes": found.get("notes", []),
    }


def _names(run: Run) -> dict[str, str]:
    """Trials as people name them: DPO 0.05."""
    several = len({t.seed for t in run.trials}) > 1
    return {
        t.name: f"{method_name(t.method)} {beta_text(t.beta)}"
        + (f" seed {t.seed}" if several else "")
        for t in run.trials
    }


def _card(finding: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    where = [names.get(w, w) for w in finding.get("where") or []]
    more = len(where) - SHOWN_PLACES
    return {
        "cause": finding["cause"],
        "tone": TONES.get(finding["severity"], ""),
        "mark": MARKS.get(finding["severity"], ""),
        "title": finding["title"],
        "tag": f"{finding['severity']} · confidence {100 * finding['confidence']:.0f}%",
        "verdict": finding["verdict"],
        "where": ", ".join(where[:SHOWN_PLACES]) + (f" and {more} more" if more > 0 else ""),
        "several": len(where) > 1,
        "explained_by": finding.get("explained_by", ""),
        "evidence": [words.evidence(e) for e in finding["evidence"]],
        "alternatives": finding.get("alternatives", []),
        "actions": finding["actions"],
        "references": finding.get("references", []),
    }


def _by_need(skipped: list[Mapping[str, Any]]) -> list[dict[str, str]]:
    groups: dict[str, list[str]] = {}
    for skip in skipped:
        groups.setdefault("; ".join(skip["needs"]), []).append(str(skip["cause"]))
    return [{"needs": needs, "causes": ", ".join(causes)} for needs, causes in groups.items()]


def lines(run: Run) -> list[str]:
    """A line a finding that nothing explains, for the terminal and summary.md."""
    return [
        f"{c['mark']} {c['title']} ({c['cause']}, {c['tag'].partition(' · ')[0]})"
        + (f": {c['where']}" if c["where"] else "")
        for c in cards(run)["cards"]
        if not c["explained_by"] and c["mark"] != MARKS["info"]
    ]
