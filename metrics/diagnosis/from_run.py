"""Signals that an evaluated checkpoint holds: its metrics, its checks, its held-out pairs, and what
it was trained on, each with the interval that the measurement has."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prefeval.metrics import stats
from prefeval.metrics.diagnosis.terms import Signal
from prefeval.metrics.retention import MARGIN, changes
from prefeval.metrics.stats import Array
from prefeval.records import MetricResult

NEAR = 0.8  # share of words that two answers have in common, in order
SIMILAR_SAMPLE = 400
ALPHA = 0.05


def metric_signals(results: Sequence[MetricResult]) -> dict[str, Signal]:
    """Every metric under its own name, and what follows from two of them."""
    found = {r.name: Signal(r.value, r.ci_low, r.ci_high, r.n) for r in results}
    have = {name for name, s in found.items() if math.isfinite(s.value)}
    for name in ("distinct_within", "distinct_across", "repetition"):
        if {name, f"ref_{name}"} <= have:
            found[f"{name}_share"] = _ratio(found[name], found[f"ref_{name}"])
    if {"top_opener_share", "ref_top_opener_share"} <= have:
        found["opener_rise"] = _less(found["top_opener_share"], found["ref_top_opener_share"])
    if "win_rate" in have:
        found["win_rate_half"] = Signal(_half(found["win_rate"]), n=found["win_rate"].n)
    if {"win_rate", "lc_win_rate"} <= have:
        gain = found["win_rate"].value - found["lc_win_rate"].value
        found["length_gain"] = Signal(gain, n=found["win_rate"].n)
        if found["win_rate"].ci_low > 50:
            share = gain / (found["win_rate"].value - 50)
            found["length_share"] = Signal(share, n=found["win_rate"].n)
    if {"win_rate", "true_win_rate"} <= have:
        found["judge_excess"] = _less(found["win_rate"], found["true_win_rate"])
    if "implicit_accuracy" in have:
        s = found["implicit_accuracy"]
        found["held_out_accuracy"] = Signal(s.value / 100, s.ci_low / 100, s.ci_high / 100, s.n)
    return found


def _half(signal: Signal) -> float:
    return (signal.ci_high - signal.ci_low) / 2


def _ratio(a: Signal, b: Signal) -> Signal:
    """Of two measured levels; their errors taken as independent."""
    if b.value == 0:
        return Signal(math.nan)
    value = a.value / b.value
    spread = math.hypot(_half(a) / max(a.value, 1e-9), _half(b) / b.value) * value
    return Signal(value, value - spread, value + spread, min(a.n, b.n))


def _less(a: Signal, b: Signal) -> Signal:
    value, spread = a.value - b.value, math.hypot(_half(a), _half(b))
    return Signal(value, value - spread, value + spread, min(a.n, b.n))


def sample_signals(samples: pd.DataFrame) -> dict[str, Signal]:
    """``ending_loss``: points by which fewer of the policy's answers end than of the reference's,
    on the same prompts and under the same limit."""
    if samples.empty:
        return {}
    fewer = 100.0 * (samples["ref_ended"] - samples["ended"]).to_numpy(dtype=np.float64)
    return {"ending_loss": _signal(stats.clustered_mean(fewer, samples["cluster"].to_numpy()))}


# -- behaviours ------------------------------------------------------------------------------------


def behaviour_class(name: str) -> str:
    """Which kind of loss a behaviour's is: by its name, formatting where that says nothing."""
    low = name.lower().replace("-", "").replace("_", "")
    kinds = {
        "overrefusal": ("overrefus", "xstestsafe"),
        "refusal": ("refus", "harm", "safety", "xstest"),
        "tool": ("tool", "bfcl", "function"),
        "knowledge": ("fact", "maths", "math", "gsm", "knowledge"),
    }
    return next((kind for kind, words in kinds.items() if any(w in low for w in words)), "format")


def behaviour_signals(checks: pd.DataFrame, *, margin: float = MARGIN) -> dict[str, Signal]:
    """Of each kind of behaviour the greatest shown loss, in points: 0 where none is shown to
    exceed ``margin`` (Holm over the behaviours). ``damaged``: how many are shown damaged."""
    if checks.empty:
        return {}
    found: dict[str, Signal] = {}
    damaged = 0
    for change in changes(checks, margin=margin):
        kind = behaviour_class(change.behaviour)
        shown = change.p_worse_holm < ALPHA
        damaged += shown
        loss = Signal(-change.change, -change.ci_high, -change.ci_low, change.n)
        loss = loss if shown else Signal(0.0, n=change.n)
        if f"{kind}_loss" not in found or loss.value > found[f"{kind}_loss"].value:
            found[f"{kind}_loss"] = loss
    n = int(checks["behaviour"].nunique())
    worst = min(len(c) for _, c in checks.groupby("behaviour"))
    return {**found, "damaged": Signal(float(damaged), n=n), "fewest_checks": Signal(float(worst))}


# -- held-out pairs --------------------------------------------------------------------------------


def held_out_signals(
    frames: Sequence[pd.DataFrame], *, method: str, beta: float
) -> dict[str, Signal]:
    """From the held-out pairs at each checkpoint (in order of steps, policy beside reference).

    ``fall_*``: as shares of the reference's log-probability; ``held_out_loss_rise``: DPO's loss of
    the last checkpoint less that of the best before it, paired over pairs, nats.
    """
    frames = [f for f in frames if len(f)]
    if not frames:
        return {}
    last = frames[-1]
    cluster = last["cluster"].to_numpy()
    found = {}
    for answer in ("chosen", "rejected"):
        ref = last[f"ref_{answer}_logps"]
        estimate = stats.ratio_of_means(ref - last[f"{answer}_logps"], -ref, cluster)
        found[f"fall_{answer}"] = _signal(estimate)
    found["fall_both"] = min(found.values(), key=lambda s: s.value)
    if method in ("dpo", "kto", "ipo") and beta > 0 and len(frames) > 1:
        losses = [_dpo_losses(f, beta) for f in frames]
        best = min(losses[:-1], key=lambda x: float(x.mean()))
        found["held_out_loss_rise"] = _signal(stats.clustered_mean(losses[-1] - best, cluster))
    if beta > 0 and method == "dpo":
        found["held_out_loss"] = _signal(stats.clustered_mean(_dpo_losses(last, beta), cluster))
    return found


def _dpo_losses(frame: pd.DataFrame, beta: float) -> Array:
    margin = (frame["chosen_logps"] - frame["ref_chosen_logps"]) - (
        frame["rejected_logps"] - frame["ref_rejected_logps"]
    )
    return np.asarray(np.logaddexp(0.0, -beta * margin.to_numpy()))


def _signal(estimate: stats.Estimate) -> Signal:
    return Signal(estimate.value, estimate.ci_low, estimate.ci_high, estimate.n)


# -- what it was trained on ------------------------------------------------------------------------


class Answer(NamedTuple):
    """One answer as it was trained on: tokens, and the reference's log-probability of them."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    truncated: bool
    ref_logps: float


def training_signals(
    answers: Sequence[Answer],
    held_out: pd.DataFrame,
    *,
    end_ids: Sequence[int],
    bos_id: int | None,
) -> dict[str, Signal]:
    """Faults of encoding, from the training answers in tokens.

    ``ref_gap_to_held_out``: the reference's nats/token on training answers less those on held-out
    ones of the same source; far from 0 where training text is rendered otherwise.
    """
    if not answers:
        return {}
    whole = [a for a in answers if not a.truncated]
    found = {"truncated_share": _share([a.truncated for a in answers])}
    if end_ids and whole:
        ends = set(end_ids)
        found["no_end_share"] = _share([a.completion_ids[-1] not in ends for a in whole])
    if bos_id is not None:
        faults = [
            list(a.prompt_ids[:2]) == [bos_id, bos_id] or bos_id in a.completion_ids
            for a in answers
        ]
        found["bos_fault_share"] = _share(faults)
    if len(held_out):
        per_token = np.array([a.ref_logps / len(a.completion_ids) for a in answers])
        total = held_out["ref_chosen_logps"] + held_out["ref_rejected_logps"]
        tokens = held_out["chosen_lengths"] + held_out["rejected_lengths"]
        other = (total / tokens).to_numpy()
        value = float(per_token.mean() - other.mean())
        spread = 1.96 * math.hypot(
            per_token.std(ddof=1) / math.sqrt(len(per_token)),
            other.std(ddof=1) / math.sqrt(len(other)),
        )
        scale = abs(float(other.mean()))
        found["ref_gap_to_held_out"] = Signal(
            value / scale, (value - spread) / scale, (value + spread) / scale, len(answers)
        )
    return found


def pair_signals(pairs: Sequence[tuple[str, str]], seed: int = 0) -> dict[str, Signal]:
    """``near_identical_share`` and ``longer_chosen_share`` of (chosen, rejected) texts, the first
    on a sample of 400."""
    if not pairs:
        return {}
    picked = np.random.default_rng(seed).permutation(len(pairs))[:SIMILAR_SAMPLE]
    near = [similarity(*pairs[i]) > NEAR for i in picked]
    longer = [len(c) > len(r) for c, r in pairs if len(c) != len(r)]
    found = {"near_identical_share": _share(near)}
    if longer:
        found["longer_chosen_share"] = _share(longer)
    return found


def similarity(a: str, b: str) -> float:
    """Share of words in common, in order (Ratcliff and Obershelp, as difflib has it)."""
    return difflib.SequenceMatcher(None, a.split(), b.split(), autojunk=False).ratio()


def _share(flags: Sequence[bool]) -> Signal:
    return _signal(stats.proportion(np.asarray(flags, dtype=np.float64)))


def thumb_signals(up: int, down: int, weights: Mapping[str, Any]) -> dict[str, Signal]:
    """The pull of liked against disliked answers, and how far it is out of [1, 4/3]."""
    if not (up and down):
        return {
            "class_pull": Signal(math.inf if up else 0.0),
            "class_pull_excess": Signal(math.inf),
        }
    pull = (
        weights.get("desirable_weight", 1.0) * up / (weights.get("undesirable_weight", 1.0) * down)
    )
    return {
        "class_pull": Signal(pull, n=up + down),
        "class_pull_excess": Signal(max(pull / (4 / 3), 1 / pull), n=up + down),
    }
