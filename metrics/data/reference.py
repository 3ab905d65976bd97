"""How pairs or thumbs lie to a reference model, from log-probabilities that were measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from prefeval.metrics import label_noise, stats
from prefeval.metrics.data.findings import Finding, finding
from prefeval.metrics.stats import Array, Estimate

RANGE = 0.05
"""An answer is within the reference's range where its log-probability per token is above this
quantile of the reference's own samples': 95% of these are."""


def reference_findings(frame: pd.DataFrame) -> list[Finding]:
    """Of a frame with ``cluster`` and, of each answer and of ``own`` (a sample of the reference to
    the same prompt), ``NAME_logps`` (nats/sequence) and ``NAME_tokens``; NAME is ``chosen`` and
    ``rejected``, or ``completion``.
    """
    clusters = frame["cluster"].to_numpy(dtype=object).astype(str)
    sides = ["chosen", "rejected"] if "chosen_logps" in frame else ["completion"]
    own = _per_token(frame, "own")
    low = float(np.quantile(own, RANGE))
    found = [_mean("own", frame, clusters, "of the reference's own samples to these prompts")]
    inside = []
    for side in sides:
        found.append(_mean(side, frame, clusters, f"of {side} answers under the reference"))
        inside.append(_per_token(frame, side) >= low)
        share = stats.proportion(inside[-1], clusters)
        says = f"of {side} answers are as likely as 95% of the reference's own samples"
        found.append(finding("reference", f"{side}_in_range", share, says))
    if len(sides) == 1:
        return found
    both = stats.proportion(inside[0] & inside[1], clusters)
    found.append(finding("reference", "pairs_in_range", both, "of pairs have both answers there"))
    return [*found, *_accuracy(frame, clusters)]


def _per_token(frame: pd.DataFrame, side: str) -> Array:
    return (frame[f"{side}_logps"] / frame[f"{side}_tokens"]).to_numpy(dtype=np.float64)


def _mean(side: str, frame: pd.DataFrame, clusters: Any, whose: str) -> Finding:
    mean = stats.clustered_mean(_per_token(frame, side), clusters)
    says = f"mean log-probability per token {whose}"
    return finding("reference", f"{side}_logps", mean, says, unit="nats/token")


def _accuracy(frame: pd.DataFrame, clusters: Any) -> list[Finding]:
    """How often the reference already ranks the pair as labelled (Chen et al. 2024, arXiv
    2405.19534), and what that leaves for flipped labels."""
    whole = (frame["chosen_logps"] - frame["rejected_logps"]).to_numpy(dtype=np.float64)
    token = _per_token(frame, "chosen") - _per_token(frame, "rejected")
    found = [
        finding(
            "reference",
            name,
            stats.bounded_mean((1 + np.sign(margin)) / 2, clusters),
            f"of chosen answers are the likelier ones, {words}",
        )
        for name, margin, words in (
            ("reference_accuracy", whole, "by sequence"),
            ("reference_accuracy_per_token", token, "by token"),
        )
    ]
    bound = label_noise.at_most(token, np.ones(len(token)), clusters)
    says = "is the flip rate at most by the reference's ranking alone, if flips ignore the pair"
    high = Estimate(bound.high, np.nan, np.nan, np.nan, bound.n, bound.reason)
    return [*found, finding("noise", "noise_at_most_reference", high, says)]
