"""The words of a diagnosis: signals, the rules that read them, and what is found.

A cause is data. Each of its routes is a list of conditions on named signals; where all hold, the
cause is found. A condition on a signal with an interval asks that the interval lies beyond the
threshold, not the value alone. Nothing else decides, so a rule can be read and checked in one
place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "error"]
Source = Literal["run", "log"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")


@dataclass(frozen=True)
class Signal:
    """One measured number; the interval is 95%, NaN where there is none."""

    value: float
    ci_low: float = math.nan
    ci_high: float = math.nan
    n: int = 0


Signals = Mapping[str, Signal]


@dataclass(frozen=True)
class SignalSpec:
    """What a signal is, in which unit, and what must be there for it to be known."""

    text: str
    unit: str
    enabled_by: str


@dataclass(frozen=True)
class Condition:
    """``signal`` is above or below a threshold, whose source is named."""

    signal: str
    above: float = math.nan
    below: float = math.nan
    source: str = "ours, set on the lab"

    def holds(self, signal: Signal) -> bool:
        """Whether the value is beyond the threshold, and so is its interval where it has one."""
        low = signal.value if math.isnan(signal.ci_low) else min(signal.ci_low, signal.value)
        high = signal.value if math.isnan(signal.ci_high) else max(signal.ci_high, signal.value)
        beyond_low = math.isnan(self.above) or low > self.above
        beyond_high = math.isnan(self.below) or high < self.below
        return beyond_low and beyond_high and not math.isnan(signal.value)

    @property
    def text(self) -> str:
        """``fall_chosen > 0.6``."""
        parts = [f"> {self.above:g}"] * (not math.isnan(self.above))
        parts += [f"< {self.below:g}"] * (not math.isnan(self.below))
        return f"{self.signal} {' and '.join(parts)}"


@dataclass(frozen=True)
class Route:
    """One way to see a cause: all conditions must hold.

    ``confidence`` is our judgment of how directly the signals show the cause, in (0, 1);
    ``needs`` are signals that must be known though no threshold is set on them.
    """

    source: Source
    conditions: tuple[Condition, ...]
    confidence: float
    severity: Severity
    needs: tuple[str, ...] = ()

    @property
    def signals(self) -> tuple[str, ...]:
        """Every signal that the route reads, once, in order."""
        names = [c.signal for c in self.conditions] + list(self.needs)
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Cause:
    """One thing that can be wrong, how it shows, and what to do about it.

    ``verdict`` is one sentence in which ``{name}`` stands for a signal. ``methods``: where it can
    occur; empty for all. ``by_method``: only where the method is known to be one of them; its
    signals alone do not tell. ``explains``: causes which this one brings with it, so that they are
    named after it.
    """

    id: str
    title: str
    verdict: str
    routes: tuple[Route, ...]
    actions: tuple[str, ...]
    alternatives: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    explains: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    by_method: bool = False


@dataclass(frozen=True)
class Evidence:
    """A signal that spoke for a finding, and the threshold that it passed."""

    signal: str
    text: str
    value: float
    ci_low: float
    ci_high: float
    n: int
    unit: str
    threshold: str
    source: str


@dataclass(frozen=True)
class Finding:
    """A cause that was found."""

    cause: str
    severity: Severity
    confidence: float
    title: str
    verdict: str
    evidence: tuple[Evidence, ...]
    alternatives: tuple[str, ...]
    actions: tuple[str, ...]
    references: tuple[str, ...]
    explained_by: str = ""
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """A cause that was looked for and not found, with what was seen of its signals."""

    cause: str
    title: str
    seen: str


@dataclass(frozen=True)
class Skipped:
    """A cause that could not be looked for, and what would make it possible."""

    cause: str
    title: str
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """Findings, most likely cause first; then what was looked at and what could not be."""

    findings: tuple[Finding, ...]
    checks: tuple[Check, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
