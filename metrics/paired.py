"""Pass or fail on the same prompts before and after: the change, its interval, its tests.

Each prompt is gained (failed by the reference, passed by the policy), lost, or neither. With n
prompts, g gained and l lost the change is (g - l)/n. Its interval inverts Tango's score test
(Tango 1998, Statistics in Medicine 17: 891-908), which holds where few prompts change. Whether
the change is *shown worse* than -margin is tested by the exact trinomial tail of that score at
the null's own estimate (an E p-value: Lloyd 2008, Biometrics 64: 716-723), because a normal tail
is far too small when only losses occur: at n = 64 it gives 8 losses p = .003 where a true 5% of
losses makes 8 or more in .014 of samples.
Clustering divides the score by the root of the changes' design effect, and n by the effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from prefeval.metrics import stats
from prefeval.metrics.stats import Array, Estimate

EXACT_UP_TO = 250  # effective prompts; the normal tail serves above


@dataclass(frozen=True)
class Change:
    """A paired change in the share passed, as shares (not percent).

    ``p_different`` is the exact McNemar p-value (it ignores clusters); ``p_worse`` is one-sided,
    for "lower than the reference by more than the margin".
    """

    change: Estimate
    gained: int
    lost: int
    p_different: float
    p_worse: float


def lost_rate_under(gained: ArrayLike, lost: ArrayLike, n: float, change: float) -> Array:
    """Maximum-likelihood rate of losses when the true change is ``change`` (Tango 1998, q21).

    The likelihood is a trinomial's with rates q + change (gains), q (losses), and the rest; its
    stationary point solves 2n q^2 + b q + c = 0.
    """
    g, m = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    b = (2 * n - g + m) * change - g - m
    c = -m * change * (1 - change)
    rate = (np.sqrt(np.maximum(b * b - 8 * n * c, 0)) - b) / (4 * n)
    return np.asarray(np.clip(rate, max(0.0, -change), (1 - change) / 2))


def score(gained: ArrayLike, lost: ArrayLike, n: float, change: float) -> Array:
    """Tango's statistic: (observed change - ``change``) over its standard error under the null.

    Zero where the two changes are equal.
    """
    g, m = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    rate = lost_rate_under(g, m, n, change)
    variance = np.maximum(n * (2 * rate + change * (1 - change)), 1e-12)
    top = g - m - n * change
    return np.asarray(np.where(np.abs(top) < 1e-9, 0.0, top / np.sqrt(variance)))


def score_interval(gained: int, lost: int, n: int, quantile: float) -> tuple[float, float]:
    """The changes that Tango's test at +-``quantile`` does not reject."""
    observed = (gained - lost) / n

    def bound(end: float, sign: float) -> float:
        if abs(observed - end) < 1e-12:
            return end
        gap = lambda d: float(score(gained, lost, n, d)) - sign * quantile  # noqa: E731
        inside = end * (1 - 1e-9)
        return float(optimize.brentq(gap, min(inside, observed), max(inside, observed), xtol=1e-9))

    return bound(-1.0, 1.0), bound(1.0, -1.0)


@lru_cache(maxsize=256)
def _outcomes(n: int, change: float) -> tuple[Array, Array, Array, Array]:
    """Every (gained, lost) of ``n`` prompts, its log multinomial coefficient and its score."""
    g, m = (x.ravel().astype(np.float64) for x in np.indices((n + 1, n + 1)))
    keep = g + m <= n
    g, m = g[keep], m[keep]
    log_ways = special.gammaln(n + 1) - sum(special.gammaln(x + 1) for x in (g, m, n - g - m))
    return g, m, log_ways, score(g, m, n, change)


@lru_cache(maxsize=4096)
def p_worse(gained: int, lost: int, n: int, margin: float, effect: float = 1.0) -> float:
    """One-sided p-value for "the true change is -``margin`` or better" (shares).

    The probability, when the change is exactly -margin and gains have the rate most likely under
    that, of a score at least as low as the observed one; ``effect`` is the design effect.
    """
    observed = float(score(gained, lost, n, -margin)) / math.sqrt(effect)
    size = max(1, round(n / effect))
    if size > EXACT_UP_TO:
        return float(special.ndtr(observed))
    g, m, log_ways, scores = _outcomes(size, -margin)
    rate = float(lost_rate_under(gained, lost, n, -margin))
    log_p = (
        log_ways
        + special.xlogy(g, rate - margin)
        + special.xlogy(m, rate)
        + special.xlogy(size - g - m, max(0.0, 1 - 2 * rate + margin))
    )
    return float(min(1.0, np.exp(log_p[scores <= observed + 1e-9]).sum()))


def paired_change(
    passed: ArrayLike,
    ref_passed: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any] | None = None,
    *,
    margin: float = 0.05,
    level: float = 0.95,
) -> Change:
    """Change in the share passed, policy less reference, both (n,) of 0 and 1, same prompts."""
    now, before = np.asarray(passed, dtype=np.float64), np.asarray(ref_passed, dtype=np.float64)
    n = len(now)
    if not n:
        return Change(stats.undefined("no prompts"), 0, 0, math.nan, math.nan)
    difference = now - before
    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    effect = stats.design_effect(difference, clusters)
    p_different = stats.mcnemar_exact(gained, lost)
    value = float(difference.mean())
    if math.isnan(effect):
        bare = Estimate(value, math.nan, math.nan, math.nan, n, stats.ONE_CLUSTER)
        return Change(bare, gained, lost, p_different, math.nan)
    count = int(stats.cluster_codes(clusters, n).max()) + 1
    quantile = stats.z_quantile(level) if count == n else stats.t_quantile(count, level)
    low, high = score_interval(gained, lost, n, quantile * math.sqrt(effect))
    stderr = math.sqrt(float(difference.var(ddof=1)) * effect / n) if n > 1 else math.nan
    change = Estimate(value, stderr, low, high, n)
    return Change(change, gained, lost, p_different, p_worse(gained, lost, n, margin, effect))
