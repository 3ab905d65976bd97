"""What cheap features predict of labels, out of sample: ridge logistic regression in folds.

Whole clusters (prompts) are held out together, so nothing is predicted from its own prompt. A
pair is one row of differences (chosen less rejected) with the label 1 and no intercept, which is
the same as both orders of it with both labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse, special

from prefeval.metrics import stats
from prefeval.metrics.resample import logit_interval
from prefeval.metrics.stats import Array, Estimate

FOLDS = 5
PENALTY = 10.0
"""Half of it times |w|^2 is added to the summed loss. Of 1, 3, 10 and 30 the one with the best
held-out accuracy on harmless-base and on the lab's pairs, where the others are within 0.02."""


class Scored(NamedTuple):
    """Scores (n,) that have not seen their own labels, and the fold (n,) that each was held in."""

    scores: Array
    fold: NDArray[np.intp]

    def rows(self, keep: NDArray[np.bool_]) -> Scored:
        """Some of the rows."""
        return Scored(self.scores[keep], self.fold[keep])


class Ranked(NamedTuple):
    """An area under the curve, and what each row contributes to its deviation: (n,)."""

    estimate: Estimate
    terms: Array


def fit(features: Any, labels: Array, *, penalty: float = PENALTY) -> Array:
    """Coefficients (F,) that minimise sum log(1 + exp(-y x.w)) + penalty/2 |w|^2.

    ``features`` (n, F), dense or sparse; ``labels`` (n,) of 1 and -1. By L-BFGS.
    """

    def loss(w: Array) -> tuple[float, Array]:
        scores = labels * (features @ w)
        slope = features.T @ (labels * special.expit(-scores))
        return float(np.logaddexp(0, -scores).sum() + penalty / 2 * w @ w), penalty * w - slope

    start = np.zeros(features.shape[1])
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(found.x)


def out_of_fold(
    features: Any, labels: ArrayLike, clusters: Sequence[Any] | NDArray[Any], *, seed: int = 0
) -> Scored:
    """The score x.w of each row (n,) by the fit to the folds that its cluster is not in.

    With labels of both kinds a column of ones joins the features. Raises ``ValueError`` for fewer
    clusters than folds.
    """
    y = np.asarray(labels, dtype=np.float64)
    x = sparse.csr_matrix(features)
    if len(np.unique(y)) > 1:
        x = sparse.hstack([x, np.ones((len(y), 1))]).tocsr()
    codes = stats.cluster_codes(clusters, len(y))
    if codes.max() + 1 < FOLDS:
        raise ValueError(f"{codes.max() + 1} prompts are too few for {FOLDS} folds")
    order = np.random.default_rng(seed).permutation(codes.max() + 1)
    fold, scores = order[codes] % FOLDS, np.zeros(len(y))
    for k in range(FOLDS):
        held = fold == k
        scores[held] = x[held] @ fit(x[~held], y[~held])
    return Scored(scores, fold)


def accuracy(scores: Array, labels: Array, clusters: NDArray[Any]) -> Estimate:
    """Share of rows whose score has the sign of the label (1 or -1), a score of 0 half."""
    return stats.bounded_mean((1 + np.sign(scores) * labels) / 2, clusters)


def ranked(scored: Scored, labels: Array, clusters: NDArray[Any], level: float = 0.95) -> Ranked:
    """P(a liked answer scores above a disliked one), ties half, clustered (Obuchowski 1997).

    ``labels`` 1 and -1; where all are 1 the rows are pairs, and each stands for both of its orders.
    Rows are compared within their fold, and folds count by their rows: across folds a model's
    intercept leans against the labels of the fold that it lacks, which puts chance below 1/2
    (Airola et al. 2011). The interval is symmetric on the logit scale.
    """
    n, pairs = len(labels), not (labels < 0).any()
    terms, used, total = np.zeros(n), 0, 0.0
    for k in np.unique(scored.fold):
        held = scored.fold == k
        s, liked = scored.scores[held], labels[held] > 0
        up, down = (s, -s) if pairs else (s[liked], s[~liked])
        if not (len(up) and len(down)):
            continue
        above, below = _placed(up, down), 1 - _placed(down, up)
        size = int(held.sum())
        if pairs:
            terms[held] = above + below - 2 * above.mean()
        else:
            parts = np.zeros(size)
            parts[liked] = (above - above.mean()) * size / len(up)
            parts[~liked] = (below - below.mean()) * size / len(down)
            terms[held] = parts
        used += size
        total += size * float(above.mean())
    if not used:
        return Ranked(stats.undefined("labels of one kind only", n), np.zeros(n))
    terms, area = terms / used, total / used
    codes = stats.cluster_codes(clusters, n)
    groups = int(codes.max()) + 1
    stderr = math.sqrt(stats.cluster_variance(terms, codes))
    quantile = stats.t_quantile(groups, level)
    if area in (0.0, 1.0):  # told apart without a fault: no spread to estimate
        low, high = stats.binomial_interval(area, groups, quantile)
    else:
        low, high = logit_interval(area, stderr, quantile)
    reason = stats.ONE_CLUSTER if math.isnan(stderr) else ""
    return Ranked(Estimate(area, stderr, low, high, n, reason), terms)


def _placed(values: Array, others: Array) -> Array:
    """Share of ``others`` below each of ``values``, ties half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(below / (2 * len(ordered)))


def gain(more: Ranked, less: Ranked, clusters: NDArray[Any], level: float = 0.95) -> Estimate:
    """What further features add to the area under the curve, on the same rows."""
    n = len(more.terms)
    codes = stats.cluster_codes(clusters, n)
    change = more.estimate.value - less.estimate.value
    stderr = math.sqrt(stats.cluster_variance(more.terms - less.terms, codes))
    half = stats.t_quantile(int(codes.max()) + 1, level) * stderr
    return Estimate(change, stderr, change - half, change + half, n, more.estimate.reason)
