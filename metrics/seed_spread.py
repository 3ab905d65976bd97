"""How much training seeds differ at equal settings, apart from the noise of their evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from prefeval.metrics.stats import Array, Estimate


def seed_spread(
    values: Sequence[Array], covariances: Sequence[Array], level: float = 0.95
) -> Estimate:
    """SD of the true rates between seeds, from groups of rates (S,) at equal settings with their
    sampling covariances (S, S).

    With s² the variance of a group's rates and w what sampling adds to it, the mean variance less
    the mean covariance (the prompts are shared, so most of their noise cancels), Q(t) = sum
    (S - 1) s²/(t + w) is chi-squared with sum (S - 1) degrees of freedom at the true variance t.
    The estimate solves Q = degrees of freedom (Paule and Mandel 1982), the interval Q = quantiles
    (Viechtbauer 2007, Statistics in Medicine 26: 37-52), 0 where that is below. Where the rates
    differ less than sampling noise does on average, the upper end is that of rates that differ as
    noise does: luck must not make it short or empty. Groups count as independent, which seeds
    shared between β may not be wholly. ``n`` is the number of rates.
    """
    spread = np.array([v.var(ddof=1) for v in values])
    freedom = np.array([len(v) - 1 for v in values], dtype=np.float64)
    noise = np.array([sampling_noise(c) for c in covariances])
    n, total = int(sum(len(v) for v in values)), float(freedom.sum())

    def solved(target: float, spread: Array = spread) -> float:
        def excess(t: float) -> float:
            return float((freedom * spread / np.maximum(t + noise, 1e-300)).sum()) - target

        if excess(0.0) <= 0:
            return 0.0
        most = float((freedom * spread).sum()) / target  # were there no noise
        return float(optimize.brentq(excess, 0.0, most * (1 + 1e-9)))

    tail = (1 - level) / 2
    low = solved(float(special.chdtri(total, tail)))
    observed = float((freedom * spread / np.maximum(noise, 1e-300)).sum())
    lifted = spread + noise * max(0.0, 1 - observed / total)
    high = solved(float(special.chdtri(total, 1 - tail)), lifted)
    return Estimate(math.sqrt(solved(total)), math.nan, math.sqrt(low), math.sqrt(high), n)


def sampling_noise(covariance: Array) -> float:
    """What sampling adds to the variance between S rates with this covariance (S, S)."""
    s = len(covariance)
    diagonal = float(np.trace(covariance))
    apart = (float(covariance.sum()) - diagonal) / (s * (s - 1))
    return max(0.0, diagonal / s - apart)
