"""Length-controlled win rates of many checkpoints on the same prompts, and what each prompt adds.

The influence of a prompt on a rate is the derivative of the rate by the prompt's weight (the
infinitesimal jackknife: Jaeckel 1972; Efron 1982, The Jackknife, chapter 6). Summed over clusters
and squared it gives a rate's variance, multiplied by another's their covariance: every difference,
slope and ratio of checkpoints gets a paired interval from one fit each, where a bootstrap takes
hundreds. The scale of the lengths moves with the weights, as in the refits of ``length_control``,
whose standard errors these match. A coefficient that the penalty holds at 0 has no derivative
there; it is treated as free to move, or a rate of exactly 50 would have no uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import special

from prefeval.metrics import length_control, stats
from prefeval.metrics.calibration import length_term
from prefeval.metrics.evidence import Evidence
from prefeval.metrics.length_control import Problem
from prefeval.metrics.pooling import choosing_half, summed
from prefeval.metrics.selection import Key
from prefeval.metrics.stats import Array, Estimate


@dataclass(frozen=True, eq=False)
class Influenced:
    """A number of one checkpoint and the influence (n,) of every prompt on it.

    ``reason`` says why the value is NaN.
    """

    value: float
    influence: Array
    reason: str = ""

    def __sub__(self, other: Influenced) -> Influenced:
        """The difference, on the same prompts."""
        reason = self.reason or other.reason
        return Influenced(self.value - other.value, self.influence - other.influence, reason)

    def __add__(self, other: Influenced) -> Influenced:
        """The sum, on the same prompts."""
        return self - other * -1.0

    def __mul__(self, factor: float) -> Influenced:
        """In another unit."""
        return Influenced(self.value * factor, self.influence * factor, self.reason)


def problem_of(evidence: Evidence, keep: NDArray[np.bool_]) -> Problem:
    """The judgments ``keep`` as length control takes them."""
    rows = evidence.judgments[keep]
    return Problem(
        preference=rows["preference"].to_numpy(),
        delta=(rows["len_baseline"] - rows["len_output"]).to_numpy(),
        difficulty=rows["difficulty"].to_numpy(),
        gamed=evidence.calibration.gamed,
    )


def lc_rate(problem: Problem, C: float | None) -> Influenced:
    """The length-controlled rate, a share, and its influences; NaN where it is not identified."""
    n = len(problem.delta)
    reason = length_control.not_identified(length_control.overlap_of(problem))
    if reason:
        return Influenced(math.nan, np.full(n, math.nan), reason)
    if length_control.is_baseline(problem):
        return Influenced(0.5, np.zeros(n))
    C = length_control.cross_validated_c(problem) if C is None else C
    coefs = problem.fit(np.ones((1, n)), C, tolerance=1e-9)[0]
    moves = _coefficients_by_weight(problem, coefs, C)
    p = special.expit(coefs[1] * problem.difficulty + coefs[2])
    slope = np.array([0.0, np.mean(p * (1 - p) * problem.difficulty), np.mean(p * (1 - p))])
    return Influenced(float(p.mean()), (p - p.mean()) / n + slope @ moves)


def _coefficients_by_weight(problem: Problem, coefs: Array, C: float) -> Array:
    """Derivatives (3, n) of the coefficients of length, difficulty and model by each row's weight.

    The optimality conditions, differentiated: H dw = -(the row's score + what its weight does to
    the scale of the lengths).
    """
    n, delta = len(problem.delta), problem.delta
    read = np.isfinite(problem.preference)
    length = length_term(delta, np.ones((1, n)))[0]
    x = np.stack([length, problem.difficulty, np.ones(n)])
    p = special.expit(coefs @ x)
    gap = np.where(read, p - problem.preference, 0.0)
    curve = p * (1 - p) * read
    hessian = C * (x * curve) @ x.T
    if (gamed := problem.gamed) is not None:
        z = np.stack([gamed.length, gamed.difficulty, np.zeros(len(gamed.length))])
        q = special.expit(coefs @ z)
        hessian += C * gamed.weight * (z * q * (1 - q)) @ z.T
    scores = C * gap * x
    sd = float(delta.std(ddof=1)) if n > 1 else 0.0
    if length.any():
        stretch = -(delta / sd**2) * (1 - length**2)  # d length / d sd
        along = C * (x @ (curve * coefs[0] * stretch))
        along[0] += C * float(gap @ stretch)
        scores += np.outer(along, ((delta - delta.mean()) ** 2 - sd**2) / (2 * sd * (n - 1)))
    return np.asarray(-np.linalg.pinv(hessian, hermitian=True) @ scores)


def raw_rate(problem: Problem) -> Influenced:
    """The raw win rate, a share, over the verdicts that were read."""
    read = np.isfinite(problem.preference)
    if not read.any():
        return Influenced(math.nan, np.full(len(read), math.nan), "no verdict could be read")
    mean = float(problem.preference[read].mean())
    return Influenced(mean, np.where(read, problem.preference - mean, 0.0) / read.sum())


def mean_of(values: Array) -> Influenced:
    """The mean of ``values`` (n,)."""
    mean = float(np.mean(values)) if len(values) else math.nan
    return Influenced(mean, (values - mean) / max(1, len(values)), "" if len(values) else "no rows")


def over_seeds(
    seeds: Sequence[Influenced], codes: NDArray[np.intp], level: float = 0.95
) -> Estimate:
    """The mean over seeds with an interval that covers prompts and, from two seeds on, seeds.

    Variance: of the mean over the prompts, clustered by ``codes`` (n,), plus the variance between
    seeds over their number; t with Satterthwaite's degrees of freedom, as ``pooling.pooled_rate``
    has it.
    """
    n = len(codes)
    if reason := next((s.reason for s in seeds if s.reason), ""):
        return stats.undefined(reason, n)
    values = np.array([s.value for s in seeds])
    clusters = int(codes.max()) + 1
    shared = np.mean([s.influence for s in seeds], axis=0)
    parts = [(stats.cluster_variance(shared, codes), clusters - 1)]
    if len(values) > 1:
        parts.append((float(values.var(ddof=1)) / len(values), len(values) - 1))
    total, freedom = summed(parts)
    half = stats.t_quantile(freedom + 1, level) * math.sqrt(total) if clusters > 1 else math.nan
    mean, reason = float(values.mean()), stats.ONE_CLUSTER if math.isnan(half) else ""
    return Estimate(mean, math.sqrt(total), mean - half, mean + half, n, reason)


def covariance(rates: Sequence[Influenced], codes: NDArray[np.intp]) -> Array:
    """Sampling covariance (K, K) of K numbers on the same prompts, clustered by ``codes`` (n,)."""
    influence = np.stack([r.influence for r in rates], axis=1)
    sums = np.zeros((int(codes.max()) + 1, len(rates)))
    np.add.at(sums, codes, influence)
    count = len(sums)
    if count < 2:
        return np.full((len(rates), len(rates)), math.nan)
    return np.asarray(count / (count - 1) * sums.T @ sums)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Checkpoints by key, and the prompts on which they are compared."""

    evidence: Mapping[Key, Evidence]
    keep: NDArray[np.bool_]
    codes: NDArray[np.intp]
    known: dict[Key, Influenced] = field(default_factory=dict)
    """rates that were fitted already"""

    def lc(self, key: Key) -> Influenced:
        """Length-controlled rate, percent."""
        if key not in self.known:
            evidence = self.evidence[key]
            problem = problem_of(evidence, self.keep)
            self.known[key] = lc_rate(problem, evidence.calibration.C) * 100.0
        return self.known[key]

    def raw(self, key: Key) -> Influenced:
        """Raw rate, percent."""
        return raw_rate(problem_of(self.evidence[key], self.keep)) * 100.0


def prompts_of(evidence: Mapping[Key, Evidence], *, reporting: bool) -> Prompts:
    """All prompts, or only those that had no part in choosing."""
    clusters = next(iter(evidence.values())).judgments["cluster"].to_numpy()
    keep = ~choosing_half(clusters) if reporting else np.ones(len(clusters), dtype=bool)
    return Prompts(evidence, keep, stats.cluster_codes(clusters[keep], int(keep.sum())))
