"""How far the judge can be trusted: the two orders of one comparison should agree (Zheng et al.
2023, arXiv 2306.05685, "position bias"), length should not decide, and the differences asked about
should be larger than its noise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from prefeval.metrics import stats
from prefeval.metrics.agreement import winners
from prefeval.metrics.evidence import Evidence
from prefeval.records import MetricResult

UNITS: dict[str, tuple[str, bool | None]] = {
    "flip_rate": ("percent", False),
    "first_position_rate": ("percent", None),
    "tie_rate": ("percent", None),
    "unread_rate": ("percent", False),
    "prefers_longer": ("percent", None),
    "win_rate_detectable": ("points", False),
}


def judge(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """``flip_rate``, ``first_position_rate``, ``tie_rate``, ``unread_rate``, ``prefers_longer``
    in percent and ``win_rate_detectable`` in points; n is prompts.

    Over the prompts of which both orders were read (``unread_rate``: the others' share). A flip is
    a winner that changes with the order; a tie is a single verdict of exactly 1/2, and flips
    nothing. ``first_position_rate`` is the mean probability given to the answer shown first: 50 is
    unbiased. ``prefers_longer`` is how often the longer answer wins, over both orders, where the
    lengths differ and there is a winner (published: people 64, GPT-4 68); longer answers may be
    better, so it is a warning and no proof. ``win_rate_detectable`` is the smallest distance of a
    win rate from 50 that this many prompts and this spread of verdicts show at 95% with a power of
    80% (``stats.detectable_effect``).
    """
    everything = evidence.judgments
    if everything.empty:
        none = stats.undefined("no judgments")
        return [none.metric(name, *unit) for name, unit in UNITS.items()]
    both = everything["preference_first"].notna() & everything["preference_second"].notna()
    unread = stats.proportion(~both, everything["cluster"].to_numpy())
    frame = everything[both]
    if frame.empty:
        none = stats.undefined("no comparison was read in both orders")
        found = dict.fromkeys(UNITS, none) | {"unread_rate": unread.scaled(100)}
        return [found[name].metric(name, *unit) for name, unit in UNITS.items()]
    cluster = frame["cluster"].to_numpy()
    first, second = _sides(frame)
    ties = ((first == 0).astype(float) + (second == 0).astype(float)) / 2
    shown_first = (frame["preference_first"] + 1 - frame["preference_second"]) / 2
    estimates = {
        "flip_rate": stats.proportion(flips(frame), cluster),
        "first_position_rate": stats.bounded_mean(shown_first, cluster),
        "tie_rate": stats.bounded_mean(ties, cluster),
        "unread_rate": unread,
        "prefers_longer": _prefers_longer(frame),
        "win_rate_detectable": _detectable(frame),
    }
    return [e.scaled(100).metric(name, *UNITS[name]) for name, e in estimates.items()]


def flips(judgments: pd.DataFrame) -> stats.Array:
    """1 where the winner changes with the order, 0 where not (a tie flips nothing), NaN where an
    order was not read: (n,)."""
    first, second = _sides(judgments)
    product = first * second
    return np.where(np.isfinite(product), product < 0, math.nan)


def longer_wins(judgments: pd.DataFrame) -> stats.Array:
    """1 where the longer answer wins, 0 where the shorter does, NaN where the lengths are equal or
    there is no winner: (n,)."""
    longer = np.sign((judgments["len_output"] - judgments["len_baseline"]).to_numpy())
    winner = winners(judgments["preference"])
    decided = (longer != 0) & (winner != 0) & np.isfinite(winner)
    return np.where(decided, longer == winner, math.nan)


def _prefers_longer(frame: pd.DataFrame) -> stats.Estimate:
    longer = longer_wins(frame)
    decided = np.isfinite(longer)
    if not decided.any():
        return stats.undefined("no verdict on answers of different lengths has a winner")
    return stats.proportion(longer[decided], frame["cluster"].to_numpy()[decided])


def _detectable(frame: pd.DataFrame) -> stats.Estimate:
    """The spread is this sample's, so the figure has no interval of its own."""
    preference = frame["preference"]
    effect = stats.design_effect(preference, frame["cluster"].to_numpy())
    if len(frame) < 2 or math.isnan(effect):
        return stats.undefined("fewer than two independent prompts", len(frame))
    found = stats.detectable_effect(float(preference.std(ddof=1)), len(frame) / effect)
    return stats.Estimate(found, math.nan, math.nan, math.nan, len(frame))


def _sides(frame: pd.DataFrame) -> tuple[stats.Array, stats.Array]:
    """+1 where the policy won, -1 where it lost, 0 a tie, for each order: (n,) each."""
    columns = ("preference_first", "preference_second")
    first, second = (np.sign(np.round(frame[c].to_numpy() - 0.5, 9)) for c in columns)
    return first, second
