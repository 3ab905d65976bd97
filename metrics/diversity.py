"""Has the policy fallen on few answers? Within a prompt and across prompts (Kirk et al. 2023,
arXiv 2310.06452, keep the two apart)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd

from prefeval.metrics import stats
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.stats import Estimate
from prefeval.records import MetricResult

OPENER_WORDS = 3
NGRAM = 2  # of distinct_within and distinct_across
REPEATED = 4  # of repetition
UNITS: dict[str, tuple[str, bool | None]] = {
    "distinct": ("percent", True),
    "ref_distinct": ("percent", None),
    "top_opener_share": ("percent", False),
    "ref_top_opener_share": ("percent", None),
    "distinct_within": ("percent", True),
    "ref_distinct_within": ("percent", None),
    "distinct_across": ("percent", True),
    "ref_distinct_across": ("percent", None),
    "repetition": ("percent", False),
    "ref_repetition": ("percent", None),
}


def diversity(evidence: Evidence, *, rng: np.random.Generator) -> list[MetricResult]:
    """Each for the policy and, with ``ref_`` before it, for the reference; percent, n is prompts.

    ``distinct`` is the mean over prompts of (different texts among K samples)/K: 100/K at least.
    ``top_opener_share`` is the share of all samples that begin with the commonest three words.
    ``distinct_within`` is the share of different pairs of words among all of a prompt's samples,
    ``distinct_across`` among the prompts' first samples (Li et al. 2016, arXiv 1510.03055,
    distinct-2). It falls with length by itself, so all texts that are compared, the reference's
    too, are cut to one number of words, half of the median, and as many of each side are taken.
    ``repetition`` is the mean share of an answer's groups of four words that it has said before
    (Welleck et al. 2020, arXiv 1908.04319, seq-rep-4): an answer that loops nears 100.
    """
    frame = evidence.diverse
    if frame.empty:
        none = stats.undefined("no repeated samples")
        return [none.metric(name, *unit) for name, unit in UNITS.items()]
    estimates = {
        "distinct": distinct(frame, "text"),
        "ref_distinct": distinct(frame, "ref_text"),
        "top_opener_share": top_opener_share(frame, "text"),
        "ref_top_opener_share": top_opener_share(frame, "ref_text"),
    }
    cut = at_one_length(frame)
    for column, prefix in (("text", ""), ("ref_text", "ref_")):
        own = cut[column]
        estimates[f"{prefix}distinct_within"] = distinct_within(own)
        estimates[f"{prefix}distinct_across"] = distinct_across(own[own["both"]])
        estimates[f"{prefix}repetition"] = repetition(
            own.assign(words=frame[column].map(str.split))
        )
    return [estimates[name].scaled(100).metric(name, *unit) for name, unit in UNITS.items()]


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


def _groups(words: list[str], n: int) -> list[tuple[str, ...]]:
    """Every run of ``n`` neighbouring words."""
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def at_one_length(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Both sides' samples, by the column of their text, cut to half of the median number of words.

    ``words`` are cut; ``full`` is whether they reach that length, ``both`` whether the other
    side's of the same row do too; ``quota`` is how many of its prompt are full on both sides: as
    many of each are compared.
    """
    words = {c: frame[c].map(str.split) for c in ("text", "ref_text")}
    length = int(np.median(pd.concat(list(words.values())).map(len))) // 2
    full = pd.DataFrame({c: words[c].map(len) >= length for c in words})
    quota = full.groupby(frame["prompt_id"]).transform("sum").min(axis=1)
    both = full.all(axis=1)
    return {
        c: frame.assign(words=[w[:length] for w in words[c]], full=full[c], both=both, quota=quota)
        for c in words
    }


def distinct_within(frame: pd.DataFrame) -> Estimate:
    """Mean over prompts of `shares_within`."""
    shares = shares_within(frame)
    if len(shares) < 2:
        return stats.undefined("fewer than 2 prompts have 2 samples of one length", len(shares))
    return stats.bounded_mean(list(shares.values()))


def shares_within(frame: pd.DataFrame) -> dict[str, float]:
    """By prompt: the share of different word pairs among its samples, of equal length.

    ``frame`` is one side of `at_one_length`; of a prompt the first ``quota`` full samples count,
    and it is left out where they are below 2.
    """
    shares = {}
    for prompt, rows in frame.sort_values("index").groupby("prompt_id", sort=True):
        full = rows.loc[rows["full"], "words"].tolist()[: int(rows["quota"].iloc[0])]
        pairs = [pair for w in full for pair in _groups(w, NGRAM)]
        if len(full) > 1 and pairs:
            shares[str(prompt)] = len(set(pairs)) / len(pairs)
    return shares


def distinct_across(frame: pd.DataFrame) -> Estimate:
    """Share of different word pairs among the prompts' first samples, all of one length.

    The interval is a jackknife over prompts.
    """
    first = frame.sort_values("index").drop_duplicates("prompt_id")
    kept = [_groups(w, NGRAM) for w in first["words"]]
    if len(kept) < 2 or not kept[0]:
        return stats.undefined("fewer than 2 prompts have samples of one length", len(kept))
    counts = Counter(pair for pairs in kept for pair in pairs)
    total = sum(counts.values())
    share = len(counts) / total
    without = []
    for pairs in kept:
        lost = sum(counts[pair] == n for pair, n in Counter(pairs).items())
        without.append((len(counts) - lost) / (total - len(pairs)))
    spread = np.array(without) - np.mean(without)
    stderr = float(np.sqrt((len(kept) - 1) / len(kept) * (spread**2).sum()))
    half = stats.t_quantile(len(kept), 0.95) * stderr
    return Estimate(share, stderr, max(0.0, share - half), min(1.0, share + half), len(kept))


def repetition(frame: pd.DataFrame) -> Estimate:
    """Mean share of an answer's groups of four words that stood in it before, by prompt."""
    groups = frame["words"].map(lambda words: _groups(words, REPEATED))
    shares = groups.map(lambda g: 1 - len(set(g)) / len(g) if g else 0.0)
    by_prompt = shares.groupby(frame["prompt_id"]).mean()
    return stats.bounded_mean(by_prompt)
