"""Means, rates and paired changes with intervals that respect clusters; exact tests; Holm.

Every observation belongs to a cluster (its prompt's family, person or entity); without clusters
each is its own. A mean's variance is the cluster-robust one of Miller 2024 (arXiv 2411.00640),
with the factor G/(G - 1) and t quantiles with G - 1 degrees of freedom for G clusters, because
few clusters are the rule here. What cannot be estimated is NaN with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from prefeval.records import MetricResult

Array = NDArray[np.float64]
LEAST_TAIL = 1e-30  # of an exact interval; far below, the inverse beta function is NaN
ENDS = 0.1  # a rate nearer 0 or 1 gets an interval that is exact
ONE_CLUSTER = "all observations are of one cluster, so no interval can be given"


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error, its interval, and how many observations it rests on."""

    value: float
    stderr: float
    ci_low: float
    ci_high: float
    n: int
    reason: str = ""

    def scaled(self, factor: float) -> Estimate:
        """In another unit, such as percent (``factor`` > 0)."""
        return replace(
            self,
            value=self.value * factor,
            stderr=self.stderr * factor,
            ci_low=self.ci_low * factor,
            ci_high=self.ci_high * factor,
        )

    def metric(self, name: str, unit: str, higher_is_better: bool | None = None) -> MetricResult:
        """As a named record."""
        return MetricResult(
            name=name,
            value=self.value,
            n=self.n,
            stderr=self.stderr,
            ci_low=self.ci_low,
            ci_high=self.ci_high,
            unit=unit,
            higher_is_better=higher_is_better,
            reason=self.reason,
        )


def undefined(reason: str, n: int = 0) -> Estimate:
    """No number, and why."""
    return Estimate(math.nan, math.nan, math.nan, math.nan, n, reason)


def cluster_codes(clusters: Sequence[Any] | NDArray[Any] | None, n: int) -> NDArray[np.intp]:
    """Clusters as integers 0 .. G - 1, shape (n,); None makes every observation its own."""
    if clusters is None:
        return np.arange(n)
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(codes) != n:
        raise ValueError(f"{n} observations but {len(codes)} clusters")
    return codes.astype(np.intp)


def cluster_variance(terms: Array, codes: NDArray[np.intp]) -> float:
    """Variance of a sum of mean-zero ``terms`` (n,): G/(G-1) sum over clusters of (their sum)^2.

    For a mean the terms are (x_i - mean)/n; for any smooth estimator they are its influences.
    NaN with one cluster.
    """
    sums = np.bincount(codes, weights=terms)
    count = len(sums)
    return float(count / (count - 1) * np.sum(sums**2)) if count > 1 else math.nan


def t_quantile(clusters: float, level: float) -> float:
    """Two-sided t critical value with ``clusters`` - 1 degrees of freedom."""
    return float(special.stdtrit(clusters - 1, 0.5 + level / 2)) if clusters > 1 else math.nan


def z_quantile(level: float) -> float:
    """Two-sided normal critical value: 1.96 at 0.95."""
    return float(special.ndtri(0.5 + level / 2))


def clustered_mean(
    values: ArrayLike, clusters: Sequence[Any] | NDArray[Any] | None = None, level: float = 0.95
) -> Estimate:
    """Mean of ``values`` (n,) with its clustered standard error and t interval."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return undefined("no observations")
    codes = cluster_codes(clusters, len(x))
    mean = float(x.mean())
    stderr = math.sqrt(cluster_variance((x - mean) / len(x), codes))
    half = t_quantile(int(codes.max()) + 1, level) * stderr
    reason = ONE_CLUSTER if math.isnan(stderr) else ""
    return Estimate(mean, stderr, mean - half, mean + half, len(x), reason)


def ratio_of_means(
    numerator: ArrayLike,
    denominator: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any] | None = None,
    level: float = 0.95,
    *,
    log_scale: bool = False,
) -> Estimate:
    """sum(numerator) / sum(denominator), both (n,), by linearisation, clustered.

    Also a token-weighted mean: nats over tokens. ``log_scale`` makes the interval symmetric in
    the logarithm, for a ratio of two positive lengths.
    """
    top = np.asarray(numerator, dtype=np.float64)
    bottom = np.asarray(denominator, dtype=np.float64)
    if not len(top):
        return undefined("no observations")
    if bottom.sum() <= 0:
        return undefined("the denominator's sum is 0", len(top))
    codes = cluster_codes(clusters, len(top))
    ratio = float(top.sum() / bottom.sum())
    stderr = math.sqrt(cluster_variance((top - ratio * bottom) / bottom.sum(), codes))
    half = t_quantile(int(codes.max()) + 1, level) * stderr
    low, high = ratio - half, ratio + half
    if log_scale:
        if ratio <= 0:
            return undefined("the numerator's sum is 0", len(top))
        low, high = ratio * math.exp(-half / ratio), ratio * math.exp(half / ratio)
    reason = ONE_CLUSTER if math.isnan(stderr) else ""
    return Estimate(ratio, stderr, low, high, len(top), reason)


def independent_difference(
    a: Estimate, b: Estimate, n_clusters: int, level: float = 0.95
) -> Estimate:
    """``a`` less ``b``, measured on different rows, of which the fewer have ``n_clusters``."""
    if not (math.isfinite(a.value) and math.isfinite(b.value)):
        return undefined(a.reason or b.reason, min(a.n, b.n))
    stderr = math.hypot(a.stderr, b.stderr)
    half = t_quantile(n_clusters, level) * stderr
    gap = a.value - b.value
    reason = a.reason or b.reason
    return Estimate(gap, stderr, gap - half, gap + half, min(a.n, b.n), reason)


def rank_correlation(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Spearman's correlation of ``a`` and ``b``, (n,) each, with a clustered interval.

    The interval is symmetric in atanh; its standard error is that of the ranks' Pearson
    correlation by linearisation.
    """
    from pandas import Series  # whoever has frames has it; scipy.stats is 22 MB in every worker

    x, y = (Series(np.asarray(v, dtype=np.float64)).rank().to_numpy() for v in (a, b))
    if len(x) < 4 or not (x.std() and y.std()):
        return undefined("fewer than 4 observations, or all alike", len(x))
    x, y = ((v - v.mean()) / v.std() for v in (x, y))
    r = float((x * y).mean())
    codes = cluster_codes(clusters, len(x))
    stderr = math.sqrt(cluster_variance((x * y - r * (x**2 + y**2) / 2) / len(x), codes))
    if abs(r) > 1 - 1e-12 or math.isnan(stderr):
        return Estimate(r, stderr, math.nan, math.nan, len(x), "no interval can be given")
    half = t_quantile(int(codes.max()) + 1, level) * stderr / (1 - r**2)
    low, high = (math.tanh(math.atanh(r) + side * half) for side in (-1, 1))
    return Estimate(r, stderr, low, high, len(x))


def wilson(p: float, n: float, quantile: float) -> tuple[float, float]:
    """Score interval for a proportion ``p`` of ``n`` (Wilson 1927); ``n`` need not be whole."""
    if not n > 0:
        return math.nan, math.nan
    shrink = 1 + quantile**2 / n
    centre = (p + quantile**2 / (2 * n)) / shrink
    half = quantile / shrink * math.sqrt(p * (1 - p) / n + quantile**2 / (4 * n * n))
    low = 0.0 if p == 0 else max(0.0, centre - half)
    return low, 1.0 if p == 1 else min(1.0, centre + half)


def binomial_interval(p: float, n: float, quantile: float) -> tuple[float, float]:
    """Mid-P interval for a proportion ``p`` of ``n``, exact where that one lies near 0 or 1.

    Mid-P (Lancaster 1961; Berry and Armitage 1995) counts half of the chance of what was seen, and
    covers close to its level on both sides. Where Clopper and Pearson's interval lies wholly below
    10% or above 90% it is taken: it never covers less than its level, which matters most there. So
    for n >= 50 rates of 10, 15, ..., 90% are covered by 93.5 to 96.5% of 95% intervals, rates
    nearer 0 or 1 by at least 93.9%. ``n`` need not be whole.
    """
    if not n > 0:
        return math.nan, math.nan
    tail = max(float(special.ndtr(-quantile)), LEAST_TAIL)
    hits, misses = (share * n if share > 1e-12 else 0.0 for share in (p, 1 - p))
    low, high = (1 - _exact_high(misses, hits, tail)), _exact_high(hits, misses, tail)
    if high < ENDS or low > 1 - ENDS:
        return low, high
    return 1 - _mid_p_high(misses, hits, tail), _mid_p_high(hits, misses, tail)


def _exact_high(hits: float, misses: float, tail: float) -> float:
    """The rate at which as few hits have a chance of ``tail``."""
    return float(special.betainccinv(hits + 1, misses, tail)) if misses > 0 else 1.0


def _mid_p_high(hits: float, misses: float, tail: float) -> float:
    """The rate at which fewer hits and half of as many have a chance of ``tail``."""
    if misses <= 0:
        return 1.0

    def excess(rate: float) -> float:
        fewer = special.betaincc(hits, misses + 1, rate) if hits > 0 else 0.0
        at_most = special.betaincc(hits + 1, misses, rate)
        return float((fewer + at_most) / 2 - tail)

    exact = _exact_high(hits, misses, tail)
    if excess(exact) >= 0:  # by rounding alone
        return exact
    return float(optimize.brentq(excess, hits / (hits + misses), exact, xtol=1e-12))


def design_effect(values: ArrayLike, clusters: Sequence[Any] | NDArray[Any] | None) -> float:
    """How much clustering multiplies the variance of the mean of ``values`` (n,); at least 1.

    Constant values show nothing about it: then n/G, as if each cluster were one observation.
    NaN with one cluster of several observations.
    """
    x = np.asarray(values, dtype=np.float64)
    codes = cluster_codes(clusters, len(x))
    count = int(codes.max()) + 1
    if count == len(x):
        return 1.0
    if count == 1:
        return math.nan
    plain = float(x.var(ddof=1)) / len(x)
    if plain == 0:
        return len(x) / count
    return max(1.0, cluster_variance((x - x.mean()) / len(x), codes) / plain)


def proportion(
    successes: ArrayLike, clusters: Sequence[Any] | NDArray[Any] | None = None, level: float = 0.95
) -> Estimate:
    """Share of ``successes`` (n,) of 0 and 1, with ``binomial_interval``.

    With clusters, n becomes n / design effect and the normal quantile t with G - 1 degrees of
    freedom (Korn and Graubard 1998 do so for exact intervals). Conservative near 0 and 1.
    """
    x = np.asarray(successes, dtype=np.float64)
    if not len(x):
        return undefined("no observations")
    p = float(x.mean())
    count = int(cluster_codes(clusters, len(x)).max()) + 1
    effective = len(x) / design_effect(x, clusters)
    if math.isnan(effective):
        return Estimate(p, math.nan, math.nan, math.nan, len(x), ONE_CLUSTER)
    quantile = z_quantile(level) if count == len(x) else t_quantile(count, level)
    low, high = binomial_interval(p, effective, quantile)
    return Estimate(p, math.sqrt(p * (1 - p) / effective), low, high, len(x))


def bounded_mean(
    scores: ArrayLike, clusters: Sequence[Any] | NDArray[Any] | None = None, level: float = 0.95
) -> Estimate:
    """Mean of ``scores`` (n,) in [0, 1], such as preferences, with an interval inside [0, 1].

    Wilson's interval at the size n* for which a share of this mean would have this clustered
    standard error: n* = p(1 - p)/SE^2. Near 1/2 it is the t interval.
    """
    x = np.asarray(scores, dtype=np.float64)
    plain = clustered_mean(x, clusters, level)
    if not math.isfinite(plain.stderr):
        return plain
    p = min(max(plain.value, 0.0), 1.0)
    count = int(cluster_codes(clusters, len(x)).max()) + 1
    spread = p * (1 - p)
    if plain.stderr == 0 and spread > 0:  # every score the same, and none at an end
        return replace(plain, ci_low=p, ci_high=p)
    effective = spread / plain.stderr**2 if plain.stderr > 0 else float(count)
    low, high = wilson(p, effective, t_quantile(count, level))
    return replace(plain, ci_low=low, ci_high=high)


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided exact McNemar p-value of ``gained`` against ``lost`` pairs (McNemar 1947).

    >>> round(mcnemar_exact(1, 5), 5)
    0.21875
    """
    n = gained + lost
    return min(1.0, 2 * float(special.bdtr(min(gained, lost), n, 0.5))) if n else 1.0


def holm(p_values: ArrayLike) -> Array:
    """Holm's adjusted p-values (m,), in the order given (Holm 1979).

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    result = np.empty(len(p))
    result[order] = np.minimum(1.0, adjusted)
    return result


def benjamini_hochberg(p_values: ArrayLike) -> Array:
    """False-discovery-adjusted p-values (m,), in the order given (Benjamini and Hochberg 1995).

    Calling those at most q significant keeps the expected share of false calls at most q, for
    independent or positively dependent tests. For boards of many metrics; `holm` is for a verdict.

    >>> benjamini_hochberg([0.01, 0.04, 0.03, 0.005]).round(3).tolist()
    [0.02, 0.04, 0.04, 0.02]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.minimum.accumulate(scaled[::-1])[::-1]
    result = np.empty(len(p))
    result[order] = np.minimum(1.0, adjusted)
    return result


def detectable_effect(sd: float, n: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true mean difference that n independent differences of standard deviation
    ``sd`` would show at ``level`` with probability ``power``; in the unit of ``sd``.

    (z_level + z_power) sd / sqrt(n), the normal approximation. With clusters, n is n / design
    effect.
    """
    if not n > 0:
        return math.nan
    return (z_quantile(level) + float(special.ndtri(power))) * sd / math.sqrt(n)


def required_n(sd: float, effect: float, *, level: float = 0.95, power: float = 0.8) -> int:
    """How many independent differences show ``effect``: the inverse of `detectable_effect`."""
    if not effect > 0:
        raise ValueError("effect must be > 0")
    return math.ceil((detectable_effect(sd, 1, level=level, power=power) / effect) ** 2)
