"""What went wrong, a card each, as the sweep or `prefeval diagnose` found it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefeval.metrics.diagnosis import words
from prefeval.reports.run import Run

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
        "cards": [_card(f) for f in found.get("findings", [])],
        "checks": found.get("checks", []),
        "skipped": _by_need(found.get("skipped", [])),
        "notes": found.get("notes", []),
    }


def _card(finding: Mapping[str, Any]) -> dict[str, Any]:
    where = list(finding.get("where") or [])
    more = len(where) - SHOWN_PLACES
    return {
        "cause": finding["cause"],
        "tone": TONES.get(finding["severity"], ""),
        "mark": MARKS.get(finding["severity"], ""),
        "title": finding["title"],
        "tag": f"{finding['severity']} · confidence {100 * finding['confidence']:.0f}%",
        "verdict": finding["verdict"],
        "where": ", ".join(where[:SHOWN_PLACES]) + (f" and {more} more" if more > 0 else ""),
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
