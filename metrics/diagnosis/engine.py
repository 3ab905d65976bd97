"""Signals against the rules: what is found, what is not, and what could not be looked at."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prefeval.metrics.diagnosis.terms import (
    SEVERITIES,
    Cause,
    Check,
    Condition,
    Diagnosis,
    Evidence,
    Finding,
    Route,
    Signal,
    Signals,
    SignalSpec,
    Skipped,
)

METHOD = "the method, in the settings beside the log"


def diagnose(
    signals: Signals,
    causes: Sequence[Cause],
    specs: dict[str, SignalSpec],
    *,
    method: str = "",
    unknown: Cause | None = None,
) -> Diagnosis:
    """Apply every rule to ``signals`` (name -> `Signal`; absent: not known).

    ``method`` is the trainer's, "" where it is not known: rules that are for some methods only
    are then tried too. ``unknown`` is what is said when damage is seen and no cause of it.
    Findings are ordered by who explains whom, then by severity, confidence and the rules' order.
    """
    found: list[Finding] = []
    checks: list[Check] = []
    skipped: list[Skipped] = []
    for cause in causes:
        if cause.methods and method and method not in cause.methods:
            continue
        if cause.by_method and not method:
            skipped.append(Skipped(cause.id, cause.title, (METHOD,)))
            continue
        open_routes = [r for r in cause.routes if all(_known(signals, s) for s in r.signals)]
        if measured := [r for r in open_routes if r.source == "run"]:
            open_routes = measured  # what was measured outranks what a log suggests
        hits = [r for r in open_routes if all(c.holds(signals[c.signal]) for c in r.conditions)]
        if hits:
            best = max(hits, key=lambda r: (SEVERITIES.index(r.severity), r.confidence))
            found.append(_finding(cause, best, hits, signals, specs))
        elif open_routes:
            checks.append(Check(cause.id, cause.title, _seen(open_routes, signals, specs)))
        else:
            skipped.append(Skipped(cause.id, cause.title, _missing(cause, signals, specs)))
    ordered = _ordered(found, causes)
    if unknown and not any(f.severity != "info" for f in ordered):
        hits = [r for r in unknown.routes if all(_known(signals, s) for s in r.signals)]
        hits = [r for r in hits if all(c.holds(signals[c.signal]) for c in r.conditions)]
        if hits:
            ordered.insert(0, _finding(unknown, hits[0], hits, signals, specs))
    return Diagnosis(tuple(ordered), tuple(checks), tuple(skipped))


def _known(signals: Signals, name: str) -> bool:
    return name in signals and not math.isnan(signals[name].value)


def _finding(
    cause: Cause,
    route: Route,
    hits: Sequence[Route],
    signals: Signals,
    specs: dict[str, SignalSpec],
) -> Finding:
    seen: dict[str, Condition] = {}
    for condition in (c for r in [route, *hits] for c in r.conditions):
        seen.setdefault(condition.signal, condition)  # the threshold of the route that decided
    evidence = tuple(
        _evidence(signals[name], name, condition, specs) for name, condition in seen.items()
    )
    return Finding(
        cause=cause.id,
        severity=route.severity,
        confidence=route.confidence,
        title=cause.title,
        verdict=_Sentence(signals).format(cause.verdict),
        evidence=evidence,
        alternatives=cause.alternatives,
        actions=tuple(_Sentence(signals).format(a) for a in cause.actions),
        references=cause.references,
    )


def _evidence(
    signal: Signal, name: str, condition: Condition, specs: dict[str, SignalSpec]
) -> Evidence:
    spec = specs[name]
    return Evidence(
        signal=name,
        text=spec.text,
        value=signal.value,
        ci_low=signal.ci_low,
        ci_high=signal.ci_high,
        n=signal.n,
        unit=spec.unit,
        threshold=condition.text.removeprefix(f"{name} "),
        source=condition.source,
    )


class _Sentence(string.Formatter):
    """Sentences in which ``{a|b:.0%}`` is the value of the first signal that is known."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        for name in field_name.split("|"):
            if _known(self._signals, name):
                return self._signals[name].value, name
        return _UNKNOWN, field_name


class _Unknown:
    def __format__(self, form: str) -> str:
        return "unknown"


_UNKNOWN = _Unknown()


def _seen(routes: Sequence[Route], signals: Signals, specs: dict[str, SignalSpec]) -> str:
    """The first condition of each route that did not hold, and what was seen instead."""
    said = []
    for route in routes:
        failed = next(c for c in route.conditions if not c.holds(signals[c.signal]))
        said.append(f"{specs[failed.signal].text} {show(signals[failed.signal])}")
    return "; ".join(dict.fromkeys(said))


def show(signal: Signal) -> str:
    """``0.31 [0.25, 0.37]``."""
    text = f"{signal.value:.3g}"
    if math.isfinite(signal.ci_low) and math.isfinite(signal.ci_high):
        text += f" [{signal.ci_low:.3g}, {signal.ci_high:.3g}]"
    return text


def _missing(cause: Cause, signals: Signals, specs: dict[str, SignalSpec]) -> tuple[str, ...]:
    """What would open the route that lacks least."""
    lacks = [[s for s in r.signals if not _known(signals, s)] for r in cause.routes]
    fewest = min(lacks, key=len)
    return tuple(dict.fromkeys(specs[s].enabled_by for s in fewest))


def _ordered(found: Sequence[Finding], causes: Sequence[Cause]) -> list[Finding]:
    """What explains others first; what is explained says by what."""
    explains = {c.id: c.explains for c in causes}
    place = {c.id: i for i, c in enumerate(causes)}
    grave = {f.cause: f.severity != "info" for f in found}
    rank = sorted(
        found,
        key=lambda f: (-SEVERITIES.index(f.severity), -f.confidence, place[f.cause]),
    )
    explained: dict[str, str] = {}
    for finding in sorted(rank, key=lambda f: place[f.cause]):
        if grave[finding.cause] and finding.cause not in explained:
            for symptom in explains[finding.cause]:
                if symptom in grave:
                    explained.setdefault(symptom, finding.cause)
    loose = [f for f in rank if f.cause not in explained]
    tied = [f for f in rank if f.cause in explained]
    return loose + [replace(f, explained_by=explained[f.cause]) for f in tied]
