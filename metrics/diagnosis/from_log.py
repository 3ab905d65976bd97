"""Signals that a training log alone holds: any trainer's, in canonical columns.

The log's numbers are means of batches, so a level at the start or the end is a mean over rows with
a t interval over rows. Log-probabilities differ by orders of magnitude between models and answers;
a fall is therefore given as a share of what the reference gave the same answers:
-Delta / |log pi_ref|, 0.5 for answers that have lost half as many nats again as they had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prefeval.metrics.diagnosis.row_stats import (
    absolute,
    difference,
    head,
    mean,
    middle,
    per,
    ratio,
    scaled,
    tail,
    tail_rows,
)
from prefeval.metrics.diagnosis.terms import Signal
from prefeval.metrics.stats import Array

NO_REFERENCE = ("simpo",)
SAMPLES_ITSELF = ("ppo", "grpo")


class Levels(NamedTuple):
    """Log-ratios of an answer over the rows (n,) and what the reference gave it (n,), both
    nats/sequence."""

    delta: Array
    reference: Array
    noisy: bool
    """whether the start's own batches are in ``delta``, which then has their noise"""


def log_signals(
    train: pd.DataFrame,
    evals: pd.DataFrame,
    *,
    method: str = "",
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Signal]:
    """Everything that can be said from rows of a log, by the names of ``signals.SPECS``.

    ``train`` and ``evals`` have a column ``step`` and any of the canonical columns, sorted.
    """
    settings = settings or {}
    log = _Log(train)
    method = method or ("simpo" if reference_free(train) else "")
    found: dict[str, Signal] = {"logged_rows": Signal(float(len(train)))}
    found |= _numerical(log, method)
    beta = _number(settings.get("beta"))
    if math.isfinite(beta):
        found["beta"] = Signal(beta)
    found |= _rewards(log, method)
    found |= _falls(log, method, beta)
    found |= _accuracy(log, _Log(evals), method)
    found |= _kto(log, settings) if method in ("", "kto") else {}
    found |= _own_samples(log, settings, method)
    return found


def reference_free(train: pd.DataFrame) -> bool:
    """Whether rewards are a multiple of log-probabilities: SimPO's and CPO's, without reference."""
    if not {"reward_chosen", "chosen_logps"} <= set(train):
        return False
    rewards, logps = (
        train[c].to_numpy(dtype=np.float64) for c in ("reward_chosen", "chosen_logps")
    )
    good = np.isfinite(rewards) & np.isfinite(logps) & (logps != 0) & (rewards != 0)
    if good.sum() < 3:
        return False
    ratio = rewards[good] / logps[good]
    return bool(ratio.std() < 1e-3 * abs(ratio.mean()))


class _Log:
    """Columns as arrays; one that is absent or empty is None."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.n = len(frame)
        self._frame = frame

    def __getitem__(self, name: str) -> Array | None:
        if name not in self._frame:
            return None
        values = self._frame[name].to_numpy(dtype=np.float64)
        return values if np.isfinite(values).any() else None

    def raw(self, name: str) -> Array | None:
        """The column even if nothing in it is finite."""
        return self._frame[name].to_numpy(dtype=np.float64) if name in self._frame else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


# -- numbers that are no numbers, losses that run away -------------------------------------------


def _numerical(log: _Log, method: str) -> dict[str, Signal]:
    found = {}
    bad = np.zeros(log.n, dtype=bool)
    for name in ("loss", "grad_norm", "policy_loss"):  # others have no value where a class has none
        if (values := log.raw(name)) is not None and np.isfinite(values).any():
            first = int(np.isfinite(values).argmax())
            bad[first:] |= ~np.isfinite(values[first:])
        elif values is not None and name in ("loss", "grad_norm") and log.n:
            bad |= ~np.isfinite(values)
    losses = log["loss"]
    if log.raw("loss") is not None or log.raw("grad_norm") is not None:
        found["nonfinite_rows"] = Signal(float(bad.sum()), n=log.n)
        if bad.any():
            steps = log.raw("step")
            at = float(steps[int(bad.argmax())]) if steps is not None else float(bad.argmax())
            found["first_nonfinite_step"] = Signal(at)
    if losses is not None and method not in SAMPLES_ITSELF:
        start, end = float(np.median(head(losses))), mean(tail(losses))
        found["loss_first"], found["loss_last"] = Signal(start), end
        found["loss_departure"] = per(absolute(difference(tail(losses), head(losses))), abs(start))
        if _comparable(start, method):
            found["loss_ratio"] = Signal(float(np.median(tail(losses))) / start, n=end.n)
            found["loss_peak_ratio"] = Signal(float(np.nanmax(losses)) / start, n=log.n)
    if (norms := log["grad_norm"]) is not None and log.n >= 10:
        middle = float(np.nanmedian(norms))
        if middle > 0:
            found["grad_norm_spike"] = Signal(float(np.nanmax(norms[log.n // 20 :])) / middle)
    return found


def _comparable(start: float, method: str) -> bool:
    """Whether the loss's start is a scale for its end: IPO's square around 1/(2 beta) is none."""
    return 0.4 < start < 1.2 if not method else start > 0 and method != "ipo"


# -- rewards: is the reference the right one? ------------------------------------------------------


def _rewards(log: _Log, method: str) -> dict[str, Signal]:
    """How far rewards were from 0 when training began, where they must be 0."""
    pairs = [log[c] for c in ("reward_chosen", "reward_rejected")]
    if all(v is None for v in pairs):
        pairs = [log[c] for c in ("delta_chosen", "delta_rejected")]
    rewards = [v for v in pairs if v is not None]
    found = {}
    margin = log["reward_margin"]
    if margin is None and len(rewards) == 2 and log["reward_chosen"] is not None:
        margin = rewards[0] - rewards[1]
    if margin is not None:
        found["reward_margin_last"] = mean(tail(margin))
        found["reward_margin_size"] = absolute(found["reward_margin_last"])
    if not rewards or method in NO_REFERENCE or method in SAMPLES_ITSELF:
        return found
    biggest = max(float(np.nanmax(np.abs(v))) for v in rewards)
    found["reward_largest"] = Signal(biggest, n=log.n)
    steps = log["step"]
    if steps is None or log.n < 4 or log["reward_chosen"] is None:
        return found
    rewards = [v for v in rewards if np.isfinite(v[:5]).any()]
    early = bool(rewards) and steps[0] <= max(10.0, 0.01 * float(np.nanmax(steps)))
    if not early:
        return found
    starts = []
    for values in rewards:
        first, some = values[0], values[:5]
        starts.append(
            (abs(float(first)), abs(float(first)) / max(float(np.nanmax(np.abs(some))), 1e-12))
        )
    size, share = max(starts)
    found["reward_start"] = Signal(size, n=log.n)
    found["reward_start_share"] = Signal(share, n=log.n)
    return found


# -- falls of log-probabilities --------------------------------------------------------------------


def _falls(log: _Log, method: str, beta: float) -> dict[str, Signal]:
    found: dict[str, Signal] = {}
    for answer in ("chosen", "rejected"):
        levels = _levels(log, answer, method, beta)
        if levels is None:
            continue
        logps = log[f"{answer}_logps"]
        if levels.noisy and logps is not None:
            change = difference(tail(logps), head(logps))
            found[f"fall_{answer}"] = per(change, -abs(middle(head(logps))))
        else:
            change = mean(tail(levels.delta))
            found[f"fall_{answer}"] = ratio(tail_rows(levels.delta, levels.reference))
        found[f"log_delta_{answer}"] = change
        lengths = log[f"{answer}_length"]
        lengths = log["length"] if lengths is None and method not in SAMPLES_ITSELF else lengths
        if lengths is not None:
            per_token = per(change, float(np.nanmean(lengths)))
            found[f"log_delta_{answer}_per_token"] = per_token
    if {"fall_chosen", "fall_rejected"} <= found.keys():
        lesser = min(found["fall_chosen"], found["fall_rejected"], key=lambda s: s.value)
        found["fall_both"] = lesser
        sizes = [absolute(found[f"fall_{a}"]) for a in ("chosen", "rejected")]
        found["movement"] = max(sizes, key=lambda s: s.value)
    return found | _likeness(log, method)


def _likeness(log: _Log, method: str) -> dict[str, Signal]:
    """How alike the two answers of a pair are to the reference: over rows, the correlation and the
    distance of their log-probabilities before these have moved."""
    chosen, rejected = log["chosen_logps"], log["rejected_logps"]
    if chosen is None or rejected is None or method in NO_REFERENCE or log.n < 20:
        return {}
    deltas = [log[c] for c in ("delta_chosen", "delta_rejected")]
    if deltas[0] is not None and deltas[1] is not None:
        chosen, rejected = chosen - deltas[0], rejected - deltas[1]
    else:
        chosen, rejected = (v[: max(20, log.n // 2)] for v in (chosen, rejected))
    good = np.isfinite(chosen) & np.isfinite(rejected)
    if good.sum() < 10 or chosen[good].std() == 0 or rejected[good].std() == 0:
        return {}
    chosen, rejected = chosen[good], rejected[good]
    gap = np.abs(chosen - rejected) / np.maximum(np.abs(chosen), 1e-9)
    return {
        "pair_gap": mean(gap),
        "pair_correlation": Signal(float(np.corrcoef(chosen, rejected)[0, 1]), n=len(chosen)),
    }


def _levels(log: _Log, answer: str, method: str, beta: float) -> Levels | None:
    """Log-ratios of one answer by the surest way that the log allows."""
    logps = log[f"{answer}_logps"]
    delta = log[f"delta_{answer}"]
    reference = log[f"ref_{answer}_logps"]
    reward = log[f"reward_{answer}"]
    if delta is None and logps is not None and reference is not None:
        delta = logps - reference
    if delta is None and reward is not None and method not in NO_REFERENCE and beta > 0:
        delta = reward / beta
    if delta is not None:
        reference = np.full_like(delta, math.nan) if logps is None else logps - delta
        return Levels(delta, reference, noisy=False)
    if logps is None or log.n < 4:
        return None
    level = middle(head(logps))
    return Levels(logps - level, np.full_like(logps, level), noisy=True)


# -- training against evaluation -------------------------------------------------------------------


def _accuracy(log: _Log, evals: _Log, method: str) -> dict[str, Signal]:
    found = {}
    accuracy = log["accuracy"]
    if accuracy is not None:
        found["accuracy_last"] = mean(tail(accuracy))
        excess = found["accuracy_last"]
        found["accuracy_excess"] = absolute(
            Signal(excess.value - 0.5, excess.ci_low - 0.5, excess.ci_high - 0.5, excess.n)
        )
    held_out = evals["accuracy"]
    if held_out is not None:
        found["eval_accuracy_last"] = mean(held_out[len(held_out) // 2 :])
        found["evaluations"] = Signal(float(np.isfinite(held_out).sum()))
    margins = evals["reward_margin"]
    if margins is None:
        margins = evals["margin"]
    if margins is not None:
        found["eval_margin_last"] = mean(margins[len(margins) // 2 :])
    if accuracy is not None and held_out is not None:
        late = held_out[np.isfinite(held_out)][-1]
        gap = found["accuracy_last"]
        found["accuracy_gap"] = Signal(
            gap.value - late, gap.ci_low - late, gap.ci_high - late, gap.n
        )
        found |= _noise(log, evals)
    losses = evals["loss"]
    if losses is not None and np.isfinite(losses).sum() >= 3 and method not in SAMPLES_ITSELF:
        good = losses[np.isfinite(losses)]
        found["eval_loss_rise"] = Signal(float(good[-1] - good.min()), n=len(good))
        if log["loss"] is not None:
            found["loss_gap"] = Signal(float(good[-1] - tail(log["loss"]).mean()), n=len(good))
    return found


def _noise(log: _Log, evals: _Log) -> dict[str, Signal]:
    """Share of flipped labels, where the held-out labels are of another, cleaner source.

    While every pair is new, accuracy on flipped labels is a(1 - e) + e(1 - a) where it is a on
    clean ones, so e = (a - t) / (2a - 1). Both are taken from the second half of the first epoch:
    later evaluations know more than the training rows of then.
    """
    accuracy, held_out, steps, at = (
        log["accuracy"], evals["accuracy"], log["step"], evals["step"],
    )  # fmt: skip
    if accuracy is None or held_out is None or steps is None or at is None:
        return {}
    epochs = log["epoch"]
    first = epochs <= 1 if epochs is not None else np.arange(log.n) < log.n / 2
    if not first.any():
        return {}
    end = float(steps[first].max())
    fresh = accuracy[(steps > end / 2) & (steps <= end)]
    fresh = fresh[np.isfinite(fresh)]
    beside = held_out[(at > end / 2) & (at <= 1.1 * end) & np.isfinite(held_out)]
    if len(fresh) < 5 or not len(beside) or beside.mean() < 0.55:
        return {}
    clean, seen = float(beside.mean()), mean(fresh)
    scale = 2 * clean - 1
    low, high = (clean - seen.ci_high) / scale, (clean - seen.ci_low) / scale
    return {"label_noise": Signal((clean - seen.value) / scale, low, high, len(fresh))}


# -- thumbs ----------------------------------------------------------------------------------------


def _kto(log: _Log, settings: Mapping[str, Any]) -> dict[str, Signal]:
    up, down = log["count_chosen"], log["count_rejected"]
    found = {}
    if up is not None and down is not None:
        good = np.isfinite(up) & np.isfinite(down)
        up, down = up[good], down[good]
        if good.any():
            one = (up == 0) | (down == 0)
            found["one_class_rows"] = Signal(float(one.mean()), n=int(good.sum()))
        if up.sum() > 0 and down.sum() > 0:
            d = _number(settings.get("desirable_weight", 1.0))
            u = _number(settings.get("undesirable_weight", 1.0))
            n, ratio = int(up.sum() + down.sum()), d * float(up.sum()) / (u * float(down.sum()))
            found["class_pull"] = Signal(ratio, n=n)
            found["class_pull_excess"] = Signal(max(ratio / (4 / 3), 1 / ratio), n=n)
    for kind in ("reward_{}", "delta_{}", "{}_logps"):
        columns = [log.raw(kind.format(side)) for side in ("chosen", "rejected")]
        if "one_class_rows" in found or any(c is None for c in columns):
            continue
        up_missing, down_missing = (~np.isfinite(c) for c in columns if c is not None)
        if up_missing.any() or down_missing.any():  # a mean over none is NaN, or is not logged
            losses = log.raw("loss")
            fine = np.isfinite(losses) if losses is not None else np.ones(log.n, dtype=bool)
            one = (up_missing ^ down_missing) & fine
            found["one_class_rows"] = Signal(float(one.mean()), n=log.n)
    return found


# -- trainers that sample --------------------------------------------------------------------------


def _own_samples(log: _Log, settings: Mapping[str, Any], method: str) -> dict[str, Signal]:
    if method not in SAMPLES_ITSELF and log["reward"] is None:
        return {}
    found = {}
    kl, lengths = log["kl"], log["length"]
    if kl is not None:
        found["kl_last"] = mean(tail(kl))
        target = _number(settings.get("target_kl"))
        if target > 0:
            found["kl_over_target"] = per(found["kl_last"], target)
        if lengths is not None:
            found["kl_last_per_token"] = per(found["kl_last"], middle(tail(lengths)))
    if log["kl_per_token"] is not None:
        found["kl_last_per_token"] = mean(tail(log["kl_per_token"]))
    if lengths is not None:
        found["length_growth"] = per(Signal(middle(tail(lengths)), n=log.n), middle(head(lengths)))
    entropy = log["entropy"]
    if entropy is not None and head(entropy).mean() > 0:
        found["entropy_share"] = per(mean(tail(entropy)), middle(head(entropy)))
    if (explained := log["value_explained"]) is not None:
        found["value_explained_last"] = mean(tail(explained))
    if (loss := log["value_loss"]) is not None and head(loss).mean() > 0:
        found["value_loss_ratio"] = per(Signal(middle(tail(loss)), n=log.n), middle(head(loss)))
    if (reward := log["reward"]) is not None:
        found["reward_rise"] = difference(tail(reward), head(reward))
    if (ended := log["eos_rate"]) is not None:
        found["log_eos_rate"] = mean(tail(ended))
        found["log_eos_fall"] = scaled(difference(tail(ended), head(ended)), -1)
    return found
