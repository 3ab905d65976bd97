"""How far two judges agree: raw agreement, and Cohen's kappa beside it.

Kappa (Cohen 1960) takes off what chance would give at each judge's own rates; where nearly every
verdict is the same it is near 0 whatever the agreement ("the kappa paradox", Feinstein and
Cicchetti 1990), so neither number is shown without the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefeval.metrics import resample, stats
from prefeval.metrics.stats import Array
from prefeval.records import MetricResult

RESAMPLES = 1000


def winners(preference: ArrayLike) -> Array:
    """+1 the model, -1 the baseline, 0 a tie of exactly 1/2; NaN stays NaN."""
    return np.asarray(np.sign(np.round(np.asarray(preference, dtype=np.float64) - 0.5, 9)))


def agreement(
    first: ArrayLike,
    second: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any] | None = None,
    *,
    rng: np.random.Generator,
) -> list[MetricResult]:
    """``agreement`` (percent) and ``kappa`` (-1 to 1) of two judges' winners; n is comparisons.

    Preferences (n,) in [0, 1]; those that either could not read are left out. The interval of
    kappa is from a cluster bootstrap, and NaN where kappa is (one judge with one answer).
    """
    a, b = winners(first), winners(second)
    codes = stats.cluster_codes(clusters, len(a))
    read = np.isfinite(a) & np.isfinite(b)
    a, b, codes = a[read], b[read], stats.cluster_codes(codes[read], int(read.sum()))
    if not len(a):
        none = stats.undefined("no comparison was read by both")
        return [none.metric("agreement", "percent", True), none.metric("kappa", "", True)]
    raw = stats.proportion(a == b, codes).scaled(100)
    tables = _tables(a, b, codes)
    value = float(_kappa(tables.sum(axis=0, keepdims=True))[0])
    if math.isnan(value):
        reason = "one judge gave every comparison the same verdict"
        kappa = stats.undefined(reason, len(a))
    else:
        count = len(tables)
        draws = _kappa(resample.cluster_weights(None, count, RESAMPLES, rng) @ tables)
        stderr = resample.bootstrap_stderr(draws, count)
        half = stats.t_quantile(count, 0.95) * stderr
        low, high = max(-1.0, value - half), min(1.0, value + half)
        kappa = stats.Estimate(value, stderr, low, high, len(a))
    return [raw.metric("agreement", "percent", True), kappa.metric("kappa", "", True)]


def _tables(a: Array, b: Array, codes: NDArray[np.intp]) -> Array:
    """How often each pair of verdicts occurs in each cluster: (G, 9), -1 before 0 before 1."""
    cells = (9 * codes + 3 * (a + 1) + (b + 1)).astype(np.intp)
    count = int(codes.max()) + 1
    return np.bincount(cells, minlength=9 * count).reshape(count, 9).astype(np.float64)


def _kappa(tables: Array) -> Array:
    """Kappa of each table of counts (B, 9)."""
    share = (tables / tables.sum(axis=1, keepdims=True)).reshape(-1, 3, 3)
    observed = np.trace(share, axis1=1, axis2=2)
    expected = (share.sum(axis=2) * share.sum(axis=1)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(
            expected < 1 - 1e-12, (observed - expected) / (1 - expected), math.nan
        )
    return found
