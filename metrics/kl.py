"""Reverse KL from the reference and the policy's entropy, on the policy's own samples at
temperature 1 without top-p or top-k.

``kl`` is the Rao-Blackwellised estimate (Amini et al. 2025, arXiv 2504.10637): the sum over
positions of the full-vocabulary KL(pi(.|y<t) || pi_ref(.|y<t)), the end token included. ``k1``
is the plain estimate, the mean of log pi(y|x) - log pi_ref(y|x) (Schulman 2020, "Approximating
KL divergence"): unbiased too, noisier, and it can be negative. Truncated samples bias both low:
read them with ``truncation_rate``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from prefeval.metrics import stats
from prefeval.metrics.evidence import Evidence
from prefeval.records import MetricResult

NATS = "nats/sequence"


def kl(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """``kl``, ``k1`` (nats/sequence), ``sqrt_kl``, ``kl_per_token`` and ``entropy`` (nats/token).

    Per-token numbers are ratios of sums, each token counting once. ``sqrt_kl`` is the distance
    of Gao et al. 2022 (arXiv 2210.10760).
    """
    frame = evidence.samples
    if frame.empty:
        none = stats.undefined("no samples at temperature 1")
        units = {"kl": NATS, "k1": NATS, "sqrt_kl": "sqrt(nats/sequence)"}
        names = ("kl", "k1", "sqrt_kl", "kl_per_token", "entropy")
        return [none.metric(name, units.get(name, "nats/token")) for name in names]
    cluster, tokens = frame["cluster"].to_numpy(), frame["n_tokens"]
    mean = stats.clustered_mean(frame["kl"], cluster)
    return [
        mean.metric("kl", NATS),
        stats.clustered_mean(frame["k1"], cluster).metric("k1", NATS),
        _root(mean).metric("sqrt_kl", "sqrt(nats/sequence)"),
        stats.ratio_of_means(frame["kl"], tokens, cluster).metric("kl_per_token", "nats/token"),
        stats.ratio_of_means(frame["entropy"] * tokens, tokens, cluster).metric(
            "entropy", "nats/token"
        ),
    ]


def _root(mean: stats.Estimate) -> stats.Estimate:
    """Square root of a KL and its interval's ends; a rounding error below 0 counts as 0."""
    value, low, high = (
        math.sqrt(max(x, 0.0)) if math.isfinite(x) else math.nan
        for x in (mean.value, mean.ci_low, mean.ci_high)
    )
    stderr = mean.stderr / (2 * value) if value > 0 else math.nan
    return replace(mean, value=value, ci_low=low, ci_high=high, stderr=stderr)
