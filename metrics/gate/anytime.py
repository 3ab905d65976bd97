"""A win rate's change with bounds that hold at every look: for adding judgments until it decides.

The differences of preference, checkpoint less baseline, lie in [-1, 1]; halved and shifted they are
the scores of ``anytime.anytime_bounds``. A score is a cluster's mean, because scores must be
independent; the order of the clusters is fixed before their verdicts are seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from prefeval.metrics.anytime import anytime_bounds
from prefeval.metrics.comparison import Joined
from prefeval.metrics.gate.decision import LEVEL, Check, Outcome, Verdict


def differences(joined: Joined, name: str) -> pd.DataFrame:
    """Each prompt's difference in ``win_rate`` or ``true_win_rate``, points: prompt_id, cluster,
    difference. Verdicts missing in either are left out."""
    column = "preference" if name == "win_rate" else "true_preference"
    a, b = joined.a.judgments, joined.b.judgments
    found = a[["prompt_id", "cluster"]].assign(difference=100 * (b[column] - a[column]))
    return found.dropna(subset="difference").reset_index(drop=True)


def decide_anytime(
    scores: Sequence[float],
    name: str,
    limit: float,
    *,
    level: float = LEVEL,
    reason: str = "no prompt was judged in both",
) -> tuple[Verdict, int]:
    """The verdict on ``scores`` (n,), differences in points, in the order they came, and after how
    many of them it was reached (0: it was not); ``limit`` is the lowest change allowed (< 0), and
    ``reason`` why there are no scores, where there are none.

    Each bound is one-sided at ``level`` over all looks together, so that a change at the limit is
    passed, or failed, with a chance of at most 1 - level however often one looks.
    """
    n = len(scores)
    if not n:
        check = _check(name, limit, math.nan, math.nan, math.nan, 0, "inconclusive", reason)
        return Verdict("inconclusive", (check,), level), 0
    halved = (np.asarray(scores, dtype=np.float64) / 100 + 1) / 2
    found = anytime_bounds(halved, level=2 * level - 1, null=(limit / 100 + 1) / 2)
    low, high = (100 * (2 * x - 1) for x in (found.ci_low, found.ci_high))
    # the first decision stands: a stopped test is not taken up again
    decided = np.flatnonzero((low > limit) | (high < limit))
    at = int(decided[0]) if len(decided) else n - 1
    outcome: Outcome = "inconclusive"
    if len(decided):
        outcome = "pass" if low[at] > limit else "fail"
    mean = float(np.mean(scores))
    check = _check(name, limit, mean, float(low[at]), float(high[at]), n, outcome, "")
    return Verdict(outcome, (check,), level), at + 1 if len(decided) else 0


def _check(
    name: str, limit: float, mean: float, low: float, high: float, n: int, outcome: Outcome,
    reason: str,
) -> Check:  # fmt: skip
    return Check(
        name, "change", "points", 1, limit, math.nan, math.nan, mean, low, high, n,
        math.nan, math.nan, outcome, reason=reason,
    )  # fmt: skip
