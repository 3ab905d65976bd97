"""Bootstrap over clusters of prompts, and simultaneous intervals for many checkpoints at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from prefeval.metrics.stats import Array, cluster_codes


def cluster_weights(
    clusters: Sequence[Any] | NDArray[Any] | None, n: int, n_boot: int, rng: np.random.Generator
) -> Array:
    """How often each observation occurs in each resample: shape (n_boot, n).

    Clusters are drawn with replacement, as many as there are (Efron 1979; Field and Welsh 2007).
    """
    codes = cluster_codes(clusters, n)
    count = int(codes.max()) + 1 if n else 0
    if not count:
        return np.zeros((n_boot, 0))
    draws = rng.multinomial(count, np.full(count, 1 / count), size=n_boot)
    weights: Array = draws[:, codes].astype(np.float64)
    return weights


def bootstrap_stderr(replicates: ArrayLike, clusters: int) -> float:
    """Standard deviation of bootstrap ``replicates`` (B,), times sqrt(G/(G - 1)).

    The factor undoes the bootstrap's own division by G where it should be G - 1. NaN replicates
    (a resample in which the statistic is undefined) are left out.
    """
    values = np.asarray(replicates, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2 or clusters < 2:
        return math.nan
    return float(values.std(ddof=1) * math.sqrt(clusters / (clusters - 1)))


def logit_interval(share: float, stderr: float, quantile: float) -> tuple[float, float]:
    """Interval of a share in (0, 1), symmetric on the logit scale, so it stays inside (0, 1)."""
    if not (math.isfinite(share) and math.isfinite(stderr) and math.isfinite(quantile)):
        return math.nan, math.nan
    if stderr == 0 or not 0 < share < 1:
        return share, share
    half = quantile * stderr / (share * (1 - share))
    centre = special.logit(share)
    return float(special.expit(centre - half)), float(special.expit(centre + half))


@dataclass(frozen=True)
class Simultaneous:
    """Intervals (m,) that all hold together with the stated probability."""

    critical: float
    ci_low: Array
    ci_high: Array


def max_t(estimates: ArrayLike, replicates: ArrayLike, level: float = 0.95) -> Simultaneous:
    """Simultaneous intervals of ``estimates`` (m,) from joint bootstrap ``replicates`` (B, m).

    The critical value is the ``level`` quantile of the largest |t*| over the m estimates
    (Westfall and Young 1993; Hothorn, Bretz and Westfall 2008), so it uses their correlation.
    An estimate that never varies is known exactly.
    """
    value = np.asarray(estimates, dtype=np.float64)
    draws = np.asarray(replicates, dtype=np.float64)
    if not len(value):
        return Simultaneous(math.nan, value, value)
    spread = draws.std(axis=0, ddof=1)
    moving = spread > 1e-12
    critical = 0.0
    if moving.any():
        t = np.abs(draws[:, moving] - draws[:, moving].mean(axis=0)) / spread[moving]
        critical = float(np.quantile(t.max(axis=1), level))
    half = critical * np.where(moving, spread, 0.0)
    return Simultaneous(critical, value - half, value + half)
