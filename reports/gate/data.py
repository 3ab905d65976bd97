"""What a gate found, as a plain record: what the terminal, JUnit, Markdown and JSON show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefeval.metrics.gate.decision import Outcome, Verdict

Mapped = Literal["", "pass", "fail"]
CODES = {"pass": 0, "fail": 1, "inconclusive": 4}


@dataclass(frozen=True)
class Gated:
    """The verdict with the two names. ``mapped`` is what an inconclusive verdict is to count as
    ("" for itself); ``decided_after`` how many judgments an anytime bound took, 0 for none."""

    checkpoint: str
    baseline: str
    verdict: Verdict
    notes: tuple[str, ...] = ()
    mapped: Mapped = ""
    anytime: bool = False
    decided_after: int = 0

    @property
    def counts_as(self) -> Outcome:
        """The outcome after ``mapped``; what has no number is never counted as a pass."""
        found = self.verdict.outcome
        if found != "inconclusive" or not self.mapped or self.kept_open:
            return found
        return self.mapped

    @property
    def kept_open(self) -> bool:
        """Whether an inconclusive verdict is to be a pass and is none, for want of a number."""
        unknown = any(check.undefined for check in self.verdict.checks)
        return self.verdict.outcome == "inconclusive" and self.mapped == "pass" and unknown

    @property
    def code(self) -> int:
        """The exit code: 0 pass, 1 fail, 4 inconclusive."""
        return CODES[self.counts_as]
