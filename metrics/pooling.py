"""Halves of the prompts and pools of seeds: what ``usable`` ranks and judges.

See ``usable`` for the rule.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prefeval.metrics import length_control, resample, stats
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.retention import MARGIN, BehaviourChange, changes
from prefeval.metrics.selection import Key, Rate
from prefeval.metrics.stats import Array


@dataclass(frozen=True)
class Rules:
    """What "shown" means: ``margin`` in points, the intervals' ``level``, bootstrap refits."""

    margin: float = MARGIN
    level: float = 0.95
    n_boot: int = 300

    @property
    def alpha(self) -> float:
        """Family-wise error of calling an undamaged model damaged, one-sided."""
        return 1 - self.level


@dataclass(frozen=True, eq=False)
class Half:
    """One half of the prompts: every checkpoint's rate (K,) and replicates (B, K), as shares."""

    rate: Array
    replicates: Array
    reasons: tuple[str, ...]
    n: int
    clusters: int


@dataclass(frozen=True, eq=False)
class Recipe:
    """The checkpoints of one (method, β, step), one a seed, pooled."""

    method: str
    beta: float
    step: int
    members: tuple[int, ...]  # positions among the checkpoints
    choosing: Rate
    reported: Rate
    kl: float
    behaviours: tuple[BehaviourChange, ...]
    damaged: tuple[str, ...]

    @property
    def order(self) -> tuple[float, float, float, int]:
        """Sorts the best first: highest bound (to 0.1 points), lowest KL, highest β."""
        bound, kl = self.choosing.ci_low, self.kl
        return (
            -round(bound, 1) if math.isfinite(bound) else math.inf,
            kl if math.isfinite(kl) else math.inf,
            -self.beta,
            self.step,
        )


def choosing_half(clusters: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows (n,) choose: whole clusters, in the order of a hash, to the smaller half.

    Depends on nothing but the clusters' names and sizes.
    """
    names, sizes = np.unique(clusters, return_counts=True)
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(str(names[i]).encode()).digest())
    counts = [0, 0]
    side = np.zeros(len(names), dtype=bool)
    for i in order:
        side[i] = counts[0] <= counts[1]
        counts[0 if side[i] else 1] += int(sizes[i])
    chosen: NDArray[np.bool_] = side[np.searchsorted(names, clusters)]
    return chosen


def _problem(evidence: Evidence, keep: NDArray[np.bool_]) -> length_control.Problem:
    """The judgments ``keep`` as length control takes them."""
    rows = evidence.judgments[keep]
    return length_control.Problem(
        preference=rows["preference"].to_numpy(),
        delta=(rows["len_baseline"] - rows["len_output"]).to_numpy(),
        difficulty=rows["difficulty"].to_numpy(),
        gamed=evidence.calibration.gamed,
    )


def rates_of_half(
    evidences: Sequence[Evidence],
    keep: NDArray[np.bool_],
    rules: Rules,
    rng: np.random.Generator,
) -> Half:
    """Every checkpoint's rate on the rows ``keep``, resampled by the same weights for all."""
    clusters = evidences[0].judgments["cluster"].to_numpy()[keep]
    weights = resample.cluster_weights(clusters, len(clusters), rules.n_boot, rng)
    rates, replicates, reasons = [], [], []
    for evidence in evidences:
        rate, draws, reason = length_control.rate_and_replicates(
            _problem(evidence, keep), weights, evidence.calibration.C
        )
        rates.append(rate)
        replicates.append(draws)
        reasons.append(reason)
    return Half(
        rate=np.array(rates),
        replicates=np.stack(replicates, axis=1),
        reasons=tuple(reasons),
        n=len(clusters),
        clusters=len(np.unique(clusters)),
    )


def recipes_of(
    keys: Sequence[Key],
    evidences: Sequence[Evidence],
    choosing: Half,
    reporting: Half,
    rules: Rules,
) -> list[Recipe]:
    """Every (method, β, step) with its pooled rates and retention."""
    groups: dict[tuple[str, float, int], list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        groups[key.method, key.beta, key.step].append(position)
    recipes = []
    for (method, beta, step), members in groups.items():
        behaviours = changes(
            pd.concat([evidences[i].checks for i in members]),
            margin=rules.margin,
            level=rules.level,
        )
        recipes.append(
            Recipe(
                method,
                beta,
                step,
                tuple(members),
                pooled_rate(choosing, members, rules.level),
                pooled_rate(reporting, members, rules.level),
                float(np.mean([evidences[i].samples["kl"].mean() for i in members])),
                tuple(behaviours),
                damage(behaviours, rules.alpha),
            )
        )
    return recipes


def damage(behaviours: Sequence[BehaviourChange], alpha: float) -> tuple[str, ...]:
    """The behaviours shown worse by more than the margin, after Holm."""
    return tuple(b.behaviour for b in behaviours if b.p_worse_holm <= alpha)


def pooled_rate(half: Half, members: Sequence[int], level: float) -> Rate:
    """The mean rate of several seeds, with an interval that covers prompts and seeds.

    Variance: of the mean over resamples of the prompts, plus the variance between seeds over
    their number; t with Satterthwaite's degrees of freedom, interval on the logit scale.
    """
    reason = next((half.reasons[i] for i in members if half.reasons[i]), "")
    rates = half.rate[list(members)]
    share = float(rates.mean())
    if reason or math.isnan(share):
        return Rate(math.nan, math.nan, math.nan, half.n, reason or "no judgments")
    replicates = half.replicates[:, list(members)].mean(axis=1)
    parts = [(resample.bootstrap_stderr(replicates, half.clusters) ** 2, half.clusters - 1)]
    if len(members) > 1:
        parts.append((float(rates.var(ddof=1)) / len(members), len(members) - 1))
    total, freedom = summed(parts)
    quantile = stats.t_quantile(freedom + 1, level)
    low, high = resample.logit_interval(share, math.sqrt(total), quantile)
    reason = stats.ONE_CLUSTER if math.isnan(low) else ""
    return Rate(100 * share, 100 * low, 100 * high, half.n, reason)


def summed(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The sum of independent variances, given with their degrees of freedom, and Satterthwaite's
    degrees of freedom of it (1946); the first's where nothing varies."""
    total = sum(v for v, _ in parts)
    spread = sum(v**2 / df for v, df in parts if df > 0)
    return total, total**2 / spread if spread > 0 else float(parts[0][1])
