"""Length-controlled win rate, as AlpacaEval 2.0 computes it (``length_controlled_v1``).

Dubois, Galambosi, Liang and Hashimoto 2024, "Length-Controlled AlpacaEval" (arXiv 2404.04475).
The preference y_i in [0, 1] of the model over the baseline on instruction i is modelled as
sigmoid(w1 tanh(D_i / sd(D)) + w2 difficulty_i + w3), D = len(baseline) - len(model) in
characters, sd with ddof 1 and D not centred. The fit is L1-penalised, w3 included:
|w|_1 + C sum s CE. Rows of the baseline against variants of itself ("gamed") enter with weight
0.1 and without w3. The rate is 100 mean_i sigmoid(w2 difficulty_i + w3): the length term at 0.

Where this goes beyond the paper: the interval is from a bootstrap over clusters of prompts that
refits (C, difficulties and gamed rows held fixed), because the published standard error
100 sd(p_i)/sqrt(n) leaves out the fit's own uncertainty; and where the two models' lengths do
not overlap the rate is "not identified", NaN, since control would extrapolate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from prefeval.metrics import l1_logistic, resample, stats
from prefeval.metrics.calibration import C_GRID as C_GRID
from prefeval.metrics.calibration import DEFAULT_C as DEFAULT_C
from prefeval.metrics.calibration import Calibration as Calibration
from prefeval.metrics.calibration import GamedRows as GamedRows
from prefeval.metrics.calibration import difficulty_from_self_play as difficulty_from_self_play
from prefeval.metrics.calibration import gamed_rows as gamed_rows
from prefeval.metrics.calibration import length_term as length_term
from prefeval.metrics.stats import Array

FOLDS = 5
CV_TOLERANCE = 1e-8  # far below what tells two values of C apart
NEAR = 0.25  # standard deviations of D within which two answers count as equally long
# Simulated at n = 400 with judges linear and saturating in length: lengths 2 sd apart leave 3%
# near and intervals that cover; from 2.2 sd (2%) on the answer depends on the judge's shape.
MIN_NEAR_SHARE = 0.02
REFIT_TOLERANCE = 1e-7  # far below the bootstrap's own noise


class Overlap(NamedTuple):
    """Whether the data hold answers of equal length: where control interpolates."""

    near: float  # share of prompts with |D| < 0.25 sd(D)
    both_signs: bool
    matched_rate: float  # mean preference of those prompts, percent


@dataclass(frozen=True)
class LengthControlled:
    """Raw and length-controlled win rate of one model; rates and errors in percent.

    ``lc_se_published`` is the leaderboard's 100 sd(p_i)/sqrt(n); ``lc_se`` and the interval come
    from the bootstrap and are NaN without one. ``reason`` says why a rate is NaN.
    """

    n: int
    win_rate: float
    win_rate_se: float
    lc_win_rate: float
    lc_se: float
    lc_ci_low: float
    lc_ci_high: float
    lc_se_published: float
    coef_length: float
    coef_difficulty: float
    coef_model: float
    C: float
    overlap: Overlap
    extreme: bool
    reason: str = ""
    coef_style: tuple[float, ...] = ()
    """of the style terms, where there are any"""


@dataclass(frozen=True, eq=False)
class Problem:
    """One model's rows, (n,) each. A NaN preference is left out of the fit and is predicted."""

    preference: Array
    delta: Array  # baseline less model, characters
    difficulty: Array
    clusters: NDArray[Any] | None = None
    gamed: GamedRows | None = None
    style: Array | None = None
    """(n, K) further terms that are read at zero, as length is; 0 in gamed rows"""

    def rows(self, keep: NDArray[np.bool_]) -> Problem:
        """Some of the rows; the gamed rows stay."""
        clusters = None if self.clusters is None else self.clusters[keep]
        style = None if self.style is None else self.style[keep]
        kept = self.preference[keep], self.delta[keep], self.difficulty[keep]
        return Problem(*kept, clusters, self.gamed, style)

    def fit(
        self, weights: Array, C: float | Array, *, tolerance: float, start: Array | None = None
    ) -> Array:
        """Coefficients (B, 3 + K) of length, difficulty, model and style, rows weighted by
        (B, n)."""
        features = _features(self, weights)
        labels, full = _labels(self, weights)
        return l1_logistic.fit(features, labels, full, C, start=start, tolerance=tolerance)

    def rates(self, coefs: Array, weights: Array) -> Array:
        """Mean of sigmoid(w2 difficulty + w3) under row weights (B, n): shares (B,)."""
        p = special.expit(coefs[:, 1:2] * self.difficulty + coefs[:, 2:3])
        return np.asarray((p * weights).sum(axis=1) / weights.sum(axis=1))


def _features(problem: Problem, weights: Array) -> Array:
    """Features (B, 3 + K, n + m): length, difficulty, model and style (0 in gamed rows)."""
    n, gamed = len(problem.delta), problem.gamed
    m = 0 if gamed is None else len(gamed.preference)
    extra = 0 if problem.style is None else problem.style.shape[1]
    features = np.zeros((len(weights), 3 + extra, n + m))
    features[:, 0, :n] = length_term(problem.delta, weights)
    features[:, 1, :n] = problem.difficulty
    features[:, 2, :n] = 1
    if problem.style is not None:
        features[:, 3:, :n] = problem.style.T
    if gamed is not None:
        features[:, 0, n:] = gamed.length
        features[:, 1, n:] = gamed.difficulty
    return features


def _labels(problem: Problem, weights: Array) -> tuple[Array, Array]:
    """Labels (n + m,) and weights (B, n + m): gamed rows appended, unread rows at weight 0."""
    read = np.isfinite(problem.preference)
    labels, full = np.where(read, problem.preference, 0.5), weights * read
    if problem.gamed is None:
        return labels, full
    extra = np.full((len(weights), len(problem.gamed.preference)), problem.gamed.weight)
    return np.concatenate([labels, problem.gamed.preference]), np.hstack([full, extra])


def cross_validated_c(problem: Problem) -> float:
    """C of ``C_GRID`` with the best mean score over 5 folds, ties to the smallest.

    Score: -mean(s CE) of the held rows, gamed rows in. Whole clusters are held out together;
    clusters go to folds in turn, in sorted order. Fits start from those to all rows.
    """
    n, grid = len(problem.delta), np.asarray(C_GRID)
    once = np.ones((1, n))
    labels, weights = _labels(problem, once)
    features = _features(problem, once)
    codes = stats.cluster_codes(problem.clusters, n)
    fold = np.concatenate([codes, np.arange(len(labels) - n)]) % FOLDS

    def fits(rows: NDArray[np.bool_], start: Array | None) -> Array:
        own = np.repeat(weights[:, rows], len(grid), axis=0)
        x, y = features[:, :, rows], labels[rows]
        return l1_logistic.fit(x, y, own, grid, start=start, tolerance=CV_TOLERANCE)

    whole = fits(np.ones(len(labels), dtype=bool), None)
    scores = np.zeros(len(grid))
    for k in range(FOLDS):
        held = fold == k
        p = np.clip(l1_logistic.predict(fits(~held, whole), features[:, :, held]), 1e-15, 1 - 1e-15)
        y = labels[held]
        losses = -weights[0, held] * (y * np.log(p) + (1 - y) * np.log(1 - p))
        scores -= losses.sum(axis=1) / max(held.sum(), 1) / FOLDS
    return float(grid[int(np.argmax(scores))])


def overlap_of(problem: Problem) -> Overlap:
    """How far the lengths of the two models overlap, over the rows that were read."""
    read = np.isfinite(problem.preference)
    delta = problem.delta[read]
    if len(delta) < 2:
        return Overlap(math.nan, False, math.nan)
    if not delta.any():
        return Overlap(1.0, True, 100 * float(problem.preference[read].mean()))
    near = np.abs(delta) < NEAR * delta.std(ddof=1)
    matched = 100 * float(problem.preference[read][near].mean()) if near.any() else math.nan
    return Overlap(float(near.mean()), bool((delta > 0).any() and (delta < 0).any()), matched)


def is_baseline(problem: Problem) -> bool:
    """The baseline judged against itself: equal lengths and ties throughout. Its rate is 50."""
    read = problem.preference[np.isfinite(problem.preference)]
    return not problem.delta.any() and bool((read == 0.5).all())


def not_identified(overlap: Overlap, min_near: float = MIN_NEAR_SHARE) -> str:
    """Why length control would extrapolate; empty where it does not."""
    if math.isnan(overlap.near):
        return "fewer than 2 verdicts could be read"
    if overlap.near >= min_near and (overlap.both_signs or min_near <= 0):
        return ""
    side = "" if overlap.both_signs else " and one model is the longer one on every prompt"
    return (
        f"not identified: only {100 * overlap.near:.1f}% of prompts have answers of similar"
        f" length{side}"
    )


def length_controlled(
    preference: ArrayLike,
    len_output: ArrayLike,
    len_baseline: ArrayLike,
    difficulty: ArrayLike | None = None,
    *,
    clusters: Sequence[Any] | NDArray[Any] | None = None,
    gamed: GamedRows | None = None,
    C: float | None = None,
    n_boot: int = 300,
    rng: np.random.Generator | None = None,
    level: float = 0.95,
    min_near: float = MIN_NEAR_SHARE,
    style: ArrayLike | None = None,
) -> LengthControlled:
    """Raw and length-controlled win rate of one model against a baseline.

    preference (n,): probability that the model wins, NaN where no verdict could be read;
    lengths (n,) in characters; difficulty (n,), larger where models win more, 0 if None.
    ``C`` None is chosen by cross-validation, once: the ``n_boot`` refits keep it. ``n_boot`` 0
    (or no ``rng``) gives no interval. ``min_near`` is the share of prompts of equal length under
    which the rate is not identified; 0 always answers, as the leaderboard does. ``style`` (n, K)
    are further terms that are read at zero (``style.style_terms``).
    """
    y = np.asarray(preference, dtype=np.float64)
    delta = np.asarray(len_baseline, dtype=np.float64) - np.asarray(len_output, dtype=np.float64)
    hard = np.zeros(len(y)) if difficulty is None else np.asarray(difficulty, dtype=np.float64)
    terms = None if style is None else np.asarray(style, dtype=np.float64)
    groups = None if clusters is None else stats.cluster_codes(clusters, len(y))
    problem = Problem(y, delta, hard, groups, gamed, terms)
    raw = stats.clustered_mean(y[np.isfinite(y)], None).scaled(100)
    overlap = overlap_of(problem)
    reason = not_identified(overlap, min_near)
    if reason:
        return _unidentified(raw, overlap, reason)
    if is_baseline(problem):
        none = (raw.n, raw.value, raw.stderr, 50.0, 0.0, 50.0, 50.0, 0.0, 0.0, 0.0, 0.0)
        return LengthControlled(*none, math.nan if C is None else C, overlap, False)
    C = cross_validated_c(problem) if C is None else C
    once = np.ones((1, len(y)))
    coefs = problem.fit(once, C, tolerance=1e-9)
    p = special.expit(coefs[0, 1] * hard + coefs[0, 2])
    stderr = low = high = math.nan
    if n_boot and rng is not None:
        stderr, low, high = _interval(problem, coefs, float(p.mean()), C, n_boot, rng, level)
    return LengthControlled(
        n=raw.n,
        win_rate=raw.value,
        win_rate_se=raw.stderr,
        lc_win_rate=100 * float(p.mean()),
        lc_se=100 * stderr,
        lc_ci_low=100 * low,
        lc_ci_high=100 * high,
        lc_se_published=100 * float(p.std(ddof=1)) / math.sqrt(len(p)),
        coef_length=float(coefs[0, 0]),
        coef_difficulty=float(coefs[0, 1]),
        coef_model=float(coefs[0, 2]),
        C=C,
        overlap=overlap,
        extreme=is_extreme_change(raw.value, 100 * float(p.mean())),
        coef_style=tuple(map(float, coefs[0, 3:])),
    )


def _unidentified(raw: stats.Estimate, overlap: Overlap, reason: str) -> LengthControlled:
    nan = (math.nan,) * 9
    return LengthControlled(raw.n, raw.value, raw.stderr, *nan, overlap, False, reason)


def _interval(
    problem: Problem,
    coefs: Array,
    share: float,
    C: float,
    n_boot: int,
    rng: np.random.Generator,
    level: float,
) -> tuple[float, float, float]:
    """Bootstrap standard error and interval of the rate, as shares."""
    n = len(problem.delta)
    weights = resample.cluster_weights(problem.clusters, n, n_boot, rng)
    replicates = bootstrap_rates(problem, coefs, weights, C)
    count = len(np.unique(stats.cluster_codes(problem.clusters, n)))
    stderr = resample.bootstrap_stderr(replicates, count)
    return stderr, *resample.logit_interval(share, stderr, stats.t_quantile(count, level))


def bootstrap_rates(problem: Problem, coefs: Array, weights: Array, C: float) -> Array:
    """The rate refitted under each row of ``weights`` (B, n), from ``coefs`` (1, F): (B,)."""
    refits = problem.fit(weights, C, start=coefs[0], tolerance=REFIT_TOLERANCE)
    return problem.rates(refits, weights)


def is_extreme_change(win_rate: float, lc_win_rate: float) -> bool:
    """AlpacaEval's flag: control moved the rate (percent) by over a quarter of its room, or 10."""
    low = min(win_rate - win_rate / 4, win_rate - 10)
    high = max(win_rate + (100 - win_rate) / 4, win_rate + 10)
    return not low <= lc_win_rate <= high


def rate_and_replicates(
    problem: Problem,
    weights: Array,
    C: float | None,
) -> tuple[float, Array, str]:
    """The rate, its refits under ``weights`` (B, n), as shares, and why they are NaN if they are.

    For comparing many models: common ``weights`` make the replicates (B,) joint.
    """
    reason = not_identified(overlap_of(problem))
    if reason:
        return math.nan, np.full(len(weights), math.nan), reason
    if is_baseline(problem):
        return 0.5, np.full(len(weights), 0.5), ""
    C = cross_validated_c(problem) if C is None else C
    once = np.ones((1, len(problem.delta)))
    coefs = problem.fit(once, C, tolerance=1e-9)
    return float(problem.rates(coefs, once)[0]), bootstrap_rates(problem, coefs, weights, C), ""
