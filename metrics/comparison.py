"""Two checkpoints on the same prompts: every measure's paired difference, B less A, and its test.

Both were measured against one reference, so a prompt's difficulty, and the reference's luck on it,
cancel in the difference. How means, shares and ratios are tested: see ``differences``. The
length-controlled rates are both refitted under the same resamples of clusters and one calibration;
the standard error is that of the differences of the refits.

Holm's correction runs within three families: the win rates, the other measures, the behaviours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from prefeval.metrics import pooling, resample
from prefeval.metrics.differences import (
    LEVEL,
    NATS,
    PER_TOKEN,
    POINTS,
    TIMES,
    Difference,
    corrected,
    factor,
    interval,
    mean_difference,
    none,
    ratio_difference,
    share_difference,
    t_test,
)
from prefeval.metrics.evidence import SCHEMAS, Evidence, checked
from prefeval.metrics.retention import MARGIN

N_BOOT = 1000
MEASURES: Mapping[str, tuple[str, int]] = {
    "lc_win_rate": (POINTS, 1),
    "win_rate": (POINTS, 1),
    "true_win_rate": (POINTS, 1),
    "flip_rate": (POINTS, 0),  # few where answers are plainly better, or plainly worse
    "kl": (NATS, 0),
    "entropy": (PER_TOKEN, 0),
    "length_ratio": (TIMES, 0),
    "paired_length_ratio": (TIMES, 0),
    "eos_rate": (POINTS, 1),
    "distinct": (POINTS, 1),
    "delta_chosen": (NATS, 0),
    "delta_rejected": (NATS, 0),
    "implicit_accuracy": (POINTS, 1),
}
"""Unit of the difference, and whether more of it is better (1) or neither better nor worse (0)."""
WIN_RATES = ("lc_win_rate", "win_rate", "true_win_rate")


@dataclass(frozen=True)
class Joined:
    """Two checkpoints on the rows that both have, in the same order.

    ``rows`` gives, for each frame, the rows of A, of B, and of both.
    """

    a: Evidence
    b: Evidence
    rows: Mapping[str, tuple[int, int, int]]


def join(
    a: Evidence,
    b: Evidence,
    *,
    prompts: Collection[str] | None = None,
    pairs: Collection[str] | None = None,
) -> Joined:
    """The rows of both by their ids, among ``prompts`` and ``pairs`` where these are given.

    Clusters, difficulties and the calibration are A's for both: one yardstick.
    """
    kept: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = {}
    rows = {}
    for name, schema in SCHEMAS.items():
        left, right = getattr(a, name), getattr(b, name)
        if left.empty or right.empty:
            kept[name], rows[name] = (left[:0], right[:0]), (len(left), len(right), 0)
            continue
        ids = list(schema.ids)
        both = left[ids].merge(right[ids], on=ids, validate="1:1")
        allowed = pairs if name == "pairs" else prompts
        if allowed is not None:
            both = both[both[ids[0]].isin(list(allowed))]
        own, other = (both.merge(frame, on=ids, validate="1:1") for frame in (left, right))
        shared = [c for c in ("cluster", "difficulty") if c in own and len(own)]
        kept[name] = own, other.assign(**{c: own[c] for c in shared})
        rows[name] = (len(left), len(right), len(both))
    first, second = ({name: sides[i] for name, sides in kept.items()} for i in (0, 1))
    return Joined(
        Evidence(**first, calibration=a.calibration),
        Evidence(**second, calibration=a.calibration),
        rows,
    )


def without_judgments(joined: Joined, prompts: Collection[str]) -> Joined:
    """The same without the judgments of some prompts, such as those by which A was chosen: the
    best of many is flattered on what chose it."""
    frames = (
        evidence.judgments[~evidence.judgments["prompt_id"].isin(list(prompts))]
        for evidence in (joined.a, joined.b)
    )
    a, b = (
        replace(evidence, judgments=frame)
        for evidence, frame in zip((joined.a, joined.b), frames, strict=True)
    )
    return replace(joined, a=a, b=b)


def measures(
    joined: Joined,
    *,
    rng: np.random.Generator,
    n_boot: int = N_BOOT,
    without: Mapping[str, str] | None = None,
) -> tuple[Difference, ...]:
    """Every line of ``MEASURES``, with Holm's correction over win rates and over the others.

    ``without`` gives the reason for which a measure is not compared, by its name.
    """
    found = {name: _none(name, why) for name, why in (without or {}).items()}
    for line in (*_judged(joined), *_sampled(joined), *_pairs(joined), _distinct(joined)):
        found.setdefault(line.name, line)
    if "lc_win_rate" not in found:
        found["lc_win_rate"] = length_controlled(joined, rng=rng, n_boot=n_boot)
    rates = [found[name] for name in WIN_RATES]
    return corrected(rates) + corrected([found[n] for n in MEASURES if n not in WIN_RATES])


def _none(name: str, reason: str, n: int = 0) -> Difference:
    return none(name, *MEASURES[name], reason, n)


def _judged(joined: Joined) -> Iterator[Difference]:
    """Raw and true win rate, and flips; prompts of which a verdict is missing are left out."""
    a, b = joined.a.judgments, joined.b.judgments
    columns = {
        "win_rate": (a["preference"], b["preference"]),
        "true_win_rate": (a["true_preference"], b["true_preference"]),
        "flip_rate": (flips(a), flips(b)),
    }
    for name, (first, second) in columns.items():
        read = (first.notna() & second.notna()).to_numpy()
        if not read.any():
            oracle = name == "true_win_rate" and len(a)
            absent = "no oracle: true quality is known in the lab only"
            yield _none(name, absent if oracle else "no prompt was judged in both")
            continue
        cluster = a["cluster"].to_numpy()[read]
        if name == "flip_rate":
            line = share_difference(name, MEASURES[name][1], first[read], second[read], cluster)
        else:
            line = mean_difference(name, *MEASURES[name], first[read], second[read], cluster)
        unread = int((~read).sum())
        yield _noted(line, f"{unread} prompts without a verdict are left out" if unread else "")


def flips(judgments: pd.DataFrame) -> pd.Series[float]:
    """1 where the winner changes with the order, 0 where not, NaN where one was not read."""
    first, second = (
        np.sign((judgments[f"preference_{side}"] - 0.5).round(9)) for side in ("first", "second")
    )
    flipped: pd.Series[float] = (first * second < 0).astype(float)
    return flipped.where(first.notna() & second.notna())


def length_controlled(
    joined: Joined, *, rng: np.random.Generator, n_boot: int = N_BOOT
) -> Difference:
    """Difference of the length-controlled rates, both refitted under the same resamples."""
    name, n = "lc_win_rate", len(joined.a.judgments)
    if not n:
        return _none(name, "no prompt was judged in both")
    rules = pooling.Rules(level=LEVEL, n_boot=n_boot)
    everything = np.ones(n, dtype=bool)
    half = pooling.rates_of_half([joined.a, joined.b], everything, rules, rng)
    if reason := next(filter(None, half.reasons), ""):
        return _none(name, reason, n)
    gap = 100 * (half.replicates[:, 1] - half.replicates[:, 0])
    rate, other = (100 * float(share) for share in half.rate)
    value, stderr = other - rate, resample.bootstrap_stderr(gap, half.clusters)
    sides = [e.judgments["preference"].to_numpy() for e in (joined.a, joined.b)]
    if stderr < 1e-9 and not np.array_equal(sides[0], sides[1]):
        return _none(name, "the verdicts differ too little for the fit: no resample moves it", n)
    found = interval(value, stderr, half.clusters, n)
    p = t_test(value, stderr, half.clusters)
    return Difference(name, *MEASURES[name], rate, other, found, p, half.clusters, "bootstrap")


def _sampled(joined: Joined) -> Iterator[Difference]:
    """KL, entropy, lengths and end tokens of the samples at temperature 1."""
    a, b = joined.a.samples, joined.b.samples
    if a.empty:
        names = ("kl", "entropy", "length_ratio", "paired_length_ratio", "eos_rate")
        yield from (_none(name, "no prompt was sampled in both") for name in names)
        return
    cluster = a["cluster"].to_numpy()
    yield mean_difference("kl", *MEASURES["kl"], a["kl"], b["kl"], cluster)
    yield share_difference("eos_rate", MEASURES["eos_rate"][1], a["ended"], b["ended"], cluster)
    parts = [(f["entropy"] * f["n_tokens"], f["n_tokens"]) for f in (a, b)]
    yield ratio_difference("entropy", *MEASURES["entropy"], parts[0], parts[1], cluster)
    yield factor("length_ratio", a["n_tokens"], b["n_tokens"], cluster, paired=False)
    said = ((a["n_tokens"] > 0) & (b["n_tokens"] > 0)).to_numpy()
    yield factor(
        "paired_length_ratio", a["n_tokens"][said], b["n_tokens"][said], cluster[said], paired=True
    )


def _distinct(joined: Joined) -> Difference:
    """Different texts among K samples of a prompt, as a share of K."""
    a, b = (
        e.diverse.groupby("prompt_id", sort=True)["text"].agg(["nunique", "size"])
        for e in (joined.a, joined.b)
    )
    if a.empty or (a["size"] < 2).any():
        return _none("distinct", "no prompt has 2 samples or more in both")
    clusters = joined.a.samples.set_index("prompt_id")["cluster"]
    cluster = np.array([clusters.get(prompt, prompt) for prompt in a.index])
    first, second = (frame["nunique"] / frame["size"] for frame in (a, b))
    return mean_difference("distinct", *MEASURES["distinct"], first, second, cluster)


def _pairs(joined: Joined) -> Iterator[Difference]:
    """What training did to the held-out pairs (see ``logps``)."""
    a, b = joined.a.pairs, joined.b.pairs
    if a.empty:
        names = ("delta_chosen", "delta_rejected", "implicit_accuracy")
        yield from (_none(name, "no held-out pairs in both") for name in names)
        return
    cluster = a["cluster"].to_numpy()
    moved = {
        side: [f[f"{side}_logps"] - f[f"ref_{side}_logps"] for f in (a, b)]
        for side in ("chosen", "rejected")
    }
    for side, (first, second) in moved.items():
        name = f"delta_{side}"
        yield mean_difference(name, *MEASURES[name], first, second, cluster)
    right = [
        (np.sign(chosen - rejected) + 1) / 2
        for chosen, rejected in zip(moved["chosen"], moved["rejected"], strict=True)
    ]
    name = "implicit_accuracy"
    yield mean_difference(name, *MEASURES[name], right[0], right[1], cluster)


def behaviours(joined: Joined, *, margin: float = MARGIN) -> tuple[Difference, ...]:
    """Every behaviour's change in the share of checks passed, in points; Holm over behaviours.

    Prompts on which a check raised in either are left out. ``p`` is exact; ``p_worse`` is for a
    loss of more than ``margin`` points, at the same prompts.
    """
    lines = []
    for name, rows in joined.a.checks.groupby("behaviour", sort=True):
        before = checked(rows)
        now = checked(joined.b.checks[joined.b.checks["behaviour"] == name])
        both = before.merge(now, on="prompt_id", suffixes=("", "_b"), validate="1:1")
        lines.append(_behaviour(str(name), both, len(rows) - len(both), margin))
    return corrected(lines)


def _behaviour(name: str, both: pd.DataFrame, raised: int, margin: float) -> Difference:
    if both.empty:
        return none(name, POINTS, 1, "no prompt was checked in both")
    cluster = both["cluster"].to_numpy()
    line = share_difference(name, 1, both["passed"], both["passed_b"], cluster, margin=margin)
    return _noted(line, f"{raised} prompts on which a check raised are left out" if raised else "")


def _noted(line: Difference, note: str) -> Difference:
    """The line with a note of what it leaves out."""
    found = line.difference
    return replace(line, difference=replace(found, reason=found.reason or note))
