"""What the policy can still do: pass rates of each behaviour and their paired change.

Paired on the same prompts, greedy answers: at temperature > 0 "what share of what the reference
passed is still passed" suffers regression to the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from prefeval.metrics import paired, stats
from prefeval.metrics.evidence import Evidence, checked
from prefeval.records import MetricResult

MARGIN = 5.0  # points


@dataclass(frozen=True)
class BehaviourChange:
    """One behaviour's paired change against the reference; shares in percent, change in points.

    ``p_worse`` tests "lower by more than the margin" one-sided, ``p_worse_holm`` corrects it
    over the behaviours; ``p_different`` is the exact McNemar p-value. ``ruled_out`` is whether
    the interval excludes a loss of more than the margin.
    """

    behaviour: str
    n: int
    passed: float
    ref_passed: float
    change: float
    ci_low: float
    ci_high: float
    gained: int
    lost: int
    p_different: float
    p_worse: float
    p_worse_holm: float
    ruled_out: bool


def retention(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """``retention_<behaviour>`` (percent passed) and ``change_<behaviour>`` (points); where
    the checks have a loose reading, ``loose_retention_`` and ``loose_change_<behaviour>`` too.

    The change is policy less reference on the same prompts, with Tango's interval, clustered.
    Prompts on which a check raised are left out of all of these, and are counted in
    ``unchecked_<behaviour>`` where there are any. Without checks there is no behaviour to report.
    """
    results = []
    for behaviour, asked in evidence.checks.groupby("behaviour", sort=True):
        rows = checked(asked)
        if raised := len(asked) - len(rows):
            name = f"unchecked_{behaviour}"
            results.append(MetricResult(name, raised, len(asked), unit="prompts"))
        results += _of_behaviour(rows, str(behaviour), "passed")
        loosely = [f"{side}passed_loose" for side in ("", "ref_")]
        if set(loosely) <= set(rows) and rows[loosely].notna().to_numpy().all():
            results += _of_behaviour(rows, str(behaviour), "passed_loose", "loose_")
    return results


def _of_behaviour(
    rows: pd.DataFrame, behaviour: str, column: str, prefix: str = ""
) -> list[MetricResult]:
    cluster = rows["cluster"].to_numpy()
    kept = stats.proportion(rows[column], cluster).scaled(100)
    change = paired.paired_change(rows[column], rows[f"ref_{column}"], cluster).change
    return [
        kept.metric(f"{prefix}retention_{behaviour}", "percent", True),
        change.scaled(100).metric(f"{prefix}change_{behaviour}", "points", True),
    ]


def changes(
    checks: pd.DataFrame, *, margin: float = MARGIN, level: float = 0.95
) -> list[BehaviourChange]:
    """Every behaviour's change, with p-values corrected over the behaviours (Holm).

    ``checks`` as in ``Evidence`` (prompts on which one raised are left out), ``margin`` in points.
    Rows of several seeds may be stacked: their shared clusters keep a prompt's rows together.
    """
    names, found, shares = [], [], []
    for behaviour, asked in checks.groupby("behaviour", sort=True):
        rows = checked(asked)
        names.append(str(behaviour))
        shares.append((100 * float(rows["passed"].mean()), 100 * float(rows["ref_passed"].mean())))
        found.append(
            paired.paired_change(
                rows["passed"],
                rows["ref_passed"],
                rows["cluster"].to_numpy(),
                margin=margin / 100,
                level=level,
            )
        )
    corrected = stats.holm(np.nan_to_num([c.p_worse for c in found], nan=1.0))
    return [
        BehaviourChange(
            behaviour=name,
            n=c.change.n,
            passed=passed,
            ref_passed=ref_passed,
            change=100 * c.change.value,
            ci_low=100 * c.change.ci_low,
            ci_high=100 * c.change.ci_high,
            gained=c.gained,
            lost=c.lost,
            p_different=c.p_different,
            p_worse=c.p_worse,
            p_worse_holm=float(p),
            ruled_out=bool(100 * c.change.ci_low > -margin),
        )
        for name, c, (passed, ref_passed), p in zip(names, found, shares, corrected, strict=True)
    ]
