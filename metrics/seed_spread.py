"""How much training seeds differ at equal settings, apart from the noise of their evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from prefeval.metrics.stats import Array, Estimate

QUIET = "the seeds differ less than their sampling noise alone would make them"


def seed_spread(
    values: Sequence[Array], covariances: Sequence[Array], level: float = 0.95
) -> Estimate:
    """SD of the true rates between seeds, from groups of rates (S,) at equal settings with their
    sampling covariances (S, S).

    With s² the variance of a group's rates and w what sampling adds to it, the mean variance less
    the mean covariance (the prompts are shared, so most of their noise cancels), Q(t) = sum
    (S - 1) s²/(t + w) is chi-squared with sum (S - 1) degrees of freedom at the true variance t.
    The estimate solves Q = degrees of freedom (Paule and Mandel 1982), the interval Q = quantiles
    (Viechtbauer 2007, Statistics in Medicine 26: 37-52), 0 where that is below. Groups count as
    independent, which seeds shared between β may not be wholly. ``n`` is the number of rates.
    """
    spread = np.array([v.var(ddof=1) for v in values])
    freedom = np.array([len(v) - 1 for v in values], dtype=np.float64)
    noise = np.array([sampling_noise(c) for c in covariances])
    n, total = int(sum(len(v) for v in values)), float(freedom.sum())

    def solved(target: float) -> float:
        def excess(t: float) -> float:
            return float((freedom * spread / np.maximum(t + noise, 1e-300)).sum()) - target

        if excess(0.0) <= 0:
            return 0.0
        most = float((freedom * spread).sum()) / target  # were there no noise
        return float(optimize.brentq(excess, 0.0, most * (1 + 1e-9)))

    tail = (1 - level) / 2
    low, high = (solved(float(special.chdtri(total, p))) for p in (tail, 1 - tail))
    value = math.sqrt(solved(total))
    if high == 0:
        return Estimate(value, math.nan, math.nan, math.nan, n, QUIET)
    return Estimate(value, math.nan, math.sqrt(low), math.sqrt(high), n)


def sampling_noise(covariance: Array) -> float:
    """What sampling adds to the variance between S rates with this covariance (S, S)."""
    s = len(covariance)
    diagonal = float(np.trace(covariance))
    apart = (float(covariance.sum()) - diagonal) / (s * (s - 1))
    return max(0.0, diagonal / s - apart)
