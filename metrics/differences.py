"""One paired difference, B less A over the same rows, with its interval and its test.

- Shares of what is passed or failed (checks, flips, end tokens): the exact McNemar test and, where
  a cluster holds several rows, its generalisation (``swap_test``), with Tango's interval
  (``paired``). The test serves verdicts that are all 0, 1/2 or 1 too.
- Means and ratios: the paired or linearised difference, with cluster-robust variance (Miller 2024,
  arXiv 2411.00640) and t with G - 1 degrees of freedom for G clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from prefeval.metrics import paired, stats
from prefeval.metrics.stats import Array, Estimate

LEVEL = 0.95
EXACT_UP_TO = 4000  # of what a swap test's clusters sum to; the normal tail serves above
POINTS, NATS, PER_TOKEN, TIMES = "points", "nats/sequence", "nats/token", "×"


@dataclass(frozen=True)
class Difference:
    """One line: A's and B's value on the joint rows, and the difference.

    ``difference`` is B less A in ``unit``; where that is "×" it is B over A, and 1 is no
    difference. ``better`` says whether more of it is better (1), worse (-1) or neither (0). ``p``
    is two-sided by ``test``, ``p_holm`` corrected within its family. ``gained`` and ``lost`` count
    the rows that only B and only A passed, and ``p_worse`` tests "B is lower by more than the
    margin" one-sided (``share_difference`` alone). ``clusters`` less 1 are the degrees of freedom.
    """

    name: str
    unit: str
    better: int
    a: float
    b: float
    difference: Estimate
    p: float
    clusters: int
    test: str
    p_holm: float = math.nan
    gained: int | None = None
    lost: int | None = None
    p_worse: float = math.nan

    @property
    def null(self) -> float:
        """The difference of equals."""
        return 1.0 if self.unit == TIMES else 0.0

    @property
    def verdict(self) -> str:
        """better, worse, more, less, no difference shown, or not compared."""
        if not math.isfinite(self.p):
            return "not compared"
        if not self.p_holm <= 1 - LEVEL:
            return "no difference shown"
        up = self.difference.value > self.null
        if not self.better:
            return "more" if up else "less"
        return "better" if up == (self.better > 0) else "worse"

    @property
    def up_to(self) -> float:
        """How large a difference the interval still allows, either way (a factor for "×")."""
        low, high = self.difference.ci_low, self.difference.ci_high
        if self.unit != TIMES:
            return max(abs(low), abs(high))
        return max(high, 1 / low) if low > 0 else math.nan


def none(name: str, unit: str, better: int, reason: str, n: int = 0) -> Difference:
    """No difference, and why."""
    return Difference(
        name, unit, better, math.nan, math.nan, stats.undefined(reason, n), math.nan, 0, ""
    )


def corrected(lines: list[Difference]) -> tuple[Difference, ...]:
    """The lines with ``p_holm`` over those of them that have a p-value."""
    known = [i for i, line in enumerate(lines) if math.isfinite(line.p)]
    adjusted = dict(zip(known, stats.holm([lines[i].p for i in known]), strict=True))
    return tuple(
        replace(line, p_holm=float(adjusted.get(i, math.nan))) for i, line in enumerate(lines)
    )


def swap_test(differences: ArrayLike, clusters: ArrayLike) -> float:
    """Exact two-sided p-value of whole ``differences`` (n,) when each cluster may swap A and B.

    Under the null each cluster's sum is as likely with either sign; the p-value is the chance of
    a total at least as far from 0. With one row a cluster and differences of -1, 0 and 1 this is
    the exact McNemar test.

    >>> round(swap_test([1, -1, -1, -1, -1, -1, 0], range(7)), 5)
    0.21875
    """
    whole = np.asarray(differences, dtype=np.float64)
    codes = stats.cluster_codes(np.asarray(clusters), len(whole))
    sums = np.bincount(codes, weights=whole).round().astype(int)
    sizes, total = np.abs(sums[sums != 0]), abs(int(sums.sum()))
    if sizes.sum() > EXACT_UP_TO:
        return float(2 * special.ndtr(-total / math.sqrt(float((sizes**2).sum()))))
    chances: Array = np.ones(1)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        k = np.arange(count + 1)
        log_ways = (
            special.gammaln(count + 1) - special.gammaln(k + 1) - special.gammaln(k[::-1] + 1)
        )
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = np.exp(log_ways - count * math.log(2))
        chances = np.convolve(chances, steps)
    away = np.abs(np.arange(len(chances)) - len(chances) // 2)
    return float(min(1.0, chances[away >= total].sum()))


def t_test(change: float, stderr: float, clusters: int) -> float:
    """Two-sided p-value of ``change`` = 0 by t with ``clusters`` - 1 degrees of freedom.

    Differences that are all equal have no spread: the p-value is then the chance that all clusters
    have one sign. NaN with one cluster.
    """
    if clusters < 2 or not (math.isfinite(change) and math.isfinite(stderr)):
        return math.nan
    if change == 0:
        return 1.0
    if stderr < 1e-12 * abs(change):
        return 2.0 ** (1 - min(clusters, 1000))
    return float(2 * special.stdtr(clusters - 1, -abs(change) / stderr))


def interval(value: float, stderr: float, clusters: int, n: int) -> Estimate:
    """``value`` with its t interval; of one cluster there is none, with the reason."""
    half = stats.t_quantile(clusters, LEVEL) * stderr
    reason = stats.ONE_CLUSTER if math.isnan(stderr) else ""
    return Estimate(value, stderr, value - half, value + half, n, reason)


def mean_difference(
    name: str, unit: str, better: int, a: ArrayLike, b: ArrayLike, cluster: NDArray[Any]
) -> Difference:
    """Difference of two means over the same rows, (n,) each; shares become points.

    Shares are tested exactly where all differences are quarters (verdicts of 0, 1/2 and 1, in two
    orders), because a t test of a few such differences is too ready to find one.
    """
    first, second = (np.asarray(x, dtype=np.float64) for x in (a, b))
    if not len(first):
        return none(name, unit, better, "no rows in common")
    change, scale = second - first, 100 if unit == POINTS else 1
    found = stats.clustered_mean(change, cluster, LEVEL).scaled(scale)
    clusters, quarters = len(np.unique(cluster)), np.round(4 * change)
    discrete = unit == POINTS and bool((np.abs(4 * change - quarters) < 1e-9).all())
    p = swap_test(quarters, cluster) if discrete else t_test(found.value, found.stderr, clusters)
    ends = scale * float(first.mean()), scale * float(second.mean())
    test = "exact" if discrete else "t"
    if clusters < 2:
        p = math.nan
    return Difference(name, unit, better, *ends, found, p, clusters, test)


def share_difference(
    name: str,
    better: int,
    a: ArrayLike,
    b: ArrayLike,
    cluster: NDArray[Any],
    *,
    margin: float = 5.0,
) -> Difference:
    """Change in the share of rows that pass, (n,) of 0 and 1 each, in points, as is ``margin``."""
    first, second = (np.asarray(x, dtype=np.float64) for x in (a, b))
    if not len(first):
        return none(name, POINTS, better, "no rows in common")
    found = paired.paired_change(second, first, cluster, margin=margin / 100, level=LEVEL)
    clusters = len(np.unique(cluster))
    return Difference(
        name, POINTS, better, 100 * float(first.mean()), 100 * float(second.mean()),
        found.change.scaled(100),
        swap_test(second - first, cluster) if clusters > 1 else math.nan,
        clusters, "exact", gained=found.gained, lost=found.lost, p_worse=found.p_worse,
    )  # fmt: skip


def ratio_difference(
    name: str,
    unit: str,
    better: int,
    a: tuple[ArrayLike, ArrayLike],
    b: tuple[ArrayLike, ArrayLike],
    cluster: NDArray[Any],
) -> Difference:
    """Difference of two ratios of sums, each (numerator, denominator) of (n,) over the same rows.

    By linearisation: a row contributes (x - r y)/sum(y) to the ratio r.
    """
    ratios, terms = [], []
    for top, bottom in (a, b):
        x, y = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
        if not y.sum() > 0:
            return none(name, unit, better, "no rows in common", len(y))
        ratios.append(float(x.sum() / y.sum()))
        terms.append((x - ratios[-1] * y) / y.sum())
    codes = stats.cluster_codes(cluster, len(terms[0]))
    stderr = math.sqrt(stats.cluster_variance(terms[1] - terms[0], codes))
    value, clusters = ratios[1] - ratios[0], int(codes.max()) + 1
    found = interval(value, stderr, clusters, len(codes))
    p = t_test(value, stderr, clusters)
    return Difference(name, unit, better, ratios[0], ratios[1], found, p, clusters, "t")


def factor(
    name: str, a: ArrayLike, b: ArrayLike, cluster: NDArray[Any], *, paired: bool
) -> Difference:
    """How many times as much B has as A, both positive (n,) over the same rows.

    The ratio of the means, or (``paired``) the geometric mean of the rows' ratios; its interval is
    symmetric in the logarithm, its null is 1.
    """
    first, second = (np.asarray(x, dtype=np.float64) for x in (a, b))
    if not len(first) or not (first.sum() > 0 and second.sum() > 0):
        return none(name, TIMES, 0, "no rows in common")
    if paired:
        logs = stats.clustered_mean(np.log(second) - np.log(first), cluster, LEVEL)
        ends = [float(np.exp(np.log(x).mean())) for x in (first, second)]
    else:
        ratio = stats.ratio_of_means(second, first, cluster, LEVEL, log_scale=True)
        logs = Estimate(
            math.log(ratio.value), ratio.stderr / ratio.value, math.log(ratio.ci_low),
            math.log(ratio.ci_high), ratio.n, ratio.reason,
        )  # fmt: skip
        ends = [float(first.mean()), float(second.mean())]
    clusters = len(np.unique(cluster))
    value, low, high = (math.exp(x) for x in (logs.value, logs.ci_low, logs.ci_high))
    found = Estimate(value, value * logs.stderr, low, high, logs.n, logs.reason)
    p = t_test(logs.value, logs.stderr, clusters)
    return Difference(name, TIMES, 0, ends[0], ends[1], found, p, clusters, "t")
