"""How many preference labels are flipped: what a file alone can show, and what it cannot.

Say each label was flipped with probability epsilon, whatever the pair. A predictor that was not
shown a label disagrees with it at a rate epsilon + (1 - 2 epsilon) e, e its error on the labels
before flipping. As e is unknown, so is epsilon: hard pairs and flipped labels look alike. What
remains without a clean set (Scott, Blanchard and Handy 2013; Menon et al. 2015, who need the same):

- at most: epsilon is no larger than the rate of disagreement, on all pairs or on any part of them
  that was chosen without their labels, so where the predictor is surest (`at_most`);
- at least: labels of one and the same pair that contradict each other cannot all be right
  (`contradictions`), and two labels of a pair differ at a rate 2 epsilon (1 - epsilon) (`retest`);
- with labels that are trusted, the same predictors lose a factor 1 - 2 epsilon of their agreement
  on the labels in question (`beside_trusted`): an estimate, of the flips over the trusted ones'.

If flips gather where pairs are hard, the bound holds for the pairs that the predictor is sure of.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefeval.metrics import stats
from prefeval.metrics.stats import Array, Estimate

SHARES = (0.05, 0.1, 0.2, 0.4, 1.0)  # of the rows, the surest first
MIN_ROWS = 30
MIN_REPEATS = 20
SURE = 4.0


class Bound(NamedTuple):
    """The flip rate is at most ``high``, at ``level``; seen on the surest ``share`` of the rows."""

    high: float
    share: float
    disagreement: float
    n: int
    reason: str = ""


def at_most(scores: Array, labels: Array, clusters: NDArray[Any], *, level: float = 0.95) -> Bound:
    """The lowest of the upper limits over ``SHARES`` of the rows, each at 1 - (1 - level)/5.

    By Bonferroni all limits hold at once, so their minimum does. ``scores`` (n,) must not have seen
    their own labels (1 or -1).
    """
    wrong = (1 - np.sign(scores) * labels) / 2
    order = np.argsort(-np.abs(scores), kind="stable")
    best = Bound(math.nan, math.nan, math.nan, len(scores), f"fewer than {MIN_ROWS} rows")
    each = 1 - 2 * (1 - level) / len(SHARES)  # two-sided, of which the upper limit is used
    for share in SHARES:
        rows = order[: round(share * len(order))]
        if len(rows) < MIN_ROWS:
            continue
        if ((wrong[rows] > 0) & (wrong[rows] < 1)).any():
            found = stats.bounded_mean(wrong[rows], clusters[rows], each)
        else:
            found = stats.proportion(wrong[rows], clusters[rows], each)
        if math.isfinite(found.ci_high) and not found.ci_high >= best.high:
            best = Bound(min(found.ci_high, 0.5), share, found.value, len(rows))
    return best


def contradictions(groups: NDArray[Any], labels: Array) -> Estimate:
    """Share of rows whose label must be wrong, since rows of the same group have the other one.

    ``groups`` (n,): equal for the same prompt with the same answers; ``labels`` 1 or -1, of which
    the fewer in a group are counted. No interval: it is counted, not estimated.
    """
    codes = stats.cluster_codes(groups, len(labels))
    up = np.bincount(codes, weights=labels > 0)
    all_ = np.bincount(codes)
    share = float(np.minimum(up, all_ - up).sum() / max(1, len(labels)))
    return Estimate(share, math.nan, math.nan, math.nan, len(labels))


def retest(groups: NDArray[Any], labels: Array, level: float = 0.95) -> Estimate:
    """The flip rate from pairs that were labelled twice: (1 - sqrt(1 - 2 d))/2, d the rate at which
    two labels of one pair differ. n counts such twos; NaN below 20 of them.

    It takes the two labels as given independently: a row copied with its label hides noise.
    """
    codes = stats.cluster_codes(groups, len(labels))
    order = np.argsort(codes, kind="stable")
    same = codes[order][1:] == codes[order][:-1]
    differ = (labels[order][1:] != labels[order][:-1])[same]
    if len(differ) < MIN_REPEATS:
        return stats.undefined(f"fewer than {MIN_REPEATS} pairs were labelled twice", len(differ))
    found = stats.proportion(differ, codes[order][1:][same], level)
    value, low, high = (
        (1 - math.sqrt(max(0.0, 1 - 2 * d))) / 2 for d in (found.value, found.ci_low, found.ci_high)
    )
    return Estimate(value, math.nan, low, high, len(differ))


def beside_trusted(
    scores: Array,
    labels: Array,
    clusters: NDArray[Any],
    trusted: NDArray[np.bool_],
    *,
    level: float = 0.95,
) -> Estimate:
    """The flip rate of the rows that are not ``trusted`` over that of those that are.

    (1 - R/T)/2, where R and T are mean agreements y tanh(s/2) of scores that have not seen their
    labels, by models of both parts: tanh(s/2) is the label that a score expects. The interval is
    Fieller's (1954). Below 0 the trusted labels are the noisier ones. NaN where T is not `SURE`
    standard errors above 0: what passes a lower bar is what happens to look predictable, and its
    rates come out too high.
    """
    agree = labels * np.tanh(scores / 2)
    parts = (agree[~trusted], clusters[~trusted]), (agree[trusted], clusters[trusted])
    r, t = (stats.clustered_mean(a, c, level) for a, c in parts)
    if not (t.value > SURE * t.stderr and math.isfinite(r.stderr)):
        return stats.undefined("too little predicts the trusted labels: give more of them", r.n)
    groups = min(len(np.unique(c)) for _, c in parts)
    z2 = stats.t_quantile(groups, level) ** 2
    a = t.value**2 - z2 * t.stderr**2
    b = r.value * t.value
    c = r.value**2 - z2 * r.stderr**2
    if a <= 0:  # few clusters, and so a wide t
        return stats.undefined("too few prompts for an interval: give more of them", r.n)
    root = math.sqrt(max(0.0, b * b - a * c))
    low, high = (1 - (b + root) / a) / 2, (1 - (b - root) / a) / 2
    return Estimate((1 - r.value / t.value) / 2, (high - low) / 2 / math.sqrt(z2), low, high, r.n)


def suspects(scores: Array, labels: Array, count: int) -> NDArray[np.intp]:
    """Places of the ``count`` rows whose labels the scores contradict most, the worst first."""
    against = -labels * scores
    order = np.argsort(-against, kind="stable")[:count]
    return order[against[order] > 0]
