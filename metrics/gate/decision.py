"""Pass, fail or inconclusive: a checkpoint against margins, by the bounds of its intervals.

Every check has a limit: how far a change from the baseline may go (its margin), or a floor or a
ceiling of the checkpoint's own value. With one-sided bounds at ``level`` (so the interval shown is
the two-sided one of 2 level - 1):

- pass: every bound on the side of the limit is on the good side of it. Each check alone has a
  chance of at most 1 - level to do so when the truth is at its limit, and all must, so nothing is
  corrected (intersection-union: Berger 1982, Technometrics 24: 295-300);
- fail: some other bound is beyond its limit, corrected over the checks (Holm 1979);
- inconclusive: neither, or a check has no number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from prefeval.metrics import stats

LEVEL = 0.95  # of each bound, one-sided
POWER = 0.8
LEAST = 1e-12  # the smallest p-value that is looked for
Outcome = Literal["pass", "fail", "inconclusive"]
Bounds = Callable[[float], tuple[float, float]]
"""The ends of an interval at a two-sided level."""


@dataclass(frozen=True, eq=False)
class Line:
    """A number with bounds at any level: a change from the baseline, or the checkpoint's own value.

    ``a`` and ``b`` are the baseline's and the checkpoint's value, ``value`` is what is bounded, in
    ``unit`` ("×": a factor). ``p_lower`` is an exact one-sided p-value of "lower than" a limit,
    where there is one, and ``p_higher`` of "higher than". ``scatter`` is the standard deviation of
    one prompt's contribution on the scale of the limit; 0 if no prompt changed, NaN if unknown.
    ``effect`` is the design effect of a share's clusters.
    """

    name: str
    unit: str
    a: float
    b: float
    value: float
    n: int
    bounds: Bounds
    scatter: float = math.nan
    reason: str = ""
    p_lower: Callable[[float], float] | None = None
    p_higher: Callable[[float], float] | None = None
    effect: float = 1.0


@dataclass(frozen=True)
class Check:
    """One decision. ``kind`` says what ``limit`` is: the farthest "change" that is allowed, a
    "floor" or a "ceiling" of the value; ``better`` whether more is better (1) or worse (-1).

    ``low`` and ``high`` are the one-sided bounds at the gate's level; ``p`` is of "beyond the
    limit" and ``p_holm`` corrected over the checks. ``needed`` is the n with which it would pass
    four times in five if nothing had changed (floor, ceiling: if the truth is as measured); NaN
    where no n would.
    """

    name: str
    kind: Literal["change", "floor", "ceiling"]
    unit: str
    better: int
    limit: float
    a: float
    b: float
    value: float
    low: float
    high: float
    n: int
    p: float
    p_holm: float
    outcome: Outcome
    needed: float = math.nan
    reason: str = ""

    @property
    def undefined(self) -> bool:
        """Whether it has no number or no bounds."""
        return not (math.isfinite(self.low) and math.isfinite(self.high))

    @property
    def bound(self) -> float:
        """The bound that decides: the far one where it fails, else the one next to the limit."""
        return self.low if (self.better > 0) == (self.outcome != "fail") else self.high


@dataclass(frozen=True)
class Verdict:
    """The gate's outcome with every check behind it; ``level`` is that of each bound, one-sided."""

    outcome: Outcome
    checks: tuple[Check, ...]
    level: float = LEVEL

    def of(self, outcome: Outcome) -> tuple[Check, ...]:
        """The checks with this outcome."""
        return tuple(check for check in self.checks if check.outcome == outcome)


@dataclass(frozen=True, eq=False)
class Asked:
    """One check to make."""

    line: Line
    kind: Literal["change", "floor", "ceiling"]
    better: int
    limit: float


def decide(asked: Sequence[Asked], *, level: float = LEVEL) -> Verdict:
    """The verdict over all checks. Without any it is inconclusive."""
    found = [_bounded(one, level) for one in asked]
    known = [i for i, check in enumerate(found) if math.isfinite(check.p)]
    adjusted = stats.holm([found[i].p for i in known])
    for i, p in zip(known, adjusted, strict=True):
        found[i] = _decided(replace(found[i], p_holm=float(p)), level)
    outcomes = {check.outcome for check in found}
    outcome: Outcome = "pass" if outcomes == {"pass"} else "inconclusive"
    return Verdict("fail" if "fail" in outcomes else outcome, tuple(found), level)


def _bounded(asked: Asked, level: float) -> Check:
    """The check with its bounds and its own p-value, not decided."""
    line = asked.line
    low, high = line.bounds(2 * level - 1) if math.isfinite(line.value) else (math.nan, math.nan)
    p = math.nan
    if math.isfinite(low) and math.isfinite(high):
        exact = line.p_lower if asked.better > 0 else line.p_higher
        p = exact(asked.limit) if exact else p_beyond(line.bounds, asked.limit, asked.better)
    return Check(
        line.name, asked.kind, line.unit, asked.better, asked.limit, line.a, line.b, line.value,
        low, high, line.n, p, math.nan, "inconclusive", needed(asked, level),
        line.reason if math.isnan(p) else "",
    )  # fmt: skip


def _decided(check: Check, level: float) -> Check:
    near, far = (check.low, check.high) if check.better > 0 else (check.high, check.low)
    outcome: Outcome = "inconclusive"
    if (near - check.limit) * check.better > 0:
        outcome = "pass"
    elif (far - check.limit) * check.better < 0 and check.p_holm <= 1 - level:
        outcome = "fail"
    return replace(check, outcome=outcome)


def p_beyond(bounds: Bounds, limit: float, better: int) -> float:
    """One-sided p-value of "on the bad side of ``limit``": the smallest 1 - level at which the
    bound on the other side excludes the limit; at least ``LEAST``, and 1 above one half."""

    def excluded(alpha: float) -> bool:
        low, high = bounds(1 - 2 * alpha)
        return high < limit if better > 0 else low > limit

    least, most = math.log(LEAST), math.log(0.5)
    if not excluded(math.exp(most) * (1 - 1e-9)):
        return 1.0
    if excluded(LEAST):
        return LEAST
    while most - least > 1e-4:
        middle = (least + most) / 2
        least, most = (least, middle) if excluded(math.exp(middle)) else (middle, most)
    return math.exp(most)


def needed(asked: Asked, level: float = LEVEL, power: float = POWER) -> float:
    """n with which the check passes with probability ``power``, the normal approximation.

    A change: if the truth is no change. A floor or ceiling: if it is the value measured; NaN where
    that is on the bad side. Where no prompt changed, the n from which Tango's bound of no change is
    inside the margin: z^2 (1 - m)/m.
    """
    line, factor = asked.line, asked.line.unit == "×"
    if not math.isfinite(line.value) or not math.isfinite(line.scatter):
        return math.nan
    if asked.kind == "change":
        room = abs(math.log(asked.limit) if factor else asked.limit)
    else:
        ends = [math.log(x) if factor else x for x in (line.value, asked.limit)]
        room = (ends[0] - ends[1]) * asked.better
    if not room > 0:
        return math.nan
    if line.scatter == 0 and line.unit == "points":
        z, m = stats.z_quantile(2 * level - 1), min(1.0, room / 100)
        return float(math.floor(line.effect * z * z * (1 - m) / m) + 1)
    if line.scatter == 0:
        return 2.0
    return float(stats.required_n(line.scatter, room, level=2 * level - 1, power=power))
