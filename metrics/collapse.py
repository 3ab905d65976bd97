"""Mode collapse against the reference, paired by prompt (see ``diversity`` for the shares)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prefeval.metrics import stats
from prefeval.metrics.diversity import OPENER_WORDS, at_one_length, shares_within
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.joint_rates import mean_of, over_seeds
from prefeval.metrics.stats import Estimate

FEW = "fewer than 2 prompts have several samples to compare"


def changes(evidences: Sequence[Evidence]) -> dict[str, Estimate]:
    """Policy less reference, points, over the seeds ``evidences`` of one checkpoint.

    ``distinct``: different texts among a prompt's K samples, over K. ``pairs``: different word
    pairs among them, over all, at equal length (a policy that says much the same in other words
    loses here first). ``opener``: the share of samples that begin with the commonest three words
    of their side. n is prompts, clustered as their judgments are.
    """
    frames = [e.diverse for e in evidences]
    clusters = evidences[0].judgments.set_index("prompt_id")["cluster"]
    return {
        name: _change([of(f) for f in frames], clusters)
        for name, of in (("distinct", _distinct), ("pairs", _pairs), ("opener", _opener))
    }


def _change(seeds: Sequence[pd.Series[float]], clusters: pd.Series[str]) -> Estimate:
    """Mean over prompts and seeds of differences by prompt, percent."""
    prompts = sorted(set.intersection(*(set(s.index) for s in seeds)))
    if len(prompts) < 2:
        return stats.undefined(FEW, len(prompts))
    codes = stats.cluster_codes([clusters.get(p, p) for p in prompts], len(prompts))
    return over_seeds(
        [mean_of(100 * np.asarray(s.loc[prompts], dtype=np.float64)) for s in seeds], codes
    )


def _distinct(frame: pd.DataFrame) -> pd.Series[float]:
    """Change of each prompt's share of different texts, where it has 2 samples or more."""
    groups = frame.groupby("prompt_id")
    size = groups.size()
    kinds = groups[["text", "ref_text"]].nunique()
    return ((kinds["text"] - kinds["ref_text"]) / size)[size > 1]


def _pairs(frame: pd.DataFrame) -> pd.Series[float]:
    """Change of each prompt's share of different word pairs."""
    if frame.empty:
        return pd.Series(dtype="float64")
    own, base = (pd.Series(shares_within(side)) for side in at_one_length(frame).values())
    return (own - base).dropna()


def _opener(frame: pd.DataFrame) -> pd.Series[float]:
    """Change of each prompt's share of samples with their side's commonest opener."""
    shares = []
    for column in ("text", "ref_text") if len(frame) else ():
        openers = frame[column].map(lambda text: " ".join(text.split()[:OPENER_WORDS]))
        top = openers.value_counts().sort_index().idxmax()
        shares.append((openers == top).astype(float).groupby(frame["prompt_id"]).mean())
    return shares[0] - shares[1] if shares else pd.Series(dtype="float64")
