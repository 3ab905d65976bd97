"""KL from the reference and the policy's entropy, at temperature 1 without top-p or top-k.

On the policy's own samples, with r = pi_ref/pi (Schulman 2020, "Approximating KL divergence"):

- ``kl``, the default, is the Rao-Blackwellised estimate (Amini et al. 2025, arXiv 2504.10637): the
  sum over positions of the full-vocabulary KL(pi(.|y<t) || pi_ref(.|y<t)), the end token included.
- ``k1``, the mean of -log r of the sequence: unbiased too, noisier, and it can be negative.
- ``k2``, the sum of each token's (log r)^2/2: biased, and near the KL where that is small.
- ``k3``, the sum of each token's r - 1 - log r: unbiased, never negative, its variance can explode.

``forward_kl``, KL(pi_ref || pi) on the reference's samples, is large where the policy has stopped
covering what the reference says. Truncated samples bias all of them low: read them with
``truncation_rate``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from prefeval.metrics import stats
from prefeval.metrics.evidence import Evidence
from prefeval.records import MetricResult

NATS, PER_TOKEN = "nats/sequence", "nats/token"


class Stretch(NamedTuple):
    """Some positions of all answers; the first token is 1."""

    first: int
    last: int
    n_tokens: int
    kl: stats.Estimate
    """nats/token"""


UNITS = {
    "kl": NATS,
    "k1": NATS,
    "k2": NATS,
    "k3": NATS,
    "forward_kl": NATS,
    "sqrt_kl": "sqrt(nats/sequence)",
    "kl_per_token": PER_TOKEN,
    "forward_kl_per_token": PER_TOKEN,
    "entropy": PER_TOKEN,
}
NOT_MEASURED = "not measured by whoever made these samples"


def kl(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """``kl``, ``k1``, ``k2``, ``k3``, ``forward_kl`` (nats/sequence), ``sqrt_kl``,
    ``kl_per_token``, ``forward_kl_per_token`` and ``entropy`` (nats/token).

    Per-token numbers are ratios of sums, each token counting once. ``sqrt_kl`` is the distance
    of Gao et al. 2022 (arXiv 2210.10760).
    """
    frame = evidence.samples
    if frame.empty:
        none = stats.undefined("no samples at temperature 1")
        return [none.metric(name, unit) for name, unit in UNITS.items()]
    cluster, tokens = frame["cluster"].to_numpy(), frame["n_tokens"]

    def mean(column: str) -> stats.Estimate:
        if column not in frame:
            return stats.undefined(NOT_MEASURED, len(frame))
        return stats.clustered_mean(frame[column], cluster)

    found = {name: mean(name) for name in ("kl", "k1", "k2", "k3", "forward_kl")}
    found["sqrt_kl"] = _root(found["kl"])
    found["kl_per_token"] = stats.ratio_of_means(frame["kl"], tokens, cluster)
    found["forward_kl_per_token"] = (
        stats.ratio_of_means(frame["forward_kl"], frame["ref_n_tokens"], cluster)
        if "forward_kl" in frame
        else stats.undefined(NOT_MEASURED, len(frame))
    )
    found["entropy"] = stats.ratio_of_means(frame["entropy"] * tokens, tokens, cluster)
    return [found[name].metric(name, unit) for name, unit in UNITS.items()]


def by_position(
    terms: Sequence[Sequence[float]], clusters: Sequence[str], *, bins: int = 12
) -> list[Stretch]:
    """Where in an answer the policy leaves its reference: nats/token over stretches of tokens.

    ``terms`` are the KL's terms of each answer, ``clusters`` (n,) of their prompts. Stretches
    double in length (1, 2-3, 4-7, ...), since answers differ most in their first tokens; of each,
    the mean over the tokens that are there, with its clustered interval.
    """
    found = []
    longest = max(map(len, terms), default=0)
    start = 0
    for power in range(bins):
        stop = longest if power == bins - 1 else min(2 ** (power + 1) - 1, longest)
        if start >= stop:
            break
        rows = [(sum(row[start:stop]), len(row[start:stop]), c)
                for row, c in zip(terms, clusters, strict=True) if len(row) > start]  # fmt: skip
        total, n, groups = zip(*rows, strict=True)
        estimate = stats.ratio_of_means(total, n, np.array(groups))
        found.append(Stretch(start + 1, stop, sum(n), estimate))
        start = stop
    return found


def _root(mean: stats.Estimate) -> stats.Estimate:
    """Square root of a KL and its interval's ends; a rounding error below 0 counts as 0."""
    value, low, high = (
        math.sqrt(max(x, 0.0)) if math.isfinite(x) else math.nan
        for x in (mean.value, mean.ci_low, mean.ci_high)
    )
    stderr = mean.stderr / (2 * value) if value > 0 else math.nan
    return replace(mean, value=value, ci_low=low, ci_high=high, stderr=stderr)
