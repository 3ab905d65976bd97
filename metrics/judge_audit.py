"""What a judge is worth where the truth is known, and whether that changes with distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from prefeval.metrics import stats
from prefeval.metrics.agreement import agreement, winners
from prefeval.metrics.stats import Array, Estimate
from prefeval.records import MetricResult

NO_ORACLE = "these comparisons have no oracle: the lab alone has one"


def agrees(judgments: pd.DataFrame) -> Array:
    """1 where the judge's winner is the oracle's, 0 where not, NaN where the oracle has none or
    the verdict was not read: (n,). A judge's tie is not the oracle's winner."""
    judge, oracle = winners(judgments["preference"]), winners(judgments["true_preference"])
    known = np.isfinite(judge) & np.isfinite(oracle) & (oracle != 0)
    return np.where(known, judge == oracle, math.nan)


def share(
    outcome: ArrayLike, clusters: Sequence[Any] | NDArray[Any] | None, reason: str
) -> Estimate:
    """Share of 1 among the known values of ``outcome`` (n,), in percent; ``reason`` if none is."""
    x = np.asarray(outcome, dtype=np.float64)
    known = np.isfinite(x)
    if not known.any():
        return stats.undefined(reason)
    codes = stats.cluster_codes(clusters, len(x))[known]
    return stats.proportion(x[known], codes).scaled(100)


def against_oracle(judgments: pd.DataFrame, *, rng: np.random.Generator) -> list[MetricResult]:
    """``agreement`` (percent) and ``kappa`` where the oracle has a winner, and the two errors of
    length (percent): ``longer_though_worse`` is how often the longer answer wins where the oracle
    prefers the shorter, ``shorter_though_worse`` the reverse. n is comparisons.

    A judge without a liking for length errs as often one way as the other.
    """
    known, cluster = np.isfinite(agrees(judgments)), judgments["cluster"].to_numpy()
    judge, oracle = winners(judgments["preference"]), winners(judgments["true_preference"])
    if not known.any():
        none = stats.undefined(NO_ORACLE)
        names = {"agreement": "percent", "kappa": ""}
        found = [none.metric(name, unit, True) for name, unit in names.items()]
    else:
        seen = judgments[known]
        found = agreement(seen["preference"], seen["true_preference"], cluster[known], rng=rng)
    longer = np.sign((judgments["len_output"] - judgments["len_baseline"]).to_numpy())
    for name, side in (("longer_though_worse", longer), ("shorter_though_worse", -longer)):
        errs = np.where(known & (longer != 0) & (oracle == -side), judge == side, math.nan)
        reason = NO_ORACLE if not known.any() else "the oracle never prefers that one"
        found.append(share(errs, cluster, reason).metric(name, "percent", False))
    return found


def change(
    outcome: ArrayLike, far: ArrayLike, clusters: Sequence[Any] | NDArray[Any] | None = None
) -> Estimate:
    """Share of 1 where ``far`` less that elsewhere, in points; NaN outcomes are left out.

    Both halves hold the same prompts, so the interval is of the difference of the two means with
    the influences summed within each cluster (``stats.cluster_variance``), and the t quantile.
    """
    x, away = np.asarray(outcome, dtype=np.float64), np.asarray(far, dtype=bool)
    known = np.isfinite(x)
    codes = stats.cluster_codes(stats.cluster_codes(clusters, len(x))[known], int(known.sum()))
    x, away = x[known], away[known]
    if not away.any() or away.all():
        return stats.undefined("one half has no comparison", len(x))
    means = x[away].mean(), x[~away].mean()
    terms = np.where(away, (x - means[0]) / away.sum(), -(x - means[1]) / (~away).sum())
    stderr = math.sqrt(stats.cluster_variance(terms, codes))
    half = stats.t_quantile(int(codes.max()) + 1, 0.95) * stderr
    gap = float(means[0] - means[1])
    reason = stats.ONE_CLUSTER if math.isnan(stderr) else ""
    return Estimate(gap, stderr, gap - half, gap + half, len(x), reason).scaled(100)
