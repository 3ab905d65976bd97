"""How far the judge can be trusted: the two orders of one comparison should agree (Zheng et al.
2023, arXiv 2306.05685, "position bias")."""

from __future__ import annotations

import numpy as np
import pandas as pd

from prefeval.metrics import stats
from prefeval.metrics.evidence import Evidence
from prefeval.records import MetricResult

UNITS: dict[str, tuple[str, bool | None]] = {
    "flip_rate": ("percent", False),
    "first_position_rate": ("percent", None),
    "tie_rate": ("percent", None),
}


def judge(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """``flip_rate``, ``first_position_rate``, ``tie_rate``, percent; n is prompts.

    Over the prompts of which both orders were read. A flip is a winner that changes with the
    order; a tie is a single verdict of exactly 1/2, and flips nothing. ``first_position_rate``
    is the mean probability given to the answer shown first: 50 is unbiased.
    """
    frame = evidence.judgments
    frame = frame[frame["preference_first"].notna() & frame["preference_second"].notna()]
    if frame.empty:
        none = stats.undefined("no comparison was read in both orders")
        return [none.metric(name, *unit) for name, unit in UNITS.items()]
    cluster = frame["cluster"].to_numpy()
    first, second = _sides(frame)
    flipped = first * second < 0
    ties = ((first == 0).astype(float) + (second == 0).astype(float)) / 2
    shown_first = (frame["preference_first"] + 1 - frame["preference_second"]) / 2
    estimates = {
        "flip_rate": stats.proportion(flipped, cluster),
        "first_position_rate": stats.bounded_mean(shown_first, cluster),
        "tie_rate": stats.bounded_mean(ties, cluster),
    }
    return [e.scaled(100).metric(name, *UNITS[name]) for name, e in estimates.items()]


def _sides(frame: pd.DataFrame) -> tuple[stats.Array, stats.Array]:
    """+1 where the policy won, -1 where it lost, 0 a tie, for each order: (n,) each."""
    columns = ("preference_first", "preference_second")
    first, second = (np.sign(np.round(frame[c].to_numpy() - 0.5, 9)) for c in columns)
    return first, second
