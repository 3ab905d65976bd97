"""How much a method's win rate depends on its lever, the sampling noise taken out.

The measure is the root mean square change of the length-controlled win rate a doubling of β,
between neighbours of the grid: sqrt(sum d² / sum x²), d the change and x = log2 of the ratio of the
two β. Doublings compare levers of different scale. The range of noisy rates, or their SD, grows
with the noise even where nothing depends on β; a slope is near 0 where the best β lies in the
middle; the distance from the best β mixes in what damage ruled out. Here noise adds to sum d² what
the rates' covariance says (they share their prompts), and that is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import optimize, special

from prefeval.metrics import joint_rates, stats
from prefeval.metrics.joint_rates import Prompts
from prefeval.metrics.seed_spread import sampling_noise
from prefeval.metrics.selection import BetaVerdict, Key
from prefeval.metrics.stats import Array, Estimate

ONE_BETA = "one β, so there is nothing to compare it with"
NO_COMMON_SEED = "its β have no training seed in common"
FEW_RATES = "fewer than 2 β have an identified win rate"


def lever_sensitivity(betas: Sequence[BetaVerdict], prompts: Prompts) -> tuple[Estimate, int]:
    """Points a doubling of β, and how many β could be compared: those whose rates are identified.

    Each β is its chosen checkpoint, and the seeds are those that all β have.
    """
    n = len(prompts.codes)
    if len(betas) < 2:
        return stats.undefined(ONE_BETA, n), 0
    if not prompts.codes.any():
        return stats.undefined(stats.ONE_CLUSTER, n), 0
    ordered = sorted(betas, key=lambda b: b.beta)
    seeds = sorted(set(ordered[0].seeds).intersection(*(b.seeds for b in ordered)))
    if not seeds:
        return stats.undefined(NO_COMMON_SEED, n), 0
    rates = [[prompts.lc(Key(b.method, b.beta, s, b.step)) for s in seeds] for b in ordered]
    known = [i for i, of_seed in enumerate(rates) if not any(r.reason for r in of_seed)]
    if len(known) < 2:
        return stats.undefined(FEW_RATES, n), len(known)
    doublings = np.diff(np.log2([ordered[i].beta for i in known]))
    changes = [
        [after - before for before, after in zip(rates[i], rates[j], strict=True)]
        for i, j in pairwise(known)
    ]
    means = [sum(c[1:], c[0]) * (1 / len(seeds)) for c in changes]
    noise = joint_rates.covariance(means, prompts.codes)
    if len(seeds) > 1:
        noise += np.diag([_between(c, prompts) for c in changes])
    return rms_slope(np.array([m.value for m in means]), noise, doublings, n), len(known)


def _between(change: Sequence[joint_rates.Influenced], prompts: Prompts) -> float:
    """What differences between the seeds add to the variance of their mean."""
    values = np.array([c.value for c in change])
    apart = values.var(ddof=1) - sampling_noise(joint_rates.covariance(change, prompts.codes))
    return max(0.0, float(apart)) / len(values)


def rms_slope(
    changes: Array, noise: Array, doublings: Array, n: int, level: float = 0.95
) -> Estimate:
    """sqrt(sum of true changes² / sum of doublings²) from ``changes`` (m,) with covariance
    ``noise`` (m, m).

    With D the true changes, q = sum of ``changes``² has mean D'D + tr V and variance
    4 D'VD + 2 tr V²; it is taken as a gamma variable with these (Patnaik 1949 does so for the
    noncentral chi-squared), D along ``changes``. The interval holds the D'D under which the
    observed q is in neither tail; its upper end takes q to be tr V where it is less, as noise alone
    has it on average: luck must not make the interval short or empty.
    """
    total, q = float(doublings @ doublings), float(changes @ changes)
    trace = float(np.trace(noise))
    along = float(changes @ noise @ changes) / q if q > 0 else 0.0
    own = 2 * float((noise * noise.T).sum())

    def solved(p: float, q: float) -> float:
        """The D'D under which so small a q has the probability ``p``, or 0."""

        def excess(true: float) -> float:
            mean, variance = true + trace, 4 * true * along + own
            return float(special.gammainc(mean**2 / variance, q * mean / variance)) - p

        if excess(0.0) <= 0:
            return 0.0
        most = q + 1.0
        while excess(most) > 0:
            most *= 2
        return float(optimize.brentq(excess, 0.0, most))

    value = math.sqrt(max(0.0, q - trace) / total)
    if own == 0:  # nothing varies between prompts
        return Estimate(value, 0.0, value, value, n)
    low, high = solved(0.5 + level / 2, q), solved(0.5 - level / 2, max(q, trace))
    return Estimate(value, math.nan, math.sqrt(low / total), math.sqrt(high / total), n)
