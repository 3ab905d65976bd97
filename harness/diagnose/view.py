"""A diagnosis as a person reads it, and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefeval import records
from prefeval.harness.diagnose import diagnose
from prefeval.metrics import diagnosis
from prefeval.metrics.diagnosis import words
from prefeval.metrics.diagnosis.terms import Cause, Diagnosis, Finding
from prefeval.records import PrefevalError

EXIT_FOUND = 1
FORM = re.compile(r"\{([a-z_]+)[a-z_|]*:[^}]*\}")  # {signal|other:.0%}, as sentences have it
MARKS = {"error": "✗", "warning": "!", "info": "i"}
STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold"}
SOURCES = {"run": "an evaluated run", "log": "a log"}


def command(target: Path, *, as_json: bool, fail_on: str) -> int:
    """Diagnose, print, and say by the exit code whether something as grave was found."""
    if fail_on and fail_on not in diagnosis.SEVERITIES:
        raise PrefevalError(f"unknown --fail-on {fail_on!r}; use {', '.join(diagnosis.SEVERITIES)}")
    subjects = diagnose.read(target)
    found = diagnose.combine(subjects)
    if as_json:
        print(json.dumps(as_object(found), ensure_ascii=False))
    else:
        _print(target, subjects, found)
    if not fail_on:
        return 0
    least = diagnosis.SEVERITIES.index(fail_on)
    grave = any(diagnosis.SEVERITIES.index(f.severity) >= least for f in found.findings)
    return EXIT_FOUND if grave else 0


def as_object(found: Diagnosis) -> dict[str, Any]:
    """``findings``, most likely cause first, ``checks``, ``skipped`` and ``notes``."""
    plain: dict[str, Any] = records.to_jsonable(found)
    return plain


def _print(target: Path, subjects: Sequence[diagnose.Subject], found: Diagnosis) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    methods = ", ".join(dict.fromkeys(s.method.upper() for s in subjects if s.method))
    what = f"{len(subjects)} trials or checkpoints" if len(subjects) > 1 else subjects[0].name
    console.print(f"[bold]{_safe(str(target))}[/bold]: {_safe(what)}{_safe(_method(methods))}")
    for note in found.notes:
        console.print(f"  note: {_safe(note)}", soft_wrap=True)
    for number, finding in enumerate(found.findings, 1):
        console.print()
        style = STYLES[finding.severity]
        head = f"{MARKS[finding.severity]} {number}. {finding.title}"
        tag = f"{finding.cause}, {finding.severity}, confidence {finding.confidence:.0%}"
        console.print(f"[{style}]{_safe(head)}[/{style}]  ({tag})", soft_wrap=True)
        for line in card(finding):
            console.print(f"   {_safe(line)}", soft_wrap=True)
    console.print()
    if not found.findings:
        console.print("[bold]Nothing found[/bold] among what could be checked.")
    if found.checks:
        console.print(f"Checked, and not found ({len(found.checks)}):")
        for check in found.checks:
            console.print(f"  ✓ {check.cause}: {_safe(check.seen)}", soft_wrap=True)
    if found.skipped:
        console.print(f"Not checked ({len(found.skipped)}), for want of:")
        for needs, names in _by_need(found).items():
            console.print(f"  - {_safe(needs)}: {', '.join(names)}", soft_wrap=True)


def _by_need(found: Diagnosis) -> dict[str, list[str]]:
    """Skipped causes by what would make their check possible."""
    groups: dict[str, list[str]] = {}
    for skip in found.skipped:
        groups.setdefault("; ".join(skip.needs), []).append(skip.cause)
    return groups


def _method(methods: str) -> str:
    return f" ({methods})" if methods else " (method not known)"


def _safe(text: str) -> str:
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else "\ufffd" for c in text))


def card(finding: Finding) -> Iterator[str]:
    """The lines of one finding, under its title."""
    yield finding.verdict
    if finding.where:
        first, *others = finding.where
        also = f" (these numbers), {', '.join(others)}" if others else ""
        yield f"Where: {first}{also}"
    if finding.explained_by:
        yield f"Probably follows from {finding.explained_by}."
    for evidence in finding.evidence:
        yield f"· {words.evidence(vars(evidence))}"
    if finding.alternatives:
        yield f"Could also be: {'; '.join(finding.alternatives)}."
    for number, action in enumerate(finding.actions, 1):
        yield f"{number}) {action}"
    if finding.references:
        yield f"See {'; '.join(finding.references)}."


def print_causes(as_json: bool, name: str = "") -> None:
    """Every cause with its signals and the source of each threshold; of one named, all of it.

    Raises ``PrefevalError`` for a name that no cause has.
    """
    known = (*diagnosis.CAUSES, diagnosis.UNKNOWN)
    chosen = [c for c in known if c.id == name] if name else known
    if not chosen:
        raise PrefevalError(f"no cause is called {name!r}; prefeval causes lists them")
    if as_json:
        print(json.dumps({"causes": [_cause(c) for c in chosen]}, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for cause in chosen:
        methods = f" ({', '.join(cause.methods)})" if cause.methods else ""
        console.print(f"[bold]{cause.id}[/bold]{methods}: {_safe(cause.title)}", soft_wrap=True)
        for line in (*_routes(cause), *(_whole(cause) if name else ())):
            console.print(f"  {_safe(line)}", soft_wrap=True)
    console.print()
    for signal in sorted(
        {c.signal for cause in chosen for r in cause.routes for c in r.conditions}
    ):
        spec = diagnosis.SPECS[signal]
        unit = f", {spec.unit}" if spec.unit else ""
        console.print(f"  {signal}: {_safe(f'{spec.text}{unit}; from {spec.enabled_by}')}",
                      soft_wrap=True)  # fmt: skip


def _routes(cause: Cause) -> Iterator[str]:
    """How the cause is seen, a line a route."""
    for route in cause.routes:
        conditions = " and ".join(f"{c.text} ({c.source})" for c in route.conditions)
        yield f"{route.severity} from {SOURCES[route.source]}: {conditions}"


def _whole(cause: Cause) -> Iterator[str]:
    """What a finding of the cause says, with the names of signals for their values."""
    yield "Says: " + FORM.sub(r"<\1>", cause.verdict)
    if cause.alternatives:
        yield f"Could also be: {'; '.join(cause.alternatives)}"
    for number, action in enumerate(cause.actions, 1):
        yield f"{number}) {action}"
    if cause.explains:
        yield f"Brings with it: {', '.join(cause.explains)}"
    if cause.references:
        yield f"See {'; '.join(cause.references)}"


def _cause(cause: Cause) -> dict[str, Any]:
    plain: dict[str, Any] = records.to_jsonable(cause)
    for route, saved in zip(cause.routes, plain["routes"], strict=True):
        for condition, row in zip(route.conditions, saved["conditions"], strict=True):
            row["unit"] = diagnosis.SPECS[condition.signal].unit
    return plain
