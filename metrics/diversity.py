"""Has the policy fallen on few answers? Within a prompt and across prompts (Kirk et al. 2023,
arXiv 2310.06452, keep the two apart)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from prefeval.metrics import stats
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.stats import Estimate
from prefeval.records import MetricResult

OPENER_WORDS = 3
UNITS: dict[str, tuple[str, bool | None]] = {
    "distinct": ("percent", True),
    "ref_distinct": ("percent", None),
    "top_opener_share": ("percent", False),
}


def diversity(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """``distinct``, ``ref_distinct`` and ``top_opener_share``, percent; n is prompts.

    ``distinct`` is the mean over prompts of (different texts among K samples)/K: 100/K at least.
    ``top_opener_share`` is the share of all samples that begin with the commonest three words.
    """
    frame = evidence.diverse
    if frame.empty:
        none = stats.undefined("no repeated samples")
        return [none.metric(name, *unit) for name, unit in UNITS.items()]
    estimates = {
        "distinct": distinct(frame, "text"),
        "ref_distinct": distinct(frame, "ref_text"),
        "top_opener_share": top_opener_share(frame, "text"),
    }
    return [e.scaled(100).metric(name, *UNITS[name]) for name, e in estimates.items()]


def distinct(frame: pd.DataFrame, column: str) -> Estimate:
    """Mean share of different texts among the samples of a prompt; undefined at K = 1."""
    groups = frame.groupby("prompt_id")[column].agg(["nunique", "size"])
    repeated = groups[groups["size"] > 1]
    if repeated.empty:
        return stats.undefined("distinct outputs need at least 2 samples a prompt", len(groups))
    return stats.bounded_mean(repeated["nunique"] / repeated["size"])


def top_opener_share(frame: pd.DataFrame, column: str) -> Estimate:
    """Share of samples with the commonest first words, clustered by prompt.

    The commonest opener is found in the same samples, so with few of them the share leans high.
    """
    openers = frame[column].map(lambda text: " ".join(text.split()[:OPENER_WORDS]))
    top = openers.value_counts().sort_index().idxmax()
    share = stats.proportion((openers == top).to_numpy(), frame["prompt_id"].to_numpy())
    return replace(share, n=int(frame["prompt_id"].nunique()))
