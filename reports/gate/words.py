"""A gate's checks in words: names, amounts, what decided, and what would decide the others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from prefeval.metrics.differences import POINTS, TIMES
from prefeval.metrics.gate.decision import Check
from prefeval.reports.compare.samples import visible
from prefeval.reports.compare.words import TITLES
from prefeval.reports.gate.data import Gated
from prefeval.reports.labels import listed
from prefeval.reports.quantities import fixed, significant

HEADLINES = {
    "pass": "PASS: no check is worse than its limit",
    "fail": "FAIL",
    "inconclusive": "INCONCLUSIVE: nothing shown worse than its limit, and not all shown within it",
}


def title(check: Check) -> str:
    """A check's name in words; a behaviour's own name."""
    name = visible(TITLES.get(check.name, check.name))
    return name if check.kind == "change" else f"{name}, {check.kind}"


def amount(check: Check, number: float) -> str:
    """A number in the check's unit: ``−2.6``, ``×1.13``, ``61.2``."""
    if check.unit == TIMES:
        text = fixed(number, 2)
        return f"×{text}" if math.isfinite(number) else text
    signed = check.kind == "change"
    if check.unit in (POINTS, "percent"):
        return fixed(number, 1, sign=signed)
    text = significant(number)
    return f"+{text}" if signed and number > 0 else text


def interval(check: Check) -> str:
    """``[−4.5, −0.6]``; nothing where there is none."""
    if check.undefined:
        return ""
    ends = (amount(check, end).lstrip("×") for end in (check.low, check.high))
    return f"[{', '.join(ends)}]"


def limit(check: Check) -> str:
    """``≥ −3``: what the bound must be on the good side of."""
    sign = "≥" if check.better > 0 else "≤"
    number = fixed(check.limit, 2)
    number = re.sub(r"\.?0+$", "", number) if "." in number else number
    return f"{sign} {'×' if check.unit == TIMES else ''}{number}"


def measured(check: Check) -> str:
    """``−2.6 points [−4.5, −0.6] against ≥ −3``."""
    unit = "" if check.unit == TIMES else {"percent": "%"}.get(check.unit, f" {check.unit}")
    return (
        f"{amount(check, check.value)}{unit} {interval(check)}".rstrip()
        + f", limit {limit(check)}, n = {check.n}"
    )


def why(check: Check) -> str:
    """The bound that decided, or what would decide."""
    if check.reason:
        return f"no number: {visible(check.reason)}"
    side = "lower" if (check.better > 0) == (check.outcome != "fail") else "upper"
    bound = f"{side} bound {amount(check, check.bound)}"
    if check.outcome == "pass":
        return f"{bound} is within {limit(check)}"
    if check.outcome == "fail":
        return f"{bound} is beyond {limit(check)}"
    return f"{bound} is not within {limit(check)}{wanted(check)}"


def wanted(check: Check) -> str:
    """How many prompts would probably decide it."""
    if not math.isfinite(check.needed):
        if check.kind == "change" or not math.isfinite(check.p):
            return ""
        return "; as measured, no number of prompts would pass it"
    if check.needed > check.n:
        truth = "if nothing changed" if check.kind == "change" else "if the value is as measured"
        return f"; about {check.needed:,.0f} prompts would pass it 4 times in 5 {truth}"
    return "; as many prompts would mostly pass it if nothing changed: a change is likely"


def headline(gated: Gated) -> str:
    """The verdict in one line."""
    verdict = gated.verdict
    if verdict.outcome != "fail":
        return HEADLINES[verdict.outcome] + _mapped(gated)
    worse = [title(check) for check in verdict.of("fail")]
    return f"{HEADLINES['fail']}: shown worse than its limit: {listed(worse)}"


def _mapped(gated: Gated) -> str:
    if gated.counts_as == gated.verdict.outcome:
        return "; what has no number is no pass" if gated.kept_open else ""
    return f" (counts as {gated.counts_as}: --inconclusive {gated.mapped})"


def about(gated: Gated) -> Iterator[str]:
    """What was compared, how, and what to know."""
    yield f"checkpoint  {visible(gated.checkpoint)}"
    yield f"baseline    {visible(gated.baseline)}"
    yield from (f"! {visible(note)}" for note in gated.notes)


def what_next(gated: Gated) -> str:
    """What would decide an inconclusive verdict; nothing for the others."""
    if gated.verdict.outcome != "inconclusive":
        return ""
    if gated.anytime:
        return (
            "Add prompts (--prompts), measure again, and look again with the same --anytime FILE."
        )
    open_ = [c for c in gated.verdict.of("inconclusive") if math.isfinite(c.needed)]
    more = [c for c in open_ if c.needed > c.n]
    if more:
        told = listed(f"{title(c)} n = {c.needed:,.0f} (now {c.n})" for c in more)
        return f"To decide, if nothing changed: {told}; or wider margins (--policy)."
    return "To decide: more prompts, or wider margins (--policy)."


def method(gated: Gated) -> str:
    """How to read the intervals."""
    level = gated.verdict.level
    alpha, span = f"{100 * (1 - level):g}%", f"{100 * (2 * level - 1):g}%"
    if gated.anytime:
        after = f" Decided after {gated.decided_after} judgments." if gated.decided_after else ""
        return f"Bounds hold at every look together, each with an error of {alpha}.{after}"
    return (
        f"Checkpoint less baseline on the same prompts, with {span} intervals: each bound errs in "
        f"{alpha}. Pass: every bound within its limit. Fail: a bound beyond it, Holm over the "
        "checks. Otherwise inconclusive."
    )
