"""Raw and true win rate against the reference: how often the judge, or the lab's oracle, prefers
the policy. Longer answers win more often at equal quality, so see ``lc_win_rate`` beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from prefeval.metrics import stats
from prefeval.metrics.evidence import Evidence
from prefeval.records import MetricResult


def unread(count: int) -> str:
    """A note on verdicts that were left out; empty when all were read."""
    return f"{count} verdicts could not be read and are left out" if count else ""


def win_rate(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """``win_rate`` and ``true_win_rate``, percent; ties count half; n is prompts.

    100 mean(preference), both orders of a verdict averaged first, with a clustered score
    interval. ``true_win_rate`` is NaN where there is no oracle.
    """
    frame = evidence.judgments
    results = []
    for name, column in (("win_rate", "preference"), ("true_win_rate", "true_preference")):
        read = frame[frame[column].notna()]
        if read.empty:
            absent = "no oracle: true quality is known in the lab only"
            reason = "no judgments" if column == "preference" or frame.empty else absent
            results.append(stats.undefined(reason).metric(name, "percent", True))
            continue
        rate = stats.bounded_mean(read[column], read["cluster"].to_numpy()).scaled(100)
        result = rate.metric(name, "percent", True)
        results.append(_with_note(result, len(frame) - len(read)))
    return results


def _with_note(result: MetricResult, missing: int) -> MetricResult:
    return replace(result, reason=result.reason or unread(missing))
