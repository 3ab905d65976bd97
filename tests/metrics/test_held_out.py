"""Ridge logistic regression, folds, and the area under the curve, beside naive computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, sparse

from prefeval.metrics import held_out
from prefeval.metrics.held_out import Scored


def test_fit_is_where_the_penalised_loss_is_least() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), np.where(rng.random(60) < 0.6, 1.0, -1.0)

    def naive(w: np.ndarray) -> float:
        rows = sum(math.log(1 + math.exp(-y[i] * float(x[i] @ w))) for i in range(60))
        return rows + 3.0 / 2 * sum(v * v for v in w)

    expected = optimize.minimize(naive, np.zeros(4), method="Nelder-Mead", tol=1e-9).x
    for features in (x, sparse.csr_matrix(x)):
        assert held_out.fit(features, y, penalty=3.0) == pytest.approx(expected, abs=1e-3)


def test_no_row_is_scored_by_a_model_that_saw_its_cluster() -> None:
    clusters = np.repeat(np.arange(12), 5)
    own = np.eye(12)[clusters]  # a feature that tells the cluster and nothing else
    labels = np.where(clusters % 2, 1.0, -1.0)
    found = held_out.out_of_fold(own, labels, clusters)
    fold_of = {c: set(found.fold[clusters == c]) for c in range(12)}
    assert all(len(folds) == 1 for folds in fold_of.values())
    # its own feature was never seen, so only the intercept is left: one score a fold
    for k in range(held_out.FOLDS):
        assert np.ptp(found.scores[found.fold == k]) == pytest.approx(0, abs=1e-9)


def test_too_few_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="3 prompts are too few for 5 folds"):
        held_out.out_of_fold(np.ones((9, 1)), np.ones(9), np.repeat([0, 1, 2], 3))


@pytest.mark.parametrize("pairs", [True, False])
def test_area_is_the_share_of_comparisons_won_within_each_fold(pairs: bool) -> None:
    rng = np.random.default_rng(1)
    n = 80
    fold, scores = rng.integers(0, 3, n), rng.integers(-4, 6, n).astype(float)
    labels = np.ones(n) if pairs else np.where(rng.random(n) < 0.4, 1.0, -1.0)
    total = 0.0
    for k in range(3):
        rows = np.flatnonzero(fold == k)
        up = [scores[i] for i in rows if labels[i] > 0]
        down = [-scores[i] for i in rows] if pairs else [scores[i] for i in rows if labels[i] < 0]
        wins = sum((u > d) + (u == d) / 2 for u in up for d in down)
        total += wins / (len(up) * len(down)) * len(rows) / n
    found = held_out.ranked(Scored(scores, fold), labels, np.arange(n)).estimate
    assert found.value == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("pairs", [True, False])
def test_interval_of_the_area_covers_where_prompts_have_several_rows(pairs: bool) -> None:
    rng = np.random.default_rng(2)
    truth = _area_of_shift(0.5 if not pairs else 1.0)  # pairs compare s_i with -s_j
    inside = 0
    for _ in range(300):
        clusters = np.repeat(np.arange(40), 4)
        labels = np.ones(160) if pairs else np.where(rng.random(160) < 0.5, 1.0, -1.0)
        noise = rng.normal(size=40)[clusters] * 0.6 + rng.normal(size=160) * 0.8
        scores = noise + 0.5 * labels / (1 if pairs else 2)
        found = held_out.ranked(Scored(scores, np.zeros(160, int)), labels, clusters).estimate
        inside += found.ci_low <= truth <= found.ci_high
    assert 0.92 * 300 <= inside <= 0.985 * 300


def _area_of_shift(distance: float) -> float:
    """P(X > Y) of two normals of spread 1 that far apart."""
    return 0.5 * (1 + math.erf(distance / 2))


def test_a_feature_without_meaning_is_at_chance_in_thumbs() -> None:
    areas = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = np.where(np.arange(100) < 50, 1.0, -1.0)
        found = held_out.out_of_fold(rng.normal(size=(100, 2)), labels, np.arange(100), seed=seed)
        areas.append(held_out.ranked(found, labels, np.arange(100)).estimate.value)
    assert abs(np.mean(areas) - 0.5) < 3 * np.std(areas) / math.sqrt(60) + 0.005


def test_labels_of_one_kind_have_no_area() -> None:
    found = held_out.ranked(Scored(np.ones(5), np.zeros(5, int)), -np.ones(5), np.arange(5))
    assert math.isnan(found.estimate.value)
    assert found.estimate.reason == "labels of one kind only"


def test_gain_has_the_error_of_a_difference_on_the_same_rows() -> None:
    rng = np.random.default_rng(3)
    clusters, labels = np.arange(400), np.ones(400)
    base = rng.normal(0.5, 1, 400)
    fold = np.zeros(400, int)
    less = held_out.ranked(Scored(base, fold), labels, clusters)
    more = held_out.ranked(Scored(base + rng.normal(0.01, 0.05, 400), fold), labels, clusters)
    found = held_out.gain(more, less, clusters)
    assert found.value == more.estimate.value - less.estimate.value
    assert found.stderr < less.estimate.stderr / 3


def test_accuracy_counts_a_score_of_0_half() -> None:
    scores, labels = np.array([1.0, -1.0, 0.0, 2.0]), np.array([1.0, 1.0, 1.0, -1.0])
    assert held_out.accuracy(scores, labels, np.arange(4)).value == 1.5 / 4
