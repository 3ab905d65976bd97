"""What a method gains for the examples it is trained on: pairs, thumbs, or rollouts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from prefeval.metrics import stats
from prefeval.metrics.joint_rates import Influenced, Prompts, over_seeds
from prefeval.metrics.selection import BetaVerdict, Key
from prefeval.metrics.stats import Array, Estimate

NO_GAIN = "no gain is shown, so there is no half of it"
NO_SIZES = "its steps do not all take one known number of examples"


def per_thousand(keys: Sequence[Key], prompts: Prompts, size: float) -> Estimate:
    """Points above 50 a thousand examples trained on, at the chosen checkpoint."""
    if not size > 0:
        return stats.undefined(NO_SIZES, len(prompts.codes))
    unit = 1000 / (keys[0].step * size)
    rates = [prompts.lc(k) for k in keys]
    return over_seeds(
        [Influenced((r.value - 50) * unit, r.influence * unit, r.reason) for r in rates],
        prompts.codes,
    )


def half_gain(
    best: BetaVerdict, prompts: Prompts, weights: Array, size: float
) -> tuple[bool, Estimate]:
    """Examples until half of the chosen checkpoint's gain over 50, and whether the first checkpoint
    had it; linear between checkpoints, mean over seeds.

    The interval is of percentiles over ``weights`` (B, n), which all checkpoints share: it covers
    prompts, not seeds. No earlier gain than the first checkpoint's is made up.
    """
    n = len(prompts.codes)
    if not size > 0:
        return False, stats.undefined(NO_SIZES, n)
    if not best.reported.ci_low > 50:
        return False, stats.undefined(NO_GAIN, n)
    by_step: dict[int, list[Influenced]] = defaultdict(list)
    for key in sorted(prompts.evidence):
        if (key.method, key.beta) == (best.method, best.beta) and key.step <= best.step:
            by_step[key.step] += [prompts.lc(key)] if key.seed in best.seeds else []
    whole = {s: r for s, r in by_step.items() if len(r) == len(best.seeds)}
    steps = [s for s, r in sorted(whole.items()) if not any(x.reason for x in r)]
    if best.step not in steps:
        return False, stats.undefined("its win rate is not identified", n)
    rates = np.array([np.mean([r.value for r in whole[s]]) for s in steps])
    influence = np.stack([np.mean([r.influence for r in whole[s]], axis=0) for s in steps], axis=1)
    draws = np.vstack([rates, rates + (weights - 1) @ influence]) - 50
    found = crossings(draws, np.array(steps) * size)
    low, high = (float(np.quantile(found[1:], q, method="nearest")) for q in (0.025, 0.975))
    reason = "" if math.isfinite(high) else NO_GAIN
    at_first = bool(found[0] <= steps[0] * size)
    value = math.nan if reason else float(found[0])
    return at_first, Estimate(value, math.nan, low, high, n, reason)


def crossings(gains: Array, seen: Array) -> Array:
    """Where each row of ``gains`` (B, T) first has half of its last value, on the scale ``seen``
    (T,), linear between; the first of ``seen`` where that has it, infinite where the last is no
    gain."""
    half = gains[:, -1:] / 2
    first = (gains >= half).argmax(axis=1)
    before, rows = np.maximum(first - 1, 0), np.arange(len(gains))
    rise = gains[rows, first] - gains[rows, before]
    share = (half[:, 0] - gains[rows, before]) / np.where(first > 0, rise, 1.0)
    place = seen[before] + np.where(first > 0, share, 0.0) * (seen[first] - seen[before])
    return np.asarray(np.where(half[:, 0] > 0, place, np.inf))
